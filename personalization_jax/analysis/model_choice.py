"""A choice for each person that makes hardly anybody worse (NumPy).

The model of D_G alone would have served some people better than their own. The
choice is made on validation data, never on test data.

Functions take one accuracy for each person [S], or for each of K seeds and each
person [K, S], NaN where the model diverged. As in the table's tests, people are
compared by their means over the seeds in which neither model diverged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from personalization_jax.analysis import metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """What the choice between a method's models and the global one gives.

  People whose global model diverged are left out of the last four.
  """

  personal: np.ndarray  # bool [S], or [K, S]: who gets the personalised model
  accuracy: np.ndarray  # float64 [S] on test data, mean over seeds
  # Fractions of people hurt if everyone gets the method's model, or the chosen.
  hurt: float
  hurt_with_choice: float
  # Mean gains in test accuracy over the global model, likewise: without people
  # whose model diverged, and with the global one where it did.
  gain: float
  gain_with_choice: float


def choose(personal: Any, general: Any) -> np.ndarray:
  """Where the personalised model has the better validation accuracy.

  Ties go to the global model, which was trained on more people.
  """
  personal, general = _pair(personal, general)
  better = metrics.changes(personal, general) > 0
  return better | (np.isnan(general) & ~np.isnan(personal))


def hurt(personal: Any, general: Any) -> float:
  """The fraction of people whom a method makes worse; NaN without people.

  People without a personalised model count as hurt; those without a global one
  are left out.
  """
  personal, general = _pair(personal, general)
  compared = ~np.isnan(np.atleast_2d(general)).all(axis=0)
  if not compared.any():
    return math.nan
  return float((~(_changes(personal, general) >= 0))[compared].mean())


def judge(validation: tuple[Any, Any], test: tuple[Any, Any]) -> Choice:
  """Chooses by (personalised, global) validation accuracies, and tests that."""
  personal = choose(*validation)
  own, general = _pair(*test)
  if own.shape != personal.shape:
    raise ValueError(
      f"validation has shape {personal.shape}, but test has shape {own.shape};"
      " both must be of the same people and seeds."
    )
  chosen = np.where(personal, own, general)
  return Choice(
    personal=personal,
    accuracy=metrics.mean_without_nan(np.atleast_2d(chosen)),
    hurt=hurt(own, general),
    hurt_with_choice=hurt(chosen, general),
    gain=metrics.spread(_changes(own, general)).mean,
    gain_with_choice=metrics.spread(_changes(chosen, general)).mean,
  )


def judge_all(
  validation: Mapping[str, Any], test: Mapping[str, Any], general: str
) -> dict[str, Choice]:
  """`judge` for every method against the same global model.

  Args:
    validation: method -> accuracies on validation data, float [S], or [K, S],
      people and seeds in the same order everywhere.
    test: method -> accuracies on test data, likewise.
    general: the method that gives the global model, a key of both.

  Returns:
    method -> what the choice gives, for all methods but `general`.

  Raises:
    ValueError: as `judge`, naming the method; or a method isn't in both.
  """
  for name, accuracies in (("validation", validation), ("test", test)):
    for method in (general, *validation, *test):
      if method not in accuracies:
        raise ValueError(f"{name} has no accuracies of method {method!r}.")
  choices = {}
  for method in [m for m in validation if m != general]:
    validated, tested = ((d[method], d[general]) for d in (validation, test))
    try:
      choices[method] = judge(validated, tested)
    except ValueError as error:
      raise ValueError(f"method {method!r}: {error}") from error
  return choices


def _changes(personal: np.ndarray, general: np.ndarray) -> np.ndarray:
  """What each person gains [S]; NaN for those without both models."""
  return metrics.changes(*metrics.paired_means(personal, general))


def _pair(personal: Any, general: Any) -> tuple[np.ndarray, np.ndarray]:
  """Both as float64, checked to be accuracies of the same people and seeds."""
  personal, general = (np.asarray(v, np.float64) for v in (personal, general))
  shapes = personal.shape, general.shape
  if shapes[0] != shapes[1] or personal.ndim not in (1, 2) or not personal.size:
    raise ValueError(
      "the accuracies of the personalised and the global model must be of the"
      " same people [S], or seeds and people [K, S], but have shapes"
      f" {shapes[0]} and {shapes[1]}."
    )
  for values in (personal, general):
    outside = (values < 0) | (values > 1)
    if outside.any():
      raise ValueError(
        f"accuracies must lie in 0..1, but one is {values[outside][0]}."
      )
  return personal, general
