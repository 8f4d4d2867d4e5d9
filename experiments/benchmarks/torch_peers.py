"""The same work in PyTorch: the peers of the suite `training`.

Trained from the same weights on the same rows of the same store as ours.
Imported only where the extra `bench` is installed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
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
      kept = batch_stats[f"norm_{index}"]
      size, _, inputs, outputs = own["kernel"].shape
      convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2)
      # Convolutions of channels-last weights give channels-last images.
      convolution = convolution.to(memory_format=torch.channels_last)
      # PyTorch's momentum is the new value's share, Flax's the old one's. Its
      # running variance is the unbiased one; nothing timed reads it.
      normalisation = Norm(outputs, eps=1e-5, momentum=0.1)
      kernel = np.transpose(own["kernel"], (3, 2, 0, 1))
      _fill(convolution, kernel, own["bias"])
      _fill(
        normalisation, norm["scale"], norm["bias"], kept["mean"], kept["var"]
      )
      layers += [convolution, nn.ReLU(), normalisation]
      if layer.pool:
        layers.append(nn.MaxPool2d(2) if index < last else _GlobalMax())
      if layer.dropout:
        layers.append(nn.Dropout(layer.dropout))
    own = params[f"layer_{last + 1}"]
    dense = nn.Linear(*own["kernel"].shape)
    _fill(dense, own["kernel"].T, own["bias"])
    super().__init__(*layers, dense)


def _fill(layer: nn.Module, *arrays: np.ndarray) -> None:
  """Sets weight and bias, and mean and variance if there are any."""
  for tensor, array in zip(layer.state_dict().values(), arrays):
    tensor.copy_(torch.from_numpy(np.array(array, np.float32)))


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
    self._network = Network(task.params, task.batch_stats).to(device).train()
    images = np.ascontiguousarray(np.moveaxis(task.store.images, 3, 1))
    labels = task.store.labels.astype(np.int64)
    self._images = torch.from_numpy(images).to(device)
    self._labels = torch.from_numpy(labels).to(device)
    self._rows = torch.from_numpy(task.rows.astype(np.int64)).to(device)
    learning_rate = task.work.settings().learning_rate
    self._adam = functools.partial(
      torch.optim.Adam, lr=learning_rate, fused=True
    )
    self._cast = torch.autocast(
      device.type,
      dtype=torch.bfloat16,
      enabled=task.work.precision == "bfloat16",
      # Under a graph, kept casts would outlive the weights that they are of.
      cache_enabled=False,
    )

  def _batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 [..., C, H, W] in 0..1 and labels of rows [...]."""
    return self._images[rows].float() / 255.0, self._labels[rows]


class OneByOne(_Peer):
  """A loop over individuals, one network at a time.

  The network and its optimiser are made once and set back for each individual,
  so that what `torch.compile` made, or a CUDA graph of a whole step, is reused.
  """

  def __init__(self, task: Task, device: torch.device, variant: str = "eager"):
    super().__init__(task, device)
    self._initial = copy.deepcopy(self._network.state_dict())
    self._forward: Callable[[torch.Tensor], torch.Tensor] = self._network
    if "compiled" in variant:
      self._forward = torch.compile(self._network)
    graph = "graph" in variant
    parameters = self._network.parameters()
    self._optimizer = self._adam(parameters, capturable=graph)
    self._step_rows = self._rows[0, 0].clone()
    self._loss = torch.zeros((), device=device)
    self._run = self._capture() if graph else self._step
    if not graph:
      self._warm_up()

  def __call__(self) -> np.ndarray:
    """Losses float32 [individuals, T]; the weights are those of the last."""
    losses = torch.empty(self._rows.shape[:2], device=self._loss.device)
    for person, own in enumerate(self._rows):
      self._reset()
      for step, rows in enumerate(own):
        losses[person, step] = self._run(rows)
    return losses.cpu().numpy()

  def _step(self, rows: torch.Tensor) -> torch.Tensor:
    images, labels = self._batch(rows)
    with self._cast:
      logits = self._forward(images.to(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits.float(), labels)
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self._optimizer.step()
    return loss.detach()

  def _reset(self) -> None:
    """The shared model, and an optimiser that has seen nothing."""
    self._network.load_state_dict(self._initial)
    for state in self._optimizer.state.values():
      for value in state.values():
        value.zero_()

  def _warm_up(self) -> None:
    for _ in range(3):
      self._step(self._step_rows)

  def _capture(self) -> Callable[[torch.Tensor], torch.Tensor]:
    """Records one step; the recipe is that of PyTorch's notes on CUDA graphs.

    Warmed up on a side stream; without gradients at the start of the capture,
    so that the backward pass allocates them in the graph's own memory.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
      self._warm_up()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    self._optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
      self._loss.copy_(self._step(self._step_rows))

    def replay(rows: torch.Tensor) -> torch.Tensor:
      self._step_rows.copy_(rows)
      graph.replay()
      return self._loss

    return replay


class SideBySide(_Peer):
  """`torch.func`: networks stacked under `vmap`, fewer in the last group."""

  def __init__(self, task: Task, device: torch.device, together: int):
    super().__init__(task, device)
    self._together = together
    gradients = torch.func.grad_and_value(self._loss, has_aux=True)
    # Everybody drops out differently.
    self._gradients = torch.func.vmap(gradients, randomness="different")
    warm_up = self._rows[:together, :2]
    try:
      self._train(warm_up)
    except RuntimeError:
      # Under `vmap` batch normalisation doesn't take bfloat16 images beside
      # float32 weights everywhere (PyTorch 2.13 on a CPU doesn't).
      if task.work.precision == "float32":
        raise
      for module in self._network.modules():
        if isinstance(module, Norm):
          module.in_float32 = True
      self._train(warm_up)

  def __call__(self) -> np.ndarray:
    """Losses float32 [individuals, T]."""
    groups = self._rows.split(self._together)
    return torch.cat([self._train(rows) for rows in groups]).cpu().numpy()

  def _train(self, rows: torch.Tensor) -> torch.Tensor:
    params, buffers = torch.func.stack_module_state([self._network] * len(rows))
    # Or autograd would record `grad` itself, for second derivatives.
    params = {name: param.detach() for name, param in params.items()}
    optimizer = self._adam(params.values())
    losses = []
    for step in range(rows.shape[1]):
      batch = self._batch(rows[:, step])
      gradients, (loss, buffers) = self._gradients(params, buffers, *batch)
      for name, param in params.items():
        param.grad = gradients[name]
      optimizer.step()
      losses.append(loss)
    return torch.stack(losses, dim=1)

  def _loss(
    self,
    params: dict[str, torch.Tensor],
    buffers: dict[str, torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
  ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    # Batch normalisation writes into its buffers; `grad` lets it do so only to
    # tensors that were made inside.
    buffers = {name: buffer.clone() for name, buffer in buffers.items()}
    with self._cast:
      logits = torch.func.functional_call(
        self._network, (params, buffers), (images,)
      )
    return F.cross_entropy(logits.float(), labels), buffers


def serve(
  task: Task,
  threads: int | None = None,
  device: str = "cpu",
  variant: str = "eager",
  together: int = 1,
) -> Callable[[], np.ndarray]:
  """What a worker process runs, warm: it returns losses [individuals, T].

  The device is "cpu" or "cuda"; the variant "func", which stacks so many
  individuals together, or "eager", "compiled", "graph" (each step is a CUDA
  graph), "compiled graph". Without threads PyTorch chooses their number.
  """
  if threads is not None:
    torch.set_num_threads(threads)
  # As XLA has it: no denormal numbers on a CPU, TensorFloat-32 on a GPU.
  torch.set_flush_denormal(True)
  torch.set_float32_matmul_precision("high")
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  place = torch.device(device)
  if variant == "func":
    return SideBySide(task, place, together)
  return OneByOne(task, place, variant)
