"""Batch normalisation after ReLU, and max-pooling with it, in few passes (JAX).

What Flax's `BatchNorm` computes, with a derivative rule of its own that keeps
the input alone, and what pooling picked of it. Rows that are padding have
weight 0 instead of a mask of the full shape. On a CPU sums run over blocks of
images that stay in its cache: the input comes from memory once for all of them.

Where a max-pooling follows, it comes first: normalisation rises or falls with
its input, by the sign of its scale, so the largest output is that of the
largest or of the smallest input. All but the statistics is then computed at the
pooled size, and the sums of the backward pass too.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from personalization_jax.networks.kernels import pooling
from personalization_jax.networks.kernels.cpu import cache

EPSILON = 1e-5
# Sums over pixels run along rows of about so many numbers, whatever the number
# of channels: short rows leave a CPU's vector units idle.
_ROW = 256


class ReluBatchNorm(nn.Module):
  """relu(x + shift), normalised over a batch, scaled and biased by channel.

  Parameters and statistics have the names of `flax.linen.BatchNorm`.
  """

  momentum: float = 0.9
  window: int = 1  # of the max-pooling that follows; 1 for none
  dtype: Any = jnp.float32  # of the result; sums are float32

  @nn.compact
  def __call__(
    self,
    x: Array,
    shift: Array,
    weights: Array | None,
    *,
    use_running_average: bool,
  ) -> Array:
    """Normalises and pools x [B, H, W, C], H and W multiples of the window.

    The shift [C] is the convolution's bias. Weights float32 [B] are what each
    image counts in the batch's statistics; their sum is 1, or 0 if there is no
    image at all. None weighs all alike.
    """
    shape = x.shape[-1:]
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
    if use_running_average:
      peaks = _peaks(x, scale, self.window)
      out = _normalised(peaks, shift, scale, bias, mean.value, variance.value)
      return out.astype(self.dtype)
    if weights is None:
      weights = jnp.full(len(x), 1 / len(x), jnp.float32)
    out, batch_mean, batch_variance = relu_batch_norm(
      x, shift, weights, scale, bias, self.window
    )
    if not self.is_initializing():
      keep = self.momentum
      mean.value = keep * mean.value + (1 - keep) * batch_mean
      variance.value = keep * variance.value + (1 - keep) * batch_variance
    return out.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def relu_batch_norm(
  x: Array, shift: Array, weights: Array, scale: Array, bias: Array, window: int
) -> tuple[Array, Array, Array]:
  """relu(x + shift) normalised, and its mean and (biased) variance [C].

  Inputs that tie share a pooling's gradient evenly. None flows to the weights,
  or through mean and variance.
  """
  return _forward(x, shift, weights, scale, bias, window)[0]


def _forward(
  x: Array, shift: Array, weights: Array, scale: Array, bias: Array, window: int
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
  if x.dtype != jnp.float32:
    # What is kept is what is compared: no rounding of their own in each place.
    x = lax.optimization_barrier(x)
  of_pixel = weights / (x.shape[1] * x.shape[2])
  channels = len(shift)

  def moments(x: Array) -> tuple[Array, ...]:
    active = _active_rows(x, shift)
    return _sum(active, channels), _sum(active * active, channels)

  mean, square = (
    (of_pixel[:, None] * sums).sum(axis=0)
    for sums in cache.in_blocks(moments, x)
  )
  # As Flax's: the difference of float32 means, never below 0.
  variance = jnp.maximum(square - mean * mean, 0)
  peaks = _peaks(x, scale, window)
  out = cache.once(
    weights, _normalised, peaks, shift, scale, bias, mean, variance
  )
  saved = (x, peaks, shift, weights, scale, mean, variance)
  return (out.astype(x.dtype), mean, variance), saved


def _backward(
  window: int, saved: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> tuple[Array | None, ...]:
  x, peaks, shift, weights, scale, mean, variance = saved
  cotangent = cotangents[0].astype(jnp.float32)
  channels = len(shift)

  def products(cotangent: Array, peaks: Array) -> tuple[Array, ...]:
    cotangent, active = _rows(cotangent), _active_rows(peaks, shift)
    return _sum(cotangent, channels), _sum(cotangent * active, channels)

  to_bias, by_active = (
    sums.sum(axis=0) for sums in cache.in_blocks(products, cotangent, peaks)
  )
  inverse = lax.rsqrt(variance + EPSILON)
  to_scale = inverse * (by_active - mean * to_bias)
  # d/dx of the mean and of the variance, for a pixel of weight 1.
  slope = inverse * to_scale
  constant = to_bias - mean * slope

  def to_input(
    x: Array, cotangent: Array, peaks: Array, of_pixel: Array
  ) -> tuple[Array, Array]:
    through = of_pixel[:, None, None, None] * (
      constant + slope * _active(x, shift)
    )
    gradient = scale * inverse * (_to_peaks(cotangent, x, peaks) - through)
    # Of what is before ReLU, as XLA would have it: one form, the same bits.
    positive = x.astype(jnp.float32) + shift > 0
    gradient = jnp.where(positive, gradient, 0)
    return gradient.astype(x.dtype), _sum(_rows(gradient), channels)

  of_pixel = weights / (x.shape[1] * x.shape[2])
  gradient, sums = cache.once(weights, to_input, x, cotangent, peaks, of_pixel)
  return gradient, sums.sum(axis=0), None, to_scale, to_bias


relu_batch_norm.defvjp(_forward, _backward)


def _active(x: Array, shift: Array) -> Array:
  return jax.nn.relu(x.astype(jnp.float32) + shift)


def _normalised(
  x: Array, shift: Array, scale: Array, bias: Array, mean: Array, var: Array
) -> Array:
  factor = scale * lax.rsqrt(var + EPSILON)
  return _active(x, shift) * factor + (bias - mean * factor)


def _peaks(x: Array, scale: Array, window: int) -> Array:
  """Each window's largest input, its smallest where the scale is negative."""
  if window == 1:
    return x
  largest = pooling.reduce_windows(x, window, jnp.maximum)
  smallest = pooling.reduce_windows(x, window, jnp.minimum)
  return jnp.where(scale < 0, smallest, largest)


def _to_peaks(cotangent: Array, x: Array, peaks: Array) -> Array:
  """Max-pooling's gradient: [B, h, w, C] where x is its window's peak."""
  if x.shape == peaks.shape:
    return cotangent
  batch, rows, columns, channels = peaks.shape
  height, width = x.shape[1] // rows, x.shape[2] // columns
  windows = x.reshape(batch, rows, height, columns, width, channels)
  is_peak = windows == peaks[:, :, None, :, None]
  share = cotangent / sum(
    jnp.where(is_peak[:, :, i, :, j], 1.0, 0.0)
    for i in range(height)
    for j in range(width)
  )
  return jnp.where(is_peak, share[:, :, None, :, None], 0).reshape(x.shape)


def _rows(images: Array) -> Array:
  """[B, H, W, C] -> [B, H * W / n, n * C], about `_ROW` numbers a row."""
  batch, height, width, channels = images.shape
  pixels = height * width
  together = 1
  while 2 * together * channels <= _ROW and pixels % (2 * together) == 0:
    together *= 2
  return images.reshape(batch, -1, together * channels)


def _active_rows(images: Array, shift: Array) -> Array:
  rows = _rows(images)
  return _active(rows, jnp.tile(shift, rows.shape[-1] // len(shift)))


def _sum(rows: Array, channels: int) -> Array:
  """Sums rows [B, R, n * C] over an image's pixels; float32 [B, C]."""
  sums = rows.astype(jnp.float32).sum(axis=1)
  # Without the barrier XLA makes one sum of both, over short rows again.
  sums = lax.optimization_barrier(sums)
  return sums.reshape(len(rows), -1, channels).sum(axis=1)
