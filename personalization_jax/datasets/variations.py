"""Variations of a population: size, flips, class counts (NumPy, host)."""

from __future__ import annotations

import dataclasses

import numpy as np

from personalization_jax import checks
from personalization_jax.datasets.population import Population
from personalization_jax.randomness import Stream, generator

# Fraction of a person's rows that stay where class counts vary: the smaller,
# the closer they come to the proportions drawn.
_KEPT = 0.5


def resize(population: Population, image_size: int) -> Population:
  """Brings square images to a power-of-two size.

  Images are first centred on the next larger power of two by zero padding (28
  becomes 32, as in the paper's crops), then halved by averaging 2x2 pixels or
  doubled by repeating them, until the size fits.

  Args:
    population: square images, uint8 or float.
    image_size: pixels a side, a power of two.

  Returns:
    The population with images [N, image_size, image_size, C] of the same dtype.

  Raises:
    ValueError: if samples aren't square images or the size is no power of two.
  """
  images = population.images
  if not population.holds_images:
    raise ValueError(
      "only images [N, H, W, C] can be resized, but samples have shape"
      f" {list(population.sample_shape)}."
    )
  height, width = images.shape[1:3]
  if height != width:
    raise ValueError(
      f"images must be square to be resized, but are {height}x{width}: pad=True"
      " pads them with zeros."
    )
  if image_size < 1 or image_size & (image_size - 1):
    raise ValueError(f"image_size={image_size} is no power of two.")
  canvas = 1 << (height - 1).bit_length()
  before = (canvas - height) // 2
  pad = (before, canvas - height - before)
  images = np.pad(images, ((0, 0), pad, pad, (0, 0)))
  if canvas > image_size:
    images = _average_pixels(images, canvas // image_size)
  elif canvas < image_size:
    factor = image_size // canvas
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
  return dataclasses.replace(population, images=images, origin="")


def _average_pixels(images: np.ndarray, factor: int) -> np.ndarray:
  """Means of blocks of factor x factor pixels, halves rounded up."""
  count, side, _, channels = images.shape
  blocks = images.reshape(
    count, side // factor, factor, side // factor, factor, channels
  )
  if images.dtype != np.uint8:
    return blocks.mean(axis=(2, 4), dtype=images.dtype)
  total = blocks.sum(axis=(2, 4), dtype=np.uint32)
  half = factor * factor // 2
  return ((total + half) // (factor * factor)).astype(np.uint8)


def flips(population: Population) -> Population:
  """Adds flipped copies as classes of their own: C classes become 3 C.

  Class c flipped left to right is class C + c, and upside down 2 C + c. The
  copies keep the drawing's id in `originals`, so no split separates them.

  Args:
    population: N images, C classes.

  Returns:
    A population of 3 N rows: the originals, then both flips.

  Raises:
    ValueError: if samples aren't images.

  Source: section IV, from 10 to 30 classes.
  """
  images, labels = population.images, population.labels
  classes = int(population.num_classes)  # or labels would not stay int32
  if not population.holds_images:
    raise ValueError(
      "only images [N, H, W, C] can be flipped, but samples have shape"
      f" {list(population.sample_shape)}: leave flips out."
    )
  names = population.label_names
  kinds = ("", " flipped left to right", " upside down")
  parts = population.parts
  return dataclasses.replace(
    population,
    images=np.concatenate([images, images[:, :, ::-1], images[:, ::-1]]),
    labels=np.concatenate([labels, labels + classes, labels + 2 * classes]),
    individuals=np.tile(population.individuals, 3),
    originals=np.tile(population.originals, 3),
    file_rows=np.tile(population.file_rows, 3),
    num_classes=3 * classes,
    label_names=names and tuple(n + kind for kind in kinds for n in names),
    parts=None if parts is None else np.tile(parts, 3),
    origin="",
  )


def vary_class_counts(
  population: Population,
  people: np.ndarray,
  *,
  concentration: float,
  seed: int = 0,
) -> Population:
  """Gives each of these people class preferences of their own.

  Of the people with ids [S], nobody else. A person's class proportions are
  drawn from a symmetric Dirichlet distribution: a concentration of 0.1 asks for
  a few classes, 1 for any proportions, and 100 for nearly even ones. Half of
  the rows are removed at random so that the classes come as near to these as
  the other half allows: of a person with as many samples of each class at
  least half of the classes stay.

  Source: section II, variant 1 (class counts variation).
  """
  checks.positive("concentration", concentration)
  chosen = ~np.isin(population.individuals, people)
  for person in people:
    rng = generator(seed, Stream.CLASS_COUNTS, int(person))
    rows = rng.permutation(np.flatnonzero(population.individuals == person))
    labels = population.labels[rows]
    available = np.bincount(labels, minlength=population.num_classes)
    proportions = rng.dirichlet(np.full(len(available), float(concentration)))
    # Two drawings must be left: one to train on, one to test on.
    _, copies = np.unique(population.originals[rows], return_counts=True)
    total = min(max(round(_KEPT * len(rows)), copies.max() + 1), len(rows))
    # Rows are in random order: the first of each class stay.
    for label, count in enumerate(_fill(proportions, available, total)):
      chosen[rows[labels == label][:count]] = True
  return population.take(np.flatnonzero(chosen))


def _fill(
  proportions: np.ndarray, available: np.ndarray, total: int
) -> np.ndarray:
  """Whole counts [C] that sum to total, near the proportions, none too large.

  A class that can't give its share gives all it has; the others share the rest
  by their proportions. What rounding down leaves goes to the largest
  remainders.
  """
  weights = proportions + 1e-12
  full = np.zeros(len(available), bool)
  while True:
    rest = total - available[full].sum()
    target = np.where(full, available, 0.0)
    if not full.all():
      target[~full] = rest * weights[~full] / weights[~full].sum()
    over = ~full & (target > available)
    if not over.any():
      break
    full |= over
  counts = np.floor(target).astype(np.int64)
  remainders = np.where(counts < available, target - counts, -1.0)
  counts[np.argsort(-remainders, kind="stable")[: total - counts.sum()]] += 1
  return counts
