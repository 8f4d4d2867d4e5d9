"""People who were in no run: their samples, and what is held out (NumPy)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from personalization_jax.datasets import (
  Population,
  intake,
  pixels,
  splits,
  variations,
)
from personalization_jax.datasets.scaling import Scaling
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.randomness import Stream, generator


def population_of(
  arrays: Mapping[str, np.ndarray],
  num_classes: int,
  sample_shape: Sequence[int],
  *,
  is_fig_4: bool = True,
  dtype: str | None = None,
  label_names: Sequence[str] | None = None,
  label_values: Sequence[int] | None = None,
  white: float | None = None,
  layout: str = "auto",
  pad: bool = False,
  say: Callable[[str], None] = logging.warning,
) -> Population:
  """People's samples as a base model takes them.

  `arrays` has images [N, ...] and where there are any labels, individuals,
  originals [N] and label_names, as `Population.from_arrays` takes them; without
  them labels and individuals are 0. Labels and images are read as those of the
  model's own data, by `label_names`, `label_values` and `white` of its
  `Population`, whatever else this file holds. Samples of the model's shape
  stay, square images of any other size are brought to it. `is_fig_4` tells the
  paper's model, which sees images resized, and `dtype` what it was trained on,
  "uint8" or "float32", if that is known.
  """
  images = np.asarray(arrays["images"])
  shape, count = tuple(sample_shape), len(images) if images.ndim else 0
  if layout == "auto":
    is_kept = white == 0 and len(shape) == 3
    layout = "features" if is_kept else pixels.layout_of(images.shape, shape)
  is_float = images.dtype.kind == "f"
  # Floats for a model of integers are as it sees these.
  if white is None or (white and is_float and dtype == "uint8"):
    white = 1 if is_float else 255
  # Defaults can't be faulty; `from_arrays` judges the shape of the images.
  zeros = np.zeros(count, np.int32)
  labels = arrays.get("labels", zeros)
  if count:
    if "label_names" in arrays and label_names is None:
      say("label_names isn't read: the model's classes have no names.")
    elif "label_names" in arrays:
      own_names = intake.class_names(arrays["label_names"])
      labels = np.array(own_names)[intake.places(labels, count, own_names)]
    names = label_names or [*map(str, range(num_classes))]
    labels = intake.places(labels, count, names, label_values)
  population = Population.from_arrays(
    images,
    labels,
    arrays.get("individuals", zeros),
    originals=arrays.get("originals"),
    num_classes=num_classes,
    complete=False,
    label_names=label_names,
    layout=layout,
    pad=pad,
    white=white,
    say=say,
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


def first_samples(
  population: Population,
  split: Split,
  count: int | None = None,
  *,
  choosing: bool = False,
  seed: int = 0,
) -> Split:
  """Everybody's first samples to train on, of those who have so many.

  A person's order is drawn by the seed and depends on that person alone: fewer
  samples are among more. It isn't stratified: of few samples each would be the
  only one of its class, and nothing could be chosen by it. Copies count once,
  with the drawing that they are of.

  Args:
    population: the store.
    split: as `hold_out` or `join` gives it.
    count: how many samples of each person; None for all.
    choosing: whether a fifth of them, one at least, drawn at random, is to
      choose by: the split's validation.
    seed: of the order and the draw.

  Returns:
    A split whose arrays are as wide whatever the count is, so that one
    compilation serves all.

  Raises:
    ValueError: if somebody has one sample, and choosing needs two.
  """
  train, validation, people = [], [], []
  widest = 0
  for index, person in enumerate(split.individuals.tolist()):
    own, _, _ = split.parts(index)
    drawings, place, copies = np.unique(
      population.originals[own], return_inverse=True, return_counts=True
    )
    if choosing and len(drawings) < 2:
      raise ValueError(
        f"individual {population.name_of(person)} has one sample to train on,"
        " and none to choose by: two are needed beside those held out."
      )
    most = _to_choose(len(drawings)) if choosing else 0
    widest = max(widest, int(np.sort(copies)[::-1][:most].sum()))
    if count is not None and count > len(drawings):
      continue
    rng = generator(seed, Stream.SHOTS, person)
    order = rng.permutation(len(drawings))[:count]
    lots = rng.permutation(len(drawings))[order]
    number = _to_choose(len(order)) if choosing else 0
    by, to_train = np.split(order[np.argsort(lots)], [number])
    validation.append(own[np.isin(place, by)])
    train.append(own[np.isin(place, to_train)])
    people.append(index)
  widths = split.train.shape[1], widest
  both = [
    np.pad(rows, [(0, 0), (0, width - rows.shape[1])], constant_values=PADDING)
    for rows, width in zip(map(splits.pad, (train, validation)), widths)
  ]
  return dataclasses.replace(
    split.take(np.array(people, int)), train=both[0], validation=both[1]
  )


def _to_choose(count: int) -> int:
  """Of so many samples, how many are to choose by."""
  return max(1, round(count / 5))


def join(
  population: Population, held_out: Population
) -> tuple[Population, Split]:
  """Everybody an individual, with samples of a second population as `test`.

  Both are of one model's classes; people are known by their names.
  Returns one store of both, and the split without D_G.
  """
  kind, other = population.images.dtype, held_out.images.dtype
  if kind != other:
    raise ValueError(
      f"samples are {kind} to train on, but {other} to test on; both must be of"
      " one kind."
    )
  people = np.unique(population.individuals)
  # Each file numbers its own people: names tell who is who.
  names, others = (
    {one.name_of(person): person for person in np.unique(one.individuals)}
    for one in (population, held_out)
  )
  alone = [
    f"{intake.listed(sorted(these - those))} ({what})"
    for these, those, what in (
      (names.keys(), others.keys(), "to train on"),
      (others.keys(), names.keys(), "to test on"),
    )
    if these - those
  ]
  if alone:
    raise ValueError(
      "everyone needs samples to train on and samples to test on, but these"
      f" people have one kind alone: {', '.join(alone)}."
    )
  ids = {others[name]: person for name, person in names.items()}
  held_out = dataclasses.replace(
    held_out,
    individuals=np.array([ids[k] for k in held_out.individuals], np.int32),
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
