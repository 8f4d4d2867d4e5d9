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
  border = [(0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)]
  return windows(jnp.pad(images, border), kh, kw)


def windows(padded: Array, kh: int, kw: int) -> Array:
  """[B, H, W, C] as [B, H - kh + 1, W - kw + 1, kh * kw * C]."""
  height, width = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
  shifted = [
    padded[:, i : i + height, j : j + width]
    for i in range(kh)
    for j in range(kw)
  ]
  return jnp.concatenate(shifted, axis=-1)


def convolve(images: Array, kernel: Array) -> Array:
  """[B, H, W, out channels]; sums, and those of its gradients, are float32."""
  product = jnp.matmul(
    patches(images, kernel.shape),
    kernel.reshape(-1, kernel.shape[-1]),
    preferred_element_type=jnp.promote_types(images.dtype, jnp.float32),
  )
  return product.astype(images.dtype)
