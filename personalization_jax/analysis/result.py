"""What one method gave every individual (NumPy)."""
# ruff: noqa: RUF009 (these calls make fields)

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np

from personalization_jax import checks
from personalization_jax.analysis import metrics
from personalization_jax.datasets.splits import PADDING

_KINDS = {"i": "integers", "f": "floats", "b": "booleans", "U": "texts"}
_NOTHING = np.empty(0)
# The store's labels, and accuracies with the samples that they are over.
Labels = np.ndarray | None
Accuracies = tuple[np.ndarray, np.ndarray]


def _array(axes: str, dtype: str = "i4", **default: Any) -> Any:
  """A field, [S, R] for the axes "SR"; `_optional` is empty if not given."""
  return field(metadata={"axes": axes, "dtype": np.dtype(dtype)}, **default)


_optional = functools.partial(_array, default_factory=lambda: _NOTHING)
# None where nobody knows, as in results of older versions.
_unknown = functools.partial(_array, default=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """What one method gave every individual: NumPy arrays, checked.

  Rows are -1 where they are padding, and so are labels.

  Attributes:
    method: the method's spec.
    seed: the run's seed.
    individuals: int32 [S], ids.
    individual_rows: int32 [S, R], test rows of each D_I.
    individual_predictions: int32 [S, R], predicted classes.
    global_rows: int32 [Q], test rows of D_G; [S, Q] where people of several
      folds each have their fold's.
    global_predictions: int32 [S, Q], each individual's model on D_G.
    losses: float32 [S, T], training loss of each step in nats, NaN where a
      step was padding.
    individual_labels: int32 [S, R], the true classes; with them accuracies need
      no population. None if they are unknown.
    global_labels: int32 [Q] or [S, Q], likewise.
    validation_labels: int32 [S, V], likewise.
    diverged: bool [S], whether loss or parameters stopped being finite.
    validation_rows: int32 [S, V], validation rows of each D_I.
    validation_predictions: int32 [S, V], predicted classes.
    curve_steps: int32 [E], steps after which models were evaluated on
      validation data.
    individual_curve: float32 [S, E], accuracy on D_I then; NaN for individuals
      without validation data.
    global_curve: float32 [S, E], accuracy on D_G then.
    individual_log_probability: float32 [S, R], natural logarithm of the
      probability that a model gives the true class (the softmax of its
      scores); NaN for padding, and where scores weren't finite. None in results
      of older versions, as all below.
    global_log_probability: float32 [S, Q], likewise.
    validation_log_probability: float32 [S, V], likewise.
    individual_log_confidence: float32 [S, R], likewise of the predicted class.
    global_log_confidence: float32 [S, Q], likewise.
    validation_log_confidence: float32 [S, V], likewise.
    individual_log_probabilities: float32 [S, R, C], of every class, if asked
      for.
    train_size: int32 [S], training samples of each D_I, without what data
      grouping adds.
    train_classes: int32 [S], how many classes they are of.
    individual_names: texts [S], what individuals are called; None if ids are
      their names.
    best_steps: int32 [S], after how many batches of D_I each model was best on
      validation data, and stayed so; None if that wasn't looked for.
    one_model: all individuals (of a fold) share the model of D_G alone, so
      that its acc(D_G) is one number.
    models: if asked for, `params` and `batch_stats` of all models, trees of
      arrays [S, ...]; they aren't saved with the rest.

  Raises:
    ValueError: if an array has another shape or kind, naming it.
  """

  method: str
  seed: int
  individuals: np.ndarray = _array("S")
  individual_rows: np.ndarray = _array("SR")
  individual_predictions: np.ndarray = _array("SR")
  global_rows: np.ndarray = _array("Q")
  global_predictions: np.ndarray = _array("SQ")
  losses: np.ndarray = _array("ST", "f4")
  individual_labels: np.ndarray | None = _unknown("SR")
  global_labels: np.ndarray | None = _unknown("Q")
  validation_labels: np.ndarray | None = _unknown("SV")
  diverged: np.ndarray = _optional("S", "?")
  validation_rows: np.ndarray = _optional("SV")
  validation_predictions: np.ndarray = _optional("SV")
  curve_steps: np.ndarray = _optional("E")
  individual_curve: np.ndarray = _optional("SE", "f4")
  global_curve: np.ndarray = _optional("SE", "f4")
  individual_log_probability: np.ndarray | None = _unknown("SR", "f4")
  global_log_probability: np.ndarray | None = _unknown("SQ", "f4")
  validation_log_probability: np.ndarray | None = _unknown("SV", "f4")
  individual_log_confidence: np.ndarray | None = _unknown("SR", "f4")
  global_log_confidence: np.ndarray | None = _unknown("SQ", "f4")
  validation_log_confidence: np.ndarray | None = _unknown("SV", "f4")
  individual_log_probabilities: np.ndarray | None = _unknown("SRC", "f4")
  train_size: np.ndarray | None = _unknown("S")
  train_classes: np.ndarray | None = _unknown("S")
  individual_names: np.ndarray | None = _array("S", "U", default=None)
  best_steps: np.ndarray | None = _unknown("S")
  one_model: bool = False
  models: dict[str, Any] | None = None

  def __post_init__(self) -> None:
    """Makes all arrays NumPy's, and checks them."""
    arrays = []
    for kept in dataclasses.fields(self):
      name, given = kept.name, getattr(self, kept.name)
      if not kept.metadata or given is kept.default is None:
        continue
      axes, dtype = kept.metadata["axes"], kept.metadata["dtype"]
      array = np.asarray(given)
      if axes == "Q" and array.ndim == 2:
        axes = "SQ"
      if given is _NOTHING:  # nobody diverged, V is 0, E is 0
        people = len(self.individuals)
        shape = [people if axis == "S" else 0 for axis in axes]
        array = np.zeros(shape, dtype)
      elif array.dtype.kind != dtype.kind or array.ndim != len(axes):
        raise ValueError(
          f"{name} must be {_KINDS[dtype.kind]} [{', '.join(axes)}], but is"
          f" {array.dtype}{list(array.shape)}."
        )
      arrays.append((name, array, axes))
      object.__setattr__(self, name, array)
    checks.shapes(*arrays, empty=True)

  @property
  def people(self) -> np.ndarray:
    """What individuals are called [S]: by name, or by id if they have none."""
    names = self.individual_names
    return self.individuals if names is None else names

  @classmethod
  def joined(cls, results: Sequence[Result]) -> Result:
    """One result of all people of several folds, in their order.

    Args:
      results: of one method and seed, each with other people.

    Returns:
      The result, everyone with the test rows of D_G of their fold. Without
      models.

    Raises:
      ValueError: if they are of several methods or seeds, or of a person twice.
    """
    first, *others = results
    if not others:
      return first
    if {(r.method, r.seed) for r in others} != {(first.method, first.seed)}:
      raise ValueError("results of folds must be of one method and seed.")
    people = np.concatenate([result.individuals for result in results])
    if len(np.unique(people)) < len(people):
      raise ValueError("results of folds must be of different people.")
    steps = np.unique(np.concatenate([r.curve_steps for r in results]))
    arrays: dict[str, Any] = {"curve_steps": steps.astype(np.int32)}
    for kept in dataclasses.fields(cls):
      if not kept.metadata or kept.name in arrays:
        continue
      own = [getattr(result, kept.name) for result in results]
      if any(array is None for array in own):
        arrays[kept.name] = None
        continue
      if kept.metadata["axes"] == "Q":
        own = [
          np.broadcast_to(array, (len(r.individuals), array.shape[-1]))
          for r, array in zip(results, own)
        ]
      if kept.metadata["axes"] == "SE":
        own = [_at_steps(steps, r, array) for r, array in zip(results, own)]
      arrays[kept.name] = _stacked(own)
    return dataclasses.replace(first, models=None, **arrays)

  def individual_accuracy(self, labels: Labels = None) -> Accuracies:
    """acc(D_I), on everyone's own test data.

    Args:
      labels: int32 [N], the store's labels; needed only where the result has
        none of its own.

    Returns:
      Accuracy float64 [S] in 0..1, NaN where the model diverged; the number of
      samples it is over [S].

    Raises:
      ValueError: if the result's own labels aren't these.
    """
    return self._accuracy("individual", labels)

  def validation_accuracy(self, labels: Labels = None) -> Accuracies:
    """Like `individual_accuracy`, on validation data; NaN without any."""
    return self._accuracy("validation", labels)

  def global_accuracy(self, labels: Labels = None) -> Accuracies:
    """acc(D_G), like `individual_accuracy`, on the test data of D_G."""
    return self._accuracy("global", labels)

  def _accuracy(self, data: str, labels: Labels) -> Accuracies:
    predictions = getattr(self, f"{data}_predictions")
    values, sizes = metrics.accuracy(predictions, self.truth(data, labels))
    return np.where(self.diverged, np.nan, values), sizes

  def truth(self, data: str, labels: Labels = None) -> np.ndarray:
    """The true classes of "individual", "global" or "validation" predictions.

    They have the predictions' shape, -1 for padding: the result's own, or else
    the store's at its rows.
    """
    shape = getattr(self, f"{data}_predictions").shape
    return np.broadcast_to(self._truth(data, labels), shape)

  def _truth(self, data: str, labels: Labels) -> np.ndarray:
    rows, own = getattr(self, f"{data}_rows"), getattr(self, f"{data}_labels")
    what = f"method {self.method!r} with seed {self.seed}"
    if not rows.size:
      return rows
    if labels is None:
      if own is None:
        raise ValueError(f"{what} has no true labels: give its population's.")
      return own
    if rows.max() >= len(labels):
      raise ValueError(
        f"{what} was tested on row {rows.max()}, but the population has"
        f" {len(labels)} samples: give the one that it was made of."
      )
    there = metrics.at_rows(labels, rows)
    if own is not None and not np.array_equal(own, there):
      raise ValueError(
        f"{what} was tested on samples of other classes than the population"
        " has in these rows: give the one that it was made of, or none."
      )
    return there


def _at_steps(
  steps: np.ndarray, result: Result, curve: np.ndarray
) -> np.ndarray:
  """A curve [S, E] of a result at these steps, NaN where it has no point."""
  wide = np.full((len(curve), len(steps)), np.nan, curve.dtype)
  wide[:, np.searchsorted(steps, result.curve_steps)] = curve
  return wide


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Arrays [n, ...] one after another, those with shorter axes padded."""
  shape = np.max([array.shape[1:] for array in arrays], axis=0, initial=0)
  padding = np.nan if arrays[0].dtype.kind == "f" else PADDING
  padded = []
  for array in arrays:
    missing = [(0, most - own) for most, own in zip(shape, array.shape[1:])]
    padded.append(np.pad(array, [(0, 0), *missing], constant_values=padding))
  return np.concatenate(padded)
