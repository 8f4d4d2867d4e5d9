"""Pages of images, and the map of the latent space that some are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personalization_jax import checks
from personalization_jax.figures import styles

_PAPER, _MISSING = 255, 235


def handwriting(
  images: np.ndarray,
  labels: np.ndarray,
  individuals: np.ndarray,
  people: Sequence[int] | np.ndarray,
  *,
  classes: int = 10,
  samples: int = 3,
  names: Sequence[str] | None = None,
  class_names: Sequence[str] | None = None,
) -> Figure:
  """A page of handwriting, one row a person.

  Args:
    images: [N, H, W, C] with one channel or three, uint8, or float with 1 for
      full ink. One channel is shown as dark ink on light paper, however it is
      stored.
    labels: integers [N]; classes 0 .. classes - 1 are the columns.
    individuals: integers [N], the id of each row's person.
    people: ids of the people to show, from the top.
    classes: number of columns.
    samples: images of a person and class, side by side: the first in storage.
      What a person lacks stays blank (grey).
    names: names of people by id; by default an id is a person's name.
    class_names: names of the classes; by default their numbers.

  Source: Fig. 1.
  """
  labels, individuals = np.asarray(labels), np.asarray(individuals)
  checks.shapes(
    ("images", images, "NHWC"),
    ("labels", labels, "N"),
    ("individuals", individuals, "N"),
    ("people", people, "P"),
  )
  checks.whole_number("classes", classes, 1)
  checks.whole_number("samples", samples, 1)
  unknown = np.setdiff1d(people, individuals)
  if unknown.size:
    raise ValueError(f"person {unknown[0]} has no image.")
  rows = np.full((len(people), classes, samples), -1)
  for i, label in np.ndindex(rows.shape[:2]):
    own = (individuals == people[i]) & (labels == label)
    first = np.flatnonzero(own)[:samples]
    rows[i, label, : len(first)] = first
  cells = _cells(images, rows.reshape(len(people), -1))
  height, width, _ = cells.shape[2:]
  gap = max(2, width // 8)  # between people; twice as much between classes
  tops = np.arange(len(people)) * (height + gap)
  cell = samples * width + 2 * gap
  lefts = np.arange(classes)[:, None] * cell + gap + np.arange(samples) * width
  # A third of an inch an image, on pages from 4 to 14 inches wide.
  inches = min(max(classes * samples / 3, 4.0), 14.0)
  figure, axes = _page(cells, tops, lefts.ravel(), inches, 0.8, margin=gap)
  axes.set_xticks(
    (np.arange(classes) + 0.5) * cell - 0.5,
    [
      _called(label, class_names, most=2 * samples + 1)
      for label in range(classes)
    ],
    parse_math=False,
  )
  axes.set_yticks(
    tops + height / 2,
    [_called(person, names, "Person ") for person in people],
    parse_math=False,
  )
  return figure


def neighbours(
  images: np.ndarray,
  labels: np.ndarray,
  individuals: np.ndarray,
  person: int,
  nearest: Sequence[int] | np.ndarray,
  farthest: Sequence[int] | np.ndarray,
  *,
  classes: int = 10,
  samples: int = 2,
  names: Sequence[str] | None = None,
  class_names: Sequence[str] | None = None,
) -> Figure:
  """A person's digits, those of the nearest people, those of the farthest.

  Takes what `handwriting` takes, but instead of the people a person's id and
  the ids of those nearest, nearest first, and farthest. Nobody may stand twice.

  Source: Fig. 3.
  """
  groups = ([person], nearest, farthest)
  people = np.concatenate(groups).astype(int)
  ids, counts = np.unique(people, return_counts=True)
  if (counts > 1).any():
    raise ValueError(
      f"person {ids[counts > 1][0]} stands twice among the person, the nearest"
      " and the farthest: each can stand once."
    )
  figure = handwriting(
    images,
    labels,
    individuals,
    people,
    classes=classes,
    samples=samples,
    class_names=class_names,
  )
  axes = figure.axes[0]
  kinds = ("Person ", "person ", "person ")
  beginnings = ("", "Near: ", "Far: ")
  places = axes.get_yticks()
  called = [
    beginning + _called(one, names, kind)
    for beginning, kind, own in zip(beginnings, kinds, groups)
    for one in own
  ]
  axes.set_yticks(places, called, parse_math=False)
  for first in np.cumsum([len(group) for group in groups])[:-1]:
    if 0 < first < len(people):
      between = (places[first - 1] + places[first]) / 2
      axes.axhline(between, color="#444444", linewidth=0.8)
  return figure


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray) -> Figure:
  """Originals, and below each what the auto-encoder makes of it, 16 a line.

  Both are images [n, H, W, C] of one shape, as those of `handwriting`.
  """
  given = {"originals": originals, "reconstructed": reconstructed}
  checks.shapes(*((*item, "nHWC") for item in given.items()))
  pairs = np.stack(_dark_ink(**given))
  _, count, *shape = pairs.shape
  height, width, _ = shape
  columns = min(count, 16)
  lines = -(-count // columns)
  cells = np.full((2, lines * columns, *shape), _PAPER, np.uint8)
  cells[:, :count] = pairs
  gap = max(1, width // 8)
  # A pair stands close together, pairs stand apart.
  tops = np.arange(lines) * (2 * height + 4 * gap)
  tops = np.concatenate([tops, tops + height + gap])
  lefts = np.arange(columns) * (width + gap)
  cells = cells.reshape(2 * lines, columns, *shape)
  figure, axes = _page(cells, tops, lefts, max(0.4 * columns, 3.0), 1.0)
  names = ["Original"] * lines + ["Reconstruction"] * lines
  axes.set_yticks(tops + height / 2, names)
  return figure


def chosen_samples(
  images: np.ndarray, rows: np.ndarray, chosen: np.ndarray
) -> Figure:
  """A few samples of D_I, and beside each what was chosen for it from D_G.

  Args:
    images: [N, H, W, C], as for `handwriting`.
    rows: integers [k], the samples, one a line.
    chosen: integers [k, m], what each sample was given in order of choice, -1
      for padding (grey).

  Source: Algorithm 1, lines 13-15.
  """
  rows, chosen = np.asarray(rows), np.asarray(chosen)
  checks.shapes(("rows", rows, "k"), ("chosen", chosen, "km"))
  lines = np.column_stack([rows, chosen])
  if rows.min() < 0 or lines.max() >= len(images):
    raise ValueError(f"rows must lie in 0..{len(images) - 1}, but some do not.")
  cells = _cells(images, lines)
  height, width, _ = cells.shape[2:]
  gap = max(1, width // 8)
  # The sample stands apart from what was chosen for it.
  first = width + 4 * gap
  lefts = np.r_[0, first + np.arange(chosen.shape[1]) * (width + gap)]
  tops = np.arange(len(rows)) * (height + gap)
  figure, axes = _page(cells, tops, lefts, max(0.4 * len(lefts), 3.0), 1.0)
  axes.set_xticks(
    [width / 2, (first + lefts[-1] + width) / 2],
    ["Sample of $D_I$", "Chosen from $D_G$, in order"],
  )
  axes.set_yticks([])
  return figure


def latent_map(
  latents: np.ndarray, is_individual: np.ndarray, axes: Axes | None = None
) -> Axes:
  """Everybody on the two axes along which people differ most (PCA).

  Args:
    latents: float [P, D], each person's place: the mean of the person's class
      means, or these one after another.
    is_individual: bool [P], True for the individuals, False for the writers of
      D_G.
    axes: where to draw; by default a new figure.
  """
  latents = np.asarray(latents, np.float64)
  is_individual = np.asarray(is_individual, bool)
  people = "is_individual", is_individual, "P"
  checks.shapes(("latents", latents, "PD"), people)
  if len(latents) < 3 or latents.shape[1] < 2:
    raise ValueError(
      "latents must be [P, D] of three people or more in two dimensions or"
      f" more, but have shape {list(latents.shape)}."
    )
  if not np.isfinite(latents).all():
    raise ValueError("latents must be finite, but some are not.")
  centred = latents - latents.mean(axis=0)
  _, scales, directions = np.linalg.svd(centred, full_matrices=False)
  # Signs mustn't depend on LAPACK: the largest component is positive.
  largest = np.abs(directions[:2]).argmax(axis=1)
  points = centred @ directions[:2].T * np.sign(directions[[0, 1], largest])
  shares = scales**2 / max((scales**2).sum(), np.finfo(float).tiny)
  axes = styles.axes_or_new(axes, 6.5, 5.5)
  for chosen, label, colour, marker in (
    (~is_individual, "Writers of $D_G$", "#0072B2", "o"),
    (is_individual, "Individuals", "#D55E00", "^"),
  ):
    look: Any = {"s": 36, "marker": marker, "color": colour, "alpha": 0.85}
    look |= {"edgecolors": "white", "linewidths": 0.6}
    count = np.count_nonzero(chosen)
    axes.scatter(*points[chosen].T, label=f"{label} ({count})", **look)
  axes.set_xlabel(f"First principal component ({shares[0]:.0%} of variance)")
  axes.set_ylabel(f"Second principal component ({shares[1]:.0%})")
  axes.set_aspect("equal", adjustable="datalim")
  axes.margins(0.08)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(ncols=2, **styles.LEGEND_RIGHT)
  return axes


def _called(
  number: int, names: Sequence[str] | None, kind: str = "", most: int = 24
) -> str:
  """A name, cut where a page has no room for it; "Person 7" without names."""
  if names is None:
    return f"{kind}{number}"
  name = names[number]
  return name if len(name) <= most else f"{name[: most - 1]}\u2026"


def _cells(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """The images in rows [k, m], with dark ink; grey where a row is -1."""
  there = rows >= 0
  (dark,) = _dark_ink(images=np.asarray(images)[rows[there]])
  cells = np.full((*rows.shape, *dark.shape[1:]), _MISSING, np.uint8)
  cells[there] = dark
  return cells


def _dark_ink(**given: np.ndarray) -> list[np.ndarray]:
  """Images as uint8 (of 0..1), all inverted if the first are white on black."""
  found = []
  for name, images in given.items():
    shape = np.shape(images)
    if len(shape) != 4 or shape[3] not in (1, 3):
      raise ValueError(
        f"{name} must be [n, H, W, 1] or [n, H, W, 3], but have shape"
        f" {list(shape)}."
      )
    if np.asarray(images).dtype != np.uint8:
      images = np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
    found.append(images)
  invert = found[0].shape[3] == 1 and np.median(found[0]) < 128
  return [255 - images if invert else images for images in found]


def _page(
  cells: np.ndarray,
  tops: np.ndarray,
  lefts: np.ndarray,
  inches: float,
  beside: float,
  margin: int = 0,
) -> tuple[Figure, Axes]:
  """Paper, so many inches wide, with images [rows, columns, H, W, C] on it."""
  height, width, channels = cells.shape[2:]
  tall, wide = tops[-1] + height + margin, lefts[-1] + width + margin
  page = np.full((tall, wide, channels), _PAPER, np.uint8)
  for top, line in zip(tops, cells):
    for left, image in zip(lefts, line):
      page[top : top + height, left : left + width] = image
  axes = styles.axes_or_new(None, inches + beside, inches * tall / wide + 0.4)
  shown = page if channels == 3 else page[..., 0]
  axes.imshow(shown, "gray", vmin=0, vmax=255)
  axes.set_xticks([])
  axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
  axes.spines[:].set_visible(False)
  return styles.figure_of(axes), axes
