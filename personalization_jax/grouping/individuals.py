"""Individual grouping: whose data is nearest, by class means of latents.

Means are taken on the host (NumPy), distances on the device (JAX), both in
float64.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOBODY = -1


def class_means(
  latents: Any, labels: Any, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """The mean latent of each class of one individual.

  Args:
    latents: [N, D].
    labels: integers [N], 0 .. num_classes - 1.
    num_classes: C.

  Returns:
    means: float32 [C, D], 0 for a class without samples.
    present: bool [C], which classes have samples.

  Raises:
    ValueError: if shapes don't fit or a label is out of range.

  Source: Algorithm 1, line 17.
  """
  labels = np.asarray(labels)
  means, present = class_means_of_all(
    latents, labels, np.zeros(labels.shape, np.int32), [0], num_classes
  )
  return means[0], present[0]


def class_means_of_all(
  latents: Any,
  labels: Any,
  individuals: Any,
  people: Any,
  num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
  """`class_means` of many individuals; a person's depend on nobody else.

  Args:
    latents: [N, D], everybody's samples in any order.
    labels: integers [N], 0 .. num_classes - 1.
    individuals: integers [N], whose sample each is.
    people: integers [M], the ids to take means of; the others' samples are
      left out.
    num_classes: C.

  Returns:
    means: float32 [M, C, D], 0 for a class without samples.
    present: bool [M, C], which classes have samples.

  Raises:
    ValueError: if shapes don't fit, a label is out of range or a person is
      named twice.

  Source: Algorithm 1, line 17.
  """
  latents = np.asarray(latents, np.float32)
  labels, individuals = np.asarray(labels), np.asarray(individuals)
  people = np.asarray(people)
  if latents.ndim != 2:
    raise ValueError(
      f"latents must have shape [N, D], but have shape {latents.shape}."
    )
  for name, values in (("labels", labels), ("individuals", individuals)):
    if values.shape != latents.shape[:1]:
      raise ValueError(
        f"{name} must have shape {latents.shape[:1]}, one for each latent, but"
        f" have shape {values.shape}."
      )
  outside = (labels < 0) | (labels >= num_classes)
  if outside.any():
    row = int(np.argmax(outside))
    raise ValueError(
      f"labels must lie in 0..{num_classes - 1}, but row {row} holds"
      f" {int(labels[row])}."
    )
  order = np.argsort(people, kind="stable")
  ordered = people[order]
  if (ordered[1:] == ordered[:-1]).any():
    twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
    raise ValueError(f"people names person {int(twice)} twice.")
  place = np.searchsorted(ordered, individuals).clip(max=len(people) - 1)
  rows = np.flatnonzero(ordered[place] == individuals)
  cells = order[place[rows]] * num_classes + labels[rows]
  shape = (len(people), num_classes)
  counts = np.bincount(cells, minlength=len(people) * num_classes)
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
    n: how many.

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
  left_out: Any = None,
) -> np.ndarray:
  """`nearest_individuals` of every individual.

  Args:
    means: [P, C, D].
    present: bool [P, C].
    all_means: [M, C, D] of the candidates.
    all_present: bool [M, C].
    n: how many for each.
    left_out: integers [P], a candidate that an individual can't choose
      (itself, where individuals are the candidates), -1 for nobody.

  Returns:
    int32 [P, n], nearest first.

  Raises:
    ValueError: if shapes don't fit or n exceeds the number of candidates.

  Source: Algorithm 1, lines 16-20.
  """
  arrays = _check_means(means, present, all_means, all_present)
  num_people, num_candidates = len(arrays[0]), len(arrays[2])
  if left_out is None:
    left_out = np.full(num_people, NOBODY)
  left_out = np.asarray(left_out, np.int32)
  if left_out.shape != (num_people,):
    raise ValueError(
      f"left_out must have shape ({num_people},), one for each individual, but"
      f" has shape {left_out.shape}."
    )
  choice = num_candidates - int((left_out != NOBODY).any())
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
  """The distances that `nearest_individuals` orders by.

  Args:
    means: [P, C, D].
    present: bool [P, C].
    all_means: [M, C, D].
    all_present: bool [M, C].

  Returns:
    float64 [P, M], L2 norms, infinite for two without a common class.

  Raises:
    ValueError: if shapes don't fit.

  Source: section III, data grouping.
  """
  with jax.enable_x64(True):
    squares = _squared_distances(
      *_check_means(means, present, all_means, all_present)
    )
    return np.sqrt(np.asarray(squares))


@jax.jit
def _squared_distances(
  means: jax.Array,
  present: jax.Array,
  all_means: jax.Array,
  all_present: jax.Array,
) -> jax.Array:
  num_classes = means.shape[1]
  candidates = all_means.astype(jnp.float64)

  def from_one(one: tuple[jax.Array, jax.Array]) -> jax.Array:
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
def _order(squares: jax.Array, left_out: jax.Array) -> jax.Array:
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
  if means.ndim != 3 or all_means.ndim != 3:
    raise ValueError(
      "class means must have shape [C, D] for each individual, but together"
      f" have shapes {means.shape} and {all_means.shape}."
    )
  if means.shape[1:] != all_means.shape[1:]:
    raise ValueError(
      f"class means of shape {means.shape[1:]} can't be compared with those of"
      f" shape {all_means.shape[1:]}: classes and coordinates must agree."
    )
  for name, values, of in (
    ("present", present, means),
    ("all_present", all_present, all_means),
  ):
    if values.shape != of.shape[:2]:
      raise ValueError(
        f"{name} must have shape {of.shape[:2]}, one for each class, but has"
        f" shape {values.shape}."
      )
  return means, present, all_means, all_present
