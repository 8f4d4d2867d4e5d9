"""Single sample grouping against faiss, and its growth with D_G.

The peer is faiss's exact flat index and a greedy pass in NumPy: it asks for a
list of nearest rows for every sample, takes the free ones in order, and asks
for longer lists for the samples that run out. How much longer the first lists
are than what a sample takes is the peer's only setting: each is measured.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl.flags import FlagValues

from experiments.benchmarks import measuring
from experiments.benchmarks.measuring import Row
from personalization_jax.grouping import single_sample_groups

_INDIVIDUALS, _SAMPLES, _CLASSES = 100, 210, 30
_WIDTH = 16
_SLACKS = (8.0, 5.0, 3.0, 2.0)
# Rows of D_G: where faiss is measured too, and where growth is.
_COMPARED, _SIZES = 30_000, (10_000, 100_000, 300_000, 1_000_000)


def run(options: FlagValues) -> Iterator[Row]:
  """Yields the suite's measurements, in seconds."""
  people = 4 if options.quick else _INDIVIDUALS
  sizes = _SIZES[:1] if options.quick else _SIZES
  for kind, total, size in [
    *itertools.product(("normal", "classes"), (1500, 6500), [_COMPARED]),
    *itertools.product(["normal"], [1500], sizes),
  ]:
    samples, rows = latents(kind, people, size)
    counts = np.full(people, _SAMPLES)
    ours = functools.partial(single_sample_groups, samples, counts, rows, total)
    calls = {"ours": ours}
    if size == _COMPARED and options.peers:
      calls |= _peers(samples, rows, total)
    row = {
      "name": f"SG, {people} x {_SAMPLES} samples, D_G {size:,} x {_WIDTH},"
      f" total {total}, {kind}",
      "first_call": measuring.seconds(ours),
    }
    times, expected = measuring.rounds(calls, options.repeats), ours()
    for peer in [*calls][1:] or ["ours"]:
      # Not all, where float32 can't tell which of two rows is nearer.
      same = (expected == calls[peer]()).mean()
      yield row | measuring.compare(times, peer) | {"same_rows": same}


def _peers(
  samples: np.ndarray, rows: np.ndarray, total: int
) -> dict[str, functools.partial[np.ndarray]]:
  """By their names; none if faiss isn't installed."""
  try:
    import faiss  # the extra `bench`
  except ImportError:
    return {}

  def peer(slack: float) -> np.ndarray:
    # The index is built inside, as ours arranges D_G inside.
    index = faiss.IndexFlatL2(_WIDTH)
    index.add(rows)
    return greedy_faiss(index, samples, total, slack)

  name = f"faiss {faiss.__version__} IndexFlatL2 + greedy"
  return {
    f"{name}, slack {slack:g}": functools.partial(peer, slack)
    for slack in _SLACKS
  }


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


def greedy_faiss(
  index: Any, samples: np.ndarray, total: int, slack: float
) -> np.ndarray:
  """The groups [P, total] by faiss's index of D_G, for samples [P, S, D]."""
  people, num_samples, width = samples.shape
  base, extra = divmod(total, num_samples)
  # The first lists are `slack` times longer than what is taken from them.
  length = min(math.ceil((base + 1) * slack), index.ntotal)
  _, lists = index.search(samples.reshape(-1, width), length)
  lists = lists.reshape(people, num_samples, length)
  groups = np.empty((people, total), np.int64)
  for person in range(people):
    free = np.ones(index.ntotal, bool)
    end = 0
    for sample, near in enumerate(lists[person]):
      count = base + (sample < extra)
      near, longer = near[free[near]], length
      while len(near) < count:
        longer = min(4 * longer, index.ntotal)
        query = samples[person, sample : sample + 1]
        near = index.search(query, longer)[1][0]
        near = near[free[near]]
      groups[person, end : end + count] = near[:count]
      free[near[:count]] = False
      end += count
  return groups
