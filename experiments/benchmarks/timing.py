"""Timing that survives a noisy machine: interleaved, medians, ratios."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measurement:
  """One line of a suite's table.

  Attributes:
    name: what was measured.
    unit: of `ours` and `peer`.
    ours: median of this project.
    peer: median of the other implementation; None if there is none.
    peer_name: which one.
    ratio: median over rounds of peer/ours, above 1 if ours is faster.
    first_call: our first call, which compiles, in the same unit.
    goal: what was aimed at, in words.
  """

  name: str
  unit: str
  ours: float
  peer: float | None = None
  peer_name: str | None = None
  ratio: float | None = None
  first_call: float | None = None
  goal: str | None = None


def seconds(function: Callable[[], Any]) -> float:
  """Wall-clock seconds of one call that waits for its result."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def measure(
  name: str,
  ours: Callable[[], Any],
  repeats: int,
  *,
  peer: Callable[[], Any] | None = None,
  peer_name: str | None = None,
  goal: str | None = None,
) -> Measurement:
  """Times ours and a peer in turn, so that both meet the same noise.

  Args:
    name: what is measured.
    ours: waits for its result; its first call is reported apart.
    repeats: rounds, of which the medians are taken.
    peer: does the same work; called once before the rounds as well.
    peer_name: who it is.
    goal: see `Measurement`.

  Returns:
    The measurement, in seconds.
  """
  first_call = seconds(ours)
  if peer is None:
    times = [seconds(ours) for _ in range(repeats)]
    return Measurement(
      name,
      "s",
      statistics.median(times),
      first_call=first_call,
      goal=goal,
    )
  peer()
  rounds = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
  return Measurement(
    name,
    "s",
    statistics.median(own for own, _ in rounds),
    statistics.median(other for _, other in rounds),
    peer_name,
    statistics.median(other / own for own, other in rounds),
    first_call,
    goal,
  )
