"""People who were in no run: their samples, and what is held out (NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from personalization_jax import splits
from personalization_jax.datasets import Population, variations
from personalization_jax.splits import Split


def population_of(
  arrays: Mapping[str, np.ndarray], num_classes: int, sample_shape: Any
) -> Population:
  """People's samples as a base model takes them.

  Args:
    arrays: images uint8 or float32 [N, H, W, C] or [N, H, W], square, of any
      size, or other samples [N, ...] of the model's shape; labels integers
      [N], and individuals integers [N], where there are any (otherwise all
      are 0).
    num_classes: of the model.
    sample_shape: of what the model takes, (H, W, C) for images.

  Returns:
    The population, its images brought to the model's size. Classes without a
    sample are fine.

  Raises:
    ValueError: naming what is wrong with the arrays.
  """
  # What isn't there can't be faulty; `from_arrays` judges the shape.
  nothing = np.zeros(np.shape(arrays["images"])[:1], np.int32)
  population = Population.from_arrays(
    arrays["images"],
    arrays.get("labels", nothing),
    arrays.get("individuals", nothing),
    num_classes=num_classes,
    complete=False,
  )
  if len(sample_shape) != 3:
    if population.sample_shape != tuple(sample_shape):
      raise ValueError(
        f"samples have shape {list(population.sample_shape)}, but the model"
        f" takes {list(sample_shape)}."
      )
    return population
  if not population.holds_images:
    raise ValueError(
      f"samples have shape {list(population.sample_shape)}, but the model takes"
      f" images {list(sample_shape)}."
    )
  channels = population.images.shape[3]
  if channels != sample_shape[2]:
    raise ValueError(
      f"images have {channels} channels, but the model takes {sample_shape[2]}."
    )
  return variations.resize(population, sample_shape[0])


def hold_out(
  population: Population, validation_fraction: float, *, seed: int = 0
) -> Split:
  """Everybody an individual, with a part of each person's samples held out.

  Args:
    population: the new people.
    validation_fraction: part of a person's samples that is held out; at least
      one sample is, and one trains.
    seed: of the choice.

  Returns:
    A split without D_G; what is held out is `test`.

  Raises:
    ValueError: if the fraction is out of range or a person has one sample.
  """
  if not 0 < validation_fraction < 1:
    raise ValueError(
      f"validation_fraction={validation_fraction} must lie between 0 and 1."
    )
  people, counts = np.unique(population.individuals, return_counts=True)
  if counts.min() < 2:
    raise ValueError(
      f"individual {people[counts.argmin()]} has one sample; two are needed,"
      " one to train on and one to hold out."
    )
  return splits.split(
    population,
    people,
    np.empty(0, np.int32),
    train_fraction=1 - validation_fraction,
    seed=seed,
  )


def join(
  population: Population, held_out: Population
) -> tuple[Population, Split]:
  """Everybody an individual, with samples held out that lie elsewhere.

  Args:
    population: the new people's samples to train on.
    held_out: samples of the same people.

  Returns:
    One store of both, and the split without D_G; what is held out is `test`.

  Raises:
    ValueError: if somebody is in one of the two alone, or one holds images and
      the other floats.
  """
  kinds = population.images.dtype, held_out.images.dtype
  if kinds[0] != kinds[1]:
    raise ValueError(
      f"samples are {kinds[0]} to train on, but {kinds[1]} to test on; both"
      " must be of one kind."
    )
  people = np.unique(population.individuals)
  alone = np.setxor1d(people, held_out.individuals)
  if alone.size:
    raise ValueError(
      f"individual {alone[0]} has samples to train on or to test on alone; both"
      " are needed."
    )
  count = len(population)
  both = dataclasses.replace(
    population,
    images=np.concatenate([population.images, held_out.images]),
    labels=np.concatenate([population.labels, held_out.labels]),
    individuals=np.concatenate([population.individuals, held_out.individuals]),
    originals=np.concatenate(
      [population.originals, count + held_out.originals]
    ),
  )
  rows = [np.flatnonzero(both.individuals == person) for person in people]
  nothing = np.empty(0, np.int32)
  return both, Split(
    individuals=people,
    train=splits.pad([own[own < count] for own in rows]),
    validation=splits.pad([nothing] * len(people)),
    test=splits.pad([own[own >= count] for own in rows]),
    global_people=nothing,
    global_train=nothing,
    global_validation=nothing,
    global_test=nothing,
  )
