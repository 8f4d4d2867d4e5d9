"""Scales of samples: what a population's are measured in (NumPy, host)."""

from __future__ import annotations

from typing import NamedTuple


class Scaling(NamedTuple):
  """What samples [N, ..., F] were scaled by: (x - mean) / spread."""

  mean: tuple[float, ...]  # [F], along the last axis
  spread: tuple[float, ...]  # [F]
