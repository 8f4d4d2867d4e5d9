"""Episodes: batches of one writer of D_G at a time (NumPy, host)."""

from __future__ import annotations

import math

import numpy as np

from personalization_jax.datasets.splits import PADDING
from personalization_jax.randomness import Stream, generator


def episodes(
  rows: np.ndarray,
  individuals: np.ndarray,
  batch_size: int,
  inner_steps: int,
  num_episodes: int,
  *,
  seed: int,
) -> np.ndarray:
  """Cuts D_G into episodes, each a few batches of one of its writers.

  Guarantees:
    one writer: all rows of an episode are of one writer, and of `rows`.
    turns: any W episodes from a multiple of W, the number of writers, hold each
      writer once, in an order drawn anew.
    reshuffled: an episode of a writer with n >= B rows is a row of permutations
      cut into full batches: any n rows from a multiple of n hold each row once.
    small writers: with n < B each batch holds each row once, then padding.
    no empty batch: every batch has a row.
    prefix: fewer episodes begin as more do.

  Args:
    rows: integers [n], the training rows of D_G.
    individuals: integers [N], whose each row of the store is.
    batch_size: B.
    inner_steps: batches in an episode.
    num_episodes: number of episodes, writers come again and again.
    seed: the run's seed.

  Returns:
    int32 [num_episodes * inner_steps, B], -1 for padding.

  Source: Nichol et al., "On First-Order Meta-Learning Algorithms" (2018),
    section 6.1: inner batches cycle through a task's samples.
  """
  by_writer = rows[np.argsort(individuals[rows], kind="stable")]
  _, first = np.unique(individuals[by_writer], return_index=True)
  writers = np.split(by_writer, first[1:])
  drawn = np.full((num_episodes, inner_steps, batch_size), PADDING, np.int32)
  for episode, batches in enumerate(drawn):
    turn, place = divmod(episode, len(writers))
    if place == 0:
      rng = generator(seed, Stream.EPISODE_WRITERS, turn)
      order = rng.permutation(len(writers))
    own = writers[order[place]]
    size = min(batch_size, len(own))
    rng = generator(seed, Stream.EPISODE_ROWS, episode)
    total = inner_steps * size
    orders = [rng.permutation(own) for _ in range(math.ceil(total / len(own)))]
    batches[:, :size] = np.concatenate(orders)[:total].reshape(-1, size)
  return drawn.reshape(-1, batch_size)
