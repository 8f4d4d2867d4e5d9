"""A choice for each person that makes hardly anybody worse (NumPy).

The model of D_G alone would have served some people better than their own. The
choice is made on validation data, never on test data.

Functions take one accuracy for each person [S], or for each of K seeds and each
person [K, S], NaN where the model diverged. As in the table's tests, people are
compared by their means over the seeds in which neither model diverged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from personalization_jax import checks
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


def choose(personal: np.ndarray, general: np.ndarray) -> np.ndarray:
  """Where the personalised model has the better validation accuracy.

  Ties go to the global model, which was trained on more people.
  """
  better = metrics.changes(personal, general) > 0
  return better | (np.isnan(general) & ~np.isnan(personal))


def hurt(personal: np.ndarray, general: np.ndarray) -> float:
  """The fraction of people whom a method makes worse; NaN without people.

  People without a personalised model count as hurt; those without a global one
  are left out.
  """
  compared = ~np.isnan(np.atleast_2d(general)).all(axis=0)
  worse = ~(_gains(personal, general) >= 0)
  return metrics.spread(worse[compared]).mean


def judge_all(
  validation: Mapping[str, ArrayLike],
  test: Mapping[str, ArrayLike],
  general: str,
) -> dict[str, Choice]:
  """Chooses between each method's models and the global ones, and tests that.

  Args:
    validation: method -> accuracies on validation data, float [S], or [K, S],
      people and seeds in the same order everywhere.
    test: method -> accuracies on test data, likewise.
    general: the method that gives the global model, a key of both.

  Returns:
    method -> what the choice gives, for all methods but `general`.

  Raises:
    ValueError: if a method isn't in both, or has accuracies of another shape or
      outside 0..1.
  """
  of_seeds = np.ndim(validation.get(general, ())) == 2
  arrays, checked = [], []
  for name, given in (("validation", validation), ("test", test)):
    found = {}
    for method in dict.fromkeys((general, *validation, *test)):
      if method not in given:
        raise ValueError(f"{name} has no accuracies of method {method!r}.")
      found[method] = values = np.asarray(given[method], np.float64)
      what = f"{name} of method {method!r}"
      checks.fractions(what, values, nan=True)
      arrays.append((what, values, "KS" if of_seeds else "S"))
    checked.append(found)
  checks.shapes(*arrays)
  validated, tested = checked
  choices = {}
  for method in [m for m in validation if m != general]:
    personal = choose(validated[method], validated[general])
    own, others = tested[method], tested[general]
    chosen = np.where(personal, own, others)
    choices[method] = Choice(
      personal,
      metrics.mean_without_nan(np.atleast_2d(chosen)),
      *(hurt(each, others) for each in (own, chosen)),
      *(metrics.spread(_gains(each, others)).mean for each in (own, chosen)),
    )
  return choices


def _gains(personal: np.ndarray, general: np.ndarray) -> np.ndarray:
  """What each person gains [S]; NaN for those without both models."""
  return metrics.changes(*metrics.paired_means(personal, general))
