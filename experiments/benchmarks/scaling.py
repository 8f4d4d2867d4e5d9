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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl.flags import FlagValues

from experiments.benchmarks import measuring
from experiments.benchmarks.measuring import Measurement, Worker
from experiments.benchmarks.work import Ours, Work, population
from experiments.runtime import host_memory
from experiments.runtime.processes import cores
from personalization_jax.training.population import planned_bytes

_WORK = Work(1 / 8, batch_size=32, individuals=8, steps=4, image_size=16)
_QUICK_WORK = Work(1 / 32, batch_size=8, individuals=4, steps=2, image_size=16)
_SIZES = (8, 64, 512, 4000)
_QUICK_SIZES = (4, 12)
# A call trains at least so many individuals, the few of them again and again.
_AT_LEAST = 128
# Larger sizes aren't repeated as often: they take a minute.
_LARGE, _LARGE_REPEATS = 1000, 2
# So many individuals leave none of these numbers of devices with fillers.
_DEVICES, _SPREAD = (1, 2, 3, 4), 48
# Several processes share an accelerator here.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def run(options: FlagValues) -> Iterator[Measurement]:
  """Yields the suite's measurements, in milliseconds and MiB."""
  work, sizes = (
    (_QUICK_WORK, _QUICK_SIZES) if options.quick else (_WORK, _SIZES)
  )
  yield from _sizes(work, sizes, options)
  if jax.devices()[0].platform == "cpu":
    yield from _devices(work, options)


def _sizes(
  work: Work, sizes: Sequence[int], options: FlagValues
) -> Iterator[Measurement]:
  per_device = options.individuals_per_device
  works = [dataclasses.replace(work, individuals=size) for size in sizes]
  setups = [(each, max(sizes), per_device, len(cores())) for each in works]
  times, memory, planned = _measure(
    setups, options.repeats, "memory", "planned"
  )
  reference = f"with {sizes[0]} individuals"
  about = (
    f"width {work.width:g}, batch {work.batch_size}, {work.image_size} px,"
    f" {work.steps} steps"
  )
  for size, own in zip(sizes, times):
    name = f"each of {size:,} individuals ({about})"
    yield _relative(name, own, times[0], reference, "from 0.9 to 1.1")
  for others, other_name, goal in (
    ([memory[0]] * len(sizes), reference, "1"),
    (planned, "as planned before training", "1 or more"),
  ):
    for size, own, other in zip(sizes, memory, others):
      name = f"peak memory, {size:,} individuals"
      yield _relative(name, [own], [other], other_name, goal, "MiB")


def _devices(work: Work, options: FlagValues) -> Iterator[Measurement]:
  counts = _DEVICES[:2] if options.quick else _DEVICES
  if not options.quick:
    work = dataclasses.replace(work, individuals=_SPREAD)
  setups = [(work, work.individuals, 1, count) for count in counts]
  times, digests = _measure(setups, options.repeats, "digest")
  for count, own, digest in zip(counts, times, digests):
    same = "identical" if digest == digests[0] else "DIFFERENT"
    name = (
      f"each of {work.individuals} individuals on {count} virtual devices"
      f" ({len(cores())} cores; results {same})"
    )
    goal = "1 or more, identical"
    yield _relative(name, own, times[0], "on one device", goal)


def _measure(
  setups: Sequence[tuple[Work, int, int, int]], repeats: int, *wanted: str
) -> list[list[Any]]:
  """Of each process, milliseconds for each individual, and what is wanted."""
  with contextlib.ExitStack() as stack:
    workers = []
    for setup in setups:
      worker = Worker(f"{__name__}:serve", *setup, environment=_ENVIRONMENT)
      workers.append(stack.enter_context(worker))
      # One after another: side by side, compilations would need all the memory.
      worker.wait()
    times: list[list[float]] = [[] for _ in workers]
    for turn in range(repeats):
      for worker, (work, *_), own in zip(workers, setups, times):
        if work.individuals <= _LARGE or turn < _LARGE_REPEATS:
          own.append(1000 * worker.call("seconds") / work.individuals)
    others = ([worker.call(what) for worker in workers] for what in wanted)
    return [times, *others]


def _relative(
  name: str,
  own: Sequence[float],
  reference: Sequence[float],
  reference_name: str,
  goal: str,
  unit: str = "ms",
) -> Measurement:
  """Medians, and the median of ratios, of numbers of which less is better."""
  return Measurement(
    name,
    unit,
    statistics.median(own),
    statistics.median(reference),
    reference_name,
    statistics.median(first / this for first, this in zip(reference, own)),
    goal=goal,
  )


def serve(
  work: Work, store_of: int, per_device: int, devices: int
) -> Callable[[str], float | str]:
  """What a process of this suite runs, with a store for so many individuals.

  It returns "seconds" of doing the work, peak "memory" in MiB, that memory as
  "planned", or the "digest" of the results.
  """
  jax.config.update("jax_num_cpu_devices", devices)
  store = population(work.image_size, store_of)
  ours = Ours(work, store, individuals_per_device=per_device)

  def peak_of_accelerator() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

  # A process has taken memory already, not least to compile: the models are
  # made and the programs there, but no step is done.
  chunk = next(ours.trainer.chunks(work.individuals))
  jax.block_until_ready(ours.states(chunk))
  planned = planned_bytes(
    ours.trainer.lower_train(work.batch_size), on_cpu=ours.trainer.on_cpu
  )
  if planned is not None and peak_of_accelerator() is None:
    planned = host_memory.peak() + planned * ours.trainer.mesh.size
  ours.first()

  def seconds() -> float:
    calls = max(1, _AT_LEAST // work.individuals)
    return measuring.seconds(lambda: [ours() for _ in range(calls)]) / calls

  tell: dict[str, Callable[[], float | str]] = {
    "seconds": seconds,
    "memory": lambda: (peak_of_accelerator() or host_memory.peak()) / 2**20,
    "planned": lambda: math.nan if planned is None else planned / 2**20,
    "digest": ours.digest,
  }
  return lambda wanted: tell[wanted]()
