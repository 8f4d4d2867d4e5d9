"""What GPUs and TPUs want: XLA's own convolution, few passes over memory (JAX).

Training is bound by memory there. A layer's output is read once for its
statistics and its pooling, and once in the backward pass for all sums of it:
what flows to the convolution's bias follows from these sums, without another
pass. Pooling comes before normalisation, which rises or falls with its input by
the sign of its scale. The convolution's kernel is multiplied by that sign, so
that pooling has one maximum to look for: x is what such a kernel gives.

experiments/PERFORMANCE.md has what this gives, as compiled ahead of time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from personalization_jax.networks.kernels.normalised import (
  Saved,
  normalise,
  through_statistics,
)

_PIXELS = (0, 1, 2)


def convolve(images: Array, kernel: Array, groups: int = 1) -> Array:
  """[B, H, W, out channels], of channels that fall into groups."""
  found = lax.conv_general_dilated(
    images,
    kernel,
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )
  # Or a TPU's compiler keeps this one in float32, and copies it.
  return lax.optimization_barrier(found) if images.shape[3] == 1 else found


def gradients(
  images: Array, kernel: Array, cotangent: Array
) -> tuple[Array, Array]:
  """Of `convolve`, by images and kernel."""
  return jax.vjp(convolve, images, kernel)[1](cotangent)


# JAX's own rule for `vmap` makes of the kernel's gradient a convolution with
# windows as large as the images, whose operands are transposed in memory first.
# A GPU has a kernel for the gradients of one convolution in groups.
_under_vmap = jax.custom_batching.custom_vmap(gradients)
gradients_in_groups = jax.custom_jvp(_under_vmap)


@gradients_in_groups.defjvp
def _second_order(
  primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  """What has a rule of its own for `vmap` has no gradient."""
  return gradients_in_groups(*primals), jax.jvp(gradients, primals, tangents)[1]


@_under_vmap.def_vmap
def _of_groups(
  groups: int,
  in_batched: Sequence[bool],
  images: Array,
  kernel: Array,
  cotangent: Array,
) -> tuple[tuple[Array, Array], tuple[bool, bool]]:
  def merged(array: Array, is_batched: bool) -> Array:
    """[groups, ..., C] as [..., groups * C]."""
    if not is_batched:
      array = jnp.broadcast_to(array, (groups, *array.shape))
    array = jnp.moveaxis(array, 0, -2)
    return array.reshape(*array.shape[:-2], -1)

  def parted(array: Array) -> Array:
    array = array.reshape(*array.shape[:-1], groups, -1)
    return jnp.moveaxis(array, -2, 0)

  images, kernel, cotangent = map(
    merged, (images, kernel, cotangent), in_batched
  )
  convolve_all = functools.partial(convolve, groups=groups)
  found = jax.vjp(convolve_all, images, kernel)[1](cotangent)
  return (parted(found[0]), parted(found[1])), (True, True)


def forward(
  x: Array,
  shift: Array,
  weights: Array,
  scale: Array,
  bias: Array,
  window: int,
  *,
  reduces: bool = False,
) -> tuple[tuple[Array, Array, Array], Saved]:
  """What `relu_batch_norm` gives, and what the backward pass needs.

  Pools by a reduction over windows, or by reshape and maximum.
  """
  sign = _sign(scale, window)
  peaks = x
  if window > 1:
    peaks = _max_pool(x, window) if reduces else _windows(x, window).max((2, 4))
  active = _active(x, sign, shift)
  of_pixel = _of_pixel(weights, x)
  mean = (of_pixel * active).sum(_PIXELS)
  square = (of_pixel * active * active).sum(_PIXELS)
  above = (of_pixel * (active > 0)).sum(_PIXELS)
  # As Flax's: the difference of float32 means, never below 0.
  variance = jnp.maximum(square - mean * mean, 0)
  out = normalise(_active(peaks, sign, shift), scale, bias, mean, variance)
  saved = Saved(x, peaks, shift, weights, scale, mean, variance, above)
  return (out.astype(x.dtype), mean, variance), saved


def backward(
  saved: Saved, cotangent: Array, *, scatters: bool = False
) -> tuple[Array, ...]:
  """The gradients of x, shift, scale and bias.

  Peaks that tie share evenly; where it scatters the first takes all.
  """
  if not scatters:
    # Or comparisons move into the forward pass, and what they give is kept.
    peaks, shift = lax.optimization_barrier((saved.peaks, saved.shift))
    saved = saved._replace(peaks=peaks, shift=shift)
  x, peaks, shift, weights, scale, mean, _, above = saved
  window = x.shape[1] // peaks.shape[1]
  sign = _sign(scale, window)
  pooled = cotangent.astype(jnp.float32)
  picked = _active(peaks, sign, shift)
  to_bias = pooled.sum(_PIXELS)
  by_active = (pooled * picked).sum(_PIXELS)
  by_above = jnp.where(picked > 0, pooled, 0).sum(_PIXELS)
  to_scale, inverse, slope, constant = through_statistics(
    saved, to_bias, by_active
  )
  factor = scale * inverse
  # The sum of what flows to all pixels above 0, whose mean is the mean of all.
  to_shift = factor * (by_above - constant * above - slope * mean)
  active = _active(x, sign, shift)
  through = _of_pixel(weights, x) * (constant + slope * active)
  direct = pooled
  if window > 1 and scatters:
    pool = functools.partial(_max_pool, window=window)
    direct = jax.vjp(pool, x)[1](cotangent.astype(x.dtype))[0]
  elif window > 1:
    direct = _to_peaks(cotangent, x, peaks, window)
  direct = direct.astype(jnp.float32)
  to_x = jnp.where(active > 0, sign * factor * (direct - through), 0)
  return to_x.astype(x.dtype), to_shift, to_scale, to_bias


def pool(x: Array, shift: Array, scale: Array, window: int) -> Array:
  """What evaluation normalises, float32."""
  return _active(_max_pool(x, window), _sign(scale, window), shift)


def kernel_sign(scale: Array) -> Array:
  """[C], what a kernel before a pooling is multiplied by."""
  return _sign(scale, window=2)


def _sign(scale: Array, window: int) -> Array:
  """-1 where normalisation falls with its input, and pooling has to know."""
  return jnp.where((scale < 0) & (window > 1), -1.0, 1.0)


def _active(x: Array, sign: Array, shift: Array) -> Array:
  return jax.nn.relu(x.astype(jnp.float32) * sign + shift)


def _of_pixel(weights: Array, x: Array) -> Array:
  return (weights / (x.shape[1] * x.shape[2]))[:, None, None, None]


def _max_pool(x: Array, window: int) -> Array:
  return nn.max_pool(x, (window, window), (window, window))


def _windows(x: Array, window: int) -> Array:
  """[B, H / window, window, W / window, window, C]."""
  batch, height, width, channels = x.shape
  return x.reshape(
    batch, height // window, window, width // window, window, channels
  )


def _to_peaks(cotangent: Array, x: Array, peaks: Array, window: int) -> Array:
  """The cotangent where x is its window's peak, shared where several are."""
  is_peak = _windows(x, window) == peaks[:, :, None, :, None]
  count = is_peak.sum((2, 4), keepdims=True, dtype=jnp.float32)
  share = cotangent.astype(jnp.float32)[:, :, None, :, None] / count
  return jnp.where(is_peak, share, 0).reshape(x.shape)
