"""Everybody's models while they train, and in the end on test data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.training.population import PopulationTrainer
from personalization_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
  """Losses, and validation accuracy now and then, of n models.

  Attributes:
    losses: float32 [n, t] in nats, NaN where a step was padding.
    individual: float32 [n, e, k], accuracy on validation data of D_I: of the
      model's own individual (k = 1), or of all k individuals for a model that
      they share.
    general: float32 [n, e], accuracy on validation data of D_G.
  """

  losses: np.ndarray
  individual: np.ndarray
  general: np.ndarray

  @classmethod
  def restored(
    cls, arrays: Mapping[str, np.ndarray], models: int, people: int = 1
  ) -> Record:
    """What `saved` gave of n models and k people; an empty record of {}."""
    empty = {
      "losses": np.empty((models, 0), np.float32),
      "individual": np.empty((models, 0, people), np.float32),
      "general": np.empty((models, 0), np.float32),
    }
    return cls(**{**empty, **arrays})

  @property
  def steps(self) -> int:
    """Steps done, t."""
    return self.losses.shape[1]

  @property
  def evaluations(self) -> int:
    """Evaluations done, e."""
    return self.general.shape[1]

  def trained(self, losses: np.ndarray) -> Record:
    """The record after more steps with losses float32 [n, steps]."""
    return dataclasses.replace(
      self, losses=np.concatenate([self.losses, losses], axis=1)
    )

  def evaluated(self, individual: np.ndarray, general: np.ndarray) -> Record:
    """The record after an evaluation: accuracy on D_I [n, k], on D_G [n]."""
    return dataclasses.replace(
      self,
      individual=np.concatenate(
        [self.individual, individual[:, None].astype(np.float32)], axis=1
      ),
      general=np.concatenate(
        [self.general, general[:, None].astype(np.float32)], axis=1
      ),
    )

  def of(self, people: range) -> Record:
    """What m of the k people begin with who all go on with this one model."""
    count = len(people)
    return Record(
      np.broadcast_to(self.losses, (count, self.steps)),
      self.individual[0].T[list(people), :, None],
      np.broadcast_to(self.general, (count, self.evaluations)),
    )

  def saved(self) -> dict[str, np.ndarray]:
    """As `Task.save` takes it; Orbax doesn't keep empty arrays."""
    arrays = dataclasses.asdict(self)
    return {name: array for name, array in arrays.items() if array.size}


def predict(
  trainer: PopulationTrainer,
  states: TrainState,
  own: np.ndarray,
  general: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Classes of each model's own rows [n, R] and of rows [Q] for all models.

  Both are -1 for padding and where a model gives no finite numbers; bool [n]
  says which models those are.
  """
  general = np.broadcast_to(general, (len(own), len(general)))
  rows = np.concatenate([own, general], axis=1)
  found = trainer.predict(states, rows)
  of_own, of_general = np.split(found, [own.shape[1]], axis=1)
  return of_own, of_general, unanswered(found, rows)


def unanswered(found: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Which models gave no finite numbers for one of their rows, bool [n]."""
  return ((found < 0) & (rows != PADDING)).any(axis=1)


def not_finite(
  trainer: PopulationTrainer,
  states: TrainState,
  rows: np.ndarray,
  losses: np.ndarray,
) -> np.ndarray:
  """Whose model or losses [n, T] on rows [n, T, B] aren't finite, bool [n]."""
  # Losses of padded steps are NaN by design.
  trained = (rows != PADDING).any(axis=2)
  failed = (trained & ~np.isfinite(losses)).any(axis=1)
  return ~trainer.finite(states)[: len(rows)] | failed


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
    truth = metrics.at_rows(self.labels, flat)
    own, _ = metrics.accuracy(of_people.reshape(flat.shape), truth)
    truth = metrics.at_rows(self.labels, self.general[None])
    general, _ = metrics.accuracy(of_all, truth)
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
  """What n individuals, trained on rows [n, T, B], add to a `Result`."""
  validation, test = split.validation[indices], split.test[indices]
  # One array for all tests, so that one compilation serves them.
  own, general, diverged = predict(
    trainer,
    states,
    np.concatenate([validation, test], axis=1),
    split.global_test,
  )
  return {
    "validation_predictions": own[:, : validation.shape[1]],
    "individual_predictions": own[:, validation.shape[1] :],
    "global_predictions": general,
    "losses": record.losses,
    "individual_curve": record.individual[..., 0],
    "global_curve": record.general,
    "diverged": diverged | not_finite(trainer, states, rows, record.losses),
  }
