"""Training a population against PyTorch, and against plain `vmap`.

On a CPU: a loop over individuals in PyTorch, with all threads, and in a process
for each core with one thread each. On an accelerator: how many individuals
should go side by side; then the best of it against PyTorch by loops, with and
without compilation and graphs, and by `torch.func`. Every peer has a process of
its own, and takes turns with ours.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pandas as pd
from absl.flags import FlagValues

from experiments.benchmarks import measuring
from experiments.benchmarks.measuring import Row
from experiments.benchmarks.work import Ours, Work, population, training_flops
from experiments.runtime import chips, run_info
from experiments.runtime.processes import cores
from personalization_jax.distributed import make_mesh

# The work, and how many individuals plain `vmap` is measured with. On a CPU so
# few that a step takes seconds. Steps: so that all ends in 14 minutes on two
# cores, even half as fast ones as it was written on.
_CPU_ROWS = [
  (Work(width=1.0, batch_size=128, individuals=8, steps=4), 2),
  (Work(width=0.25, batch_size=32, individuals=32, steps=12), 32),
  (Work(width=0.25, batch_size=128, individuals=32, steps=4), 8),
]
_QUICK_CPU_ROWS = [(Work(1 / 32, 8, individuals=2, steps=2, image_size=16), 2)]
# On an accelerator, each in float32 and in bfloat16.
_WORK, _QUICK_WORK = Work(1.0, 128, 100, 20), Work(0.25, 128, 16, 4)
_VMAP_INDIVIDUALS = 25
_VMAP_STEPS = 2
# PyTorch's variants one by one, and how many individuals `torch.func` stacks.
_LOOPS = ("eager", "graph", "compiled graph", "compiled")
_STACKS = (8, 25, 50, 100)
# Seconds that a peer has to compile, and then to do the work.
_LIMIT = 120.0


def run(options: FlagValues) -> Iterator[Row]:
  """Yields the suite's measurements, in samples a second."""
  works = _QUICK_CPU_ROWS if options.quick else _CPU_ROWS
  if jax.devices()[0].platform != "cpu":
    work = _QUICK_WORK if options.quick else _WORK
    half = dataclasses.replace(work, precision="bfloat16")
    works = [(work, _VMAP_INDIVIDUALS), (half, _VMAP_INDIVIDUALS)]
  for work, vmapped in works:
    work = dataclasses.replace(
      work,
      individuals=options.individuals or work.individuals,
      steps=options.steps or work.steps,
    )
    if options.only not in str(work):
      continue
    found: dict[float, Ours] = {}
    for how in ways(work, options):
      try:
        ours = Ours(work, population(work.image_size, work.individuals), **how)
        row = alone(ours, options)
      except jax.errors.JaxRuntimeError as error:
        print(f"{work}, {how} failed:\n{error}", file=sys.stderr, flush=True)
        continue
      yield row
      found[row["ours"]] = ours
    if found and options.peers:
      best = found[max(found)]
      for peer, setups in peers(best, vmapped).items():
        yield against(best, peer, setups, options.repeats)


def ways(work: Work, options: FlagValues) -> list[dict[str, Any]]:
  """The options of `make_trainer` that ours is measured with."""
  most = options.individuals_per_device
  if jax.devices()[0].platform == "cpu":
    most = most or without_fillers(work.individuals, jax.device_count())
    return [{"individuals_per_device": most}]
  most = most or work.individuals
  # One device: PyTorch is given one too.
  how = {"individuals_per_device": most, "mesh": make_mesh(jax.devices()[:1])}
  counts = sorted({min(int(n), most) for n in options.side_by_side})
  return [{**how, "side_by_side": count} for count in counts]


def without_fillers(individuals: int, devices: int) -> int:
  """How many models a device trains in a call: up to 8, with no more fillers.

  A call takes memory for a step anew, which costs as much as half a step does.
  `experiments.table1` trains one in a call on a CPU: its schedules are long.
  """
  each = -(-individuals // devices)
  return max(n for n in range(1, 9) if each % n == 0)


def alone(ours: Ours, options: FlagValues) -> Row:
  """Ours, with operations a second and their share of the peak if known."""
  work, devices = ours.work, ours.trainer.mesh.devices
  first_call = measuring.seconds(lambda: next(ours.chunks()))
  times = measuring.rounds({"ours": ours}, options.repeats)
  rate = ours.rows.size / times["ours"].median()
  of_sample = (work.width, work.image_size, ours.store.num_classes)
  flops = rate * training_flops(*of_sample)
  kind = devices.flat[0].device_kind
  tflops = options.peak_tflops or chips.peaks(kind).get(work.precision)
  return {
    "name": str(ours),
    "unit": "samples/s",
    "ours": rate,
    "first_call": first_call,  # seconds; it compiles
    "flops": flops,
    "utilisation": tflops and flops / (1e12 * tflops * devices.size),
  }


def peers(ours: Ours, vmapped: int) -> dict[str, list[tuple[Any, ...]]]:
  """By a peer's name, what its workers are given: a function's name, a task."""
  task, platform = ours.task(), ours.trainer.mesh.devices.flat[0].platform
  less = task._replace(rows=task.rows[:vmapped, :_VMAP_STEPS])
  count, steps, _ = less.rows.shape
  linen = (
    f"plain vmap of Linen's Conv, {count} individuals and {steps} steps of it"
  )
  found = {linen: [(f"{__package__}.linen_peer:serve", less)]}
  torch, version = f"{__package__}.torch_peers:serve", run_info.version("torch")
  if not version:
    return found
  variants: dict[str, list[tuple[Any, ...]]] = {}
  if platform == "cpu":
    places = cores()
    used = places[: len(task.rows)]
    narrow = [
      (torch, task._replace(rows=task.rows[first :: len(used)]), (place,))
      for first, place in enumerate(used)
    ]
    eager = "eager, channels last"
    variants = {
      f"{eager}, {len(places)} threads": [(torch, task, places)],
      f"{eager}, {len(narrow)} processes of 1 thread": narrow,
    }
  elif platform == "gpu":
    stacks = sorted({min(n, len(task.rows)) for n in _STACKS})
    variants = {
      variant: [(torch, task, (), "cuda", variant)] for variant in _LOOPS
    } | {
      f"torch.func, {n} stacked": [(torch, task, (), "cuda", "func", n)]
      for n in stacks
    }
  named = {f"PyTorch {version} {key}": each for key, each in variants.items()}
  return found | named


def against(
  ours: Ours, peer: str, setups: list[tuple[Any, ...]], repeats: int
) -> Row:
  """Compares our rate with that of a peer's processes; one may fail."""
  try:
    with measuring.workers(setups, _LIMIT) as them:
      times = measuring.rounds({"ours": ours, peer: them}, repeats)
  except (RuntimeError, TimeoutError) as error:
    print(f"{peer} failed:\n{error}", file=sys.stderr, flush=True)
    reason = [type(error).__name__, *str(error).split("\n")]
    why = next(line for line in reversed(reason) if line.strip())
    return {"name": str(ours), "peer_name": f"{peer}: failed, {why}"}
  samples = sum(task.rows.size for _, task, *_ in setups)
  costs = times / pd.Series({"ours": ours.rows.size, peer: samples})
  row = measuring.compare(costs, peer, unit="samples/s")
  return {"name": str(ours), **row}
