"""Timing that survives a noisy machine, and work in other processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pathlib
import pkgutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import pandas as pd

from personalization_jax.checkpoints import files

# A call that takes more seconds than that isn't repeated more than twice.
_LONG = 30.0
# A line of a suite's table and of its JSON file: its name, the unit of ours and
# peer (medians), peer_name, ratio (above 1 if ours is better), and what else a
# suite tells.
Row = dict[str, Any]


def seconds(function: Callable[[], Any]) -> float:
  """Wall-clock seconds of one call that waits for its result."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def rounds(
  calls: Mapping[str, Callable[[], Any]], repeats: int
) -> pd.DataFrame:
  """Seconds of warm calls, a column each, in turn: all meet the same noise."""
  times = pd.DataFrame(index=range(repeats), columns=[*calls], dtype=float)
  for turn in range(repeats):
    for name, call in calls.items():
      if turn < 2 or times[name].min() < _LONG:
        times.loc[turn, name] = seconds(call)
  return times


def compare(
  costs: pd.DataFrame, peer: str, ours: str = "ours", unit: str = "s"
) -> Row:
  """Two columns of costs, of which less is better; `peer` may be `ours`.

  Costs of one sample are given as rates, if the unit is "samples/s".
  """
  medians = costs.median()
  shown = 1 / medians if unit == "samples/s" else medians
  found = {"unit": unit, "ours": shown[ours]}
  if peer == ours:
    return found
  # The ratio is that of what was measured in one round.
  ratio = (costs[peer] / costs[ours]).median()
  return {**found, "peer": shown[peer], "peer_name": peer, "ratio": ratio}


def line(row: Row) -> str:
  """A row for people: its name, and what there is of everything else."""
  shown = (
    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
    for key, value in row.items()
    if key != "name"
  )
  return f"{row['name']}: {', '.join(shown)}"


def add(row: Row, path: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Adds a row to a JSON file; what is in it stays, whatever happens."""
  rows = json.loads(path.read_text())["measurements"] if path.exists() else []
  record = {"environment": about, "measurements": [*rows, row]}
  text = json.dumps(record, indent=2, default=float)
  files.write_atomically(path, text + "\n")


@contextlib.contextmanager
def workers(
  setups: Iterable[tuple[Any, ...]], limit: float | None = None
) -> Iterator[Callable[..., list[Any]]]:
  """Processes, prepared one after another; a call of all at once, with results.

  They are started afresh (not forked), so that neither their start nor a
  library's warming up is timed, and have the parent's settings of memory
  allocation. A setup is the name of a function, "module:function", whose module
  this process needs not import, and its arguments; what it returns is what
  calls run. What fails there is a RuntimeError here, what takes more seconds
  than the limit a TimeoutError. Leaving the context ends the processes,
  whatever they are doing.
  """
  pools = []
  with contextlib.ExitStack() as stack:
    for setup, *arguments in setups:
      spawn = multiprocessing.get_context("spawn")
      pool = stack.enter_context(futures.ProcessPoolExecutor(1, spawn))
      stack.callback(_kill, pool.submit(os.getpid).result())
      pool.submit(_prepare, setup, arguments).result(limit)
      pools.append(pool)

    def call(*arguments: Any) -> list[Any]:
      begun = [pool.submit(_run, *arguments) for pool in pools]
      return [future.result(limit) for future in begun]

    yield call


def _kill(process: int) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.kill(process, signal.SIGKILL)


# In a worker: what it runs.
_prepared: Callable[..., Any]


def _prepare(setup: str, arguments: Sequence[Any]) -> None:
  global _prepared
  with _sendable():
    _prepared = pkgutil.resolve_name(setup)(*arguments)


def _run(*arguments: Any) -> Any:
  with _sendable():
    return _prepared(*arguments)


@contextlib.contextmanager
def _sendable() -> Iterator[None]:
  """Raises what any process can read, which not every library's errors are."""
  try:
    yield
  except Exception:
    raise RuntimeError(traceback.format_exc()) from None
