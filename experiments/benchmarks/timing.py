"""Timing that survives a noisy machine: interleaved, medians, ratios."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
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
    ratio: median over rounds, above 1 if ours is better.
    first_call: seconds of our first call, which compiles.
    goal: what was aimed at, in words.
    flops: operations a second of ours by `flops.training_flops`.
    utilisation: those in parts of the device's peak.
  """

  name: str
  unit: str
  ours: float
  peer: float | None = None
  peer_name: str | None = None
  ratio: float | None = None
  first_call: float | None = None
  goal: str | None = None
  flops: float | None = None
  utilisation: float | None = None


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


def compare(
  name: str,
  samples: int,
  ours: Callable[[], Any],
  peers: Mapping[str, Callable[[], Any]],
  repeats: int,
  *,
  first: Callable[[], Any],
  goal: str | None = None,
) -> list[Measurement]:
  """Times ours and several peers in turn, as rates.

  Args:
    name: what is measured.
    samples: that a call trains on.
    ours: waits for its result.
    peers: by name; each does the same work and is compiled and warm.
    repeats: rounds, of which the medians are taken.
    first: our first call, which compiles and is reported apart.
    goal: of the ratio to the best peer.

  Returns:
    A measurement in samples a second for each peer, the best one first; one
    without a peer if there are none.
  """
  first_call = seconds(first)
  rounds = [
    (seconds(ours), {peer: seconds(run) for peer, run in peers.items()})
    for _ in range(repeats)
  ]
  rate = samples / statistics.median(own for own, _ in rounds)
  if not peers:
    return [
      Measurement(name, "samples/s", rate, first_call=first_call, goal=goal)
    ]
  measurements = [
    Measurement(
      name,
      "samples/s",
      rate,
      samples / statistics.median(others[peer] for _, others in rounds),
      peer,
      statistics.median(others[peer] / own for own, others in rounds),
      first_call,
    )
    for peer in peers
  ]
  measurements.sort(key=lambda m: m.peer or 0.0, reverse=True)
  return [
    dataclasses.replace(
      measurements[0],
      peer_name=f"{measurements[0].peer_name} (the best)",
      goal=goal,
    ),
    *measurements[1:],
  ]
