"""A choice for each person that makes hardly anybody worse (NumPy, host).

Personalised models hurt some people: the model of D_G alone would have served
them better. Who keeps that one is chosen on validation data, never on test
data, so what the choice gives is honest; it may still err where the two sets of
data disagree.

A person is one person: of several seeds everybody's mean over those with which
neither of the two models diverged is compared, as in the table's tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from personalization_jax.analysis import metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """What the choice between a method's models and the global one gives.

  With K seeds everybody has K models of each kind, and one is chosen for each
  person and seed; all else is of people.

  Attributes:
    personal: bool [S], or [K, S], who gets the personalised model.
    accuracy: float64 [S], test accuracy of the model chosen, of several seeds
      the mean.
    hurt: fraction of people whom the method hurts if everyone gets its model.
    hurt_with_choice: fraction hurt if everyone gets the model chosen.
    gain: mean gain in test accuracy over the global model if everyone gets the
      method's; who diverged is left out.
    gain_with_choice: likewise with the model chosen, where who diverged has the
      global model, and so a gain of 0. Whose global model diverged has nothing
      to gain over, and is left out of all four numbers.
  """

  personal: np.ndarray
  accuracy: np.ndarray
  hurt: float
  hurt_with_choice: float
  gain: float
  gain_with_choice: float


def choose(personal: Any, general: Any) -> np.ndarray:
  """Who is better off with the personalised model, on validation data.

  Ties go to the global model: without evidence for a model of one's own, the
  one that was trained on more people is the safer. A model that diverged is
  chosen only if both did, or if there are no validation data to tell (NaN).

  Args:
    personal: float [S], or [K, S] with a row for each seed, everyone's accuracy
      by the personalised model; NaN where it diverged.
    general: likewise by the global model.

  Returns:
    Bool of the same shape, True where the personalised model is chosen.

  Raises:
    ValueError: if these aren't accuracies of the same people and seeds.
  """
  personal, general = _pair(personal, general)
  better = metrics.changes(personal, general) > 0
  return better | (np.isnan(general) & ~np.isnan(personal))


def hurt(personal: Any, general: Any) -> float:
  """The fraction of people whom a method makes worse.

  Args:
    personal: float [S], or [K, S] with a row for each seed, everyone's test
      accuracy; NaN where the model diverged. Who has no model to set against a
      global one counts as hurt.
    general: likewise by the global model; who has nothing but NaN here can't be
      compared and is left out.

  Returns:
    The fraction in 0..1; NaN if nobody can be compared.

  Raises:
    ValueError: as `choose`.
  """
  personal, general = _pair(personal, general)
  compared = ~np.isnan(np.atleast_2d(general)).all(axis=0)
  if not compared.any():
    return float("nan")
  change = metrics.changes(*metrics.paired_means(personal, general))
  return float((~(change >= 0))[compared].mean())


def judge(
  validation: tuple[Any, Any],
  test: tuple[Any, Any],
) -> Choice:
  """Chooses for each person on validation data, and tests the choice.

  Args:
    validation: accuracies on validation data, (personalised, global), each
      [S], or [K, S] with a row for each seed.
    test: accuracies on test data, likewise, of the same people and seeds.

  Returns:
    The choice and what it gives.

  Raises:
    ValueError: as `choose`, or if the two are of other shapes.
  """
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
    gain=_gain(own, general),
    gain_with_choice=_gain(chosen, general),
  )


def judge_all(
  validation: Mapping[str, Any], test: Mapping[str, Any], general: str
) -> dict[str, Choice]:
  """`judge` for every method against the same global model.

  Args:
    validation: method -> accuracies on validation data, float [S], or [K, S]
      with a row for each seed, in the same order everywhere.
    test: method -> accuracies on test data, of the same people and seeds.
    general: the method that gives the global model, a key of both.

  Returns:
    method -> what the choice gives, for all methods but `general`.

  Raises:
    ValueError: as `judge`, naming the method; or one isn't in both.
  """
  for name, accuracies in (("validation", validation), ("test", test)):
    for method in (general, *validation, *test):
      if method not in accuracies:
        raise ValueError(f"{name} has no accuracies of method {method!r}.")
  choices = {}
  for method in validation:
    if method == general:
      continue
    try:
      choices[method] = judge(
        (validation[method], validation[general]),
        (test[method], test[general]),
      )
    except ValueError as error:
      raise ValueError(f"method {method!r}: {error}") from error
  return choices


def _gain(personal: np.ndarray, general: np.ndarray) -> float:
  """Mean gain over those who have both models."""
  change = metrics.changes(*metrics.paired_means(personal, general))
  return metrics.spread(change).mean


def _pair(personal: Any, general: Any) -> tuple[np.ndarray, np.ndarray]:
  personal, general = (np.asarray(v, np.float64) for v in (personal, general))
  shapes = personal.shape, general.shape
  if shapes[0] != shapes[1] or personal.ndim not in (1, 2) or not personal.size:
    raise ValueError(
      "the accuracies of the personalised and the global model must be of the"
      " same people [S], or seeds and people [K, S], but have shapes"
      f" {shapes[0]} and {shapes[1]}."
    )
  for values in (personal, general):
    outside = ~np.isnan(values) & ~((values >= 0) & (values <= 1))
    if outside.any():
      raise ValueError(
        f"accuracies must lie in 0..1, but one is {values[outside][0]}."
      )
  return personal, general
