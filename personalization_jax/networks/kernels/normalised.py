"""What every platform's batch normalisation shares (JAX)."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array, lax

_EPSILON = 1e-5


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


def normalise(
  active: Array, scale: Array, bias: Array, mean: Array, variance: Array
) -> Array:
  """What is after ReLU, by mean and variance, scaled and biased; float32."""
  factor = scale * lax.rsqrt(variance + _EPSILON)
  return active * factor + (bias - mean * factor)


def through_statistics(
  saved: Saved, to_bias: Array, by_active: Array
) -> tuple[Array, Array, Array, Array]:
  """The scale's gradient, 1 / deviation, and what flows through statistics.

  By the sums of the cotangent, and of it times what is after ReLU. The last two
  are d/dx of the variance and of the mean, for a pixel of weight 1.
  """
  inverse = lax.rsqrt(saved.variance + _EPSILON)
  to_scale = inverse * (by_active - saved.mean * to_bias)
  slope = inverse * to_scale
  return to_scale, inverse, slope, to_bias - saved.mean * slope
