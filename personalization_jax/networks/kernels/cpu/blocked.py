"""XLA's own convolution, or patches, with a weight gradient in blocks (JAX).

The weight gradient sums over all pixels of all images. XLA divides a product's
long sum among threads, whose number then decides the last bits; here it gets
no such sum.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels.cpu import cache, patches

# Up to this many input channels XLA's own convolution idles.
FEW_CHANNELS = 4
# Images that a step of `weight_gradient` expands: few enough that their patches
# stay in a core's cache, enough to make the matrix product worth its start.
_BLOCK = 4
# Pixels that one product sums over where channels are few.
_GROUP = 1024


def convolve(images: Array, kernel: Array) -> Array:
  """[B, H, W, out channels], of the dtype of images."""
  if kernel.shape[:2] == (1, 1) or kernel.shape[2] <= FEW_CHANNELS:
    return patches.convolve(images, kernel)
  return lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def weight_gradient(images: Array, kernel: Array, cotangent: Array) -> Array:
  """As the kernel, of which only shape and dtype matter; sums are float32."""
  dtype = jnp.promote_types(kernel.dtype, jnp.float32)
  if kernel.shape[2] <= FEW_CHANNELS:
    height, width = images.shape[1:3]
    rows = max(
      n
      for n in range(1, height + 1)
      if n == 1 or (height % n == 0 and n * width <= _GROUP)
    )
    seen = patches.patches(images, kernel.shape)
    total = sum_of_groups(seen, cotangent, rows * width, dtype)
  else:
    total = sum_of_blocks(
      images,
      cotangent,
      lambda block: patches.patches(block, kernel.shape),
      jnp.zeros_like(kernel.reshape(-1, kernel.shape[-1]).T, dtype=dtype),
      _BLOCK,
    ).T
  return total.reshape(kernel.shape).astype(kernel.dtype)


def sum_of_groups(
  seen: Array, cotangent: Array, size: int, dtype: jnp.dtype
) -> Array:
  """patches^T cotangent [K, outputs], by groups of `size` pixels in a batch."""
  groups = (
    cache.split(array.reshape(-1, array.shape[-1]), size)
    for array in (seen, cotangent)
  )
  products = jnp.einsum("gpi,gpo->gio", *groups, preferred_element_type=dtype)
  return products.sum(axis=0)


def sum_of_blocks(
  images: Array,
  cotangent: Array,
  patches_of: Callable[[Array], Array],
  start: Array,
  size: int,
) -> Array:
  """cotangent^T patches [outputs, K], by blocks of `size` images in turn.

  `patches_of` images are what is seen at their pixels, [..., K]. The sum starts
  with zeros that vary over a mesh as it will inside `shard_map`.
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
  pairs = (cache.split(images, size), cache.split(cotangent, size))
  return lax.scan(add_block, start, pairs)[0]
