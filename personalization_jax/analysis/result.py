"""What one method gave every individual (NumPy)."""
# ruff: noqa: RUF009 (these calls make fields)

from __future__ import annotations

import dataclasses
import functools
from dataclasses import field
from typing import Any

import numpy as np

from personalization_jax import checks
from personalization_jax.analysis import metrics

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
    global_rows: int32 [Q], test rows of D_G.
    global_predictions: int32 [S, Q], each individual's model on D_G.
    losses: float32 [S, T], training loss of each step in nats, NaN where a
      step was padding.
    individual_labels: int32 [S, R], the true classes; with them accuracies need
      no population. None if they are unknown.
    global_labels: int32 [Q], likewise.
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
    one_model: all individuals share the model of D_G alone, so that its
      acc(D_G) is one number.
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
