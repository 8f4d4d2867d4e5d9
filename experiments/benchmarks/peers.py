"""The peers of the suite `training`, started in processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import linen_peer
from experiments.benchmarks.processes import Worker
from experiments.benchmarks.timing import Measurement
from experiments.benchmarks.work import Ours, Work, rows
from personalization_jax.datasets import Population


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """The work, as arrays that go to another process.

  Attributes:
    images: uint8 [N, H, W, C], the store.
    labels: int32 [N].
    rows: int32 [individuals, T, B] of the store, without padding.
    params: Flax parameters of `models.Classifier`, as NumPy arrays.
    batch_stats: its running statistics.
    learning_rate: Adam's.
    precision: "float32" or "bfloat16", of activations.
  """

  images: np.ndarray
  labels: np.ndarray
  rows: np.ndarray
  params: Mapping[str, Any]
  batch_stats: Mapping[str, Any]
  learning_rate: float = 1e-3
  precision: str = "float32"


def torch_name() -> str:
  """PyTorch and its version."""
  return f"PyTorch {importlib.metadata.version('torch')}"


def torch_task(ours: Ours) -> Task:
  """The same work, store, rows and initial model for PyTorch."""

  def first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)

  return Task(
    ours.store.images,
    ours.store.labels,
    rows(ours.work, ours.store, slice(None)),
    first(ours.shared.params),
    first(ours.shared.batch_stats),
    ours.work.settings().learning_rate,
    ours.work.precision,
  )


def torch_worker(
  stack: contextlib.ExitStack,
  task: Task,
  variant: str,
  *,
  device: str = "cpu",
  stacked: int = 1,
  threads: int | None = None,
  pinned: int | None = None,
) -> Worker:
  """Starts PyTorch in a process; `wait` for it once.

  Args:
    stack: ends the process.
    task: what is done.
    variant: one of `torch_peers.VARIANTS`.
    device: "cpu" or "cuda".
    stacked: for "func", how many individuals go side by side.
    threads: of PyTorch; None leaves its own choice.
    pinned: the only core to run on; None leaves all.

  Returns:
    The worker; its calls do the work.
  """
  return stack.enter_context(
    Worker(
      _serve_torch,
      task,
      device,
      variant,
      stacked,
      threads,
      cores=() if pinned is None else (pinned,),
    )
  )


def _serve_torch(*arguments: Any) -> Callable[[], np.ndarray]:
  # Here, so that this process alone loads PyTorch.
  from experiments.benchmarks import torch_peers

  return torch_peers.serve(*arguments)


def against_vmap(
  measured: Measurement,
  part: Work,
  store: Population,
  limit: float,
  environment: Mapping[str, str] | None = None,
) -> Measurement:
  """Compares a rate of ours with plain `vmap`'s on a part of the work.

  Args:
    measured: ours, in samples a second.
    part: what plain `vmap` does.
    store: the data.
    limit: seconds that it may take to compile, and then to do the part.
    environment: of its process.

  Returns:
    The measurement with this peer. If it didn't finish, its rate is what it
    would have been had it ended at the limit: an upper bound.
  """
  name = (
    f"plain vmap of Linen's Conv, {part.individuals} individuals and"
    f" {part.steps} steps of it"
  )
  with Worker(
    linen_peer.serve,
    part,
    store.images,
    store.labels,
    rows(part, store, slice(None)),
    environment=environment,
  ) as worker:
    try:
      worker.wait(limit)
      rate = part.samples / worker.call(limit=limit)
    except TimeoutError:
      rate = part.samples / limit
      name += f" (at most: not finished in {limit:.0f} s)"
    except RuntimeError as error:
      return dataclasses.replace(measured, **failed(name, error))
  return dataclasses.replace(
    measured,
    peer=rate,
    peer_name=name,
    ratio=measured.ours / rate,
    goal="20 on a CPU",
  )


def failed(peer_name: str, error: RuntimeError) -> dict[str, Any]:
  """What stands in the row of a peer that doesn't run here, and tells why.

  Args:
    peer_name: who it is.
    error: its process's traceback.

  Returns:
    Fields of `Measurement`.
  """
  print(f"{peer_name} failed:\n{error}", file=sys.stderr, flush=True)
  reason = str(error).strip().splitlines()[-1]
  return {
    "peer": None,
    "ratio": None,
    "goal": None,
    "peer_name": f"{peer_name}: failed, {reason}",
  }
