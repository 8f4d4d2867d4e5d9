"""What one method gave every individual (NumPy)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from personalization_jax import metrics


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
    losses: float32 [S, T], training loss of each step in nats, NaN where a
      step was padding.
    diverged: bool [S], whose loss or parameters stopped being finite numbers;
      nobody by default.
    validation_rows: int32 [S, V], validation rows of each D_I, -1 for padding;
      none by default.
    validation_predictions: int32 [S, V], predicted classes.
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
    self, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_I), on everyone's own test data.

    Args:
      labels: int32 [N], the store's labels.

    Returns:
      Accuracy float64 [S] in 0..1, and the number of samples it stands on [S].
      Who diverged has NaN: what such a model answers is no accuracy.
    """
    return self._accuracy(
      self.individual_predictions, labels, self.individual_rows
    )

  def validation_accuracy(
    self, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy on everyone's own validation data.

    Args:
      labels: int32 [N], the store's labels.

    Returns:
      Accuracy float64 [S] in 0..1, NaN for who diverged or has no such data,
      and the number of samples it stands on [S].
    """
    return self._accuracy(
      self.validation_predictions, labels, self.validation_rows
    )

  def global_accuracy(
    self, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_G), of everyone's model on the test data of D_G.

    Args:
      labels: int32 [N], the store's labels.

    Returns:
      Accuracy float64 [S] in 0..1, NaN for who diverged, and the number of
      samples it stands on [S].
    """
    rows = np.broadcast_to(self.global_rows, self.global_predictions.shape)
    return self._accuracy(self.global_predictions, labels, rows)

  def _accuracy(
    self, predictions: np.ndarray, labels: np.ndarray, rows: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    values, sizes = metrics.accuracy(predictions, labels, rows)
    return np.where(self.diverged, np.nan, values), sizes
