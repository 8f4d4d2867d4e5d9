"""A convolution's gradient by its kernel, as sums of matrix products (JAX).

The sum runs over all pixels of all images. XLA divides a product's long sum
among threads, whose number then decides the last bits: `grouped` and `blocked`
leave it no such sum, `shifted` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels import image_blocks

# Images a step of `blocked` expands: few enough that their patches stay in a
# core's cache, enough to make the matrix product worth its start.
_BLOCK = 4
# Pixels that one product of `grouped` sums over.
_GROUP = 1024


def patches(images: Array, kernel_shape: Sequence[int]) -> Array:
  """What a kernel sees at each pixel, zeros beyond the border.

  Args:
    images: [B, H, W, channels].
    kernel_shape: [kh, kw, ...].

  Returns:
    [B, H, W, kh * kw * channels].
  """
  if tuple(kernel_shape[:2]) == (1, 1):
    return images
  return jnp.concatenate(_windows(images, kernel_shape), axis=-1)


def shifted(images: Array, kernel: Array, cotangent: Array) -> Array:
  """One matrix product for each tap of the kernel.

  Args:
    images: float [B, H, W, in channels].
    kernel: [kh, kw, in channels, out channels]; only its shape and dtype
      matter.
    cotangent: [B, H, W, out channels].

  Returns:
    As the kernel, summed in float32 at least.
  """
  dtype = _sums(kernel)
  taps = [
    jnp.matmul(
      window.reshape(-1, window.shape[-1]).T,
      cotangent.reshape(-1, cotangent.shape[-1]),
      preferred_element_type=dtype,
    )
    for window in _windows(images, kernel.shape)
  ]
  return jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)


def grouped(images: Array, kernel: Array, cotangent: Array) -> Array:
  """One matrix product for each group of rows: for few channels.

  Args:
    images: as for `shifted`.
    kernel: as for `shifted`.
    cotangent: as for `shifted`.

  Returns:
    As `shifted`.
  """
  height, width = images.shape[1:3]
  rows = max(
    [
      n for n in range(2, height + 1) if height % n == 0 and n * width <= _GROUP
    ],
    default=1,
  )
  seen = patches(images, kernel.shape)
  total = sum_of_groups(seen, cotangent, rows * width, _sums(kernel))
  return total.reshape(kernel.shape).astype(kernel.dtype)


def blocked(images: Array, kernel: Array, cotangent: Array) -> Array:
  """One matrix product for each block of images, over the block's patches.

  Args:
    images: as for `shifted`.
    kernel: as for `shifted`.
    cotangent: as for `shifted`.

  Returns:
    As `shifted`.
  """
  flat = kernel.reshape(-1, kernel.shape[-1]).T
  total = sum_of_blocks(
    images,
    cotangent,
    lambda block: patches(block, kernel.shape),
    jnp.zeros_like(flat, dtype=_sums(kernel)),
    _BLOCK,
  )
  return total.T.reshape(kernel.shape).astype(kernel.dtype)


def sum_of_groups(
  seen: Array, cotangent: Array, size: int, dtype: jnp.dtype
) -> Array:
  """patches^T cotangent, group by group of pixels, all groups in one batch.

  Args:
    seen: patches [..., K].
    cotangent: [..., outputs], of as many pixels.
    size: pixels of a group.
    dtype: of the sums.

  Returns:
    [K, outputs] of `dtype`.
  """

  def groups(array: Array) -> Array:
    return image_blocks.split(array.reshape(-1, array.shape[-1]), size)

  return jnp.einsum(
    "gpi,gpo->gio",
    groups(seen),
    groups(cotangent),
    preferred_element_type=dtype,
  ).sum(axis=0)


def sum_of_blocks(
  images: Array,
  cotangent: Array,
  patches_of: Callable[[Array], Array],
  start: Array,
  size: int,
) -> Array:
  """cotangent^T patches, block by block of images, one after another.

  Args:
    images: [B, H, W, in channels].
    cotangent: [B, ...], as many numbers of each image as its pixels times
      `outputs`.
    patches_of: from images to what is seen at their pixels, [..., K].
    start: zeros [outputs, K] of the sum's dtype; inside `shard_map` they vary
      over the mesh as the result will.
    size: images of a block.

  Returns:
    [outputs, K].
  """

  def add_block(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
    some_images, some_cotangent = block
    # The smaller factor is turned in memory, not within the product, which runs
    # a third faster so and isn't divided among threads. Without the barrier XLA
    # would undo it.
    turned = lax.optimization_barrier(some_cotangent.reshape(-1, len(start)).T)
    seen = patches_of(some_images)
    product = jnp.matmul(
      turned,
      seen.reshape(-1, seen.shape[-1]),
      preferred_element_type=total.dtype,
    )
    return total + product, None

  # Images that the last block lacks are zero, and so is what they add.
  blocks = (
    image_blocks.split(images, size),
    image_blocks.split(cotangent, size),
  )
  return lax.scan(add_block, start, blocks)[0]


def _windows(images: Array, kernel_shape: Sequence[int]) -> list[Array]:
  """Zero-padded images, shifted once for each tap of the kernel."""
  kh, kw = kernel_shape[:2]
  _, height, width, _ = images.shape
  rows, columns = (kh // 2, kh // 2), (kw // 2, kw // 2)
  padded = jnp.pad(images, ((0, 0), rows, columns, (0, 0)))
  return [
    padded[:, i : i + height, j : j + width]
    for i in range(kh)
    for j in range(kw)
  ]


def _sums(kernel: Array) -> jnp.dtype:
  return jnp.promote_types(kernel.dtype, jnp.float32)
