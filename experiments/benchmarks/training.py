"""Training a population against PyTorch, and against plain `vmap`.

On a CPU: a loop over individuals in PyTorch, with all threads, and in a process
for each core with one thread each; the better of them is the peer that counts.
On an accelerator see `training_on_accelerator`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments.benchmarks import training_on_accelerator
from experiments.benchmarks.options import Options
from experiments.benchmarks.peers import (
  against_vmap,
  torch_name,
  torch_task,
  torch_worker,
)
from experiments.benchmarks.processes import Worker
from experiments.benchmarks.timing import Measurement, compare
from experiments.benchmarks.work import Ours, Work, population
from experiments.runtime.processes import cores
from personalization_jax.distributed import make_mesh

# On a CPU: the work, and how many individuals plain `vmap` is measured with,
# few enough that a step takes seconds. Steps: so that all ends in 12 minutes on
# two cores, even half as fast ones as it was written on.
_CPU_ROWS = (
  (Work(width=1.0, batch_size=128, individuals=8, steps=4), 2),
  (Work(width=0.25, batch_size=32, individuals=32, steps=12), 32),
  (Work(width=0.25, batch_size=128, individuals=32, steps=4), 8),
)
_QUICK_ROWS = ((Work(1 / 32, 8, individuals=2, steps=2, image_size=16), 2),)
_CPU_GOAL = "1.5"
_VMAP_STEPS = 2


def run(options: Options) -> Iterator[Measurement]:
  """Yields the suite's measurements.

  Args:
    options: see there.

  Yields:
    Measurements, in samples a second.

  Raises:
    RuntimeError: if a peer fails on a CPU.
  """
  if jax.default_backend() == "cpu":
    for work, vmapped in _QUICK_ROWS if options.quick else _CPU_ROWS:
      work = options.resized(work)
      if options.only in str(work):
        yield from _on_cpu(work, vmapped, options)
    return
  for precision in ("float32", "bfloat16"):
    work = options.resized(Work(1.0, 128, 100, 20, precision=precision))
    if options.quick:
      work = dataclasses.replace(work, width=0.25, individuals=16, steps=4)
    if options.only in str(work):
      yield from training_on_accelerator.run(work, options)


def _on_cpu(
  work: Work, vmapped: int, options: Options
) -> Iterator[Measurement]:
  store = population(work.image_size, work.individuals)
  mesh = make_mesh()
  together = options.individuals_per_device or without_fillers(
    work.individuals, mesh.size
  )
  ours = Ours(work, store, mesh, together)
  with contextlib.ExitStack() as stack:
    peers = _torch_on_cpu(ours, stack) if options.peers else {}
    measured = compare(
      str(work),
      work.samples,
      ours,
      peers,
      options.repeats,
      first=ours.first,
      goal=_CPU_GOAL,
    )
  measured = [ours.with_flops(m, options.peak) for m in measured]
  yield from measured
  if options.peers:
    part = dataclasses.replace(
      work, individuals=min(vmapped, work.individuals), steps=_VMAP_STEPS
    )
    yield against_vmap(measured[0], part, store, options.limit)


def without_fillers(individuals: int, devices: int) -> int:
  """How many models a device trains in a call, so short are these schedules.

  A call takes memory for a step anew, which costs as much as half a step does.
  `experiments.table1` trains one in a call on a CPU: its schedules are long.

  Args:
    individuals: in all.
    devices: among which they are divided.

  Returns:
    The most, up to 8, that adds no filler which one in a call wouldn't add.
  """
  each = -(-individuals // devices)
  return max(n for n in range(1, 9) if each % n == 0)


def _torch_on_cpu(
  ours: Ours, stack: contextlib.ExitStack
) -> dict[str, Callable[[], Any]]:
  """PyTorch's two ways to use all cores, ready to run."""
  task = torch_task(ours)
  places = cores()
  wide = [torch_worker(stack, task, "eager", threads=len(places))]
  narrow = [
    torch_worker(
      stack,
      dataclasses.replace(task, rows=task.rows[index :: len(places)]),
      "eager",
      threads=1,
      pinned=place,
    )
    for index, place in enumerate(places[: len(task.rows)])
  ]
  for worker in wide + narrow:
    worker.wait()
  name = f"{torch_name()} eager, channels last"
  return {
    f"{name}, {len(places)} threads": lambda: _together(wide),
    f"{name}, {len(narrow)} processes of 1 thread": lambda: _together(narrow),
  }


def _together(workers: list[Worker]) -> None:
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.wait()
