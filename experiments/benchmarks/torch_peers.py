"""The same work in PyTorch: the peers of the suite `training`.

Trained from the same weights on the same rows of the same store as ours.
Imported only where the extra `bench` is installed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from experiments.benchmarks.peers import Task
from experiments.benchmarks.torch_network import Network, Norm

# What `serve` offers: whether the network is compiled, and whether a step is
# captured as a graph; `torch.func` has neither.
VARIANTS = {
  "eager": (False, False),
  "compiled": (True, False),
  "graph": (False, True),
  "compiled graph": (True, True),
  "func": (False, False),
}


class _Store:
  """The data on a device, gathered as `training.gather` does."""

  def __init__(self, task: Task, device: torch.device):
    images = np.ascontiguousarray(np.moveaxis(task.images, 3, 1))
    self.images = torch.from_numpy(images).to(device)
    self.labels = torch.from_numpy(task.labels.astype(np.int64)).to(device)
    self.rows = torch.from_numpy(task.rows.astype(np.int64)).to(device)
    self.cast = torch.autocast(
      device.type,
      dtype=torch.bfloat16,
      enabled=task.precision == "bfloat16",
      # Under a graph, kept casts would outlive the weights that they are of.
      cache_enabled=False,
    )

  def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 [..., C, H, W] in 0..1 and labels of rows [...]."""
    return self.images[rows].float() / 255.0, self.labels[rows]


class OneByOne:
  """A loop over individuals, one network at a time.

  The network and its optimiser are made once and set back for each
  individual, so that compilation and graphs are reused.

  Args:
    task: what is done.
    device: where.
    compiled: whether `torch.compile` compiles the network.
    graph: whether a whole step is captured as a CUDA graph and replayed.
  """

  def __init__(
    self,
    task: Task,
    device: torch.device,
    *,
    compiled: bool = False,
    graph: bool = False,
  ):
    self._store = _Store(task, device)
    self._network = Network(task.params, task.batch_stats).to(device).train()
    self._initial = copy.deepcopy(self._network.state_dict())
    self._forward: Callable[[torch.Tensor], torch.Tensor] = (
      torch.compile(self._network) if compiled else self._network
    )
    self._optimizer = torch.optim.Adam(
      self._network.parameters(),
      lr=task.learning_rate,
      fused=True,
      capturable=graph,
    )
    self._rows = self._store.rows[0, 0].clone()
    self._loss = torch.zeros((), device=device)
    self._replay = self._capture() if graph else None
    if not graph:
      self._warm_up()

  def __call__(self) -> np.ndarray:
    """Losses float32 [individuals, T]; the weights are those of the last."""
    individuals, steps, _ = self._store.rows.shape
    losses = torch.empty((individuals, steps), device=self._loss.device)
    for person in range(individuals):
      self._reset()
      for step in range(steps):
        if self._replay is None:
          losses[person, step] = self._step(self._store.rows[person, step])
        else:
          self._rows.copy_(self._store.rows[person, step])
          self._replay()
          losses[person, step] = self._loss
    return losses.cpu().numpy()

  def _step(self, rows: torch.Tensor) -> torch.Tensor:
    images, labels = self._store.batch(rows)
    with self._store.cast:
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
      self._step(self._rows)

  def _capture(self) -> Callable[[], None]:
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
      self._loss.copy_(self._step(self._rows))
    return graph.replay


class SideBySide:
  """`torch.func`: stacked networks under `vmap`.

  Args:
    task: what is done.
    device: where.
    together: how many individuals at once; the last group may be smaller.
  """

  def __init__(self, task: Task, device: torch.device, together: int):
    self._store = _Store(task, device)
    self._network = Network(task.params, task.batch_stats).to(device).train()
    self._together = together
    self._learning_rate = task.learning_rate
    self._gradients = torch.func.vmap(
      torch.func.grad_and_value(self._loss, has_aux=True),
      # Everybody drops out differently.
      randomness="different",
    )
    warm_up = self._store.rows[:together, :2]
    try:
      self._train(warm_up)
    except RuntimeError:
      # Under `vmap` batch normalisation doesn't take bfloat16 images beside
      # float32 weights everywhere (PyTorch 2.13 on a CPU doesn't).
      if task.precision == "float32":
        raise
      for module in self._network.modules():
        if isinstance(module, Norm):
          module.in_float32 = True
      self._train(warm_up)

  def __call__(self) -> np.ndarray:
    """Losses float32 [individuals, T]."""
    groups = self._store.rows.split(self._together)
    return torch.cat([self._train(rows) for rows in groups]).cpu().numpy()

  def _train(self, rows: torch.Tensor) -> torch.Tensor:
    params, buffers = torch.func.stack_module_state([self._network] * len(rows))
    # Or autograd would record `grad` itself, for second derivatives.
    params = {name: param.detach() for name, param in params.items()}
    optimizer = torch.optim.Adam(
      params.values(), lr=self._learning_rate, fused=True
    )
    losses = []
    for step in range(rows.shape[1]):
      images, labels = self._store.batch(rows[:, step])
      gradients, (loss, buffers) = self._gradients(
        params, buffers, images, labels
      )
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
    with self._store.cast:
      logits = torch.func.functional_call(
        self._network, (params, buffers), (images,)
      )
    return F.cross_entropy(logits.float(), labels), buffers


def serve(
  task: Task,
  device: str,
  variant: str,
  together: int = 1,
  threads: int | None = None,
) -> Callable[[], np.ndarray]:
  """What a worker process runs, prepared and warm.

  Args:
    task: what is done.
    device: "cpu" or "cuda".
    variant: one of `VARIANTS`.
    together: for "func", how many individuals go side by side.
    threads: of PyTorch; None leaves its own choice.

  Returns:
    A function that does the work and returns the losses [individuals, T].
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
  compiled, graph = VARIANTS[variant]
  return OneByOne(task, place, compiled=compiled, graph=graph)
