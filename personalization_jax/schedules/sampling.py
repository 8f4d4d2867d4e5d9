"""Sampling: the rows of each batch of a schedule (NumPy, host)."""

from __future__ import annotations

import math

import numpy as np

from personalization_jax.datasets.splits import PADDING
from personalization_jax.randomness import Stream, generator
from personalization_jax.schedules.shaping import INDIVIDUAL, steps_per_epoch


def global_batches(
  rows: np.ndarray, batch_size: int, epochs: int, *, seed: int, individual: int
) -> np.ndarray:
  """D_G in order: one permutation an epoch, its last batch padded.

  Args:
    rows: integers [n], the training rows of D_G.
    batch_size: B.
    epochs: E.
    seed: the run's seed.
    individual: the id of the person whose model is trained, or
      `randomness.SHARED` for the phase that everybody shares.

  Returns:
    int32 [E * ceil(n / B), B]; every epoch holds every row once.
  """
  steps = steps_per_epoch(len(rows), batch_size)
  batches = np.full((epochs, steps * batch_size), PADDING, np.int32)
  for epoch in range(epochs):
    rng = generator(seed, Stream.GLOBAL_ORDER, individual, epoch)
    batches[epoch, : len(rows)] = rng.permutation(rows)
  return batches.reshape(epochs * steps, batch_size)


def individual_batches(
  rows: np.ndarray, batch_size: int, steps: int, *, seed: int, individual: int
) -> np.ndarray:
  """D_I in order: endless reshuffled permutations, cut into full batches.

  Args:
    rows: integers [n], the training rows of D_I.
    batch_size: B.
    steps: T, how many batches are drawn in all.
    seed: the run's seed.
    individual: the person's id.

  Returns:
    int32 [T, B]; any n rows in a row from a multiple of n hold each row once,
    and fewer steps give a prefix of more.
  """
  total = steps * batch_size
  orders = [
    generator(seed, Stream.INDIVIDUAL_ORDER, individual, k).permutation(rows)
    for k in range(math.ceil(total / len(rows)))
  ]
  drawn = np.concatenate([np.empty(0, np.int32), *orders])[:total]
  return drawn.reshape(steps, batch_size).astype(np.int32)


def sample_rows(
  sources: np.ndarray,
  global_rows: np.ndarray,
  individual_rows: np.ndarray,
  batch_size: int,
  *,
  early: int = 0,
  seed: int,
  individual: int,
) -> np.ndarray:
  """Draws the rows of every batch of a schedule: int32 [T, B], -1 for padding.

  A step that D_I takes skips D_G's batch of that step; it doesn't delay it
  (section III-B: with n_I = 2 only half of D_G is seen in an epoch). Sources
  are integers [T]; D_G's first epoch begins at step `early`.
  """
  order = {"seed": seed, "individual": individual}
  own = sources == INDIVIDUAL
  rows = np.full((len(sources), batch_size), PADDING, np.int32)
  if own.any():
    rows[own] = individual_batches(
      individual_rows, batch_size, int(own.sum()), **order
    )
  if not own.all():
    place = np.flatnonzero(~own) - early
    per_epoch = steps_per_epoch(len(global_rows), batch_size)
    epochs = int(place[-1]) // per_epoch + 1
    rows[~own] = global_batches(global_rows, batch_size, epochs, **order)[place]
  return rows
