"""A batch of images in blocks that stay in a core's cache (JAX)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def split(array: Array, size: int) -> Array:
  """Cuts a batch into blocks.

  Args:
    array: [B, ...].
    size: of a block.

  Returns:
    [ceil(B / size), size, ...]; what the last block lacks is zeros.
  """
  missing = -array.shape[0] % size
  if missing:
    padding = ((0, missing), *((0, 0) for _ in array.shape[1:]))
    array = jnp.pad(array, padding)
  return array.reshape(-1, size, *array.shape[1:])
