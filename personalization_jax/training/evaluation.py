"""Everybody's models on validation data, and in the end on test data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.training.population import PopulationTrainer
from personalization_jax.training.record import Record
from personalization_jax.training.step import TrainState


def validation_accuracy(
  trainer: PopulationTrainer,
  labels: np.ndarray,
  own: np.ndarray,
  general: np.ndarray,
  states: TrainState,
) -> tuple[np.ndarray, np.ndarray]:
  """Accuracy on validation data, as `Record.evaluated` takes it.

  Args:
    trainer: of the models.
    labels: int32 [N], the store's.
    own: int32 [n, k, R], validation rows of k people for each model, -1 for
      padding.
    general: int32 [Q], those of D_G.
    states: n models.

  Returns:
    Accuracy on D_I [n, k] and on D_G [n]; NaN of models that diverged.

  Source: section II-A.
  """
  rows = own.reshape(len(own), -1)
  predictions = trainer.predict(states, _beside(rows, general))
  of_people, of_all = np.split(predictions, [rows.shape[1]], axis=1)
  flat = own.reshape(-1, own.shape[2])
  individual, _ = metrics.accuracy(of_people.reshape(flat.shape), labels, flat)
  individual = individual.reshape(own.shape[:2])
  accuracy, _ = metrics.accuracy(of_all, labels, general[None])
  diverged = ((predictions < 0) & (_beside(rows, general) != PADDING)).any(1)
  individual[diverged] = np.nan
  accuracy[diverged] = np.nan
  return individual, accuracy


def final(
  trainer: PopulationTrainer,
  split: Split,
  indices: Sequence[int],
  states: TrainState,
  rows: np.ndarray,
  record: Record,
) -> dict[str, np.ndarray]:
  """What trained models answer, and what was recorded of them.

  Args:
    trainer: of the models.
    split: whose validation and test rows are predicted.
    indices: places of n individuals in the split.
    states: their models.
    rows: int32 [n, T, B], what they were trained on, -1 for padding.
    record: of their training.

  Returns:
    Their part of the arrays of a `Result`, by name.
  """
  own = split.validation[indices]
  ends = [own.shape[1], own.shape[1] + split.test.shape[1]]
  # One array for all tests, so that one compilation serves them.
  own = np.concatenate([own, split.test[indices]], axis=1)
  tested = _beside(own, split.global_test)
  predictions = trainer.predict(states, tested)
  trained = (rows != PADDING).any(axis=2)
  diverged = (
    ~trainer.finite(states)[: len(indices)]
    # Losses of padded steps are NaN by design.
    | (trained & ~np.isfinite(record.losses)).any(axis=1)
    | ((predictions < 0) & (tested != PADDING)).any(axis=1)
  )
  validation, individual, general = np.split(predictions, ends, axis=1)
  return {
    "validation_predictions": validation,
    "individual_predictions": individual,
    "global_predictions": general,
    "losses": record.losses,
    "individual_curve": record.individual[..., 0],
    "global_curve": record.general,
    "diverged": diverged,
  }


def _beside(own: np.ndarray, general: np.ndarray) -> np.ndarray:
  """Rows [n, R], and behind each line the same rows [Q]."""
  return np.concatenate(
    [own, np.broadcast_to(general, (len(own), len(general)))], axis=1
  )
