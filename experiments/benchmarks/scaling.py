"""What a population costs as it grows, and as it is spread over devices.

The cost for each individual and the peak of memory, from 8 to 4,000; on a CPU
also the same work on one to four virtual devices. Each size and each number of
devices has a process of its own: memory is counted there, and the number of
devices is fixed at a process's start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import pandas as pd
from absl.flags import FlagValues

from experiments.benchmarks import measuring
from experiments.benchmarks.measuring import Row
from experiments.benchmarks.work import Ours, Work, population
from experiments.runtime import host_memory
from experiments.runtime.processes import cores
from personalization_jax.training.population import planned_bytes

# The work, numbers of individuals, and numbers of devices.
_FULL = (Work(1 / 8, 32, 8, 4, image_size=16), [8, 64, 512, 4000], [1, 2, 3, 4])
_QUICK = (Work(1 / 32, 8, 4, 2, image_size=16), [4, 12], [1, 2])
# So many individuals leave none of the numbers of devices with fillers.
_SPREAD = 48
# A call trains at least so many individuals, the few of them again and again.
_AT_LEAST = 128
# Whose losses are compared: all sizes have them.
_FEWEST = 4


def run(options: FlagValues) -> Iterator[Row]:
  """Yields the suite's measurements, in milliseconds and MiB."""
  work, sizes, devices = _QUICK if options.quick else _FULL
  works = [dataclasses.replace(work, individuals=size) for size in sizes]
  how = (max(sizes), options.individuals_per_device, len(cores()))
  yield from _measure([(each, *how) for each in works], options.repeats)
  if jax.devices()[0].platform == "cpu":
    spread = dataclasses.replace(work, individuals=_SPREAD)
    setups = [(spread, _SPREAD, 1, count) for count in devices]
    yield from _measure(setups, options.repeats)


def _measure(
  setups: Sequence[tuple[Work, int, int, int]], repeats: int
) -> Iterator[Row]:
  """Compares each process, which `serve`s a setup, with the first."""
  works = {
    f"each of {work.individuals:,} individuals, {devices} devices"
    f" ({len(cores())} cores), width {work.width:g}, batch {work.batch_size},"
    f" {work.image_size} px, {work.steps} steps": work
    for work, *_, devices in setups
  }
  with contextlib.ExitStack() as stack:
    # Prepared one after another: compilations need much memory.
    each = (measuring.workers([(f"{__name__}:serve", *own)]) for own in setups)
    calls = {name: stack.enter_context(w) for name, w in zip(works, each)}
    times = measuring.rounds(calls, repeats)
    told = {name: call(True)[0] for name, call in calls.items()}
  losses = {name: tells.pop("losses") for name, tells in told.items()}
  costs = 1000 * times / pd.Series(works).map(_at_once)
  first = next(iter(works))
  for name in works:
    found = measuring.compare(costs, first, name, "ms")
    same = losses[name] == losses[first]
    yield {"name": name, **found, **told[name], "same_losses": same}


def _at_once(work: Work) -> int:
  """How many individuals a call trains, the few of them again and again."""
  return work.individuals * max(1, _AT_LEAST // work.individuals)


def serve(
  work: Work, store_of: int, per_device: int, devices: int
) -> Callable[..., dict[str, Any] | None]:
  """What a process of this suite runs, with a store for so many individuals.

  It does the work, or tells its peak of memory, what was planned of that before
  training, both in MiB, and the first individuals' losses.
  """
  jax.config.update("jax_num_cpu_devices", devices)
  # Several processes share an accelerator here.
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
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
  next(ours.chunks())
  losses = b""

  def run(tell: bool = False) -> dict[str, Any] | None:
    nonlocal losses
    if not tell:
      for _ in range(_at_once(work) // work.individuals):
        losses = ours()[:_FEWEST].tobytes()
      return None
    peak = peak_of_accelerator() or host_memory.peak()
    return {
      "peak_MiB": peak / 2**20,
      "planned_MiB": planned and planned / 2**20,
      "losses": losses,
    }

  return run
