"""Convolution of few channels, neighbouring pixels taken together (JAX).

With few channels a convolution's inner products are short, and a CPU's vector
units idle. Here n neighbours of a row are one pixel of n times the channels: a
reshape without a copy. The kernel becomes a larger one that holds the original
n times, each a column further on, with zeros between: some multiplications
with zero, for products that fill the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels.cpu import blocked
from personalization_jax.networks.kernels.cpu.blocked import FEW_CHANNELS

# Of few channels a superpixel's neighbourhood is copied out, and the
# convolution is one matrix product; of more it stays a convolution.
# Pixels to one of few channels, and to one of more.
_MANY, _TWO = 4, 2
# Superpixels that one of the weight gradient's products sums over.
_GROUP = 256
# Images a step of the weight gradient's loop expands.
_BLOCK = 8


def fits(kernel_shape: Sequence[int], image_shape: Sequence[int]) -> bool:
  """Whether pixels of such images can be taken together.

  Their number must divide the width, and the kernel must reach no farther than
  the next superpixel.
  """
  together = _together(kernel_shape)
  return image_shape[2] % together == 0 and 1 < kernel_shape[1] <= together + 1


def convolve(images: Array, kernel: Array) -> Array:
  """[B, H, W, out channels], of the dtype of images; the kernel `fits`."""
  together = _together(kernel.shape)
  wide = _widened(kernel, together)
  if kernel.shape[2] <= FEW_CHANNELS:
    patches = _neighbourhoods(images, kernel.shape)
    result = jnp.matmul(
      patches,
      wide.reshape(patches.shape[-1], -1),
      preferred_element_type=jnp.promote_types(images.dtype, jnp.float32),
    ).astype(images.dtype)
  else:
    kh, span, inputs = wide.shape[:3]
    result = lax.conv_general_dilated(
      _superpixels(images, kernel.shape),
      wide.reshape(kh, span // together, together * inputs, -1),
      (1, 1),
      ((kh // 2, kh // 2), (0, 0)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
  return result.reshape(*images.shape[:3], kernel.shape[-1])


def weight_gradient(images: Array, kernel: Array, cotangent: Array) -> Array:
  """The wide kernel's, its copies added up; sums are float32."""
  kh, kw, inputs, outputs = kernel.shape
  together = _together(kernel.shape)
  if inputs <= FEW_CHANNELS:
    total = blocked.sum_of_groups(
      _neighbourhoods(images, kernel.shape),
      cotangent.reshape(-1, together * outputs),
      _GROUP,
      jnp.promote_types(kernel.dtype, jnp.float32),
    )
  else:
    total = _of_blocks(images, kernel, cotangent)
  total = total.reshape(kh, together + kw - 1, inputs, together, outputs)
  parts = [total[:, i : i + kw, :, i] for i in range(together)]
  return sum(parts[1:], parts[0]).astype(kernel.dtype)


def _together(kernel_shape: Sequence[int]) -> int:
  return _MANY if kernel_shape[2] <= FEW_CHANNELS else _TWO


def _widened(kernel: Array, together: int) -> Array:
  """[kh, kw, I, O] -> [kh, n + kw - 1, I, n, O], a copy for each pixel."""
  copies = [
    jnp.pad(kernel, ((0, 0), (i, together - 1 - i), (0, 0), (0, 0)))
    for i in range(together)
  ]
  return jnp.stack(copies, axis=3)


def _superpixels(
  images: Array, kernel_shape: Sequence[int], rows: int = 0
) -> Array:
  """Images with borders of zeros (and `rows` of them above and below).

  The kernel's reach decides where superpixels begin: [B, H, W / n + 1, n * C].
  """
  kw, together = kernel_shape[1], _together(kernel_shape)
  border = (kw // 2, together - kw // 2)
  padded = jnp.pad(images, ((0, 0), (rows, rows), border, (0, 0)))
  batch, height, width, channels = padded.shape
  return padded.reshape(batch, height, width // together, together * channels)


def _neighbourhoods(images: Array, kernel_shape: Sequence[int]) -> Array:
  """What each superpixel's outputs depend on: [B, H, W / n, K]."""
  kh, kw, channels, _ = kernel_shape
  height = images.shape[1]
  wide = _superpixels(images, kernel_shape, kh // 2)
  after = wide[:, :, 1:, : (kw - 1) * channels]
  both = jnp.concatenate([wide[:, :, :-1], after], axis=-1)
  return jnp.concatenate([both[:, i : i + height] for i in range(kh)], axis=-1)


def _of_blocks(images: Array, kernel: Array, cotangent: Array) -> Array:
  """The wide kernel's gradient, block by block of images."""
  kh = kernel.shape[0]
  together = _together(kernel.shape)
  height, across = images.shape[1], images.shape[2] // together

  def patches(block: Array) -> Array:
    wide = _superpixels(block, kernel.shape, kh // 2)
    taps = [
      wide[:, i : i + height, j : j + across]
      for i in range(kh)
      for j in range(2)
    ]
    return jnp.concatenate(taps, axis=-1)

  # Of the kernel's own values times zero: it varies over a mesh as they do.
  start = jnp.zeros_like(
    jnp.tile(kernel[0, 0].T, (together, kh * together * 2)),
    dtype=jnp.promote_types(kernel.dtype, jnp.float32),
  )
  total = blocked.sum_of_blocks(images, cotangent, patches, start, _BLOCK)
  return total.T
