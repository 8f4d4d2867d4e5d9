"""Clusters: several models of D_G, each of the writers that it suits (NumPy).

Source: Ghosh et al., "An Efficient Framework for Clustered Federated Learning"
(IFCA, 2020), arXiv 2006.04088; HypCluster of Mansour et al., "Three Approaches
for Personalization with Applications to Federated Learning" (2020), arXiv
2002.10619.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from personalization_jax import checks
from personalization_jax.datasets.splits import PADDING
from personalization_jax.randomness import Stream, generator
from personalization_jax.schedules import steps_per_epoch


@dataclasses.dataclass(frozen=True)
class Clusters:
  """What everybody's training begins with in place of D_G's one model.

  A round is an epoch over D_G: each writer goes to the model with the lowest
  mean loss on the writer's training rows, then each model is trained on the
  rows of its writers. A model without writers stays as it is, and may be taken
  again. At the end each person takes the model that is best on their validation
  rows. One cluster is D_G's model, to the byte.

  Attributes:
    count: K, the number of models.

  Raises:
    ValueError: if it is no whole number of 1 or more.
  """

  count: int

  def __post_init__(self) -> None:
    checks.whole_number("count", self.count, 1)
    checks.plain_numbers(self)

  @property
  def name(self) -> str:
    """For the files of the models."""
    return f"start_ifca_{self.count}"

  def first(self, num_writers: int, *, seed: int) -> np.ndarray:
    """The model of each writer in the first round, int32 [W].

    Drawn, as many writers for each: of fresh models one may be the best for
    all.
    """
    rng = generator(seed, Stream.CLUSTERS)
    return (rng.permutation(num_writers) % self.count).astype(np.int32)

  def rows(
    self, epoch: np.ndarray, models: np.ndarray, batch_size: int
  ) -> np.ndarray:
    """The rows of a round for every model: int32 [K, T, B], padding last.

    Args:
      epoch: integers [n], D_G's rows in the order of the epoch.
      models: integers [n], the model of each row's writer.
      batch_size: B.

    Returns:
      Each model's rows in this order, cut into batches; T is that of D_G.
    """
    steps = steps_per_epoch(len(epoch), batch_size)
    found = np.full((self.count, steps * batch_size), PADDING, np.int32)
    for model, line in enumerate(found):
      own = epoch[models == model]
      line[: len(own)] = own
    return found.reshape(self.count, steps, batch_size)


def assign(losses: np.ndarray) -> np.ndarray:
  """The model with the lowest loss for each writer: int32 [W] of [K, W].

  The first of equals; NaN, of a model that diverged, is higher than any.
  """
  return _finite(losses).argmin(axis=0).astype(np.int32)


def choose(correct: np.ndarray, losses: np.ndarray) -> np.ndarray:
  """The model that each person takes: int32 [S].

  Of most correct answers, integers [K, S]; of equals that with the lowest loss
  [K, S], then the first.
  """
  best = correct == correct.max(axis=0)
  return np.where(best, _finite(losses), np.inf).argmin(axis=0).astype(np.int32)


def _finite(losses: np.ndarray) -> np.ndarray:
  return np.nan_to_num(losses, nan=np.finfo(losses.dtype).max)
