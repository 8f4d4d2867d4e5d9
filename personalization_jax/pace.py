"""Blocks of steps that take about the same time, whatever the model (host)."""

from __future__ import annotations

import time

import numpy as np

from personalization_jax import hosts


class Pace:
  """How many steps go into a block, so that it takes about so many seconds."""

  def __init__(self, most: int, seconds: float):
    """Starts with few steps.

    Args:
      most: steps in a block, at most.
      seconds: wanted for a block.
    """
    self._most = most
    self._seconds = seconds
    self._steps = min(most, 5)
    self._start = 0.0
    self._started: list[float] = []

  def steps(self) -> int:
    """For the next block; the same on every process."""
    return int(hosts.from_first(np.int32(self._steps)))

  def started(self) -> None:
    """A block was handed to the devices (its program is compiled)."""
    self._started.append(time.monotonic())

  def ended(self, steps: int) -> None:
    """The oldest block under way ended."""
    now = time.monotonic()
    seconds = now - max(self._start, self._started.pop(0))
    self._start = now
    wanted = steps * self._seconds / max(seconds, 1e-6)
    self._steps = max(1, min(self._most, int(min(wanted, 2.0 * steps + 5))))
