"""A multi-layer perceptron for feature vectors, in Flax Linen (JAX)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class MLP(nn.Module):
  """Dense layers with ReLU between them: for feature vectors.

  An example of a model of one's own; see `networks.interface`. Features of
  very different sizes want to be scaled beforehand (`pj.standardise`): they are
  used as they are.

  Attributes:
    num_classes: number of classes.
    hidden: widths of the hidden layers.
    dtype: of activations; parameters stay float32.
  """

  num_classes: int
  hidden: Sequence[int] = (64, 64)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, samples: Array, *, frozen_layers: int = 0) -> Array:
    """Scores every class.

    Args:
      samples: float [B, ...]; all axes but the first are one vector.
      frozen_layers: number of leading layers that pass no gradient on.

    Returns:
      Logits float32 [B, num_classes].
    """
    x = samples.reshape(len(samples), -1).astype(self.dtype)
    for layer, size in enumerate(self.hidden):
      x = nn.relu(nn.Dense(size, dtype=self.dtype, name=f"layer_{layer}")(x))
      if layer + 1 == frozen_layers:
        x = jax.lax.stop_gradient(x)
    last = nn.Dense(
      self.num_classes, dtype=self.dtype, name=f"layer_{len(self.hidden)}"
    )
    return last(x).astype(jnp.float32)
