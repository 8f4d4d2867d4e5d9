"""The rows of every individual's every batch, by method (NumPy, host).

Where a method of the paper becomes an index array; nothing here knows of a
model.
"""

from __future__ import annotations

import functools

import numpy as np

from personalization_jax import schedules
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import Method
from personalization_jax.randomness import SHARED
from personalization_jax.settings import Settings


class Batches:
  """What the individuals of a split are trained on, and when."""

  def __init__(self, split: Split, settings: Settings, groups: Groups):
    """Keeps what batches are drawn from.

    Args:
      split: the parts of D_G and of every D_I.
      settings: epochs, batch size and seed.
      groups: what data grouping enlarges D_I with.
    """
    self.split = split
    self.settings = settings
    self.groups = groups

  @property
  def steps_per_epoch(self) -> int:
    """Steps that show D_G once."""
    return schedules.steps_per_epoch(
      len(self.split.global_train), self.settings.batch_size
    )

  @property
  def num_shared_steps(self) -> int:
    """Steps on D_G alone: TL's first phase, which everybody shares."""
    return self.settings.epochs * self.steps_per_epoch

  def shared_rows(self) -> np.ndarray:
    """The rows of that phase.

    Returns:
      int32 [T, B], -1 for padding.

    Source: Algorithm 1, line 9.
    """
    return schedules.sample_rows(
      schedules.transfer_learning(self.num_shared_steps, 0),
      self.split.global_train,
      np.empty(0, np.int32),
      self.settings.batch_size,
      seed=self.settings.seed,
      individual=SHARED,
    )

  def sources(self, method: Method, index: int | None = None) -> np.ndarray:
    """Where each step's batch is drawn from (the paper's Fig. 2).

    Args:
      method: the method.
      index: place of an individual in the split, whose own schedule is asked
        for. Only the baseline's differ, by the size of D_I'; None gives the
        longest.

    Returns:
      int32 [T], GLOBAL or INDIVIDUAL. The baseline's D_G includes D_I'.
    """
    num_global = len(self.split.global_train)
    if method.baseline:
      sizes = (self.split.train != PADDING).sum(axis=1)
      num_global += sizes.max() if index is None else sizes[self._other(index)]
    if method.local:
      return schedules.early_shaping(self.length(method), 0)
    return schedules.combined(
      epochs=self.settings.epochs,
      steps_per_epoch=schedules.steps_per_epoch(
        int(num_global), self.settings.batch_size
      ),
      early=method.early,
      period=method.period,
      late=method.late,
      schedule=method.schedule,
    )

  def length(self, method: Method) -> int:
    """Steps of a method's schedule, the longest individual's.

    Args:
      method: the method.

    Returns:
      How many batches a model takes, none of them built for it.
    """
    if method.local:
      return method.early or self.num_shared_steps
    if method.schedule is not None:
      return len(self.sources(method))
    num_global = len(self.split.global_train)
    if method.baseline:
      num_global += int((self.split.train != PADDING).sum(axis=1).max())
    per_epoch = schedules.steps_per_epoch(num_global, self.settings.batch_size)
    return method.early + self.settings.epochs * per_epoch + method.late

  def rows(self, method: Method, index: int) -> np.ndarray:
    """The rows of every batch that individual `index` is trained on.

    Args:
      method: the method.
      index: place of the individual in the split.

    Returns:
      int32 [T, B], -1 for padding; T is the same for all individuals.
    """
    sources = self.sources(method, index)
    global_rows = self.split.global_train
    if method.baseline:
      global_rows = np.concatenate(
        [global_rows, self.split.parts(self._other(index))[0]]
      )
    person = int(self.split.individuals[index])
    draw = functools.partial(
      schedules.sample_rows,
      global_rows=global_rows,
      individual_rows=self.individual_rows(method, index),
      batch_size=self.settings.batch_size,
      early=method.early,
      seed=self.settings.seed,
    )
    rows = draw(sources, individual=person)
    if method.shares_global_phase:
      shared = slice(0, self.num_shared_steps)
      rows[shared] = draw(sources[shared], individual=SHARED)
    longest = len(self.sources(method))
    return np.pad(
      rows, ((0, longest - len(rows)), (0, 0)), constant_values=PADDING
    )

  def individual_rows(self, method: Method, index: int) -> np.ndarray:
    """What stands for D_I in training: D_I, or D_I' enlarged with a group.

    Args:
      method: the method.
      index: place of the individual in the split.

    Returns:
      int32 [m], rows of the store.

    Source: section III, data grouping.
    """
    own, _, _ = self.split.parts(index)
    if method.group is None:
      return own
    group = self.groups.rows(method.group)[index]
    return group if method.group.only else np.concatenate([own, group])

  def _other(self, index: int) -> int:
    """The next individual, I' of the baseline (section IV)."""
    return (index + 1) % len(self.split.individuals)
