"""Individual grouping: whose data is nearest, by class means of latents.

Means are taken on the host (NumPy), distances on the device (JAX), both in
float64.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from personalization_jax import checks


def class_means(
  latents: Any, labels: Any, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """The mean latent of each class of one individual.

  Args:
    latents: [N, D].
    labels: integers [N], 0 .. num_classes - 1.
    num_classes: C.

  Returns:
    Means float32 [C, D], 0 for a class without samples, and bool [C], which
    classes have samples.

  Raises:
    ValueError: if shapes don't fit or a label is out of range.

  Source: Algorithm 1, line 17.
  """
  labels = np.asarray(labels)
  checks.shapes(("latents", latents, "ND"), ("labels", labels, "N"), empty=True)
  checks.in_range("labels", labels, num_classes)
  owners = np.zeros(len(labels), np.int32)
  means, present = class_means_of_all(
    latents, labels, owners, np.zeros(1, np.int32), num_classes
  )
  return means[0], present[0]


def class_means_of_all(
  latents: np.ndarray,
  labels: np.ndarray,
  individuals: np.ndarray,
  people: np.ndarray,
  num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
  """`class_means` [M, C, D] of `people` [M] among the `individuals` [N].

  The means of a person depend on that person's samples alone.
  """
  latents = np.asarray(latents, np.float32)
  ordered, places = np.unique(people, return_inverse=True)
  found = np.searchsorted(ordered, individuals).clip(max=len(ordered) - 1)
  rows = np.flatnonzero(ordered[found] == individuals)
  cells = found[rows] * num_classes + labels[rows]
  shape = (len(ordered), num_classes)
  counts = np.bincount(cells, minlength=len(ordered) * num_classes)
  # bincount adds in float64, row after row: others' samples change nothing.
  sums = [
    np.bincount(cells, weights=column[rows], minlength=counts.size)
    for column in latents.T
  ]
  exact = np.stack(sums, axis=-1) / np.maximum(counts, 1)[:, None]
  means = exact.astype(np.float32).reshape(*shape, -1)
  return means[places], (counts > 0).reshape(shape)[places]


def nearest_individuals(
  means: Any, present: Any, all_means: Any, all_present: Any, n: int
) -> np.ndarray:
  """IG: the individuals whose class means are nearest.

  The distance is the L2 norm over all classes' means. A class that one of the
  two lacks is left out and the sum of squares scaled by C over the number of
  classes compared; without a common class the distance is infinite.

  Args:
    means: [C, D], the individual's class means.
    present: bool [C], which classes it has.
    all_means: [M, C, D] of the candidates.
    all_present: bool [M, C].
    n: number of candidates to choose.

  Returns:
    int32 [n], candidates 0 .. M - 1, nearest first, of equally near ones the
    lower.

  Raises:
    ValueError: if shapes don't fit or n exceeds the number of candidates.

  Source: Algorithm 1, lines 16-20; the missing classes are this project's
  reading.
  """
  means, all_means = np.asarray(means), np.asarray(all_means)
  present = np.asarray(present, bool)
  all_present = np.asarray(all_present, bool)
  checks.shapes(
    ("means", means, "CD"),
    ("present", present, "C"),
    ("all_means", all_means, "MCD"),
    ("all_present", all_present, "MC"),
    empty=True,
  )
  return nearest_individuals_of_all(
    means[None], present[None], all_means, all_present, n
  )[0]


def nearest_individuals_of_all(
  means: np.ndarray,
  present: np.ndarray,
  all_means: np.ndarray,
  all_present: np.ndarray,
  n: int,
  *,
  among_themselves: bool = False,
) -> np.ndarray:
  """`nearest_individuals` [P, n] of every individual, means [P, C, D].

  With `among_themselves` the individuals are the candidates, and no individual
  chooses itself.
  """
  choice = len(all_means) - among_themselves
  if not 0 <= n <= choice:
    raise ValueError(
      f"n={n} must lie in 0..{choice}, the number of candidates."
    )
  squares = squared_distances(means, present, all_means, all_present)
  # Behind even those at an infinite distance.
  excluded = np.eye(len(means), len(all_means)) * among_themselves
  # A stable sort: of equally near candidates the lower comes first.
  order = np.lexsort((squares, excluded), axis=-1)
  return order[:, :n].astype(np.int32)


def squared_distances(*classes: np.ndarray) -> np.ndarray:
  """What `nearest_individuals_of_all` orders by, float64 [P, M]."""
  with jax.enable_x64(True):
    return np.asarray(_squared_distances(*classes))


@jax.jit
def _squared_distances(
  means: Array, present: Array, all_means: Array, all_present: Array
) -> Array:
  num_classes = means.shape[1]
  candidates = all_means.astype(jnp.float64)

  def from_one(one: tuple[Array, Array]) -> Array:
    own, has = one
    both = has & all_present
    differences = own.astype(jnp.float64) - candidates
    squares = jnp.where(both, (differences**2).sum(-1), 0.0).sum(-1)
    compared = both.sum(-1)
    # An absent class counts as an average one: fewer classes aren't nearer.
    scaled = squares * num_classes / jnp.maximum(compared, 1)
    return jnp.where(compared > 0, scaled, jnp.inf)

  # One after another: M x C x D differences in memory, not P times as many.
  return jax.lax.map(from_one, (means, present))
