"""A convolution as one matrix product over explicit patches (JAX)."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array


def patches(images: Array, kernel_shape: Sequence[int]) -> Array:
  """What a kernel sees at each pixel: [B, H, W, kh * kw * channels]."""
  kh, kw = kernel_shape[:2]
  if (kh, kw) == (1, 1):
    return images
  _, height, width, _ = images.shape
  rows, columns = (kh // 2, kh // 2), (kw // 2, kw // 2)
  padded = jnp.pad(images, ((0, 0), rows, columns, (0, 0)))
  windows = [
    padded[:, i : i + height, j : j + width]
    for i in range(kh)
    for j in range(kw)
  ]
  return jnp.concatenate(windows, axis=-1)


def convolve(images: Array, kernel: Array) -> Array:
  """[B, H, W, out channels]; sums, and those of its gradients, are float32."""
  product = jnp.matmul(
    patches(images, kernel.shape),
    kernel.reshape(-1, kernel.shape[-1]),
    preferred_element_type=jnp.promote_types(images.dtype, jnp.float32),
  )
  return product.astype(images.dtype)
