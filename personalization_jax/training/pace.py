"""Blocks of steps that take about the same time, whatever the model (host)."""

from __future__ import annotations

import time

import numpy as np

from personalization_jax import distributed


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
    self.begin()

  def begin(self) -> None:
    """Another training of the same kind; what is known of the speed stays."""
    self._begin: float | None = None
    self._done = 0

  def steps(self) -> int:
    """For the next block; the same on every process."""
    return int(distributed.from_first(np.int32(self._steps)))

  def started(self) -> None:
    """A block was handed to the devices (its program is compiled by now)."""
    if self._begin is None:
      self._begin = time.monotonic()

  def ended(self, steps: int) -> None:
    """The oldest block under way, of so many steps, ended."""
    assert self._begin is not None
    self._done += steps
    seconds = max((time.monotonic() - self._begin) / self._done, 1e-6)
    # Growing slowly, since the first blocks tell little.
    most = min(self._most, 2 * self._steps + 5)
    self._steps = max(1, min(most, round(self._seconds / seconds)))
