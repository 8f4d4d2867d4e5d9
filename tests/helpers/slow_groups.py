"""The paper's groups, written the slow way."""

import numpy as np


def slow_single_sample_group(samples, rows, total):
  """Algorithm 1, lines 12-15, in float64 and plain Python."""
  samples = np.asarray(samples, np.float64).tolist()
  rows = np.asarray(rows, np.float64).tolist()
  group = []
  for i, sample in enumerate(samples):
    count = total // len(samples) + (i < total % len(samples))
    free = sorted(set(range(len(rows))) - set(group))
    # sorted() keeps equally near rows in order: the lower first.
    free.sort(key=lambda r: sum((a - b) ** 2 for a, b in zip(sample, rows[r])))
    group += free[:count]
  return group
