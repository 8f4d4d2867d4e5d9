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
  owners = np.zeros(np.shape(labels), np.int32)
  means, present = class_means_of_all(latents, labels, owners, [0], num_classes)
  return means[0], present[0]


def class_means_of_all(
  latents: Any, labels: Any, individuals: Any, people: Any, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """`class_means` [M, C, D] of `people` [M] among the `individuals` [N].

  The means of a person depend on that person's samples alone.
  """
  latents = np.asarray(latents, np.float32)
  labels, individuals = np.asarray(labels), np.asarray(individuals)
  if latents.ndim != 2:
    raise ValueError(
      f"latents must have shape [N, D], but have shape {latents.shape}."
    )
  _check_shape("labels", labels, latents.shape[:1])
  _check_shape("individuals", individuals, latents.shape[:1])
  outside = (labels < 0) | (labels >= num_classes)
  if outside.any():
    row = int(np.argmax(outside))
    raise ValueError(
      f"labels must lie in 0..{num_classes - 1}, but row {row} holds"
      f" {int(labels[row])}."
    )
  ordered, order, times = np.unique(
    people, return_index=True, return_counts=True
  )
  if (times > 1).any():
    twice = ordered[np.argmax(times > 1)]
    raise ValueError(f"people names person {int(twice)} twice.")
  place = np.searchsorted(ordered, individuals).clip(max=len(ordered) - 1)
  rows = np.flatnonzero(ordered[place] == individuals)
  cells = order[place[rows]] * num_classes + labels[rows]
  shape = (len(ordered), num_classes)
  counts = np.bincount(cells, minlength=len(ordered) * num_classes)
  # bincount adds in float64, row after row: others' samples change nothing.
  sums = [
    np.bincount(cells, weights=column[rows], minlength=counts.size)
    for column in latents.T
  ]
  means = np.stack(sums, axis=-1) / np.maximum(counts, 1)[:, None]
  return (
    means.astype(np.float32).reshape(*shape, -1),
    (counts > 0).reshape(shape),
  )


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
  return nearest_individuals_of_all(
    np.asarray(means)[None],
    np.asarray(present)[None],
    all_means,
    all_present,
    n,
  )[0]


def nearest_individuals_of_all(
  means: Any,
  present: Any,
  all_means: Any,
  all_present: Any,
  n: int,
  *,
  among_themselves: bool = False,
) -> np.ndarray:
  """`nearest_individuals` [P, n] of every individual, means [P, C, D].

  With `among_themselves` the individuals are the candidates, and no individual
  chooses itself.
  """
  arrays = _check_means(means, present, all_means, all_present)
  people = np.arange(len(arrays[0]), dtype=np.int32)
  left_out = people if among_themselves else np.full_like(people, -1)
  choice = len(arrays[2]) - int(among_themselves)
  if not 0 <= n <= choice:
    raise ValueError(
      f"n={n} must lie in 0..{choice}, the number of candidates."
    )
  with jax.enable_x64(True):
    order = _order(_squared_distances(*arrays), left_out)
    return np.asarray(order)[:, :n]


def individual_distances(
  means: Any, present: Any, all_means: Any, all_present: Any
) -> np.ndarray:
  """The distances that `nearest_individuals` orders by, float64 [P, M]."""
  arrays = _check_means(means, present, all_means, all_present)
  with jax.enable_x64(True):
    return np.sqrt(np.asarray(_squared_distances(*arrays)))


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


@jax.jit
def _order(squares: Array, left_out: Array) -> Array:
  candidates = jnp.arange(squares.shape[1], dtype=jnp.int32)
  # Behind even those at an infinite distance.
  excluded = candidates == left_out[:, None]
  rows = jnp.broadcast_to(candidates, squares.shape)
  return jax.lax.sort((excluded, squares, rows), num_keys=3)[2]


def _check_means(
  means: Any, present: Any, all_means: Any, all_present: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  means, all_means = np.asarray(means), np.asarray(all_means)
  present = np.asarray(present, bool)
  all_present = np.asarray(all_present, bool)
  if means.ndim != 3 or means.shape[1:] != all_means.shape[1:]:
    raise ValueError(
      "class means must have shape [C, D] for each individual, and classes and"
      " coordinates must agree, but together they have shapes"
      f" {means.shape} and {all_means.shape}."
    )
  _check_shape("present", present, means.shape[:2])
  _check_shape("all_present", all_present, all_means.shape[:2])
  return means, present, all_means, all_present


def _check_shape(
  name: str, values: np.ndarray, expected: tuple[int, ...]
) -> None:
  if values.shape != expected:
    raise ValueError(
      f"{name} must have shape {expected}, but has shape {values.shape}."
    )
