"""The formulas of batch normalisation that every platform shares (JAX)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels import pooling

EPSILON = 1e-5


class Saved(NamedTuple):
  """What the backward pass needs; images are the platform's own."""

  x: Array  # [B, H, W, C], what was normalised
  peaks: Array  # [B, h, w, C], what pooling picked of it
  shift: Array
  weights: Array
  scale: Array
  mean: Array
  variance: Array
  above: Array  # [C], the weight of pixels above 0


def active(x: Array, shift: Array) -> Array:
  """Float32, after the bias and ReLU."""
  return jax.nn.relu(x.astype(jnp.float32) + shift)


def normalised(
  x: Array, shift: Array, scale: Array, bias: Array, mean: Array, var: Array
) -> Array:
  """Batch normalisation's output, float32, of what is before ReLU."""
  factor = scale * lax.rsqrt(var + EPSILON)
  return active(x, shift) * factor + (bias - mean * factor)


def peaks_of(x: Array, scale: Array, window: int) -> Array:
  """Each window's largest input, its smallest where the scale is negative."""
  if window == 1:
    return x
  largest = pooling.reduce_windows(x, window, jnp.maximum)
  smallest = pooling.reduce_windows(x, window, jnp.minimum)
  return jnp.where(scale < 0, smallest, largest)
