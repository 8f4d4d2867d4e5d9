"""What one method gave every individual (NumPy)."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any

import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.datasets.splits import PADDING

# Axes and kind of every array: S individuals, R test rows, V validation rows,
# Q test rows of D_G, T steps, E evaluations; i integers, f floats, b booleans.
_ARRAYS = {
  "individuals": ("S", "i"),
  "individual_rows": ("SR", "i"),
  "individual_predictions": ("SR", "i"),
  "individual_labels": ("SR", "i"),
  "global_rows": ("Q", "i"),
  "global_predictions": ("SQ", "i"),
  "global_labels": ("Q", "i"),
  "losses": ("ST", "f"),
  "diverged": ("S", "b"),
  "validation_rows": ("SV", "i"),
  "validation_predictions": ("SV", "i"),
  "validation_labels": ("SV", "i"),
  "curve_steps": ("E", "i"),
  "individual_curve": ("SE", "f"),
  "global_curve": ("SE", "f"),
}
_DTYPES = {"i": np.int32, "f": np.float32, "b": np.bool_}
_KINDS = {"i": "integers", "f": "floats", "b": "booleans"}
_NOTHING = np.empty(0)


def _nothing() -> np.ndarray:
  """Stands for an array that isn't given."""
  return _NOTHING


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """What one method gave every individual: NumPy arrays, checked.

  Attributes:
    method: the method's spec.
    seed: the run's seed.
    individuals: int32 [S], ids.
    individual_rows: int32 [S, R], test rows of each D_I, -1 for padding.
    individual_predictions: int32 [S, R], predicted classes.
    global_rows: int32 [Q], test rows of D_G.
    global_predictions: int32 [S, Q], each individual's model on D_G.
    losses: float32 [S, T], training loss of each step in nats, NaN where a
      step was padding.
    individual_labels: int32 [S, R], the true classes, -1 for padding; with them
      accuracies need no population. None if they are unknown.
    global_labels: int32 [Q], likewise.
    validation_labels: int32 [S, V], likewise.
    diverged: bool [S], whether loss or parameters stopped being finite; by
      default False.
    validation_rows: int32 [S, V], validation rows of each D_I, -1 for padding;
      by default V is 0.
    validation_predictions: int32 [S, V], predicted classes.
    curve_steps: int32 [E], after which steps models were evaluated on
      validation data; by default E is 0.
    individual_curve: float32 [S, E], accuracy on D_I then; NaN for individuals
      without validation data.
    global_curve: float32 [S, E], accuracy on D_G then.
    one_model: all individuals share one model, that of D_G alone, so that its
      acc(D_G) is one number.
    models: if asked for, `params` and `batch_stats` of all models, trees of
      arrays [S, ...]; they aren't saved with the rest.

  Raises:
    ValueError: if an array has another shape or kind, naming it.
  """

  method: str
  seed: int
  individuals: np.ndarray
  individual_rows: np.ndarray
  individual_predictions: np.ndarray
  global_rows: np.ndarray
  global_predictions: np.ndarray
  losses: np.ndarray
  individual_labels: np.ndarray | None = None
  global_labels: np.ndarray | None = None
  validation_labels: np.ndarray | None = None
  diverged: np.ndarray = field(default_factory=_nothing)
  validation_rows: np.ndarray = field(default_factory=_nothing)
  validation_predictions: np.ndarray = field(default_factory=_nothing)
  curve_steps: np.ndarray = field(default_factory=_nothing)
  individual_curve: np.ndarray = field(default_factory=_nothing)
  global_curve: np.ndarray = field(default_factory=_nothing)
  one_model: bool = False
  models: dict[str, Any] | None = None

  def __post_init__(self) -> None:
    """Makes arrays NumPy's, gives empty ones their shape, checks all."""
    sizes = {"S": len(self.individuals)}
    for name, (axes, kind) in _ARRAYS.items():
      given = getattr(self, name)
      if given is None and name.endswith("_labels"):
        continue
      array = np.asarray(given)
      if given is _NOTHING:
        # Nobody diverged; no validation rows, no evaluations.
        shape = [sizes[axis] if axis == "S" else 0 for axis in axes]
        array = np.zeros(shape, _DTYPES[kind])
      elif array.dtype.kind != kind or array.ndim != len(axes):
        raise ValueError(
          f"{name} must be {_KINDS[kind]} [{', '.join(axes)}], but is"
          f" {array.dtype}{list(array.shape)}."
        )
      for axis, size in zip(axes, array.shape):
        if sizes.setdefault(axis, size) != size:
          raise ValueError(
            f"{name} has shape {list(array.shape)}, but {axis} of"
            f" [{', '.join(axes)}] is {sizes[axis]} in other arrays."
          )
      object.__setattr__(self, name, array)

  @property
  def status(self) -> list[str]:
    """`ok` or `diverged` for each individual."""
    return ["diverged" if gone else "ok" for gone in self.diverged]

  def individual_accuracy(
    self, labels: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_I), on everyone's own test data.

    Args:
      labels: int32 [N], the store's labels; needed only where the result has
        none of its own.

    Returns:
      Accuracy float64 [S] in 0..1, NaN where the model diverged; the number of
      samples it stands on [S].

    Raises:
      ValueError: if the result's own labels aren't these.
    """
    return self._accuracy("individual", labels)

  def validation_accuracy(
    self, labels: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Like `individual_accuracy`, on validation data; NaN without any."""
    return self._accuracy("validation", labels)

  def global_accuracy(
    self, labels: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_G), like `individual_accuracy`, on the test data of D_G."""
    return self._accuracy("global", labels)

  def _accuracy(
    self, data: str, labels: np.ndarray | None
  ) -> tuple[np.ndarray, np.ndarray]:
    predictions = getattr(self, f"{data}_predictions")
    truth = self._truth(data, labels)
    values, sizes = metrics.share_correct(
      predictions, np.broadcast_to(truth, predictions.shape)
    )
    return np.where(self.diverged, np.nan, values), sizes

  def _truth(self, data: str, labels: np.ndarray | None) -> np.ndarray:
    """The true classes: the result's own, or else the store's at its rows."""
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
    there = np.where(rows == PADDING, PADDING, labels[rows])
    if own is not None and not np.array_equal(own, there):
      raise ValueError(
        f"{what} was tested on samples of other classes than the population"
        " has in these rows: give the one that it was made of, or none."
      )
    return there
