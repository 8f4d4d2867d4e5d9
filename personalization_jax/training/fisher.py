"""What a model's parameters are worth to it on data (JAX)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
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
  *,
  one_by_one: bool,
) -> Any:
  """The diagonal of the empirical Fisher information of the parameters.

  The mean over rows [n] of images [N, ...] and labels [N] of the squares of
  each one's gradient of log p(label | sample), in evaluation mode: a tree as
  the parameters. One by one is fastest on a CPU.

  Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
  networks" (2017).
  """
  missing = -len(rows) % _TOGETHER
  padded = np.pad(rows, (0, missing), constant_values=PADDING)
  total: Any = None
  for batch in padded.reshape(-1, _TOGETHER):
    index = np.maximum(batch, 0)
    data = images[index], labels[index], batch >= 0
    found = _of_batch(learner, one_by_one, dict(variables), *data)
    total = jax.tree.map(jnp.add, total, found) if total else found
  return jax.tree.map(lambda leaf: leaf / len(rows), total)


@functools.partial(jax.jit, static_argnames=("learner", "one_by_one"))
def _of_batch(
  learner: Learner,
  one_by_one: bool,
  variables: Any,
  images: Any,
  labels: Any,
  mask: Any,
) -> Any:
  return penalties.fisher_diagonal(
    learner.model,
    variables,
    as_input(images),
    labels,
    mask,
    1 if one_by_one else None,
  )
