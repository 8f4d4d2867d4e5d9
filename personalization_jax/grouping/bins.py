"""How D_G's latents lie in memory for the search, and float32's error.

The arrays are made on the host (NumPy) and put on the devices.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import NamedSharding

# A bin's rows that were taken are the bits of one word.
_WORD = 32
# Coordinates added up in one fused operation.
_COORDINATES = 16


@dataclasses.dataclass(frozen=True)
class Bins:
  """How N rows of D coordinates are laid out for the search.

  Row r is the row `r % rows` of bin `r // rows`.

  Attributes:
    num_rows: N.
    rows: rows of a bin, at most 32.
    bins: bins of a block.
    blocks: blocks; the distances to one block are in memory at once.
  """

  num_rows: int
  rows: int
  bins: int
  blocks: int

  @classmethod
  def of(cls, num_rows: int, nearest: int, rows_per_block: int) -> Bins:
    """Bins that make the search for the nearest rows cheap.

    Args:
      num_rows: N.
      nearest: how many rows a sample takes.
      rows_per_block: about how many rows of D_G make a block.

    Returns:
      The layout.
    """
    # The search looks at N/rows bins and at (nearest x rows) of their rows:
    # the sum is least where both are equal.
    best = math.sqrt(num_rows / nearest)
    rows = min(max(2 ** round(math.log2(best)), 2), _WORD)
    total = math.ceil(num_rows / rows)
    blocks = math.ceil(total / max(rows_per_block // rows, 1))
    return cls(num_rows, rows, math.ceil(total / blocks), blocks)

  @property
  def total(self) -> int:
    """Bins of all blocks."""
    return self.bins * self.blocks

  def by_bin(self, rows: np.ndarray) -> np.ndarray:
    """Values of rows [N, ...] as [blocks * bins, rows, ...], 0 if padding."""
    padding = [(0, self.total * self.rows - self.num_rows)]
    padded = np.pad(rows, padding + [(0, 0)] * (rows.ndim - 1))
    return padded.reshape(self.total, self.rows, *rows.shape[1:])

  def by_block(self, rows: np.ndarray) -> np.ndarray:
    """Values of rows [N, ...] as [blocks, rows, ..., bins]."""
    binned = self.by_bin(rows)
    blocked = binned.reshape(self.blocks, self.bins, *binned.shape[1:])
    return np.ascontiguousarray(np.moveaxis(blocked, 1, -1))

  def nothing_taken(self) -> np.ndarray:
    """Words uint32 [blocks, bins] whose bits mark padding as taken."""
    padding = ~self.by_bin(np.ones(self.num_rows, bool))
    powers = np.uint32(1) << np.arange(self.rows, dtype=np.uint32)
    words = (padding * powers).sum(-1, dtype=np.uint32)
    return words.reshape(self.blocks, self.bins)


def coordinates(latents: np.ndarray) -> np.ndarray:
  """Latents [..., D] as [..., J, w], zeros where D is no multiple of w."""
  width = min(_COORDINATES, max(latents.shape[-1], 1))
  padding = -latents.shape[-1] % width
  padded = np.pad(latents, [(0, 0)] * (latents.ndim - 1) + [(0, padding)])
  return padded.reshape(*latents.shape[:-1], -1, width)


@dataclasses.dataclass(frozen=True)
class GlobalLatents:
  """D_G on a device, its rows in bins.

  Attributes:
    by_bin: float32 [blocks * bins, J, w, rows], the latents, their D
      coordinates in J parts of w.
    center: float32 [J, w], taken off before the matrix product, whose error
      grows with the distance from 0.
    centered: float32 [blocks, rows, J * w, bins].
    norms: float32 [blocks, rows, bins], lower bounds on the squared norms of
      `centered`; see `float32_error`.
    nothing_taken: uint32 [blocks, bins], a bit for each row that is padding.
  """

  by_bin: jax.Array
  center: jax.Array
  centered: jax.Array
  norms: jax.Array
  nothing_taken: jax.Array

  @classmethod
  def put(
    cls, layout: Bins, latents: np.ndarray, sharding: NamedSharding
  ) -> GlobalLatents:
    """Arranges latents float32 [N, D] and puts them on devices."""
    parts = coordinates(latents)
    center = parts.mean(0, dtype=np.float64).astype(np.float32)
    centered = (parts - center).reshape(len(parts), -1)
    norms = np.square(centered, dtype=np.float64).sum(-1)
    norms *= 1 - float32_error(centered.shape[1])
    # Those that overflow are used by nobody: see `samples`.
    norms = norms.clip(max=np.finfo(np.float32).max).astype(np.float32)
    arrays = (
      np.ascontiguousarray(np.moveaxis(layout.by_bin(parts), 1, -1)),
      center,
      layout.by_block(centered),
      layout.by_block(norms),
      layout.nothing_taken(),
    )
    return cls(*jax.device_put(arrays, sharding))


jax.tree_util.register_dataclass(GlobalLatents)


def float32_error(num_coordinates: int) -> float:
  """Bounds float32's error in a squared distance of two vectors.

  Of a sum of squared differences, this is the relative error. Of the expanded
  form |x|^2 - 2xy + |y|^2, it is the error relative to |x|^2 + |y|^2, with
  that of taking off a center from x and y.

  Args:
    num_coordinates: how many squares or products are added.

  Returns:
    At least twice what half a unit in the last place for each operation on
    the way adds up to.
  """
  return (num_coordinates + 16) * float(np.finfo(np.float32).eps)


def float32_underflow(num_coordinates: int) -> float:
  """Bounds what float32's squares and products lose below its range."""
  return 4 * num_coordinates * float(np.finfo(np.float32).tiny)
