"""Algorithm 1's lines 13-15 for many individuals at once (JAX, on devices).

Distances are squared L2 norms of float32 latents, in float64: rows that differ
by less than float32 can tell are still put in the right order, so a group
depends on nothing but the latents.

Finding the L nearest of N rows needs no sort of N numbers: D_G is cut into
*bins* of consecutive rows, and the L nearest rows lie in the L bins whose
nearest rows are nearest. The fast search finds those bins by a float32 matrix
product, and bounds on its error prove that no other bin matters. Individuals
for whom the proof fails (by ties, mostly) are searched for in float64.

Axes: I individuals; S samples; D coordinates; N rows of D_G, in blocks (whose
distances are in memory at once) of bins of rows. *Taken* are the bits of words
uint32 [blocks, I, bins], one for each row of a bin.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from personalization_jax.datasets.splits import PADDING

# Candidates beyond those a sample takes: the first that it leaves must be
# farther than float32's error, and ties of a few rows shouldn't hide it.
_SPARE = 4
# Rows of a block, about.
_ROWS_PER_BLOCK = 2**15
# The most rows of a bin: those that were taken are the bits of one word.
_WORD = 32
# Coordinates added up in one fused operation.
_COORDINATES = 16


class GlobalLatents(NamedTuple):
  """D_G on devices; row r is the row `r % rows` of bin `r // rows`."""

  by_bin: Array  # float32 [blocks * bins, D, rows], the latents
  # Float32 [D], taken off before the matrix product, whose error grows with the
  # distance from 0.
  center: Array
  centered: Array  # float32 [blocks, rows, D, bins]
  # Float32 [blocks, rows, bins], lower bounds on the squared norms of
  # `centered`; see `_float32_error`.
  norms: Array
  nothing_taken: Array  # uint32 [blocks, bins], a bit for each padding row

  @classmethod
  def put(cls, latents: np.ndarray, nearest: int, mesh: Mesh) -> GlobalLatents:
    """Latents float32 [N, D] laid out for samples that take `nearest` rows."""
    count = len(latents)
    # The search looks at N/rows bins and at (nearest x rows) of their rows:
    # the sum is least where both are equal.
    best = math.sqrt(count / nearest)
    rows = min(max(2 ** round(math.log2(best)), 2), _WORD)
    total = math.ceil(count / rows)
    blocks = math.ceil(total / max(_ROWS_PER_BLOCK // rows, 1))
    bins = math.ceil(total / blocks)

    def by_bin(values: np.ndarray) -> np.ndarray:
      """[N, ...] as [blocks * bins, rows, ...], 0 if padding."""
      padding = [(0, blocks * bins * rows - count)]
      padded = np.pad(values, padding + [(0, 0)] * (values.ndim - 1))
      return padded.reshape(-1, rows, *values.shape[1:])

    def by_block(values: np.ndarray) -> np.ndarray:
      """[N, ...] as [blocks, rows, ..., bins]."""
      binned = by_bin(values).reshape(blocks, bins, rows, *values.shape[1:])
      return np.ascontiguousarray(np.moveaxis(binned, 1, -1))

    center = latents.mean(0, dtype=np.float64).astype(np.float32)
    centered = latents - center
    norms = np.square(centered, dtype=np.float64).sum(-1)
    norms *= 1 - _float32_error(centered.shape[1])
    # Those that overflow are unused: `single_sample` then searches exactly.
    norms = norms.clip(max=np.finfo(np.float32).max).astype(np.float32)
    powers = np.uint32(1) << np.arange(rows, dtype=np.uint32)
    padding = ~by_bin(np.ones(count, bool))
    arrays = (
      np.ascontiguousarray(np.moveaxis(by_bin(latents), 1, -1)),
      center,
      by_block(centered),
      by_block(norms),
      (padding * powers).sum(-1, dtype=np.uint32).reshape(blocks, bins),
    )
    return cls(*jax.device_put(arrays, NamedSharding(mesh, P())))


def take(
  data: GlobalLatents,
  samples: np.ndarray,
  num_samples: np.ndarray,
  total: int,
  nearest: int,
  mesh: Mesh,
  *,
  exactly: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Groups of `total` rows for individuals spread over a mesh of one axis.

  Samples are float32 [I, S, D], I a multiple of the mesh's size; `num_samples`
  [I] of the S are no padding, and one takes at most `nearest` rows. Gives rows
  of D_G, int32 [I, S, nearest], -1 where a sample took fewer; and bool [I],
  whose are certainly the nearest: everybody's if `exactly`, in float64 (slow).
  """
  (axis,) = mesh.axis_names
  by_sample = np.ascontiguousarray(samples.transpose(1, 2, 0))
  placed = jax.device_put(
    (by_sample, num_samples),
    (NamedSharding(mesh, P(None, None, axis)), NamedSharding(mesh, P(axis))),
  )
  with jax.enable_x64(True):
    found = _program(mesh, nearest, exactly)(*placed, np.int32(total), data)
  rows, proven = map(np.asarray, found)
  return rows, proven


@functools.lru_cache
def _program(mesh: Mesh, nearest: int, exactly: bool) -> jax.stages.Wrapped:
  """`_groups` on all devices."""
  (axis,) = mesh.axis_names
  groups = jax.shard_map(
    functools.partial(_groups, nearest=nearest, exactly=exactly),
    mesh=mesh,
    in_specs=(P(None, None, axis), P(axis), P(), P()),
    out_specs=P(axis),
    # A loop's carry starts out equal on all devices and ends up different.
    check_vma=False,
  )
  return jax.jit(groups)


def _groups(
  samples: Array,
  num_samples: Array,
  total: Array,
  data: GlobalLatents,
  nearest: int,
  exactly: bool,
) -> tuple[Array, Array]:
  """`take` on one device, samples [S, D, I]: one after another takes."""
  num_individuals = len(num_samples)
  blocks, bins = data.nothing_taken.shape
  rows_of_bin = data.by_bin.shape[-1]
  people = jnp.arange(num_individuals, dtype=jnp.int32)[:, None]
  each = jnp.maximum(num_samples, 1)
  search = _search_exactly if exactly else _search

  def step(
    index: Array, carry: tuple[Array, Array, Array]
  ) -> tuple[Array, Array, Array]:
    taken, groups, proven = carry
    counts = total // each + (index < total % each)
    counts = jnp.where(index < num_samples, counts, 0).astype(jnp.int32)
    rows, certain = search(samples[index], counts, data, taken, nearest)
    wanted = jnp.arange(nearest, dtype=jnp.int32) < counts[:, None]
    # No row is taken twice, so adding its bit sets it.
    bit = jnp.uint32(1) << (rows % rows_of_bin).astype(jnp.uint32)
    bit = jnp.where(wanted, bit, jnp.uint32(0))
    bin_ = rows // rows_of_bin
    taken = taken.at[bin_ // bins, people, bin_ % bins].add(bit)
    rows = jnp.where(wanted, rows, PADDING)
    groups = jax.lax.dynamic_update_index_in_dim(groups, rows, index, axis=1)
    return taken, groups, proven & certain

  taken = jnp.broadcast_to(
    data.nothing_taken[:, None], (blocks, num_individuals, bins)
  )
  shape = (num_individuals, len(samples), nearest)
  groups = jnp.full(shape, PADDING, jnp.int32)
  proven = jnp.full(num_individuals, True)
  last = jnp.max(num_samples).astype(jnp.int32)
  _, groups, proven = jax.lax.fori_loop(
    jnp.int32(0), last, step, (taken, groups, proven)
  )
  return groups, proven


def _search_exactly(
  x: Array, counts: Array, data: GlobalLatents, taken: Array, nearest: int
) -> tuple[Array, Array]:
  """As `_search`, in float64 throughout: the definition."""
  blocks, bins = data.nothing_taken.shape
  by_block = data.by_bin.reshape(blocks, bins, *data.by_bin.shape[1:])
  chosen, _ = _nearest_bins(
    lambda y: _squared_distances(x[..., None], y[:, None], jnp.float64),
    (jnp.swapaxes(by_block, 1, 3),),
    taken,
    min(nearest, len(data.by_bin)),
  )
  rows, distances = _rows_of_bins(x, chosen, data.by_bin, taken, jnp.float64)
  _, rows = jax.lax.sort((distances, rows), num_keys=2)
  return rows[:, :nearest], jnp.full(counts.shape, True)


def _search(
  x: Array, counts: Array, data: GlobalLatents, taken: Array, nearest: int
) -> tuple[Array, Array]:
  """The nearest free rows of one sample [D, I] of each individual.

  Gives rows int32 [I, nearest], nearest first, and bool [I], whether the first
  `counts` of them are certainly the nearest in this order.
  """
  total, num_coordinates, rows_of_bin = data.by_bin.shape
  error = _float32_error(num_coordinates)
  # What float32's squares and products lose below its range.
  underflow = 4 * num_coordinates * float(np.finfo(np.float32).tiny)
  centered = x - data.center[:, None]

  def lower_bounds(y: Array, norms: Array) -> Array:
    # |x|^2 is the same for all rows: it is added to the last bin's alone.
    product = jnp.matmul((2 * centered).T, y, precision="highest")
    return norms - product

  num_bins = min(nearest + _SPARE, total)
  chosen, bounds = _nearest_bins(
    lower_bounds, (data.centered, data.norms), taken, num_bins
  )
  rows, rough = _rows_of_bins(x, chosen, data.by_bin, taken, jnp.float32)
  listed = min(nearest + _SPARE, num_bins * rows_of_bin)
  negative, best = jax.lax.top_k(-rough, listed)
  rows = jnp.take_along_axis(rows, best, axis=1)
  points = data.by_bin[rows // rows_of_bin, :, rows % rows_of_bin]
  distances = _squared_distances(
    x[..., None], jnp.moveaxis(points, 2, 0), jnp.float64
  )
  distances = jnp.where(negative == -jnp.inf, jnp.inf, distances)
  distances, rows = jax.lax.sort((distances, rows), num_keys=2)

  farthest = distances[jnp.arange(len(counts)), counts - 1]
  bound = jnp.full(counts.shape, jnp.inf, jnp.float64)
  if num_bins < total:
    norm = (centered.astype(jnp.float64) ** 2).sum(0)
    bound = bounds.max(1).astype(jnp.float64) + norm * (1 - error)
  if listed < num_bins * rows_of_bin:
    # The last value by a maximum: XLA on CPUs turns top_k into a full sort,
    # many times slower, if a slice takes part of its answer.
    unlisted = (-negative).max(1).astype(jnp.float64) * (1 - error)
    bound = jnp.minimum(bound, unlisted)
  return rows[:, :nearest], (counts == 0) | (farthest < bound - underflow)


def _nearest_bins(
  distances: Callable[..., Array],
  points: tuple[Array, ...],
  taken: Array,
  num_bins: int,
) -> tuple[Array, Array]:
  """The L = `num_bins` bins whose nearest free rows are nearest.

  The L nearest rows, ordered by distance and then by row, are in these bins.
  Proof: let r be one of them and its bin not chosen. Each chosen bin has a
  nearest row that comes before r, since equally near bins are chosen in order
  and a lower bin has lower rows; so L rows come before r.

  `distances` [I, bins] are of one row of all bins of a block: of `points`
  [blocks, rows, ...] without the first two axes. Gives bins int32 [I, L] and
  the distances of their nearest free rows, infinite where none is free; both by
  distance, then by bin.
  """
  shifts = jnp.arange(points[0].shape[1], dtype=jnp.uint32)

  def minima_of_block(block: tuple[tuple[Array, ...], Array]) -> Array:
    rows, words = block

    def nearer(
      minima: Array, row: tuple[tuple[Array, ...], Array]
    ) -> tuple[Array, None]:
      row_of_bins, shift = row
      free = (words >> shift) & 1 == 0
      new = jnp.minimum(minima, distances(*row_of_bins))
      return jnp.where(free, new, minima), None

    dtype = jax.eval_shape(distances, *(array[0] for array in rows)).dtype
    start = jnp.full(words.shape, jnp.inf, dtype)
    return jax.lax.scan(nearer, start, (rows, shifts))[0]

  minima = jax.lax.map(minima_of_block, (points, taken))
  minima = jnp.swapaxes(minima, 0, 1).reshape(taken.shape[1], -1)
  negative, bins = jax.lax.top_k(-minima, num_bins)
  return bins, -negative


def _rows_of_bins(
  x: Array,
  bins: Array,
  by_bin: Array,
  taken: Array,
  dtype: jax.typing.DTypeLike,
) -> tuple[Array, Array]:
  """All rows [I, L * rows] of bins [I, L], and how far; infinite if taken."""
  points = jnp.moveaxis(by_bin[bins], 2, 0)  # [D, I, L, rows]
  distances = _squared_distances(x[..., None, None], points, dtype)
  words = jnp.swapaxes(taken, 0, 1).reshape(len(bins), -1)
  words = jnp.take_along_axis(words, bins, axis=1)
  place = jnp.arange(by_bin.shape[-1], dtype=jnp.int32)
  free = (words[..., None] >> place.astype(jnp.uint32)) & 1 == 0
  distances = jnp.where(free, distances, jnp.inf)
  rows = bins[..., None] * len(place) + place
  return rows.reshape(len(bins), -1), distances.reshape(len(bins), -1)


def _squared_distances(
  x: Array, y: Array, dtype: jax.typing.DTypeLike
) -> Array:
  """Of [D, ...] and [D, ...], coordinate after coordinate: [...]."""

  def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
    difference = pair[0].astype(dtype) - pair[1].astype(dtype)
    return total + difference * difference, None

  start = jnp.zeros(jnp.broadcast_shapes(x.shape[1:], y.shape[1:]), dtype)
  return jax.lax.scan(add, start, (x, y), unroll=_COORDINATES)[0]


def _float32_error(num_coordinates: int) -> float:
  """Bounds float32's error in a squared distance of two vectors.

  Of a sum of squared differences, this is the relative error. Of the expanded
  form |x|^2 - 2xy + |y|^2, it is the error relative to |x|^2 + |y|^2, with
  that of taking off a center from x and y. It is at least twice what half a
  unit in the last place for each operation on the way adds up to.
  """
  return (num_coordinates + 16) * float(np.finfo(np.float32).eps)
