"""What a population costs as it grows, and as it is spread over devices.

The cost for each individual and the peak of memory, from 8 to 4,000; on a CPU
also the same work on one to four virtual devices. Each size and each number of
devices has a process of its own: memory is counted there, and the number of
devices is fixed at a process's start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator

import jax

from experiments.benchmarks.processes import Worker
from experiments.benchmarks.timing import Measurement
from experiments.benchmarks.work import Ours, Work, population
from experiments.runtime import host_memory
from experiments.runtime.processes import cores
from personalization_jax.distributed import make_mesh

_WORK = Work(1 / 8, batch_size=32, individuals=8, steps=4, image_size=16)
_QUICK_WORK = Work(1 / 32, batch_size=8, individuals=4, steps=2, image_size=16)
_SIZES = (8, 64, 512, 4000)
_QUICK_SIZES = (4, 12)
# A call trains at least so many individuals, the few of them again and again.
_AT_LEAST = 128
# Larger sizes aren't repeated as often: they take a minute.
_LARGE, _LARGE_REPEATS = 1000, 2
_DEVICES = (1, 2, 3, 4)
# Divisible by each of them, so that no device trains fillers.
_SPREAD = 48
# Several processes share an accelerator here.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def run(
  repeats: int, quick: bool, individuals_per_device: int = 0
) -> Iterator[Measurement]:
  """Yields the suite's measurements.

  Args:
    repeats: rounds of each.
    quick: a small version, to try the script.
    individuals_per_device: 0 takes the script's own: 1 on a CPU, 8 elsewhere.

  Yields:
    Measurements: milliseconds and MiB.
  """
  on_cpu = jax.default_backend() == "cpu"
  work = _QUICK_WORK if quick else _WORK
  per_device = individuals_per_device or (1 if on_cpu else 8)
  yield from _sizes(
    work, _QUICK_SIZES if quick else _SIZES, per_device, repeats
  )
  if on_cpu:
    spread = work if quick else dataclasses.replace(work, individuals=_SPREAD)
    yield from _devices(spread, _DEVICES[:2] if quick else _DEVICES, repeats)


def _sizes(
  work: Work, sizes: tuple[int, ...], per_device: int, repeats: int
) -> Iterator[Measurement]:
  store_of = max(sizes)
  with contextlib.ExitStack() as stack:
    workers = [
      _worker(
        stack,
        dataclasses.replace(work, individuals=size),
        store_of,
        per_device,
        len(cores()),
      )
      for size in sizes
    ]
    times = _rounds(workers, sizes, repeats)
    memory = [worker.call("memory") / 2**20 for worker in workers]
    planned = [worker.call("planned") / 2**20 for worker in workers]
  reference = f"with {sizes[0]} individuals"
  about = (
    f"width {work.width:g}, batch {work.batch_size}, {work.image_size} px,"
    f" {work.steps} steps"
  )
  for size, own in zip(sizes, times):
    yield _relative(
      f"each of {size:,} individuals ({about})",
      own,
      times[0],
      reference,
      "from 0.9 to 1.1",
    )
  for size, peak in zip(sizes, memory):
    yield Measurement(
      f"peak memory, {size:,} individuals",
      "MiB",
      peak,
      memory[0],
      reference,
      memory[0] / peak,
      goal="1",
    )
  for size, peak, plan in zip(sizes, memory, planned):
    yield Measurement(
      f"peak memory, {size:,} individuals",
      "MiB",
      peak,
      plan,
      "as planned before training",
      plan / peak,
      goal="1 or more",
    )


def _devices(
  work: Work, counts: tuple[int, ...], repeats: int
) -> Iterator[Measurement]:
  with contextlib.ExitStack() as stack:
    workers = [
      _worker(stack, work, work.individuals, 1, count) for count in counts
    ]
    times = _rounds(workers, [work.individuals] * len(counts), repeats)
    digests = [worker.call("digest") for worker in workers]
  for count, own, digest in zip(counts, times, digests):
    same = "identical" if digest == digests[0] else "DIFFERENT"
    yield _relative(
      f"each of {work.individuals} individuals on {count} virtual devices"
      f" ({len(cores())} cores; results {same})",
      own,
      times[0],
      "on one device",
      "1 or more, identical",
    )


def _worker(
  stack: contextlib.ExitStack,
  work: Work,
  store_of: int,
  per_device: int,
  devices: int,
) -> Worker:
  worker = stack.enter_context(
    Worker(serve, work, store_of, per_device, devices, environment=_ENVIRONMENT)
  )
  # One after another: side by side, compilations would need all the memory.
  worker.wait()
  return worker


def _rounds(
  workers: list[Worker], sizes: list[int] | tuple[int, ...], repeats: int
) -> list[list[float]]:
  """Milliseconds for each individual: of each worker, round by round."""
  times: list[list[float]] = [[] for _ in workers]
  for turn in range(repeats):
    for worker, size, own in zip(workers, sizes, times):
      if size > _LARGE and turn >= _LARGE_REPEATS:
        continue
      own.append(1000 * worker.call("seconds") / size)
  return times


def _relative(
  name: str,
  own: list[float],
  reference: list[float],
  reference_name: str,
  goal: str,
) -> Measurement:
  return Measurement(
    name,
    "ms",
    statistics.median(own),
    statistics.median(reference),
    reference_name,
    statistics.median(first / this for first, this in zip(reference, own)),
    goal=goal,
  )


def serve(
  work: Work, store_of: int, per_device: int, devices: int
) -> Callable[[str], float | str]:
  """What a process of this suite runs.

  Args:
    work: what is done.
    store_of: the store is made for so many individuals.
    per_device: see `PopulationTrainer.individuals_per_device`.
    devices: virtual ones, on a CPU.

  Returns:
    A function of what is wanted: "seconds" of doing the work, peak "memory" in
    bytes and as "planned", or the "digest" of its results.
  """
  jax.config.update("jax_num_cpu_devices", devices)
  store = population(work.image_size, store_of)
  ours = Ours(work, store, make_mesh(), per_device)
  planned = _planned_memory(ours)
  ours.first()

  def run(wanted: str) -> float | str:
    if wanted == "digest":
      return ours.digest()
    if wanted == "memory":
      return _peak_memory()
    if wanted == "planned":
      return planned
    calls = max(1, _AT_LEAST // work.individuals)
    start = time.perf_counter()
    for _ in range(calls):
      ours()
    return (time.perf_counter() - start) / calls

  return run


def _peak_memory() -> int:
  """Of the accelerator, or of this process."""
  own = _peak_of_accelerator()
  return host_memory.peak() if own is None else own


def _planned_memory(ours: Ours) -> float:
  """What training should take at most: of the accelerator, or of this process.

  A process has taken memory already, not least to compile: the models are made
  and the programs there, but no step is done.
  """
  jax.block_until_ready(ours.untrained())
  planned = ours.planned_bytes()
  if planned is None:
    return math.nan
  if _peak_of_accelerator() is not None:
    return planned
  return host_memory.peak() + planned * ours.mesh.size


def _peak_of_accelerator() -> int | None:
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")
