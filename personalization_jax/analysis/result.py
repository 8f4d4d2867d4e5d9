"""What one method gave every individual (NumPy)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.datasets.splits import PADDING


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """What one method gave every individual.

  Attributes:
    method: the method's spec.
    seed: the run's seed.
    individuals: int32 [S], ids.
    individual_rows: int32 [S, R], test rows of each D_I, -1 for padding.
    individual_predictions: int32 [S, R], predicted classes.
    global_rows: int32 [Q], test rows of D_G.
    global_predictions: int32 [S, Q], each individual's model on D_G.
    individual_labels: int32 [S, R], the true classes, -1 for padding; with them
      accuracies need no population, and another one's labels are refused. None
      if nobody gave them.
    global_labels: int32 [Q], likewise.
    losses: float32 [S, T], training loss of each step in nats, NaN where a
      step was padding.
    diverged: bool [S], whose loss or parameters stopped being finite numbers;
      nobody by default.
    validation_rows: int32 [S, V], validation rows of each D_I, -1 for padding;
      none by default.
    validation_predictions: int32 [S, V], predicted classes.
    validation_labels: int32 [S, V], the true classes, -1 for padding; None if
      nobody gave them.
    curve_steps: int32 [E], behind which steps models were evaluated on
      validation data; none by default.
    individual_curve: float32 [S, E], accuracy on D_I then; NaN for who has no
      validation data.
    global_curve: float32 [S, E], accuracy on D_G then.
    one_model: everybody has one and the same model, that of D_G alone, whose
      acc(D_G) is one number.
    models: if asked for, `params` and `batch_stats` of everybody, trees of
      arrays [S, ...]; they aren't saved with the rest.
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
  diverged: np.ndarray = None  # type: ignore[assignment]
  validation_rows: np.ndarray = None  # type: ignore[assignment]
  validation_predictions: np.ndarray = None  # type: ignore[assignment]
  curve_steps: np.ndarray = None  # type: ignore[assignment]
  individual_curve: np.ndarray = None  # type: ignore[assignment]
  global_curve: np.ndarray = None  # type: ignore[assignment]
  one_model: bool = False
  models: dict[str, Any] | None = None

  def __post_init__(self) -> None:
    """What isn't said is empty; nobody diverged."""
    count = len(self.individuals)
    for name, empty in (
      ("diverged", np.zeros(count, bool)),
      ("validation_rows", np.empty((count, 0), np.int32)),
      ("validation_predictions", np.empty((count, 0), np.int32)),
      ("curve_steps", np.empty(0, np.int32)),
      ("individual_curve", np.empty((count, 0), np.float32)),
      ("global_curve", np.empty((count, 0), np.float32)),
    ):
      if getattr(self, name) is None:
        object.__setattr__(self, name, empty)

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
      Accuracy float64 [S] in 0..1, and the number of samples it stands on [S].
      Who diverged has NaN: what such a model answers is no accuracy.

    Raises:
      ValueError: if the result's own labels aren't these.
    """
    return self._accuracy("individual", labels)

  def validation_accuracy(
    self, labels: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy on everyone's own validation data.

    Args:
      labels: as of `individual_accuracy`.

    Returns:
      Accuracy float64 [S] in 0..1, NaN for who diverged or has no such data,
      and the number of samples it stands on [S].

    Raises:
      ValueError: likewise.
    """
    return self._accuracy("validation", labels)

  def global_accuracy(
    self, labels: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_G), of everyone's model on the test data of D_G.

    Args:
      labels: as of `individual_accuracy`.

    Returns:
      Accuracy float64 [S] in 0..1, NaN for who diverged, and the number of
      samples it stands on [S].

    Raises:
      ValueError: likewise.
    """
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
      return np.asarray(rows)
    if own is None and labels is None:
      raise ValueError(f"{what} has no true labels: give its population's.")
    if labels is None:
      return np.asarray(own)
    if rows.max(initial=PADDING) >= len(labels):
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
