"""Single sample grouping against faiss, and its growth with D_G.

The peer is faiss's exact flat index, on an accelerator also a plain product
with `top_k`, and a greedy pass in NumPy: it asks for a list of nearest rows for
every sample, takes the free ones in order, and asks for longer lists for the
samples that run out. How much longer the first lists are than what a sample
takes is the peer's only setting: each is measured.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl.flags import FlagValues
from jax import Array

from experiments.benchmarks import measuring
from experiments.benchmarks.measuring import Row
from personalization_jax.grouping import single_sample_groups

_SAMPLES, _WIDTH, _CLASSES = 210, 16, 30
_SLACKS = (8.0, 5.0, 3.0, 2.0)
# Of queries [Q, D] the nearest rows of D_G [Q, length], nearest first.
Search = Callable[[np.ndarray, int], np.ndarray]
# People, rows of D_G where peers are measured too, and where growth is.
_FULL = (100, 30_000, [10_000, 100_000, 300_000, 1_000_000])
_QUICK = (4, 7000, [10_000])


def run(options: FlagValues) -> Iterator[Row]:
  """Yields the suite's measurements, in seconds."""
  people, compared, sizes = _QUICK if options.quick else _FULL
  for kind, total, size in [
    *itertools.product(("normal", "classes"), (1500, 6500), [compared]),
    *itertools.product(["normal"], [1500], sizes),
  ]:
    samples, rows = latents(kind, people, size)
    counts = np.full(people, _SAMPLES)
    ours = functools.partial(single_sample_groups, samples, counts, rows, total)
    calls = {"ours": ours}
    if size == compared and options.peers:
      # On a CPU that takes minutes.
      plain = options.quick or jax.devices()[0].platform != "cpu"
      calls |= _peers(samples, rows, total, plain=plain)
    row = {
      "name": f"SG, {people} x {_SAMPLES} samples, D_G {size:,} x {_WIDTH},"
      f" total {total}, {kind}",
      "first_call": measuring.seconds(ours),
    }
    # Not all, where float32 can't tell which of two rows is nearer. And all
    # calls are warm then.
    expected = ours()
    same = {name: (expected == call()).mean() for name, call in calls.items()}
    times = measuring.rounds(calls, options.repeats)
    for peer in [*calls][1:] or ["ours"]:
      yield row | measuring.compare(times, peer) | {"same_rows": same[peer]}


def _peers(
  samples: np.ndarray, rows: np.ndarray, total: int, *, plain: bool
) -> dict[str, functools.partial[np.ndarray]]:
  """By their names: faiss, if it is installed, and a plain product, if asked.

  D_G is arranged inside, as ours does.
  """
  searches: dict[str, Callable[[], Search]] = {}
  with contextlib.suppress(ImportError):
    import faiss  # the extra `bench`

    def by_faiss() -> Search:
      index = faiss.IndexFlatL2(_WIDTH)
      index.add(rows)
      return lambda queries, length: index.search(queries, length)[1]

    searches[f"faiss {faiss.__version__} IndexFlatL2"] = by_faiss

  def by_product() -> Search:
    there = jnp.asarray(rows)
    return lambda *args: np.asarray(_product_top_k(there, *args))

  if plain:
    searches["matrix product + top_k"] = by_product
  return {
    f"{name} + greedy, slack {slack:g}": functools.partial(
      _greedy, search, len(rows), samples, total, slack
    )
    for name, search in searches.items()
    for slack in _SLACKS
  }


@functools.partial(jax.jit, static_argnums=2)
def _product_top_k(rows: Array, queries: Array, length: int) -> Array:
  """The nearest rows [Q, length] of queries [Q, D]."""
  products = jnp.matmul(queries, rows.T, precision="highest")
  return jax.lax.top_k(products - (rows**2).sum(1) / 2, length)[1]


def latents(
  kind: str, people: int, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
  """Made-up latents of people [S, 210, 16] and of D_G's rows [N, 16], float32.

  "normal" ones have no structure, the hardest for searches. "classes" are 30
  clusters in which every writer has a place of their own, as in the paper's
  data: an individual's samples compete for the same rows.
  """
  rng = np.random.default_rng(0)
  writers = people + math.ceil(num_rows / _SAMPLES)
  points = rng.standard_normal((writers, _SAMPLES, _WIDTH))
  if kind == "classes":
    labels = np.arange(_SAMPLES) % _CLASSES
    centers = 2 * rng.standard_normal((_CLASSES, _WIDTH))
    styles = 0.7 * rng.standard_normal((writers, _CLASSES, _WIDTH))
    points = 0.5 * points + (centers + styles)[:, labels]
  points = points.astype(np.float32)
  return points[:people], points[people:].reshape(-1, _WIDTH)[:num_rows]


def _greedy(
  arrange: Callable[[], Search],
  num_rows: int,
  samples: np.ndarray,
  total: int,
  slack: float,
) -> np.ndarray:
  """The groups [P, total] by a search of D_G, for samples [P, S, D]."""
  search = arrange()
  people, num_samples, width = samples.shape
  base, extra = divmod(total, num_samples)
  # The first lists are `slack` times longer than what is taken from them.
  length = min(math.ceil((base + 1) * slack), num_rows)
  lists = search(samples.reshape(-1, width), length)
  lists = lists.reshape(people, num_samples, length)
  groups = np.empty((people, total), np.int64)
  for person in range(people):
    free = np.ones(num_rows, bool)
    end = 0
    for sample, near in enumerate(lists[person]):
      count = base + (sample < extra)
      near, longer = near[free[near]], length
      while len(near) < count:
        longer = min(4 * longer, num_rows)
        query = samples[person, sample : sample + 1]
        near = search(query, longer)[0]
        near = near[free[near]]
      groups[person, end : end + count] = near[:count]
      free[near[:count]] = False
      end += count
  return groups
