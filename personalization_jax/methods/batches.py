"""The rows of every individual's every batch, by method (NumPy, host).

Where a method of the paper becomes an index array; nothing here knows of a
model.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from personalization_jax import schedules
from personalization_jax.datasets import splits
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods.method import Method
from personalization_jax.randomness import SHARED
from personalization_jax.settings import Settings


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
  """What the individuals of a split are trained on, and when."""

  split: Split
  settings: Settings
  groups: Groups

  @property
  def num_shared_steps(self) -> int:
    """Steps on D_G alone: TL's first phase, which everybody shares."""
    return self.settings.epochs * self._per_epoch(len(self.split.global_train))

  def shared_rows(self) -> np.ndarray:
    """The rows of that phase, int32 [T, B] (Algorithm 1, line 9)."""
    return schedules.global_batches(
      self.split.global_train,
      self.settings.batch_size,
      self.settings.epochs,
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
    if method.local:
      return schedules.early_shaping(self.length(method), 0)
    per_epoch = self._per_epoch(self._num_global(method, index))
    epochs = self.settings.epochs
    if method.steps:
      epochs = math.ceil(method.steps / per_epoch)
    return schedules.combined(
      epochs=epochs,
      steps_per_epoch=per_epoch,
      early=method.early,
      period=method.period,
      late=method.late,
      schedule=method.schedule,
    )[: method.steps]

  def length(self, method: Method) -> int:
    """Steps of a method's schedule, the longest individual's."""
    if method.local:
      return method.early or self.num_shared_steps
    if method.schedule is not None:
      return len(self.sources(method))
    if method.steps:
      return method.steps
    per_epoch = self._per_epoch(self._num_global(method))
    return method.early + self.settings.epochs * per_epoch + method.late

  def looks(self, method: Method) -> list[int]:
    """After which steps `@best` looks: late ones halved again and again."""
    late, looks = method.late, [0]
    while late:
      looks.append(late)
      late //= 2
    before = self.length(method) - method.late
    return sorted(before + steps for steps in looks)

  def last_phase(self, method: Method) -> int:
    """Steps of an individual's own last phase: TL's, or all after ES's.

    0 for a method that gives everybody D_G's model.
    """
    if method.shares_global_phase:
      return method.late
    early = 0 if method.local else method.early
    return method.late or self.length(method) - early

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
      other, _, _ = self.split.parts(self._other(index))
      global_rows = np.concatenate([global_rows, other])
    rows = schedules.sample_rows(
      sources,
      global_rows,
      self.individual_rows(method, index),
      self.settings.batch_size,
      early=method.early,
      seed=self.settings.seed,
      individual=int(self.split.individuals[index]),
    )
    if method.start is not None:
      rows[: self.num_shared_steps] = PADDING
    elif method.shares_global_phase:
      rows[: self.num_shared_steps] = self.shared_rows()
    missing = self.length(method) - len(rows)
    return np.pad(rows, ((0, missing), (0, 0)), constant_values=PADDING)

  def own_rows(self, method: Method, indices: list[int]) -> np.ndarray:
    """Once through what stands for D_I: int32 [n, T, B], padding first."""
    own = splits.pad([self.individual_rows(method, each) for each in indices])
    # As many batches in every chunk, and of fewer rows of the same people.
    longest = max(own.shape[1], self.split.train.shape[1])
    longest += -longest % self.settings.batch_size
    missing = longest - own.shape[1]
    rows = np.pad(own, ((0, 0), (0, missing)), constant_values=PADDING)
    return rows[:, ::-1].reshape(len(own), -1, self.settings.batch_size)

  def individual_rows(self, method: Method, index: int) -> np.ndarray:
    """Rows [m] that stand for D_I: its own, enlarged with a group."""
    own, _, _ = self.split.parts(index)
    if method.group is None:
      return own
    group = self.groups.rows(method.group)[index]
    return group if method.group.only else np.concatenate([own, group])

  def _per_epoch(self, num_samples: int) -> int:
    return schedules.steps_per_epoch(num_samples, self.settings.batch_size)

  def _num_global(self, method: Method, index: int | None = None) -> int:
    """Samples of D_G, with those of D_I' for the baseline."""
    count = len(self.split.global_train)
    if method.baseline:
      sizes = (self.split.train != PADDING).sum(axis=1)
      count += sizes.max() if index is None else sizes[self._other(index)]
    return int(count)

  def _other(self, index: int) -> int:
    """The next individual, I' of the baseline (section IV)."""
    return (index + 1) % len(self.split.individuals)
