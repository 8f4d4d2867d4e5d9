"""The page of handwriting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from personalization_jax.figures import styles


def handwriting(
  images: np.ndarray,
  labels: np.ndarray,
  individuals: np.ndarray,
  people: Sequence[int] | np.ndarray,
  *,
  classes: int = 10,
  samples: int = 3,
) -> Figure:
  """A page of handwriting, one row a person, as the paper's Fig. 1.

  Args:
    images: uint8 [N, H, W, C] with one channel or three. One channel is shown
      as dark ink on light paper, however it is stored.
    labels: integers [N]; classes 0 .. classes - 1 are the columns.
    individuals: integers [N], the id of each row's person.
    people: ids of the people to show, from the top.
    classes: number of columns.
    samples: images of a person and class, side by side: the first in storage.
      What a person lacks stays blank (grey).

  Returns:
    The page.

  Raises:
    ValueError: nobody to show, an unknown person, or arrays of other shapes.
  """
  images = np.asarray(images)
  uint8 = images.dtype == np.uint8
  if not uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
    raise ValueError(
      "images must be uint8 [N, H, W, 1] or [N, H, W, 3], but are"
      f" {images.dtype} {list(images.shape)}."
    )
  if not len(images) == len(labels) == len(individuals):
    raise ValueError(
      "images, labels and individuals must be of one length, but have"
      f" {len(images)}, {len(labels)} and {len(individuals)} rows."
    )
  if not len(people) or classes < 1 or samples < 1:
    raise ValueError(
      "people, classes and samples must each be at least one, but are"
      f" {list(people)}, {classes} and {samples}."
    )
  unknown = np.setdiff1d(people, individuals)
  if unknown.size:
    raise ValueError(f"person {unknown[0]} has no image.")
  _, height, width, channels = images.shape
  gap = max(2, width // 8)  # between people; twice as much between classes
  cell = samples * width + 2 * gap
  page = np.full(
    (len(people) * (height + gap), classes * cell, channels), 255, np.uint8
  )
  shown = images[np.isin(individuals, people)]
  invert = channels == 1 and np.median(shown) < 128
  for i, person in enumerate(people):
    top = i * (height + gap)
    for label in range(classes):
      left = label * cell + gap
      rows = np.flatnonzero((individuals == person) & (labels == label))
      page[top : top + height, left : left + samples * width] = 235
      for row in rows[:samples]:
        ink = 255 - images[row] if invert else images[row]
        page[top : top + height, left : left + width] = ink
        left += width
  # A third of an inch an image, on pages from 4 to 14 inches wide.
  inches = min(max(classes * samples / 3, 4.0), 14.0)
  figure = Figure(
    figsize=(inches + 0.8, inches * page.shape[0] / page.shape[1] + 0.4),
    dpi=styles.DPI,
    layout="constrained",
  )
  axes = figure.subplots()
  axes.imshow(page if channels == 3 else page[..., 0], "gray", vmin=0, vmax=255)
  axes.set_xticks((np.arange(classes) + 0.5) * cell - 0.5)
  axes.set_xticklabels([str(label) for label in range(classes)])
  axes.set_yticks(np.arange(len(people)) * (height + gap) + height / 2)
  axes.set_yticklabels([f"Person {person}" for person in people])
  axes.tick_params(length=0, labelsize=9, top=False, labeltop=True)
  axes.tick_params(labelbottom=False)
  axes.spines[:].set_visible(False)
  return figure
