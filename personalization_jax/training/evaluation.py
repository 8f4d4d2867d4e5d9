"""Evaluates models: on validation data in training, on test data after it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import PopulationTrainer
from personalization_jax.training.step import (
  AnsweringState,
  Answers,
  TrainState,
  as_input,
  in_batches,
)

# Samples classified at once.
_CLASSIFIED = 256


class Record(NamedTuple):
  """Losses, and validation accuracy now and then, of n models."""

  # float32 [n, t] in nats after t steps, NaN where one was padding.
  losses: np.ndarray
  # float32 [n, e, k], accuracy on validation data of D_I after e evaluations:
  # of the model's own individual (k = 1), or of all k individuals for a model
  # that they share.
  individual: np.ndarray
  # float32 [n, e], accuracy on validation data of D_G.
  general: np.ndarray

  @classmethod
  def restored(
    cls, arrays: Mapping[str, np.ndarray], models: int, people: int
  ) -> Record:
    """What `saved` gave of n models and k people; an empty record of {}."""
    empty = {
      "losses": np.empty((models, 0), np.float32),
      "individual": np.empty((models, 0, people), np.float32),
      "general": np.empty((models, 0), np.float32),
    }
    return cls(**{**empty, **arrays})

  def after(self, **more: np.ndarray) -> Record:
    """The record after more steps or evaluations, along the second axis."""
    return self._replace(
      **{
        name: np.append(getattr(self, name), array.astype(np.float32), axis=1)
        for name, array in more.items()
      }
    )

  def ended(self, individual: np.ndarray, general: np.ndarray) -> Record:
    """The record with its last evaluation replaced, of [n, k] and [n]."""
    before = self._replace(
      individual=self.individual[:, :-1], general=self.general[:, :-1]
    )
    return before.after(
      individual=individual[:, None], general=general[:, None]
    )

  def of(self, people: range) -> dict[str, np.ndarray]:
    """What m of the k people begin with who all go on with this one model."""
    return {
      "losses": np.repeat(self.losses, len(people), axis=0),
      "individual": self.individual[0].T[list(people), :, None],
      "general": np.repeat(self.general, len(people), axis=0),
    }

  def saved(self) -> dict[str, np.ndarray]:
    """As `Task.save` takes it; Orbax doesn't keep empty arrays."""
    return {name: each for name, each in self._asdict().items() if each.size}


def predict(
  trainer: PopulationTrainer,
  states: TrainState,
  own: np.ndarray,
  general: np.ndarray,
) -> tuple[Answers, Answers, np.ndarray]:
  """Answers about each model's own rows [n, R] and rows [Q] for all models.

  Bool [n] says which models gave no finite numbers for one of their rows.
  """
  general = np.broadcast_to(general, (len(own), len(general)))
  rows = np.concatenate([own, general], axis=1)
  found = trainer.predict(states, rows)
  of_own, of_general = _split(found, own.shape[1])
  unknown = (found.predictions < 0) & (rows != PADDING)
  return of_own, of_general, unknown.any(axis=1)


def _split(answers: Answers, count: int) -> tuple[Answers, Answers]:
  """The first so many of [n, R], and the others."""
  first = Answers(*(array[:, :count] for array in answers))
  return first, Answers(*(array[:, count:] for array in answers))


class Validation(NamedTuple):
  """When models are evaluated while they train, and on which data."""

  steps: Sequence[int]  # after which steps of the schedule, ascending
  labels: np.ndarray  # int32 [N], the store's
  # int32 [n, k, R], validation rows of k people for each of n models, -1 for
  # padding.
  own: np.ndarray
  general: np.ndarray  # int32 [Q], those of D_G

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
    own, _ = metrics.accuracy(of_people.predictions.reshape(flat.shape), truth)
    truth = metrics.at_rows(self.labels, self.general[None])
    general, _ = metrics.accuracy(of_all.predictions, truth)
    own = np.where(diverged[:, None], np.nan, own.reshape(models, people))
    return own, np.where(diverged, np.nan, general)


def final(
  trainer: PopulationTrainer,
  split: Split,
  indices: Sequence[int],
  states: TrainState,
  rows: np.ndarray,
  record: Record,
  *,
  probabilities: bool = False,
) -> dict[str, np.ndarray]:
  """What n individuals, trained on rows [n, T, B], add to a `Result`.

  With `probabilities`, those of all classes for the tests on D_I too.
  """
  validation, test = split.validation[indices], split.test[indices]
  # One array for all tests, so that one compilation serves them.
  own, general, diverged = predict(
    trainer,
    states,
    np.concatenate([validation, test], axis=1),
    split.global_test,
  )
  diverged |= ~trainer.finite(states)[: len(rows)]
  # Losses of padded steps are NaN by design.
  trained = (rows != PADDING).any(axis=2)
  diverged |= (trained & ~np.isfinite(record.losses)).any(axis=1)
  of_validation, of_test = _split(own, validation.shape[1])
  found = {
    f"{data}_{name}": array
    for data, answers in (
      ("validation", of_validation),
      ("individual", of_test),
      ("global", general),
    )
    for name, array in answers._asdict().items()
  }
  if probabilities:
    found["individual_log_probabilities"] = trainer.log_probabilities(
      states, test
    )
  return found | {
    "losses": record.losses,
    "individual_curve": record.individual[..., 0],
    "global_curve": record.general,
    "diverged": diverged,
  }


def classify(
  learner: Learner, variables: Mapping[str, Any], images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The most probable class of each sample, and how probable it is.

  The learner predicts by `params` and `batch_stats`, and by `answer` and
  `reference` where it needs them, as `saved_models.load_whole` gives them.
  Classes are int32 [N], -1 where the model gives no finite numbers, and
  probabilities float32 [N]. A learner's program is compiled once.
  """
  of_batch = functools.partial(_classify_batch, learner, dict(variables))
  size = min(_CLASSIFIED, len(images))
  classes, probabilities = in_batches(of_batch, images, size)
  return classes, probabilities


@functools.partial(jax.jit, static_argnames="learner")
def _classify_batch(
  learner: Learner, variables: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  state = AnsweringState(
    step=jnp.zeros((), jnp.int32),
    opt_state=None,
    key=jax.random.key(0),
    **{"batch_stats": {}, **variables},
  )
  scores = learner.predict(learner.model, state, as_input(images))
  probabilities = jax.nn.softmax(scores)
  classes = jnp.where(
    jnp.isfinite(scores).all(axis=-1), scores.argmax(axis=-1), -1
  )
  return classes, probabilities.max(axis=-1).astype(jnp.float32)
