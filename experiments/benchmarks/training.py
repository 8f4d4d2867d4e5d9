"""Training a population against PyTorch, and against plain `vmap`.

On a CPU: a loop over individuals in PyTorch, with all threads, and in a process
for each core with one thread each; the better of them is the peer that counts.
On an accelerator: how many individuals should go side by side; then the best of
it against PyTorch by loops, with and without compilation and graphs, and by
`torch.func`. Every peer runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl.flags import FlagValues

from experiments.benchmarks import measuring
from experiments.benchmarks.measuring import Measurement, Worker
from experiments.benchmarks.work import (
  Ours,
  Task,
  Work,
  peak,
  population,
  training_flops,
)
from experiments.runtime.processes import cores
from personalization_jax.datasets import Population
from personalization_jax.distributed import make_mesh

# On a CPU: the work, and how many individuals plain `vmap` is measured with,
# few enough that a step takes seconds. Steps: so that all ends in 12 minutes on
# two cores, even half as fast ones as it was written on.
_CPU_ROWS: tuple[tuple[Work, int], ...] = (
  (Work(width=1.0, batch_size=128, individuals=8, steps=4), 2),
  (Work(width=0.25, batch_size=32, individuals=32, steps=12), 32),
  (Work(width=0.25, batch_size=128, individuals=32, steps=4), 8),
)
_QUICK_CPU_ROWS = ((Work(1 / 32, 8, individuals=2, steps=2, image_size=16), 2),)
# On an accelerator, each in float32 and in bfloat16.
_WORK, _QUICK_WORK = Work(1.0, 128, 100, 20), Work(0.25, 128, 16, 4)
_VMAP_INDIVIDUALS = 25  # of plain `vmap`
# PyTorch's variants one by one, and how many individuals `torch.func` stacks.
_LOOPS = ("eager", "compiled", "graph", "compiled graph")
_STACKS = (8, 25, 50, 100)
_VMAP_STEPS = 2
_VMAP_SECONDS = 90.0  # to compile, and then to do the work

Calls = dict[str, Callable[[], Any]]


def run(options: FlagValues) -> Iterator[Measurement]:
  """Yields the suite's measurements, in samples a second."""
  on_cpu = jax.devices()[0].platform == "cpu"
  works = _QUICK_CPU_ROWS if options.quick else _CPU_ROWS
  if not on_cpu:
    work = _QUICK_WORK if options.quick else _WORK
    half = dataclasses.replace(work, precision="bfloat16")
    works = ((work, _VMAP_INDIVIDUALS), (half, _VMAP_INDIVIDUALS))
  measure = _on_cpu if on_cpu else _on_accelerator
  for work, vmapped in works:
    work = dataclasses.replace(
      work,
      individuals=options.individuals or work.individuals,
      steps=options.steps or work.steps,
    )
    if options.only in str(work):
      store = population(work.image_size, work.individuals)
      yield from measure(work, store, vmapped, options)


def _compare(
  name: str, ours: Ours, peers: Calls, options: FlagValues, **how: Any
) -> list[Measurement]:
  """Rates, with operations a second and their share of the peak if known."""
  work, devices = ours.work, ours.trainer.mesh.devices
  measured = measuring.compare(
    name, ours, peers, options.repeats, samples=work.samples, **how
  )
  flops = measured[0].ours * training_flops(
    work.width, work.image_size, ours.store.num_classes
  )
  kind = devices.flat[0].device_kind
  tflops = options.peak_tflops or peak(kind, work.precision)
  share = tflops and flops / (1e12 * tflops * devices.size)
  return [
    dataclasses.replace(one, flops=flops, utilisation=share) for one in measured
  ]


def _on_cpu(
  work: Work, store: Population, vmapped: int, options: FlagValues
) -> Iterator[Measurement]:
  on_device = options.individuals_per_device or without_fillers(
    work.individuals, jax.device_count()
  )
  ours = Ours(work, store, individuals_per_device=on_device)
  with contextlib.ExitStack() as stack:
    peers = _torch_on_cpu(ours.task(), stack) if options.peers else {}
    measured = _compare(
      str(work), ours, peers, options, first=ours.first, goal="1.5"
    )
  yield from measured
  if options.peers:
    yield _against_vmap(measured[0], work, store, vmapped)


def without_fillers(individuals: int, devices: int) -> int:
  """How many models a device trains in a call: up to 8, with no more fillers.

  A call takes memory for a step anew, which costs as much as half a step does.
  `experiments.table1` trains one in a call on a CPU: its schedules are long.
  """
  each = -(-individuals // devices)
  return max(n for n in range(1, 9) if each % n == 0)


def _torch_on_cpu(task: Task, stack: contextlib.ExitStack) -> Calls:
  """PyTorch's two ways to use all cores, ready to run."""
  places = cores()
  wide = [_torch(stack, task, len(places))]
  parts = (task.rows[first :: len(places)] for first in range(len(places)))
  narrow = [
    _torch(stack, task._replace(rows=rows), 1, cores=(place,))
    for rows, place in zip(parts, places)
    if len(rows)
  ]
  for worker in wide + narrow:
    worker.wait()

  def together(workers: list[Worker]) -> None:
    for worker in workers:
      worker.start()
    for worker in workers:
      worker.wait()

  name = f"{_torch_name()} eager, channels last"
  return {
    f"{name}, {len(places)} threads": lambda: together(wide),
    f"{name}, {len(narrow)} processes of 1 thread": lambda: together(narrow),
  }


def _on_accelerator(
  work: Work, store: Population, vmapped: int, options: FlagValues
) -> Iterator[Measurement]:
  """Each variant of ours, then the best of them against each peer."""
  best: tuple[Measurement, Ours] | None = None
  most = options.individuals_per_device or work.individuals
  # One device: PyTorch is given one too.
  how = {"individuals_per_device": most, "mesh": make_mesh(jax.devices()[:1])}
  for count in sorted({min(int(n), most) for n in options.side_by_side}):
    name = f"{work}, {count} side by side"
    ours = Ours(work, store, side_by_side=count, **how)
    try:
      (alone,) = _compare(name, ours, {}, options, first=ours.first)
    except jax.errors.JaxRuntimeError as error:
      print(f"{name} failed:\n{error}", file=sys.stderr, flush=True)
      continue
    yield alone
    if best is None or alone.ours > best[0].ours:
      best = alone, ours
  if best is None or not options.peers:
    return
  if jax.devices()[0].platform != "gpu":
    print("Left out: PyTorch, which is measured on CPUs and GPUs only.")
    return
  alone, ours = best
  with contextlib.ExitStack() as stack:
    peers, failures = _torch_on_gpu(ours.task(), stack)
    measured = _compare(alone.name, ours, peers, options, goal="3")
  for one in measured:
    eager = one.peer_name == f"{_torch_name()} eager"
    # It was compiled before, in the sweep.
    yield dataclasses.replace(
      one, first_call=None, goal="10" if eager else one.goal
    )
  first = dataclasses.replace(measured[0], first_call=None)
  for peer_name, reason in failures.items():
    yield _failed(first, peer_name, reason)
  # Plain `vmap` has the memory beside ours and PyTorch's.
  memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"}
  yield _against_vmap(first, work, store, vmapped, environment=memory)


def _torch_on_gpu(
  task: Task, stack: contextlib.ExitStack
) -> tuple[Calls, dict[str, RuntimeError]]:
  """PyTorch's variants that run on this GPU, and why the others don't."""
  calls: Calls = {}
  failures: dict[str, RuntimeError] = {}

  def seconds(
    stack: contextlib.ExitStack, variant: str, stacked: int = 1
  ) -> float:
    """Of a variant's first call, which `calls` keeps; infinite if it fails."""
    of_func = f"torch.func, {stacked} stacked"
    name = f"{_torch_name()} {of_func if variant == 'func' else variant}"
    worker = _torch(stack, task, None, "cuda", variant, stacked)
    try:
      worker.wait()
      taken = measuring.seconds(worker.call)
    except RuntimeError as error:
      failures[name] = error
      return math.inf
    calls[name] = worker.call
    return taken

  # Only the best stack stays, in the peer's favour. Each is tried alone: the
  # large ones need the memory.
  times: dict[int, float] = {}
  for stacked in sorted({min(n, len(task.rows)) for n in _STACKS}):
    with contextlib.ExitStack() as trial:
      times[stacked] = seconds(trial, "func", stacked)
  calls.clear()
  for variant in _LOOPS:
    seconds(stack, variant)
  best = min(times, key=times.__getitem__)
  if math.isfinite(times[best]):
    seconds(stack, "func", best)
  return calls, failures


def _torch_name() -> str:
  return f"PyTorch {importlib.metadata.version('torch')}"


def _torch(
  stack: contextlib.ExitStack, task: Task, *how: Any, cores: Sequence[int] = ()
) -> Worker:
  """A process that the stack ends, of `torch_peers.serve`, on these cores."""
  worker = Worker(f"{__package__}.torch_peers:serve", task, *how, cores=cores)
  return stack.enter_context(worker)


def _against_vmap(
  measured: Measurement,
  work: Work,
  store: Population,
  vmapped: int,
  environment: Mapping[str, str] | None = None,
) -> Measurement:
  """Compares a rate of ours with plain `vmap`'s on less of the work.

  If it doesn't finish, its rate is what it would have been had it ended at the
  limit: an upper bound.
  """
  work = dataclasses.replace(
    work, individuals=min(vmapped, work.individuals), steps=_VMAP_STEPS
  )
  name = (
    f"plain vmap of Linen's Conv, {work.individuals} individuals and"
    f" {work.steps} steps of it"
  )
  peer = f"{__package__}.linen_peer:serve"
  with Worker(peer, work, store, environment=environment) as worker:
    try:
      worker.wait(_VMAP_SECONDS)
      rate = work.samples / worker.call(limit=_VMAP_SECONDS)
    except TimeoutError:
      rate = work.samples / _VMAP_SECONDS
      name += f" (at most: not finished in {_VMAP_SECONDS:.0f} s)"
    except RuntimeError as error:
      return _failed(measured, name, error)
  return dataclasses.replace(
    measured,
    peer=rate,
    peer_name=name,
    ratio=measured.ours / rate,
    goal="20 on a CPU",
  )


def _failed(
  measured: Measurement, peer_name: str, error: RuntimeError
) -> Measurement:
  """The row of a peer that doesn't run here; its process tells why."""
  print(f"{peer_name} failed:\n{error}", file=sys.stderr, flush=True)
  name = f"{peer_name}: failed, {str(error).strip().splitlines()[-1]}"
  return dataclasses.replace(
    measured, peer=None, peer_name=name, ratio=None, goal=None
  )
