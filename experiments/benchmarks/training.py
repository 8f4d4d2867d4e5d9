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
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import linen_peer
from experiments.benchmarks.measuring import (
  Measurement,
  Options,
  Worker,
  compare,
  seconds,
)
from experiments.benchmarks.work import Ours, Task, Work, population, rows
from experiments.runtime.processes import cores
from personalization_jax.datasets import Population
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
_CPU_GOAL, _GOAL, _EAGER_GOAL = "1.5", "3", "10"
# PyTorch's variants one by one, and how many individuals `torch.func` stacks.
_LOOPS = ("eager", "compiled", "graph", "compiled graph")
_STACKS = (8, 25, 50, 100)
_TORCH_DEVICES = {"gpu": "cuda", "cpu": "cpu"}
# Plain `vmap` on an accelerator: a share of the memory beside ours and
# PyTorch's.
_VMAP_INDIVIDUALS, _VMAP_STEPS = 25, 2
_VMAP_MEMORY = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"}
_VMAP_SECONDS = 90.0  # to compile, and then to do the work

Calls = dict[str, Callable[[], Any]]


def run(options: Options) -> Iterator[Measurement]:
  """Yields the suite's measurements, in samples a second."""
  on_cpu = jax.devices()[0].platform == "cpu"
  for work, vmapped in _works(on_cpu, options.quick):
    work = dataclasses.replace(
      work,
      individuals=options.individuals or work.individuals,
      steps=options.steps or work.steps,
    )
    if options.only not in str(work):
      continue
    if on_cpu:
      yield from _on_cpu(work, vmapped, options)
    else:
      yield from _on_accelerator(work, vmapped, options)


def _works(on_cpu: bool, quick: bool) -> Iterator[tuple[Work, int]]:
  if on_cpu:
    yield from _QUICK_ROWS if quick else _CPU_ROWS
    return
  for precision in ("float32", "bfloat16"):
    work = Work(1.0, 128, 100, 20, precision=precision)
    if quick:
      work = dataclasses.replace(work, width=0.25, individuals=16, steps=4)
    yield work, _VMAP_INDIVIDUALS


def _on_cpu(
  work: Work, vmapped: int, options: Options
) -> Iterator[Measurement]:
  store = population(work.image_size, work.individuals)
  mesh = make_mesh()
  on_device = options.individuals_per_device or without_fillers(
    work.individuals, mesh.size
  )
  ours = Ours(work, store, mesh, on_device)
  with contextlib.ExitStack() as stack:
    peers = _torch_on_cpu(ours, stack) if options.peers else {}
    measured = compare(
      str(work),
      ours,
      peers,
      options.repeats,
      samples=work.samples,
      first=ours.first,
      goal=_CPU_GOAL,
    )
  measured = [ours.with_flops(m, options.peak) for m in measured]
  yield from measured
  if options.peers:
    yield _against_vmap(measured[0], work, vmapped, store)


def without_fillers(individuals: int, devices: int) -> int:
  """How many models a device trains in a call: up to 8, with no more fillers.

  A call takes memory for a step anew, which costs as much as half a step does.
  `experiments.table1` trains one in a call on a CPU: its schedules are long.
  """
  each = -(-individuals // devices)
  return max(n for n in range(1, 9) if each % n == 0)


def _torch_on_cpu(ours: Ours, stack: contextlib.ExitStack) -> Calls:
  """PyTorch's two ways to use all cores, ready to run."""
  task, places = Task.of(ours), cores()
  wide = [_torch(stack, task, "eager", threads=len(places))]
  narrow = [
    _torch(
      stack,
      dataclasses.replace(task, rows=task.rows[index :: len(places)]),
      "eager",
      threads=1,
      cores=(place,),
    )
    for index, place in enumerate(places[: len(task.rows)])
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
  work: Work, vmapped: int, options: Options
) -> Iterator[Measurement]:
  """Ours for each number side by side, then the best against each peer."""
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
        name,
        ours,
        {},
        options.repeats,
        samples=work.samples,
        first=ours.first,
      )
    except jax.errors.JaxRuntimeError as error:
      print(f"{name} failed:\n{error}", file=sys.stderr, flush=True)
      continue
    yield ours.with_flops(alone, options.peak)
    if best is None or alone.ours > best[0]:
      best = alone.ours, ours
  if best is None or not options.peers:
    return
  platform = jax.devices()[0].platform
  if platform not in _TORCH_DEVICES:
    print("Left out: PyTorch, which is measured on CPUs and GPUs only.")
    return
  _, ours = best
  with contextlib.ExitStack() as stack:
    peers, failures = _torch_variants(ours, stack, _TORCH_DEVICES[platform])
    measured = compare(
      f"{work}, {ours.side_by_side} side by side",
      ours,
      peers,
      options.repeats,
      samples=work.samples,
      goal=_GOAL,
    )
  eager = f"{_torch_name()} eager"
  measured = [
    dataclasses.replace(
      ours.with_flops(m, options.peak),
      first_call=None,  # compiled before, in the sweep
      goal=_EAGER_GOAL if m.peer_name == eager else m.goal,
    )
    for m in measured
  ]
  yield from measured
  for peer_name, reason in failures.items():
    yield dataclasses.replace(measured[0], **_failed(peer_name, reason))
  yield _against_vmap(measured[0], work, vmapped, store, _VMAP_MEMORY)


def _torch_variants(
  ours: Ours, stack: contextlib.ExitStack, device: str
) -> tuple[Calls, dict[str, RuntimeError]]:
  """PyTorch's variants that run here, warm, and why the others don't."""
  task, torch = Task.of(ours), _torch_name()
  failures: dict[str, RuntimeError] = {}
  # Only the best stack stays, in the peer's favour. Each is tried alone: the
  # large ones need the memory.
  times: dict[int, float] = {}
  for stacked in sorted({min(n, len(task.rows)) for n in _STACKS}):
    with contextlib.ExitStack() as trial:
      worker = _torch(trial, task, "func", device, stacked)
      try:
        worker.wait()
        times[stacked] = seconds(worker.call)
      except RuntimeError as error:
        failures[f"{torch} torch.func, {stacked} stacked"] = error
  plan = {f"{torch} {variant}": (variant, 1) for variant in _LOOPS}
  if times:
    best = min(times, key=lambda stacked: times[stacked])
    plan[f"{torch} torch.func, {best} stacked"] = ("func", best)
  peers: Calls = {}
  for name, (variant, stacked) in plan.items():
    worker = _torch(stack, task, variant, device, stacked)
    try:
      worker.wait()
      worker.call()
      peers[name] = worker.call
    except RuntimeError as error:
      failures[name] = error
  return peers, failures


def _torch_name() -> str:
  return f"PyTorch {importlib.metadata.version('torch')}"


def _torch(
  stack: contextlib.ExitStack,
  task: Task,
  variant: str,
  device: str = "cpu",
  stacked: int = 1,
  threads: int | None = None,
  cores: tuple[int, ...] = (),
) -> Worker:
  """A process that the stack ends, of `torch_peers.serve`, on these cores."""
  arguments = (task, device, variant, stacked, threads)
  return stack.enter_context(Worker(_serve_torch, *arguments, cores=cores))


def _serve_torch(*arguments: Any) -> Callable[[], np.ndarray]:
  # Here, so that this process alone loads PyTorch.
  from experiments.benchmarks import torch_peers

  return torch_peers.serve(*arguments)


def _against_vmap(
  measured: Measurement,
  work: Work,
  vmapped: int,
  store: Population,
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
  task = (work, store.images, store.labels, rows(work, store))
  with Worker(linen_peer.serve, *task, environment=environment) as worker:
    try:
      worker.wait(_VMAP_SECONDS)
      rate = work.samples / worker.call(limit=_VMAP_SECONDS)
    except TimeoutError:
      rate = work.samples / _VMAP_SECONDS
      name += f" (at most: not finished in {_VMAP_SECONDS:.0f} s)"
    except RuntimeError as error:
      return dataclasses.replace(measured, **_failed(name, error))
  return dataclasses.replace(
    measured,
    peer=rate,
    peer_name=name,
    ratio=measured.ours / rate,
    goal="20 on a CPU",
  )


def _failed(peer_name: str, error: RuntimeError) -> dict[str, Any]:
  """The fields of a peer's row that doesn't run here; its process tells why."""
  print(f"{peer_name} failed:\n{error}", file=sys.stderr, flush=True)
  reason = str(error).strip().splitlines()[-1]
  return {
    "peer": None,
    "ratio": None,
    "goal": None,
    "peer_name": f"{peer_name}: failed, {reason}",
  }
