"""Timing that survives a noisy machine, and work in other processes."""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import os
import pkgutil
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import pandas as pd

SUITES = ("training", "scaling", "grouping")  # modules of this package
# The module of a suite's peer, and the package that brings it.
PEERS = {"training": ("torch", "torch"), "grouping": ("faiss", "faiss-cpu")}
# The table's numbers: title -> field of a measurement, and a factor.
_COLUMNS = {
  "ours": ("ours", 1), "peer": ("peer", 1), "ratio": ("ratio", 1),
  "first call, s": ("first_call", 1), "GFLOP/s": ("flops", 1e-9),
  "% of peak": ("utilisation", 100),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Measurement:
  """One line of a suite's table, and one entry of the JSON file."""

  name: str  # what was measured
  unit: str  # of `ours` and `peer`
  ours: float  # median of this project
  peer: float | None = None  # median of the other implementation, if any
  peer_name: str | None = None
  ratio: float | None = None  # median over rounds, above 1 if ours is better
  first_call: float | None = None  # seconds of ours, which compiles
  goal: str | None = None  # what was aimed at, in words
  flops: float | None = None  # operations a second by `work.training_flops`
  utilisation: float | None = None  # those as a share of the device's peak


def runnable(suites: Sequence[str], with_peers: bool) -> list[str]:
  """The suites that can be measured; ValueError if a wanted peer is missing."""
  found = []
  for suite in suites:
    module, package = PEERS.get(suite, ("", ""))
    missing = module and not importlib.util.find_spec(module)
    if missing and with_peers:
      raise ValueError(
        f"--suite={suite} measures against {package}, which isn't installed:"
        " pip install 'personalization_jax[bench]', or take --nopeers."
      )
    if missing and suite == "grouping":
      print("Left out: grouping, which can't do without its peer, faiss-cpu.")
    else:
      found.append(suite)
  return found


def seconds(function: Callable[[], Any]) -> float:
  """Wall-clock seconds of one call that waits for its result."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def compare(
  name: str,
  ours: Callable[[], Any],
  peers: Mapping[str, Callable[[], Any]],
  repeats: int,
  *,
  samples: int | None = None,
  first: Callable[[], Any] | None = None,
  goal: str | None = None,
) -> list[Measurement]:
  """Times ours and its peers in turn, so that all meet the same noise.

  Each function waits for its result, and peers are warm. With the number of
  samples that a call trains on there are rates instead of seconds. The goal is
  that of the ratio to the best peer, which comes first.
  """
  first_call = seconds(first or ours)
  calls = {"": ours, **peers}
  times = pd.DataFrame(
    [{who: seconds(run) for who, run in calls.items()} for _ in range(repeats)]
  )
  medians = times.median()
  ratios = times.div(times[""], axis=0).median()
  shown = samples / medians if samples else medians
  unit = "samples/s" if samples else "s"
  alone = Measurement(name, unit, shown[""], first_call=first_call, goal=goal)
  if not peers:
    return [alone]
  best, *others = (
    dataclasses.replace(
      alone, peer=shown[who], peer_name=who, ratio=ratios[who], goal=None
    )
    for who in medians.drop("").sort_values().index
  )
  mark = " (the best)" if others else ""
  best = dataclasses.replace(
    best, peer_name=f"{best.peer_name}{mark}", goal=goal
  )
  return [best, *others]


def table(measurements: Sequence[Measurement]) -> str:
  """The measurements as lines for people, below a header."""
  given = pd.DataFrame(measurements)
  shown = pd.DataFrame(
    {
      title: given[field].astype(float) * factor
      for title, (field, factor) in _COLUMNS.items()
    }
  )
  shown.insert(3, "unit", given["unit"])
  names = [
    m.name
    + (f"; peer: {m.peer_name}" if m.peer_name else "")
    + (f"; goal: {m.goal}" if m.goal else "")
    for m in measurements
  ]
  text = shown.to_string(index=False, float_format="{:.3g}".format, na_rep="-")
  return "\n".join(map("{}  {}".format, text.splitlines(), ["what", *names]))


class Worker:
  """A process that prepares something and then runs it on demand.

  It is started afresh (not forked), so that neither its start nor a library's
  warming up is timed, and has the parent's settings of memory allocation.
  Leaving the context ends it.
  """

  def __init__(
    self,
    setup: str,
    *arguments: Any,
    cores: Collection[int] = (),
    environment: Mapping[str, str] | None = None,
  ):
    """Starts the process, on these cores or any; `wait` for its preparation.

    `setup` names a function, "module:function", whose module this process needs
    not import; what it returns is what `start` runs.
    """
    context = multiprocessing.get_context("spawn")
    self._connection, other = context.Pipe()
    args = (other, setup, arguments, cores, environment or {})
    self._process = context.Process(target=_serve, args=args, daemon=True)
    self._process.start()
    other.close()

  def start(self, *arguments: Any) -> None:
    """Begins a call and returns at once."""
    self._connection.send(arguments)

  def wait(self, limit: float | None = None) -> Any:
    """The result of a call, or None once it is prepared.

    After `limit` seconds TimeoutError: the worker can only be closed then.
    RuntimeError has the message of a process that failed.
    """
    if not self._connection.poll(limit):
      raise TimeoutError(f"no result in {limit:.0f} s")
    try:
      worked, result = self._connection.recv()
    except EOFError:
      raise RuntimeError("the process ended without a result") from None
    if not worked:
      raise RuntimeError(result)
    return result

  def call(self, *arguments: Any, limit: float | None = None) -> Any:
    """`start` and `wait`."""
    self.start(*arguments)
    return self.wait(limit)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self._process.kill()  # whatever it is doing
    self._process.join()
    self._connection.close()


def _serve(
  connection: Any,
  setup: str,
  arguments: tuple[Any, ...],
  cores: Collection[int],
  environment: Mapping[str, str],
) -> None:
  os.environ.update(environment)
  if cores and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, cores)
  try:
    run = pkgutil.resolve_name(setup)(*arguments)
    connection.send((True, None))
    while True:
      connection.send((True, run(*connection.recv())))
  except EOFError:
    return  # The parent is gone.
  except Exception:
    connection.send((False, traceback.format_exc()))
