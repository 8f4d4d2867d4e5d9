"""What is recorded of models while they train (NumPy, host)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
  """Losses, and validation accuracy now and then, of n models.

  Attributes:
    losses: float32 [n, t] in nats, NaN where a step was padding.
    individual: float32 [n, e, k], accuracy on validation data of D_I: of the
      model's own individual (k = 1), or of all k individuals for a model that
      they share.
    general: float32 [n, e], accuracy on validation data of D_G.
  """

  losses: np.ndarray
  individual: np.ndarray
  general: np.ndarray

  @classmethod
  def restored(
    cls, arrays: Mapping[str, np.ndarray], models: int, people: int = 1
  ) -> Record:
    """What `saved` gave of n models and k people; an empty record of {}."""
    empty = {
      "losses": np.empty((models, 0), np.float32),
      "individual": np.empty((models, 0, people), np.float32),
      "general": np.empty((models, 0), np.float32),
    }
    return cls(**{**empty, **arrays})

  @property
  def steps(self) -> int:
    """Steps done, t."""
    return self.losses.shape[1]

  @property
  def evaluations(self) -> int:
    """Evaluations done, e."""
    return self.general.shape[1]

  def trained(self, losses: np.ndarray) -> Record:
    """The record after more steps with losses float32 [n, steps]."""
    return dataclasses.replace(
      self, losses=np.concatenate([self.losses, losses], axis=1)
    )

  def evaluated(self, individual: np.ndarray, general: np.ndarray) -> Record:
    """The record after an evaluation: accuracy on D_I [n, k], on D_G [n]."""
    return dataclasses.replace(
      self,
      individual=np.concatenate(
        [self.individual, individual[:, None].astype(np.float32)], axis=1
      ),
      general=np.concatenate(
        [self.general, general[:, None].astype(np.float32)], axis=1
      ),
    )

  def of(self, people: range) -> Record:
    """What m of the k people begin with who all go on with this one model."""
    count = len(people)
    return Record(
      np.broadcast_to(self.losses, (count, self.steps)),
      self.individual[0].T[list(people), :, None],
      np.broadcast_to(self.general, (count, self.evaluations)),
    )

  def saved(self) -> dict[str, np.ndarray]:
    """As `Task.save` takes it; Orbax doesn't keep empty arrays."""
    arrays = dataclasses.asdict(self)
    return {name: array for name, array in arrays.items() if array.size}
