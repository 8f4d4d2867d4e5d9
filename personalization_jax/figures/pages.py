"""Pages of images: handwriting, neighbours, reconstructions, samples chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personalization_jax.figures import styles

_COLUMNS = 16  # images side by side, at most
_PAPER, _MISSING = 255, 235


def handwriting(
  images: np.ndarray,
  labels: np.ndarray,
  individuals: np.ndarray,
  people: Sequence[int] | np.ndarray,
  *,
  classes: int = 10,
  samples: int = 3,
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

  Returns:
    The page.

  Raises:
    ValueError: nobody to show, an unknown person, or arrays of other shapes.

  Source: Fig. 1.
  """
  labels, individuals = np.asarray(labels), np.asarray(individuals)
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
  rows = np.flatnonzero(np.isin(individuals, people))
  (dark,) = _dark_ink(_bytes("images", np.asarray(images)[rows]))
  _, height, width, channels = dark.shape
  cells = np.full(
    (len(people), classes, samples, height, width, channels), _MISSING, np.uint8
  )
  for i, person in enumerate(people):
    for label in range(classes):
      own = (individuals[rows] == person) & (labels[rows] == label)
      chosen = dark[own][:samples]
      cells[i, label, : len(chosen)] = chosen
  gap = max(2, width // 8)  # between people; twice as much between classes
  tops = np.arange(len(people)) * (height + gap)
  cell = samples * width + 2 * gap
  lefts = np.arange(classes)[:, None] * cell + gap + np.arange(samples) * width
  page = _lay_out(
    cells.reshape(len(people), -1, height, width, channels),
    tops,
    lefts.ravel(),
    margin=gap,
  )
  # A third of an inch an image, on pages from 4 to 14 inches wide.
  inches = min(max(classes * samples / 3, 4.0), 14.0)
  figure, axes = _show(page, inches, beside=0.8)
  axes.set_xticks(
    (np.arange(classes) + 0.5) * cell - 0.5, [str(c) for c in range(classes)]
  )
  axes.set_yticks(tops + height / 2, [f"Person {person}" for person in people])
  axes.tick_params(top=False, labeltop=True, labelbottom=False)
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
) -> Figure:
  """A person's digits, those of the nearest people, those of the farthest.

  Takes what `handwriting` takes, but instead of the people a person's id and
  the ids of those nearest, nearest first, and farthest. Nobody may stand twice.

  Source: Fig. 3.
  """
  groups = ([person], list(nearest), list(farthest))
  people = [int(one) for group in groups for one in group]
  for one in people:
    if people.count(one) > 1:
      raise ValueError(
        f"person {one} stands twice among the person, the nearest and the"
        " farthest: each can stand once."
      )
  figure = handwriting(
    images, labels, individuals, people, classes=classes, samples=samples
  )
  axes = figure.axes[0]
  kinds = ("Person", "Near: person", "Far: person")
  places = axes.get_yticks()
  axes.set_yticks(
    places,
    [f"{kind} {one}" for kind, group in zip(kinds, groups) for one in group],
  )
  for first in np.cumsum([len(group) for group in groups])[:-1]:
    if 0 < first < len(people):
      between = (places[first - 1] + places[first]) / 2
      axes.axhline(between, color="#444444", linewidth=0.8)
  return figure


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray) -> Figure:
  """Originals, and below each what the auto-encoder makes of it, 16 a line.

  Both are images [n, H, W, C] of one shape, as those of `handwriting`.
  """
  above, below = _bytes("originals", originals), np.asarray(reconstructed)
  if above.shape != below.shape:
    raise ValueError(
      "originals and reconstructed must be of one shape, but are"
      f" {list(above.shape)} and {list(below.shape)}."
    )
  pairs = np.stack(_dark_ink(above, _bytes("reconstructed", below)))
  _, count, height, width, channels = pairs.shape
  columns = min(count, _COLUMNS)
  lines = -(-count // columns)
  cells = np.full(
    (2, lines * columns, height, width, channels), _PAPER, np.uint8
  )
  cells[:, :count] = pairs
  gap = max(1, width // 8)
  # A pair stands close together, pairs stand apart.
  tops = np.arange(lines) * (2 * height + 4 * gap)
  tops = np.concatenate([tops, tops + height + gap])
  page = _lay_out(
    cells.reshape(2 * lines, columns, height, width, channels),
    tops,
    np.arange(columns) * (width + gap),
  )
  figure, axes = _show(page, max(0.4 * columns, 3.0), beside=1.0)
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
  if chosen.ndim != 2 or not chosen.size or len(rows) != len(chosen):
    raise ValueError(
      "rows and chosen must be [k] and [k, m] with a sample and a choice at"
      f" least, but are {list(rows.shape)} and {list(chosen.shape)}."
    )
  lines = np.column_stack([rows, chosen])
  if rows.min() < 0 or lines.max() >= len(images):
    raise ValueError(f"rows must lie in 0..{len(images) - 1}, but some do not.")
  (dark,) = _dark_ink(_bytes("images", images[lines[lines >= 0]]))
  _, height, width, _ = dark.shape
  cells = np.full((*lines.shape, *dark.shape[1:]), _MISSING, np.uint8)
  cells[lines >= 0] = dark
  gap = max(1, width // 8)
  # The sample stands apart from what was chosen for it.
  first = width + 4 * gap
  lefts = np.r_[0, first + np.arange(chosen.shape[1]) * (width + gap)]
  page = _lay_out(cells, np.arange(len(rows)) * (height + gap), lefts)
  figure, axes = _show(page, max(0.4 * len(lefts), 3.0), beside=1.0)
  axes.set_xticks(
    [width / 2, (first + page.shape[1]) / 2],
    ["Sample of $D_I$", "Chosen from $D_G$, in order"],
  )
  axes.tick_params(top=False, labeltop=True, labelbottom=False)
  axes.set_yticks([])
  return figure


def _bytes(name: str, images: np.ndarray) -> np.ndarray:
  """Images as uint8; floats count 1 as 255, and are cut off above."""
  images = np.asarray(images)
  if images.ndim != 4 or not len(images) or images.shape[3] not in (1, 3):
    raise ValueError(
      f"{name} must be [n, H, W, 1] or [n, H, W, 3] with an image at least,"
      f" but have shape {list(images.shape)}."
    )
  if images.dtype == np.uint8:
    return images
  return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def _dark_ink(first: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
  """Images uint8 [n, H, W, C], inverted if the first are white on black."""
  invert = first.shape[3] == 1 and np.median(first) < 128
  return [255 - i if invert else i for i in (first, *others)]


def _lay_out(
  cells: np.ndarray, tops: np.ndarray, lefts: np.ndarray, margin: int = 0
) -> np.ndarray:
  """Paper [.., .., C] with images [rows, columns, H, W, C] at these places."""
  height, width, channels = cells.shape[2:]
  page = np.full(
    (tops[-1] + height + margin, lefts[-1] + width + margin, channels),
    _PAPER,
    np.uint8,
  )
  for top, line in zip(tops, cells):
    for left, image in zip(lefts, line):
      page[top : top + height, left : left + width] = image
  return page


def _show(
  page: np.ndarray, inches: float, *, beside: float
) -> tuple[Figure, Axes]:
  """The page on a figure, so wide, with space for names beside it."""
  figure = Figure(
    figsize=(inches + beside, inches * page.shape[0] / page.shape[1] + 0.4),
    dpi=styles.DPI,
    layout="constrained",
  )
  axes = figure.subplots()
  shown = page if page.shape[2] == 3 else page[..., 0]
  axes.imshow(shown, "gray", vmin=0, vmax=255)
  axes.set_xticks([])
  axes.tick_params(length=0, labelsize=9)
  axes.spines[:].set_visible(False)
  return figure, axes
