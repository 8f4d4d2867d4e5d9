"""Batches in blocks that stay in a core's cache, and results kept (JAX)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

# Arrays of more numbers than the first are gone through in blocks of about so
# many as the second: a quarter of a core's cache of 1 MiB.
_MANY, _BLOCK = 2**19, 2**16


def split(array: Array, size: int) -> Array:
  """[B, ...] as [ceil(B / size), size, ...]; the last block ends in zeros."""
  if missing := -array.shape[0] % size:
    array = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
  return array.reshape(-1, size, *array.shape[1:])


def in_blocks(
  function: Callable[..., tuple[Array, ...]], *arrays: Array
) -> tuple[Array, ...]:
  """Calls a function from [B, ...] to [B, ...] in blocks of B."""
  batch, numbers = len(arrays[0]), arrays[0].size
  if numbers <= _MANY:
    return function(*arrays)
  size = max(1, _BLOCK * batch // numbers)
  blocks = tuple(split(array, size) for array in arrays)
  results = lax.map(lambda block: function(*block), blocks)
  return tuple(
    result.reshape(-1, *result.shape[2:])[:batch] for result in results
  )


def once(weights: Array, function: Callable[..., Any], *arrays: Array) -> Any:
  """Calls a function whose results are to be computed once.

  XLA computes elementwise results anew within whatever reads them, such as the
  padding before a convolution, which is slow. It doesn't look into a branch,
  and doesn't know that `weights` are 0 or more.
  """
  return lax.cond(
    weights.sum() >= 0,
    function,
    lambda *arrays: jax.tree.map(jnp.zeros_like, function(*arrays)),
    *arrays,
  )
