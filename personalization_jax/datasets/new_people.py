"""People who were in no run: their samples, and what is held out (NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from personalization_jax.datasets import Population, splits, variations
from personalization_jax.datasets.scaling import Scaling
from personalization_jax.datasets.splits import Split


def population_of(
  arrays: Mapping[str, np.ndarray],
  num_classes: int,
  sample_shape: Sequence[int],
  *,
  is_fig_4: bool = True,
  dtype: str | None = None,
) -> Population:
  """People's samples as a base model takes them.

  `arrays` has images [N, ...] and where there are any labels, individuals and
  originals, integers [N]; without them labels and individuals are 0. Samples of
  the model's shape stay, square images of any other size are brought to it.
  `is_fig_4` tells the paper's model, which sees images resized, and `dtype`
  what it was trained on, "uint8" or "float32", if that is known.
  """
  images = np.asarray(arrays["images"])
  shape = tuple(sample_shape)
  if images.ndim == 3 and len(shape) == 3 and shape[2] == 1:
    images = images[..., None]
  # Defaults can't be faulty; `from_arrays` judges the shape of the images.
  zeros = np.zeros(images.shape[:1], np.int32)
  population = Population.from_arrays(
    images,
    arrays.get("labels", zeros),
    arrays.get("individuals", zeros),
    originals=arrays.get("originals"),
    num_classes=num_classes,
    complete=False,
  )
  images = population.images
  is_uint8 = images.dtype == np.uint8
  if dtype == "uint8" and not (
    is_uint8 or 0 <= images.min() <= images.max() <= 1
  ):
    raise ValueError(
      "the model was trained on uint8 images, seen as 0..1, but these floats"
      f" reach from {images.min():.6g} to {images.max():.6g}: give uint8"
      " images, or floats in 0..1."
    )
  if population.sample_shape == shape:
    return population
  differ = f"samples have shape {list(population.sample_shape)}, but the model"
  if len(shape) == 3 and not population.holds_images:
    raise ValueError(f"{differ} takes images {list(shape)}.")
  if len(shape) == 3 and images.shape[3] != shape[2]:
    raise ValueError(
      f"images have {images.shape[3]} channels, but the model takes {shape[2]}."
    )
  # Pictures for an MLP are resized as they were in its run; floats for a model
  # of one's own may be anything, which nobody resized.
  is_square = len(shape) == 3 and shape[0] == shape[1]
  if not is_square or shape[0] & (shape[0] - 1) or not (is_fig_4 or is_uint8):
    raise ValueError(f"{differ} takes {list(shape)}.")
  return variations.resize(population, shape[0])


def scaled(
  population: Population,
  scaling: Sequence[Sequence[float]],
  dtype: str | None = None,
) -> Population:
  """People's samples as a model sees them that was trained on scaled ones.

  `scaling` is the mean and the spread that it keeps, and `dtype` what its
  samples were before. Floats come in the units of its own data.
  """
  if population.images.dtype == np.uint8 and dtype == "float32":
    raise ValueError(
      "the model was trained on floats, standardised, but these images are"
      " uint8: give floats as they were in its training data."
    )
  mean, spread = map(tuple, scaling)
  how = Scaling(mean, spread, dtype or "float32")
  images = how.apply(population.images)
  return dataclasses.replace(population, images=images, scaling=how)


def hold_out(
  population: Population, validation_fraction: float, *, seed: int = 0
) -> Split:
  """Everybody an individual, with a fraction of their samples as `test`."""
  # A fraction next to 0 leaves 1 in float64.
  if not 0 < 1 - validation_fraction < 1:
    raise ValueError(
      f"validation_fraction={validation_fraction} must lie between 0 and 1."
    )
  return splits.split(
    population,
    np.unique(population.individuals),
    np.empty(0, np.int32),
    train_fraction=1 - validation_fraction,
    seed=seed,
  )


def join(
  population: Population, held_out: Population
) -> tuple[Population, Split]:
  """Everybody an individual, with samples of a second population as `test`.

  Returns one store of both, and the split without D_G.
  """
  kind, other = population.images.dtype, held_out.images.dtype
  if kind != other:
    raise ValueError(
      f"samples are {kind} to train on, but {other} to test on; both must be of"
      " one kind."
    )
  people = np.unique(population.individuals)
  alone = np.setxor1d(people, held_out.individuals)
  if alone.size:
    raise ValueError(
      f"individual {alone[0]} has samples to train on or to test on alone; both"
      " are needed."
    )
  count = len(population)
  joined: dict[str, Any] = {
    name: np.concatenate([getattr(population, name), getattr(held_out, name)])
    for name in ("images", "labels", "individuals", "file_rows")
  }
  # Each file numbers its own originals, however high.
  first, second = (
    np.unique(one.originals, return_inverse=True)[1].astype(np.int32)
    for one in (population, held_out)
  )
  both = dataclasses.replace(
    population, originals=np.concatenate([first, count + second]), **joined
  )
  rows = [np.flatnonzero(both.individuals == person) for person in people]
  nothing = np.empty(0, np.int32)
  return both, Split(
    people,
    splits.pad([own[own < count] for own in rows]),
    splits.pad([nothing] * len(people)),
    splits.pad([own[own >= count] for own in rows]),
    *[nothing] * 4,
  )
