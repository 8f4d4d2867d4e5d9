"""The same work in PyTorch: the peers of the suite `training`.

Trained from the same weights on the same rows of the same store as ours.
Imported only where the extra `bench` is installed.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from experiments.benchmarks.work import Task
from personalization_jax.networks import classifier


class Network(nn.Sequential):
  """Fig. 4 with the weights of a Flax model, for images float [B, C, H, W]."""

  def __init__(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]):
    layers: list[nn.Module] = []
    last = len(classifier.FIG_4) - 1
    for index, layer in enumerate(classifier.FIG_4):
      own, norm = params[f"layer_{index}"], params[f"norm_{index}"]
      size, _, inputs, outputs = own["kernel"].shape
      convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2)
      # Convolutions of channels-last weights give channels-last images.
      convolution = convolution.to(memory_format=torch.channels_last)
      kernel = np.transpose(own["kernel"], (3, 2, 0, 1))
      layers += [_filled(convolution, kernel, own["bias"]), nn.ReLU()]
      # PyTorch's momentum is the new value's share, Flax's the old one's. Its
      # running variance is the unbiased one; nothing timed reads it.
      empty = Norm(outputs, eps=1e-5, momentum=0.1)
      kept = batch_stats[f"norm_{index}"]
      arrays = norm["scale"], norm["bias"], kept["mean"], kept["var"]
      layers.append(_filled(empty, *arrays))
      if layer.pool:
        layers.append(nn.MaxPool2d(2) if index < last else _GlobalMax())
      if layer.dropout:
        layers.append(nn.Dropout(layer.dropout))
    own = params[f"layer_{last + 1}"]
    dense = nn.Linear(*own["kernel"].shape)
    super().__init__(*layers, _filled(dense, own["kernel"].T, own["bias"]))


def _filled(layer: nn.Module, *arrays: np.ndarray) -> nn.Module:
  """With this weight and bias, and mean and variance if there are any."""
  for tensor, array in zip(layer.state_dict().values(), arrays):
    tensor.copy_(torch.from_numpy(np.array(array, np.float32)))
  return layer


class _GlobalMax(nn.Module):
  def forward(self, images: torch.Tensor) -> torch.Tensor:
    return images.amax(dim=(2, 3))


class Norm(nn.BatchNorm2d):
  """Batch normalisation, in float32 whatever the images' type if asked."""

  in_float32 = False

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Images [B, C, H, W], normalised, of the same type."""
    if not self.in_float32:
      return super().forward(images)
    return super().forward(images.float()).to(images.dtype)


class _Peer:
  """The network and the data on a device, gathered as ours are."""

  def __init__(self, task: Task, device: torch.device):
    self.network = Network(task.params, task.batch_stats).to(device).train()
    self.images, self.labels, self.rows = (
      torch.from_numpy(np.ascontiguousarray(array)).to(device)
      for array in (
        np.moveaxis(task.store.images, 3, 1),
        task.store.labels.astype(np.int64),
        task.rows.astype(np.int64),
      )
    )
    self._adam = functools.partial(
      torch.optim.Adam, lr=task.settings.learning_rate, fused=True
    )
    self._cast = torch.autocast(
      device.type,
      dtype=torch.bfloat16,
      enabled=task.settings.precision == "bfloat16",
      # Under a graph, kept casts would outlive the weights that they are of.
      cache_enabled=False,
    )

  def _loss(
    self, forward: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor
  ) -> torch.Tensor:
    images = self.images[rows].float() / 255.0
    with self._cast:
      logits = forward(images)
    return F.cross_entropy(logits.float(), self.labels[rows])


class OneByOne(_Peer):
  """A loop over individuals, one network at a time.

  The network and its optimiser are made once and set back for each individual,
  so that what `torch.compile` made, or a CUDA graph of a whole step, is reused.
  """

  def __init__(self, task: Task, device: torch.device, variant: str = "eager"):
    super().__init__(task, device)
    self._initial = copy.deepcopy(self.network.state_dict())
    compiled = "compiled" in variant
    network = torch.compile(self.network) if compiled else self.network
    self._forward = lambda images: network(
      images.to(memory_format=torch.channels_last)
    )
    graph = "graph" in variant
    self._optimizer = self._adam(self.network.parameters(), capturable=graph)
    self._run = self._capture() if graph else self.step
    self.train(self.rows[:1, :3])

  def train(self, rows: torch.Tensor) -> torch.Tensor:
    """Losses [1, T] of an individual with rows [1, T, B]."""
    self.network.load_state_dict(self._initial)
    # As an optimiser that has seen nothing.
    for state in self._optimizer.state.values():
      for value in state.values():
        value.zero_()
    return torch.stack([self._run(own).clone() for own in rows[0]])[None]

  def step(self, rows: torch.Tensor) -> torch.Tensor:
    """The loss of rows [B], by which the network has become better."""
    loss = self._loss(self._forward, rows)
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self._optimizer.step()
    return loss.detach()

  def _capture(self) -> Callable[[torch.Tensor], torch.Tensor]:
    """Records one step; the recipe is that of PyTorch's notes on CUDA graphs.

    Warmed up on a side stream; without gradients at the start of the capture,
    so that the backward pass allocates them in the graph's own memory.
    """
    recorded = self.rows[0, 0].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
      for _ in range(3):
        self.step(recorded)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    self._optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
      loss = self.step(recorded)

    def replay(rows: torch.Tensor) -> torch.Tensor:
      recorded.copy_(rows)
      graph.replay()
      return loss

    return replay


class SideBySide(_Peer):
  """`torch.func`: networks stacked under `vmap`."""

  def __init__(self, task: Task, device: torch.device, together: int):
    super().__init__(task, device)
    gradients = torch.func.grad_and_value(self._loss_of, has_aux=True)
    # Everybody drops out differently.
    self._gradients = torch.func.vmap(gradients, randomness="different")
    warm_up = self.rows[:together, :2]
    try:
      self.train(warm_up)
    except RuntimeError:
      # Under `vmap` batch normalisation doesn't take bfloat16 images beside
      # float32 weights everywhere (PyTorch 2.13 on a CPU doesn't).
      if task.settings.precision == "float32":
        raise
      for module in self.network.modules():
        if isinstance(module, Norm):
          module.in_float32 = True
      self.train(warm_up)

  def train(self, rows: torch.Tensor) -> torch.Tensor:
    """Losses [n, T] of individuals with rows [n, T, B]."""
    params, buffers = torch.func.stack_module_state([self.network] * len(rows))
    # Or autograd would record `grad` itself, for second derivatives.
    params = {name: param.detach() for name, param in params.items()}
    optimizer = self._adam(params.values())
    losses = []
    for step in range(rows.shape[1]):
      gradients, (loss, buffers) = self._gradients(
        params, buffers, rows[:, step]
      )
      for name, param in params.items():
        param.grad = gradients[name]
      optimizer.step()
      losses.append(loss)
    return torch.stack(losses, dim=1)

  def _loss_of(
    self,
    params: dict[str, torch.Tensor],
    buffers: dict[str, torch.Tensor],
    rows: torch.Tensor,
  ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    # Batch normalisation writes into its buffers; `grad` lets it do so only to
    # tensors that were made inside.
    buffers = {name: buffer.clone() for name, buffer in buffers.items()}
    forward = functools.partial(
      torch.func.functional_call, self.network, (params, buffers)
    )
    return self._loss(forward, rows), buffers


def serve(
  task: Task,
  places: Collection[int] = (),
  device: str = "cpu",
  variant: str = "eager",
  together: int = 1,
) -> Callable[[], np.ndarray]:
  """What a worker process runs, warm: it returns losses [individuals, T].

  The device is "cpu" or "cuda"; the variant "func", which stacks so many
  individuals together, or "eager", "compiled", "graph" (each step is a CUDA
  graph), "compiled graph". Of a CPU it takes these cores, with a thread each,
  or what PyTorch chooses.
  """
  if places:
    torch.set_num_threads(len(places))
    if hasattr(os, "sched_setaffinity"):  # not on macOS
      os.sched_setaffinity(0, places)
  # As XLA has it: no denormal numbers on a CPU, TensorFloat-32 on a GPU.
  torch.set_flush_denormal(True)
  torch.set_float32_matmul_precision("high")
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  peer: OneByOne | SideBySide
  if variant == "func":
    peer = SideBySide(task, torch.device(device), together)
  else:
    peer = OneByOne(task, torch.device(device), variant)

  def run() -> np.ndarray:
    groups = peer.rows.split(together)  # the last may be smaller
    return torch.cat([peer.train(rows) for rows in groups]).cpu().numpy()

  return run
