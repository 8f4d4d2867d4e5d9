"""What a model's parameters are worth to it on data (JAX)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from personalization_jax.datasets.splits import PADDING
from personalization_jax.methods import penalties
from personalization_jax.training.learner import Learner
from personalization_jax.training.step import as_input

# Samples whose gradients are computed at once.
_TOGETHER = 32


def diagonal(
  learner: Learner,
  variables: Mapping[str, Any],
  images: np.ndarray,
  labels: np.ndarray,
  rows: np.ndarray,
) -> Any:
  """The diagonal of the empirical Fisher information of the parameters.

  The mean over rows [n] of images [N, ...] and labels [N] of the squares of
  each one's gradient of log p(label | sample), in evaluation mode: a tree as
  the parameters.

  Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
  networks" (2017).
  """
  missing = -len(rows) % _TOGETHER
  padded = np.pad(rows, (0, missing), constant_values=PADDING)
  total: Any = None
  for batch in padded.reshape(-1, _TOGETHER):
    index = np.maximum(batch, 0)
    data = images[index], labels[index], batch >= 0
    found = _of_batch(learner, dict(variables), *data)
    total = found if total is None else jax.tree.map(jax.numpy.add, total, found)
  return jax.tree.map(lambda leaf: leaf / len(rows), total)


@functools.partial(jax.jit, static_argnames="learner")
def _of_batch(
  learner: Learner, variables: Any, images: Any, labels: Any, mask: Any
) -> Any:
  return penalties.fisher_diagonal(
    learner.model, variables, as_input(images), labels, mask
  )
