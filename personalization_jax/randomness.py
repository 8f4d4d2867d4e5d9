"""Where every random number on the host comes from (NumPy).

The tree is wide, not deep: each draw is named by the seed, the purpose and the
people it is for, so nothing depends on how many others were drawn before it.
"""

from __future__ import annotations

import enum

import numpy as np

from personalization_jax import checks

# The place of an individual's id in draws that belong to nobody: the phase on
# D_G that all individuals share. Ids of people are int32, so none collides.
SHARED = 2**32 - 1


class Stream(enum.IntEnum):
  """Purposes; a number, once used, keeps its meaning."""

  PEOPLE = 1
  SPLIT = 2
  CLASS_COUNTS = 3
  GLOBAL_ORDER = 4
  INDIVIDUAL_ORDER = 5
  GROUP = 6
  SAMPLE_ORDER = 7
  EPISODE_WRITERS = 8
  EPISODE_ROWS = 9
  CLUSTERS = 10
  SHOTS = 11


def generator(seed: int, stream: Stream, *path: int) -> np.random.Generator:
  """The generator that seed, purpose and path (such as an id) determine."""
  checks.seed(seed)
  return np.random.default_rng([seed, int(stream), *path])
