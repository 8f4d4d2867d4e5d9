"""What every platform's batch normalisation shares (JAX)."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

EPSILON = 1e-5


class Saved(NamedTuple):
  """What the backward pass needs; images are the platform's own."""

  x: Array  # [B, H, W, C], what was normalised
  peaks: Array  # [B, h, w, C], what pooling picked of it
  shift: Array
  weights: Array
  scale: Array
  mean: Array
  variance: Array
  above: Array  # [C], the weight of pixels above 0
