"""Batch normalisation after ReLU, in few passes over memory (JAX, Flax).

What Flax's `BatchNorm` computes, with a derivative rule of its own: the forward
pass reads its input twice and keeps nothing else, the backward pass three
times. Rows that are padding have weight 0 instead of a mask of the full shape.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

EPSILON = 1e-5
# Sums over pixels run along rows of about so many numbers, whatever the number
# of channels: short rows leave a CPU's vector units idle.
_ROW = 256


class ReluBatchNorm(nn.Module):
  """relu(x + shift), normalised over a batch, scaled and biased by channel.

  Parameters and statistics have the names of `flax.linen.BatchNorm`.

  Attributes:
    momentum: of the running mean and variance.
    dtype: of the result; sums are float32.
  """

  momentum: float = 0.9
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    shift: jax.Array,
    weights: jax.Array | None,
    *,
    use_running_average: bool,
  ) -> jax.Array:
    """Normalises.

    Args:
      x: [B, H, W, C].
      shift: float32 [C], added before ReLU: the convolution's bias.
      weights: float32 [B], what each image counts in the batch's statistics,
        their sum 1 (or 0: no image at all); None if all count alike.
      use_running_average: as in evaluation.

    Returns:
      [B, H, W, C] of `dtype`.
    """
    channels = x.shape[-1]
    mean = self.variable(
      "batch_stats", "mean", jnp.zeros, (channels,), jnp.float32
    )
    variance = self.variable(
      "batch_stats", "var", jnp.ones, (channels,), jnp.float32
    )
    scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
    if use_running_average:
      factor = scale * jax.lax.rsqrt(variance.value + EPSILON)
      active = jax.nn.relu(x + shift)
      out = active * factor + (bias - mean.value * factor)
      return out.astype(self.dtype)
    if weights is None:
      weights = jnp.full(len(x), 1 / len(x), jnp.float32)
    out, batch_mean, batch_variance = relu_batch_norm(
      x, shift, weights, scale, bias
    )
    if not self.is_initializing():
      keep = self.momentum
      mean.value = keep * mean.value + (1 - keep) * batch_mean
      variance.value = keep * variance.value + (1 - keep) * batch_variance
    return out.astype(self.dtype)


@jax.custom_vjp
def relu_batch_norm(
  x: jax.Array,
  shift: jax.Array,
  weights: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """relu(x + shift), normalised by its mean and variance in each channel.

  Args:
    x: [B, H, W, C].
    shift: float32 [C].
    weights: float32 [B], see `ReluBatchNorm`; no gradient flows to them.
    scale: float32 [C].
    bias: float32 [C].

  Returns:
    [B, H, W, C] of x's dtype; mean and (biased) variance float32 [C], through
    which no gradient flows.
  """
  return _forward(x, shift, weights, scale, bias)[0]


def _forward(
  x: jax.Array,
  shift: jax.Array,
  weights: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
  active = _active(x, shift)
  of_pixel = weights / (x.shape[1] * x.shape[2])
  mean = _sum(active, of_pixel)
  # As Flax's: the difference of float32 means, never below 0.
  variance = jnp.maximum(_sum(active * active, of_pixel) - mean * mean, 0)
  factor = scale * jax.lax.rsqrt(variance + EPSILON)
  out = active * factor + (bias - mean * factor)
  saved = (x, shift, weights, scale, mean, variance)
  return (out.astype(x.dtype), mean, variance), saved


def _backward(
  saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[jax.Array | None, ...]:
  x, shift, weights, scale, mean, variance = saved
  cotangent = cotangents[0].astype(jnp.float32)
  active = _active(x, shift)
  inverse = jax.lax.rsqrt(variance + EPSILON)
  to_bias = _sum(cotangent)
  to_scale = inverse * (_sum(cotangent * active) - mean * to_bias)
  # d/dx of the mean and of the variance, for a pixel of weight 1.
  slope = inverse * to_scale
  constant = to_bias - mean * slope
  of_pixel = weights / (x.shape[1] * x.shape[2])
  through = of_pixel[:, None, None, None] * (constant + slope * active)
  gradient = scale * inverse * (cotangent - through)
  # Of what is before ReLU, as XLA would have it: one form, the same bits.
  positive = x.astype(jnp.float32) + shift > 0
  gradient = jnp.where(positive, gradient, 0).astype(x.dtype)
  return gradient, _sum(gradient), None, to_scale, to_bias


relu_batch_norm.defvjp(_forward, _backward)


def _active(x: jax.Array, shift: jax.Array) -> jax.Array:
  return jax.nn.relu(x.astype(jnp.float32) + shift)


def _sum(values: jax.Array, weights: jax.Array | None = None) -> jax.Array:
  """Sums [B, H, W, C] over all but channels, images weighted; float32 [C]."""
  batch, height, width, channels = values.shape
  pixels = height * width
  together = 1
  while 2 * together * channels <= _ROW and pixels % (2 * together) == 0:
    together *= 2
  rows = values.reshape(batch, pixels // together, together * channels)
  sums = rows.astype(jnp.float32).sum(axis=1)
  if weights is None:
    weights = jnp.ones(batch, jnp.float32)
  sums = (weights[:, None] * sums).sum(axis=0)
  return sums.reshape(together, channels).sum(axis=0)
