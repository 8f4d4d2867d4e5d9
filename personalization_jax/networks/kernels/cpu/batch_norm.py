"""Batch normalisation after ReLU for a CPU: in blocks, and computed once (JAX).

Sums run over blocks of images that stay in a core's cache: the input comes from
memory once for all of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels import pooling
from personalization_jax.networks.kernels.cpu import cache
from personalization_jax.networks.kernels.normalised import (
  Saved,
  normalise,
  through_statistics,
)

# Sums over pixels run along rows of about so many numbers, whatever the number
# of channels: short rows leave a CPU's vector units idle.
_ROW = 256


def forward(
  x: Array, shift: Array, weights: Array, scale: Array, bias: Array, window: int
) -> tuple[tuple[Array, Array, Array], Saved]:
  """What `relu_batch_norm` gives, and what `backward` needs."""
  if x.dtype != jnp.float32:
    # What is kept is what is compared: no rounding of their own in each place.
    x = lax.optimization_barrier(x)
  of_pixel = weights / (x.shape[1] * x.shape[2])
  channels = len(shift)

  def moments(x: Array) -> tuple[Array, ...]:
    rows = _active_rows(x, shift)
    return _sum(rows, channels), _sum(rows * rows, channels)

  mean, square = (
    (of_pixel[:, None] * sums).sum(axis=0)
    for sums in cache.in_blocks(moments, x)
  )
  # As Flax's: the difference of float32 means, never below 0.
  variance = jnp.maximum(square - mean * mean, 0)
  peaks = _peaks_of(x, scale, window)
  out = cache.once(
    weights,
    lambda peaks, shift, *rest: normalise(_active(peaks, shift), *rest),
    *(peaks, shift, scale, bias, mean, variance),
  )
  above = jnp.zeros_like(mean)  # not needed here
  saved = Saved(x, peaks, shift, weights, scale, mean, variance, above)
  return (out.astype(x.dtype), mean, variance), saved


def backward(saved: Saved, cotangent: Array) -> tuple[Array, ...]:
  """The gradients of x, shift, scale and bias."""
  x, peaks, shift, weights, scale = saved[:5]
  cotangent = cotangent.astype(jnp.float32)
  channels = len(shift)

  def products(cotangent: Array, peaks: Array) -> tuple[Array, ...]:
    cotangent, rows = _rows(cotangent), _active_rows(peaks, shift)
    return _sum(cotangent, channels), _sum(cotangent * rows, channels)

  to_bias, by_active = (
    sums.sum(axis=0) for sums in cache.in_blocks(products, cotangent, peaks)
  )
  to_scale, inverse, slope, constant = through_statistics(
    saved, to_bias, by_active
  )

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
  return gradient, sums.sum(axis=0), to_scale, to_bias


def pool(x: Array, shift: Array, scale: Array, window: int) -> Array:
  """What evaluation normalises, float32."""
  return _active(_peaks_of(x, scale, window), shift)


def _active(x: Array, shift: Array) -> Array:
  """Float32, after the bias and ReLU."""
  return jax.nn.relu(x.astype(jnp.float32) + shift)


def _peaks_of(x: Array, scale: Array, window: int) -> Array:
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
