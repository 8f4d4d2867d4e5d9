"""Training a population on an accelerator.

How many individuals should go side by side; then the best of it against PyTorch
by loops, with and without compilation and graphs, and by `torch.func`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments.benchmarks.options import Options
from experiments.benchmarks.peers import (
  against_vmap,
  failed,
  torch_name,
  torch_task,
  torch_worker,
)
from experiments.benchmarks.timing import Measurement, compare, seconds
from experiments.benchmarks.work import Ours, Work, population
from personalization_jax.distributed import make_mesh

# PyTorch's variants one by one, and how many individuals `torch.func` stacks.
_LOOPS = ("eager", "compiled", "graph", "compiled graph")
_STACKS = (8, 25, 50, 100)
_TORCH_DEVICES = {"gpu": "cuda", "cpu": "cpu"}
_GOAL, _EAGER_GOAL = "3", "10"
# Plain `vmap`: a share of the memory beside ours and PyTorch's.
_VMAP_INDIVIDUALS, _VMAP_STEPS = 25, 2
_VMAP_MEMORY = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"}


def run(work: Work, options: Options) -> Iterator[Measurement]:
  """Yields the measurements of one work.

  Args:
    work: what is done.
    options: see there.

  Yields:
    Measurements in samples a second: ours for each number side by side, then
    the best of them against each peer.
  """
  store = population(work.image_size, work.individuals)
  # One device: PyTorch is given one too.
  mesh = make_mesh(jax.devices()[:1])
  on_device = options.individuals_per_device or work.individuals
  best: tuple[float, Ours] | None = None
  for together in sorted({min(n, on_device) for n in options.side_by_side}):
    ours = Ours(work, store, mesh, on_device, together)
    name = f"{work}, {together} side by side"
    try:
      (alone,) = compare(
        name, work.samples, ours, {}, options.repeats, first=ours.first
      )
    except jax.errors.JaxRuntimeError as error:
      print(f"{name} failed:\n{error}", file=sys.stderr, flush=True)
      continue
    yield ours.with_flops(alone, options.peak)
    if best is None or alone.ours > best[0]:
      best = alone.ours, ours
  if best is None or not options.peers:
    return
  if jax.default_backend() not in _TORCH_DEVICES:
    print("Left out: PyTorch, which is measured on CPUs and GPUs only.")
    return
  _, ours = best
  with contextlib.ExitStack() as stack:
    peers, failures = _torch_variants(ours, stack)
    measured = compare(
      f"{work}, {ours.side_by_side} side by side",
      work.samples,
      ours,
      peers,
      options.repeats,
      first=ours,
      goal=_GOAL,
    )
  # Compiled before, in the sweep.
  measured = [
    dataclasses.replace(
      ours.with_flops(m, options.peak),
      first_call=None,
      goal=_EAGER_GOAL if m.peer_name == f"{torch_name()} eager" else m.goal,
    )
    for m in measured
  ]
  yield from measured
  for peer_name, reason in failures.items():
    yield dataclasses.replace(measured[0], **failed(peer_name, reason))
  part = dataclasses.replace(
    work,
    individuals=min(_VMAP_INDIVIDUALS, work.individuals),
    steps=_VMAP_STEPS,
  )
  yield against_vmap(measured[0], part, store, options.limit, _VMAP_MEMORY)


def _torch_variants(
  ours: Ours, stack: contextlib.ExitStack
) -> tuple[dict[str, Callable[[], Any]], dict[str, RuntimeError]]:
  """PyTorch's variants that run here, warm, and why the others don't."""
  device = _TORCH_DEVICES[jax.default_backend()]
  task, torch = torch_task(ours), torch_name()
  failures: dict[str, RuntimeError] = {}
  # Only the best stack stays, in the peer's favour. Each is tried alone: the
  # large ones need the memory.
  times: dict[int, float] = {}
  for stacked in sorted({min(n, len(task.rows)) for n in _STACKS}):
    with contextlib.ExitStack() as trial:
      worker = torch_worker(trial, task, "func", device=device, stacked=stacked)
      try:
        worker.wait()
        times[stacked] = seconds(worker.call)
      except RuntimeError as error:
        failures[f"{torch} torch.func, {stacked} stacked"] = error
  plan = {f"{torch} {variant}": (variant, 1) for variant in _LOOPS}
  if times:
    best = min(times, key=lambda stacked: times[stacked])
    plan[f"{torch} torch.func, {best} stacked"] = ("func", best)
  peers: dict[str, Callable[[], Any]] = {}
  for name, (variant, stacked) in plan.items():
    worker = torch_worker(stack, task, variant, device=device, stacked=stacked)
    try:
      worker.wait()
      worker.call()
      peers[name] = worker.call
    except RuntimeError as error:
      failures[name] = error
  return peers, failures
