"""Single sample grouping."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from personalization_jax import checks
from personalization_jax.datasets.splits import PADDING
from personalization_jax.distributed import make_mesh
from personalization_jax.grouping.search import GlobalLatents, take

# What a step of the individuals that go at once may take, besides D_G itself.
_STEP_BYTES = 2**28
# Float32 squares of larger latents could overflow.
_LARGE = 1e16


def single_sample_group(
  individual_latents: Any, global_latents: Any, total: int
) -> np.ndarray:
  """SG: each sample in turn takes its nearest rows that are still free.

  Of the `total` rows each of the S samples takes `total // S`, the first
  `total % S` samples one more. Nearest is by the L2 norm, of equally near
  rows the lower one. Float64 latents are rounded to float32 first.

  Args:
    individual_latents: [S, D], D_I's samples in order.
    global_latents: [N, D], D_G's samples.
    total: rows of the group.

  Returns:
    int32 [total], rows of `global_latents`, none twice: the first sample's,
    nearest first, then the second's, and so on.

  Raises:
    ValueError: if shapes don't fit, a latent isn't finite, or the group would
      be larger than D_G.

  Source: Algorithm 1, lines 11-15; section III, data grouping.
  """
  checks.shapes(("individual_latents", individual_latents, "SD"))
  return single_sample_groups(
    np.asarray(individual_latents)[None],
    [len(individual_latents)],
    global_latents,
    total,
    mesh=make_mesh(jax.local_devices()[:1]),
  )[0]


def single_sample_groups(
  individual_latents: Any,
  num_samples: Any,
  global_latents: Any,
  total: int,
  *,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """`single_sample_group` of every individual, int32 [P, total].

  Of `individual_latents` [P, S, D] the first `num_samples` [P] are samples, at
  least one, the others padding of any finite value. Individuals go over a mesh
  of one axis, by default this process's devices. A group doesn't depend on who
  else is asked for, or on the devices.
  """
  individual_latents = _finite("individual_latents", individual_latents)
  global_latents = _finite("global_latents", global_latents)
  own = "individual_latents", individual_latents, "PSD"
  checks.shapes(own, ("global_latents", global_latents, "ND"))
  people, _, width = individual_latents.shape
  if total < 0:
    raise ValueError(f"total={total} must be 0 or more.")
  if total > len(global_latents):
    raise ValueError(
      f"total={total} asks for more rows than the {len(global_latents)} of D_G."
    )
  num_samples = np.asarray(num_samples, np.int32)
  groups = np.empty((people, total), np.int32)
  if total == 0:
    return groups
  mesh = mesh or make_mesh(jax.local_devices())
  nearest = math.ceil(total / int(num_samples.min()))
  data = GlobalLatents.put(global_latents, nearest, mesh)
  together = _individuals_at_once(len(global_latents), width, nearest)
  # Not more fillers than the devices need.
  size = min(together, math.ceil(people / mesh.size)) * mesh.size

  def group(individuals: np.ndarray, *, exactly: bool) -> np.ndarray:
    """Fills in groups; returns for whom they are proven."""
    proven = np.empty(len(individuals), bool)
    for start in range(0, len(individuals), size):
      some = individuals[start : start + size]
      filled = np.resize(some, size)  # by some of them once more
      samples, counts = individual_latents[filled], num_samples[filled]
      rows, certain = take(
        data, samples, counts, total, nearest, mesh, exactly=exactly
      )
      chosen = rows[: len(some)]
      groups[some] = chosen[chosen != PADDING].reshape(-1, total)
      proven[start : start + size] = certain[: len(some)]
    return proven

  # Neighbours in this order have about as many samples: none waits long.
  order = np.argsort(num_samples, kind="stable")
  largest = max(
    np.abs(one).max() for one in (individual_latents, global_latents)
  )
  proven = largest < _LARGE and group(order, exactly=False)
  group(order[~np.broadcast_to(proven, people)], exactly=True)
  return groups


def planned_bytes(
  people: int, samples: int, least: int, num_rows: int, width: int, total: int
) -> int:
  """Bytes that `single_sample_groups` takes of a device, an upper bound.

  D_G [num_rows, width] in bins; and of the individuals that go at once (of
  `people` with `least` to `samples` samples) a step in float64 and the groups.
  """
  nearest = math.ceil(total / least)
  together = min(_individuals_at_once(num_rows, width, nearest), people)
  # Coordinates are padded to multiples of 16, rows to whole bins.
  columns, rows = width + 16, num_rows + 32
  global_latents = 4 * rows * (2 * columns + 2)
  of_one = 8 * samples * (columns + nearest)
  # The exact search has twice as many bytes in a number.
  steps = 2 * _step_bytes(num_rows, width, nearest)
  return global_latents + int(together * (of_one + steps))


def _individuals_at_once(num_rows: int, width: int, nearest: int) -> int:
  """How many keep a step's temporaries on a device near `_STEP_BYTES`."""
  return max(int(_STEP_BYTES / _step_bytes(num_rows, width, nearest)), 1)


def _step_bytes(num_rows: int, width: int, nearest: int) -> float:
  # A word and two minima for each bin, which holds at least two rows; and a
  # few copies of the candidates' coordinates.
  rows_of_bin = min(max(math.sqrt(num_rows / nearest), 2), 32)
  bins = num_rows / rows_of_bin * 4 * 3
  candidates = (nearest + 8) * rows_of_bin * (width + 4) * 4 * 2
  return bins + candidates


def _finite(name: str, values: Any) -> np.ndarray:
  values = np.asarray(values, np.float32)
  if not np.isfinite(values).all():
    place = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
    raise ValueError(
      f"{name} must be finite, but hold {values[place]} at {place}."
    )
  return values
