"""Shaping: which data a model sees, and when, as integer arrays (NumPy, host).

A schedule says for each training step (a batch, the paper's "iteration")
whether the batch is drawn from D_G or from D_I; `sampling` then draws its rows.
Both can be printed, saved, plotted and tested without a model.
"""

from __future__ import annotations

import fractions
import math
from collections.abc import Callable
from typing import Any

import numpy as np

GLOBAL = 0
INDIVIDUAL = 1

# A schedule of one's own: from epochs on D_G, and batches in one, to sources.
Schedule = Callable[[int, int], Any]
Period = int | float | fractions.Fraction


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
  """Batches that show every sample once (Algorithm 1, line 3)."""
  return math.ceil(num_samples / batch_size)


def early_shaping(individual_steps: int, global_steps: int) -> np.ndarray:
  """ES(n): n batches from D_I, then D_G alone.

  Args:
    individual_steps: the paper's n.
    global_steps: batches from D_G.

  Returns:
    int32 [individual_steps + global_steps] of sources.

  Raises:
    ValueError: if a number of steps is negative.

  Source: section III-A; Algorithm 1, lines 1-2.
  """
  return np.concatenate(
    [_steady(INDIVIDUAL, individual_steps), _steady(GLOBAL, global_steps)]
  )


def sample_weighing(
  period: Period, epochs: int, steps_per_epoch: int
) -> np.ndarray:
  """SW(n_S, n_I): every n_I-th batch from D_I, or all but every 1/n_I-th.

  In each epoch, step j = 1 .. steps_per_epoch is drawn from D_I if

      (n_I >= 1 and j mod n_I = 0) or (n_I < 1 and j mod 1/n_I != 0).

  Args:
    period: n_I, a whole number, or 1 over one.
    epochs: n_S.
    steps_per_epoch: n_iter, enough to see D_G once if nothing were drawn from
      D_I.

  Returns:
    int32 [epochs * steps_per_epoch] of sources.

  Raises:
    ValueError: if neither n_I nor 1/n_I is a whole number.

  Source: section III-B; Algorithm 1, lines 3-8.
  """
  period = check_period(period)
  j = np.arange(1, steps_per_epoch + 1)
  if period >= 1:
    individual = j % int(period) == 0
  else:
    individual = j % int(1 / period) != 0
  epoch = np.where(individual, INDIVIDUAL, GLOBAL).astype(np.int32)
  return np.tile(epoch, epochs)


def transfer_learning(global_steps: int, individual_steps: int) -> np.ndarray:
  """TL(n): D_G alone, then n batches from D_I.

  Args:
    global_steps: batches from D_G.
    individual_steps: the paper's n.

  Returns:
    int32 [global_steps + individual_steps] of sources.

  Raises:
    ValueError: if a number of steps is negative.

  Source: section III-C; Algorithm 1, lines 9-10.
  """
  return np.concatenate(
    [_steady(GLOBAL, global_steps), _steady(INDIVIDUAL, individual_steps)]
  )


def combined(
  *,
  epochs: int,
  steps_per_epoch: int,
  early: int = 0,
  period: Period | None = None,
  late: int = 0,
  schedule: Schedule | None = None,
) -> np.ndarray:
  """ES(early), then SW(epochs, period) or D_G alone, then TL(late).

  The schedule of every method but `local`, of ES, SW or TL alone too.

  Args:
    epochs: epochs on D_G.
    steps_per_epoch: batches in one.
    early: batches from D_I before.
    period: n_I of sample weighing in between; None draws from D_G alone.
    late: batches from D_I after.
    schedule: takes sample weighing's place; it may have any number of steps.

  Returns:
    int32 [early + epochs * steps_per_epoch + late] of sources.

  Source: section I ("the three forms of shaping can also be combined").
  """
  if schedule is not None:
    middle = check_sources(schedule(epochs, steps_per_epoch))
  elif period is None:
    middle = _steady(GLOBAL, epochs * steps_per_epoch)
  else:
    middle = sample_weighing(period, epochs, steps_per_epoch)
  return np.concatenate(
    [_steady(INDIVIDUAL, early), middle, _steady(INDIVIDUAL, late)]
  )


def check_sources(sources: Any) -> np.ndarray:
  """Gives a schedule of one's own as int32 [T], or raises ValueError."""
  array = np.asarray(sources)
  if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
    raise ValueError(
      "a schedule must be integers [T] with at least one step, but is"
      f" {array.dtype} {list(array.shape)}."
    )
  strange = (array != GLOBAL) & (array != INDIVIDUAL)
  if strange.any():
    step = int(np.argmax(strange))
    raise ValueError(
      f"a schedule must hold {GLOBAL} (a batch from D_G) or {INDIVIDUAL} (from"
      f" D_I), but step {step} holds {array[step]}."
    )
  return array.astype(np.int32)


def check_period(period: Period) -> fractions.Fraction:
  """Gives n_I as an exact fraction; ValueError unless it or 1/n_I is whole."""
  if not (0 < period < math.inf):
    raise ValueError(f"n_I={period} must be above 0.")
  exact = fractions.Fraction(period)
  if isinstance(period, float):
    exact = exact.limit_denominator(10**6)
  if not exact or 1 not in (exact.numerator, exact.denominator):
    raise ValueError(
      f"n_I={period} is neither a whole number (every n_I-th batch from D_I)"
      " nor 1 over one (all but every 1/n_I-th)."
    )
  return exact


def _steady(source: int, steps: int) -> np.ndarray:
  if steps < 0:
    raise ValueError(f"a schedule can't have {steps} steps.")
  return np.full(steps, source, np.int32)
