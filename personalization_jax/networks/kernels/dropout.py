"""Dropout whose bits a TPU draws once (JAX)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from personalization_jax.networks.kernels import platforms


class Dropout(nn.Module):
  """`flax.linen.Dropout`, with the same bits under the same name."""

  rate: float

  @nn.compact
  def __call__(self, x: Array, *, drops: bool) -> Array:
    """Drops numbers and scales up what is left (needs the "dropout" key)."""
    if not drops:
      return x
    keep = 1 - self.rate
    kept = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
    kept = platforms.call("dropout_bits", kept)
    return lax.select(kept, x / keep, jnp.zeros_like(x))
