"""Everybody's models on validation data, and in the end on test data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.training.population import PopulationTrainer
from personalization_jax.training.record import Record
from personalization_jax.training.step import TrainState


def predict(
  trainer: PopulationTrainer,
  states: TrainState,
  own: np.ndarray,
  general: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What n models answer for rows of their own and for rows of all.

  Args:
    trainer: of the models.
    states: n models.
    own: int32 [n, R], rows of the store, -1 for padding.
    general: int32 [Q], rows that all models classify.

  Returns:
    Classes int32 [n, R] and [n, Q], -1 for padding and where a model gives no
    finite numbers; and bool [n], which models those are.
  """
  general = np.broadcast_to(general, (len(own), len(general)))
  rows = np.concatenate([own, general], axis=1)
  found = trainer.predict(states, rows)
  of_own, of_general = np.split(found, [own.shape[1]], axis=1)
  return of_own, of_general, ((found < 0) & (rows != PADDING)).any(axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
  """When models are evaluated while they train, and on which data.

  Attributes:
    steps: behind which steps of the schedule, ascending.
    labels: int32 [N], the store's.
    own: int32 [n, k, R], validation rows of k people for each of n models, -1
      for padding.
    general: int32 [Q], those of D_G.
  """

  steps: Sequence[int]
  labels: np.ndarray
  own: np.ndarray
  general: np.ndarray

  def accuracy(
    self, trainer: PopulationTrainer, states: TrainState
  ) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy on D_I [n, k] and on D_G [n]; NaN of models that diverged."""
    models, people, _ = self.own.shape
    of_people, of_all, diverged = predict(
      trainer, states, self.own.reshape(models, -1), self.general
    )
    flat = self.own.reshape(models * people, -1)
    own, _ = metrics.accuracy(of_people.reshape(flat.shape), self.labels, flat)
    general, _ = metrics.accuracy(of_all, self.labels, self.general[None])
    own = own.reshape(models, people)
    own[diverged] = np.nan
    general[diverged] = np.nan
    return own, general


def steps(ends: Sequence[int], every: int) -> list[int]:
  """Every so many steps and at these, the last of a schedule; 0 for none."""
  return sorted({*range(every, max(ends), every), *ends}) if every else []


def final(
  trainer: PopulationTrainer,
  split: Split,
  indices: Sequence[int],
  states: TrainState,
  rows: np.ndarray,
  record: Record,
) -> dict[str, np.ndarray]:
  """What a chunk adds to the arrays of a `Result`, by name.

  Args:
    trainer: of the models.
    split: whose validation and test rows are predicted.
    indices: places of n individuals in the split.
    states: their models.
    rows: int32 [n, T, B], what they were trained on, -1 for padding.
    record: of their training.
  """
  validation, test = split.validation[indices], split.test[indices]
  # One array for all tests, so that one compilation serves them.
  own, general, unanswered = predict(
    trainer,
    states,
    np.concatenate([validation, test], axis=1),
    split.global_test,
  )
  # Losses of padded steps are NaN by design.
  trained = (rows != PADDING).any(axis=2)
  return {
    "validation_predictions": own[:, : validation.shape[1]],
    "individual_predictions": own[:, validation.shape[1] :],
    "global_predictions": general,
    "losses": record.losses,
    "individual_curve": record.individual[..., 0],
    "global_curve": record.general,
    "diverged": ~trainer.finite(states)[: len(indices)]
    | (trained & ~np.isfinite(record.losses)).any(axis=1)
    | unanswered,
  }
