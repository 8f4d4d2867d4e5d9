"""Algorithm 1's lines 13-15 for many individuals at once (JAX, on devices).

Distances are squared L2 norms of float32 latents, in float64: rows that differ
by less than float32 can tell are still put in the right order, so a group
depends on nothing but the latents.

Finding the L nearest of N rows needs no sort of N numbers: D_G is cut into
*bins* of consecutive rows, and the L nearest rows lie in the L bins whose
nearest rows are nearest. The fast search finds those bins by a float32 matrix
product, and bounds on its error prove that no other bin matters. Individuals
for whom the proof fails (by ties, mostly) are searched for in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from personalization_jax.datasets.splits import PADDING
from personalization_jax.grouping.bins import (
  Bins,
  GlobalLatents,
  coordinates,
  float32_error,
  float32_underflow,
)

# Candidates beyond those a sample takes: the first that it leaves must be
# farther than float32's error, and ties of a few rows shouldn't hide it.
_SPARE = 4


def _squared_distances(
  x: jax.Array, y: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """Sums of squared differences, coordinate after coordinate.

  Args:
    x: [J, w, ...].
    y: [J, w, ...], of a shape that broadcasts with x's.
    dtype: of the differences and the sum.

  Returns:
    Their squared distances [...] in `dtype`.
  """

  def add(
    total: jax.Array, part: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, None]:
    for a, b in zip(*part):
      difference = a.astype(dtype) - b.astype(dtype)
      total = total + difference * difference
    return total, None

  shape = jnp.broadcast_shapes(x.shape[2:], y.shape[2:])
  return jax.lax.scan(add, jnp.zeros(shape, dtype), (x, y))[0]


def _nearest_bins(
  distances: Callable[..., jax.Array],
  points: tuple[jax.Array, ...],
  taken: jax.Array,
  num_bins: int,
) -> tuple[jax.Array, jax.Array]:
  """The bins whose nearest free rows are nearest.

  The `num_bins` nearest rows, ordered by distance and then by row, are in
  these bins. Proof: let r be one of them and its bin not chosen. Each chosen
  bin has a nearest row that comes before r, since equally near bins are
  chosen in order and a lower bin has lower rows; so `num_bins` rows come
  before r.

  Args:
    distances: from one row of all bins of a block, arrays of `points` without
      their first two axes, to distances [I, bins].
    points: arrays [blocks, rows, ...].
    taken: uint32 [blocks, I, bins], a bit for each row that isn't free.
    num_bins: how many.

  Returns:
    Bins int32 [I, num_bins] and the distances [I, num_bins] of their nearest
    free rows, infinite where no row is free; both by distance, then by bin.
  """
  shifts = jnp.arange(points[0].shape[1], dtype=jnp.uint32)

  def minima_of_block(
    block: tuple[tuple[jax.Array, ...], jax.Array],
  ) -> jax.Array:
    rows, words = block

    def nearer(
      minima: jax.Array, row: tuple[tuple[jax.Array, ...], jax.Array]
    ) -> tuple[jax.Array, None]:
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
  x: jax.Array,
  bins: jax.Array,
  by_bin: jax.Array,
  taken: jax.Array,
  dtype: jax.typing.DTypeLike,
) -> tuple[jax.Array, jax.Array]:
  """All rows of some bins, and how far they are.

  Args:
    x: float32 [J, w, I].
    bins: int32 [I, L].
    by_bin: float32 [blocks * bins, J, w, rows].
    taken: uint32 [blocks, I, bins].
    dtype: of the distances.

  Returns:
    Rows int32 [I, L * rows] and distances of that shape, infinite if taken.
  """
  points = jnp.moveaxis(by_bin[bins], (2, 3), (0, 1))  # [J, w, I, L, rows]
  distances = _squared_distances(x[..., None, None], points, dtype)
  words = jnp.swapaxes(taken, 0, 1).reshape(len(bins), -1)
  words = jnp.take_along_axis(words, bins, axis=1)
  place = jnp.arange(by_bin.shape[-1], dtype=jnp.int32)
  free = (words[..., None] >> place.astype(jnp.uint32)) & 1 == 0
  distances = jnp.where(free, distances, jnp.inf)
  rows = bins[..., None] * len(place) + place
  return rows.reshape(len(bins), -1), distances.reshape(len(bins), -1)


def _search_exactly(
  x: jax.Array,
  counts: jax.Array,
  data: GlobalLatents,
  taken: jax.Array,
  nearest: int,
) -> tuple[jax.Array, jax.Array]:
  """As `_search`, in float64 throughout: the definition."""
  blocks, bins = data.nothing_taken.shape
  by_block = data.by_bin.reshape(blocks, bins, *data.by_bin.shape[1:])
  chosen, _ = _nearest_bins(
    lambda y: _squared_distances(x[..., None], y[:, :, None], jnp.float64),
    (jnp.moveaxis(by_block, (4, 1), (1, 4)),),
    taken,
    min(nearest, len(data.by_bin)),
  )
  rows, distances = _rows_of_bins(x, chosen, data.by_bin, taken, jnp.float64)
  _, rows = jax.lax.sort((distances, rows), num_keys=2)
  return rows[:, :nearest], jnp.full(counts.shape, True)


def _search(
  x: jax.Array,
  counts: jax.Array,
  data: GlobalLatents,
  taken: jax.Array,
  nearest: int,
) -> tuple[jax.Array, jax.Array]:
  """The nearest free rows of one sample of each individual, found fast.

  Args:
    x: float32 [J, w, I].
    counts: int32 [I], how many rows each takes; at most `nearest`.
    data: D_G.
    taken: uint32 [blocks, I, bins].
    nearest: columns of the answer.

  Returns:
    Rows int32 [I, nearest], nearest first, and proven, bool [I]: whether the
    first `counts` of them are certainly the nearest in this order.
  """
  total, parts, width, rows_of_bin = data.by_bin.shape
  error = float32_error(parts * width)
  underflow = float32_underflow(parts * width)
  centered = (x - data.center[..., None]).reshape(parts * width, -1)

  def lower_bounds(y: jax.Array, norms: jax.Array) -> jax.Array:
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
  points = data.by_bin[rows // rows_of_bin, :, :, rows % rows_of_bin]
  distances = _squared_distances(
    x[..., None], jnp.moveaxis(points, (2, 3), (0, 1)), jnp.float64
  )
  distances = jnp.where(negative == -jnp.inf, jnp.inf, distances)
  distances, rows = jax.lax.sort((distances, rows), num_keys=2)

  farthest = jnp.take_along_axis(
    distances, jnp.maximum(counts - 1, 0)[:, None], axis=1
  )[:, 0]
  proven = counts == 0
  enough = jnp.full(counts.shape, True)
  if num_bins < total:
    norm = (centered.astype(jnp.float64) ** 2).sum(0)
    bound = bounds.max(1).astype(jnp.float64) + norm * (1 - error)
    enough &= farthest < bound - underflow
  if listed < num_bins * rows_of_bin:
    # The last value by a maximum: XLA on CPUs turns top_k into a full sort,
    # many times slower, if a slice takes part of its answer.
    bound = (-negative).max(1).astype(jnp.float64) * (1 - error)
    enough &= farthest < bound - underflow
  return rows[:, :nearest], proven | enough


def _groups(
  samples: jax.Array,
  num_samples: jax.Array,
  total: jax.Array,
  data: GlobalLatents,
  nearest: int,
  exactly: bool,
) -> tuple[jax.Array, jax.Array]:
  """All samples of each individual take their rows, one after another.

  Args:
    samples: float32 [S, J, w, I].
    num_samples: int32 [I].
    total: int32 scalar, rows of a group.
    data: D_G.
    nearest: the most rows that a sample takes.
    exactly: search in float64.

  Returns:
    Rows int32 [I, S, nearest], -1 where a sample took fewer, and bool [I],
    whose rows are proven.
  """
  num_individuals = len(num_samples)
  bins = data.nothing_taken.shape[1]
  rows_of_bin = data.by_bin.shape[-1]
  people = jnp.arange(num_individuals, dtype=jnp.int32)[:, None]
  each = jnp.maximum(num_samples, 1)
  search = _search_exactly if exactly else _search

  def step(
    index: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
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

  blocks = len(data.nothing_taken)
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


@functools.lru_cache(maxsize=32)
def _compiled(
  mesh: Mesh, nearest: int, exactly: bool
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  (axis,) = mesh.axis_names
  sharded = jax.shard_map(
    functools.partial(_groups, nearest=nearest, exactly=exactly),
    mesh=mesh,
    in_specs=(P(None, None, None, axis), P(axis), P(), P()),
    out_specs=P(axis),
    # A loop's carry starts out equal on all devices and ends up different.
    check_vma=False,
  )
  return jax.jit(sharded)


class Search:
  """D_G on the devices, ready for groups to be taken from it.

  Args:
    latents: float32 [N, D] of D_G.
    nearest: the most rows that one sample takes.
    mesh: a mesh of one axis, over which individuals are spread.
    rows_per_block: rows of D_G whose distances are in memory at once.
  """

  def __init__(
    self,
    latents: np.ndarray,
    nearest: int,
    mesh: Mesh,
    rows_per_block: int,
  ) -> None:
    layout = Bins.of(len(latents), nearest, rows_per_block)
    self._nearest = nearest
    self._mesh = mesh
    self._data = GlobalLatents.put(layout, latents, NamedSharding(mesh, P()))

  def groups(
    self,
    samples: np.ndarray,
    num_samples: np.ndarray,
    total: int,
    *,
    exactly: bool = False,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Groups of some individuals.

    Args:
      samples: float32 [I, S, D], I a multiple of the mesh's size.
      num_samples: int32 [I], how many of the S are samples.
      total: rows of a group.
      exactly: search in float64: slower, and all rows are proven.

    Returns:
      Rows of D_G, int32 [I, S, nearest], -1 where a sample took fewer; and
      bool [I], whose rows are certainly the nearest.
    """
    (axis,) = self._mesh.axis_names
    by_sample = np.ascontiguousarray(coordinates(samples).transpose(1, 2, 3, 0))
    by_individual = NamedSharding(self._mesh, P(axis))
    last_axis = NamedSharding(self._mesh, P(None, None, None, axis))
    placed = jax.device_put(
      (by_sample, num_samples), (last_axis, by_individual)
    )
    with jax.enable_x64(True):
      compiled = _compiled(self._mesh, self._nearest, exactly)
      rows, proven = compiled(*placed, np.int32(total), self._data)
    return np.asarray(rows), np.asarray(proven)
