"""Accuracies like Table I's for figures, and whether boxes overlap."""

import numpy as np

SHAPING = ("baseline", "es:40", "es:400", "sw:12", "sw:2", "tl:10", "tl:300")
GROUPING = ("random:1500", "random:6500", "ig:5", "ig:21", "sg:1500", "sg:6500")
TABLE_1 = SHAPING + GROUPING


def make_accuracies(methods=TABLE_1, size=100, seed=0):
  """Counts of right answers in 90, as crowded near 1 as those of Table I."""
  rng = np.random.default_rng(seed)
  return {
    method: (
      rng.binomial(90, rng.beta(40, 1, size)) / 90,
      np.clip(
        rng.normal(0.962 + 0.017 * (method in SHAPING), 0.003, size), 0, 1
      ),
    )
    for method in methods
  }


def overlap(a, b) -> bool:
  return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())
