"""What one method gave every individual (NumPy)."""

from __future__ import annotations

import dataclasses

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

  def __post_init__(self) -> None:
    """Nobody diverged unless it is said."""
    if self.diverged is None:
      nobody = np.zeros(len(self.individuals), bool)
      object.__setattr__(self, "diverged", nobody)

  @property
  def status(self) -> list[str]:
    """`ok` or `diverged` for each individual."""
    return ["diverged" if gone else "ok" for gone in self.diverged]

  def individual_accuracy(
    self, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_I) float64 [S] and test sizes [S], given the store's labels.

    Who diverged has NaN: what such a model answers is no accuracy.
    """
    values, sizes = metrics.accuracy(
      self.individual_predictions, labels, self.individual_rows
    )
    return np.where(self.diverged, np.nan, values), sizes

  def global_accuracy(
    self, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_G) float64 [S] and test sizes [S], likewise."""
    rows = np.broadcast_to(self.global_rows, self.global_predictions.shape)
    values, sizes = metrics.accuracy(self.global_predictions, labels, rows)
    return np.where(self.diverged, np.nan, values), sizes
