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
from personalization_jax.networks.kernels.cpu.patches import windows

# Pixels of a superpixel, of few channels (its neighbourhood is copied out and
# the convolution one matrix product) and of more (it stays a convolution).
_MANY, _TWO = 4, 2
# Superpixels that one of the weight gradient's products sums over.
_GROUP = 256
# Images a step of the weight gradient's loop expands.
_BLOCK = 8


def fits(kernel_shape: Sequence[int], image_shape: Sequence[int]) -> bool:
  """Whether pixels can be taken together: n divides the width of images.

  The kernel must reach no farther than the next superpixel.
  """
  together = _together(kernel_shape)
  return image_shape[2] % together == 0 and 1 < kernel_shape[1] <= together + 1


def convolve(images: Array, kernel: Array) -> Array:
  """[B, H, W, out channels], of the dtype of images; the kernel `fits`."""
  together = _together(kernel.shape)
  copies = [
    jnp.pad(kernel, ((0, 0), (i, together - 1 - i), (0, 0), (0, 0)))
    for i in range(together)
  ]
  wide = jnp.stack(copies, axis=3)  # [kh, kw + n - 1, inputs, n, outputs]
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
  dtype = jnp.promote_types(kernel.dtype, jnp.float32)
  if inputs <= FEW_CHANNELS:
    total = blocked.sum_of_groups(
      _neighbourhoods(images, kernel.shape),
      cotangent.reshape(-1, together * outputs),
      _GROUP,
      dtype,
    )
  else:
    # Of the kernel's own values times zero: it varies over a mesh as they do.
    start = jnp.zeros_like(
      jnp.tile(kernel[0, 0].T, (together, kh * together * 2)), dtype=dtype
    )
    total = blocked.sum_of_blocks(
      images,
      cotangent,
      lambda block: windows(_superpixels(block, kernel.shape, kh // 2), kh, 2),
      start,
      _BLOCK,
    ).T
  total = total.reshape(kh, together + kw - 1, inputs, together, outputs)
  copies = [total[:, i : i + kw, :, i] for i in range(together)]
  return sum(copies[1:], copies[0]).astype(kernel.dtype)


def _together(kernel_shape: Sequence[int]) -> int:
  return _MANY if kernel_shape[2] <= FEW_CHANNELS else _TWO


def _superpixels(
  images: Array, kernel_shape: Sequence[int], rows: int = 0
) -> Array:
  """Images between zeros, and `rows` above and below: [B, H, W / n + 1, n * C].

  The kernel's reach decides where superpixels begin.
  """
  kw, together = kernel_shape[1], _together(kernel_shape)
  border = (kw // 2, together - kw // 2)
  padded = jnp.pad(images, ((0, 0), (rows, rows), border, (0, 0)))
  batch, height, width, channels = padded.shape
  return padded.reshape(batch, height, width // together, together * channels)


def _neighbourhoods(images: Array, kernel_shape: Sequence[int]) -> Array:
  """What each superpixel's outputs depend on: [B, H, W / n, K]."""
  kh, kw, channels, _ = kernel_shape
  wide = _superpixels(images, kernel_shape, kh // 2)
  after = wide[:, :, 1:, : (kw - 1) * channels]
  both = jnp.concatenate([wide[:, :, :-1], after], axis=-1)
  return windows(both, kh, 1)
