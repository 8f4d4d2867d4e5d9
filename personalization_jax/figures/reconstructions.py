"""Figures of the latent space: what it keeps, who and what is near whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personalization_jax.figures import styles
from personalization_jax.figures.handwriting import handwriting

_COLUMNS = 16  # images side by side, at most
_PAPER, _MISSING = 255, 235
_INDIVIDUAL, _WRITER = "#D55E00", "#0072B2"


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray) -> Figure:
  """Originals, and below each what the auto-encoder makes of it.

  Args:
    originals: [n, H, W, C] with one channel or three, uint8, or float with 1
      for full ink (cut off above). One channel is shown as dark ink on light
      paper, however it is stored.
    reconstructed: [n, H, W, C], likewise.

  Returns:
    The page, 16 pairs a line.

  Raises:
    ValueError: no image, or shapes that differ.
  """
  above, below = _bytes("originals", originals), np.asarray(reconstructed)
  if above.shape != below.shape:
    raise ValueError(
      "originals and reconstructed must be of one shape, but are"
      f" {list(above.shape)} and {list(below.shape)}."
    )
  below = _bytes("reconstructed", below)
  if _is_white_ink(above):
    above, below = 255 - above, 255 - below
  count, height, width, channels = above.shape
  columns = min(count, _COLUMNS)
  lines = -(-count // columns)
  gap = max(1, width // 8)
  # A pair stands close together, pairs stand apart.
  pitch = 2 * height + 4 * gap
  page = np.full(
    (lines * pitch - 3 * gap, columns * (width + gap) - gap, channels),
    _PAPER,
    np.uint8,
  )
  for k, pair in enumerate(zip(above, below)):
    top, left = k // columns * pitch, k % columns * (width + gap)
    for image in pair:
      page[top : top + height, left : left + width] = image
      top += height + gap
  figure, axes = _show(page, columns)
  places = np.arange(lines) * pitch + height / 2
  _name_lines(
    axes,
    np.concatenate([places, places + height + gap]),
    ["Original"] * lines + ["Reconstruction"] * lines,
  )
  return figure


def latent_map(
  latents: np.ndarray,
  is_individual: np.ndarray,
  names: Sequence[str] | None = None,
  axes: Axes | None = None,
) -> Axes:
  """Everybody on the two axes along which people differ most (PCA).

  Args:
    latents: float [P, D], each person's place: the mean of the person's class
      means, or these one after another.
    is_individual: bool [P], True for the individuals, False for the writers of
      D_G.
    names: written beside each point if given.
    axes: where to draw; by default a new figure.

  Returns:
    The axes; one unit is as long in both directions.

  Raises:
    ValueError: fewer than three people, or arrays that don't fit.
  """
  latents = np.asarray(latents, np.float64)
  is_individual = np.asarray(is_individual, bool)
  if latents.ndim != 2 or len(latents) < 3 or latents.shape[1] < 2:
    raise ValueError(
      "latents must be [P, D] of three people or more in two dimensions or"
      f" more, but have shape {list(latents.shape)}."
    )
  if not np.isfinite(latents).all():
    raise ValueError("latents must be finite, but some are not.")
  for name, values in (("is_individual", is_individual), ("names", names)):
    if values is not None and len(values) != len(latents):
      raise ValueError(
        f"{name} must be of the {len(latents)} people of latents, but is of"
        f" {len(values)}."
      )
  points, shares = _principal_components(latents)
  axes = styles.axes_or_new(axes, 6.5, 5.5)
  for chosen, label, colour, marker in (
    (~is_individual, "Writers of $D_G$", _WRITER, "o"),
    (is_individual, "Individuals", _INDIVIDUAL, "^"),
  ):
    axes.scatter(
      points[chosen, 0],
      points[chosen, 1],
      s=36,
      marker=marker,
      color=colour,
      edgecolors="white",
      linewidths=0.6,
      alpha=0.85,
      label=f"{label} ({int(chosen.sum())})",
    )
  for point, text in zip(points, names or []):
    axes.annotate(
      text,
      (point[0], point[1]),
      xytext=(4, 4),
      textcoords="offset points",
      fontsize=7,
      color="#444444",
    )
  axes.set_xlabel(f"First principal component ({shares[0]:.0%} of variance)")
  axes.set_ylabel(f"Second principal component ({shares[1]:.0%})")
  axes.set_aspect("equal", adjustable="datalim")
  axes.margins(0.08)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(
    loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9
  )
  return axes


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

  Args:
    images: uint8 [N, H, W, C], as for `handwriting`.
    labels: integers [N]; classes 0 .. classes - 1 are the columns.
    individuals: integers [N], the id of each row's person.
    person: whose neighbours they are.
    nearest: ids, nearest first.
    farthest: ids, in the order to show; who is near is not far too.
    classes: number of columns.
    samples: images of a person and class.

  Returns:
    The page.

  Raises:
    ValueError: as `handwriting`, or somebody stands twice.

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
  axes.set_yticklabels(
    [f"{kind} {one}" for kind, group in zip(kinds, groups) for one in group]
  )
  places = axes.get_yticks()
  for first in np.cumsum([len(group) for group in groups])[:-1]:
    if 0 < first < len(people):
      between = (places[first - 1] + places[first]) / 2
      axes.axhline(between, color="#444444", linewidth=0.8)
  return figure


def chosen_samples(
  images: np.ndarray, rows: np.ndarray, chosen: np.ndarray
) -> Figure:
  """A few samples of D_I, and beside each what was chosen for it from D_G.

  Args:
    images: uint8 [N, H, W, C] with one channel or three.
    rows: integers [k], the samples, one a line.
    chosen: integers [k, m], what each sample was given in order of choice, -1
      for padding (grey).

  Returns:
    The page.

  Raises:
    ValueError: no sample, nothing chosen, or arrays that don't fit.

  Source: Algorithm 1, lines 13-15.
  """
  rows, chosen = np.asarray(rows), np.asarray(chosen)
  if chosen.ndim != 2 or not chosen.size or len(rows) != len(chosen):
    raise ValueError(
      "rows and chosen must be [k] and [k, m] with a sample and a choice at"
      f" least, but are {list(rows.shape)} and {list(chosen.shape)}."
    )
  used = np.concatenate([rows, chosen[chosen >= 0]])
  if used.min() < 0 or used.max() >= len(images):
    raise ValueError(f"rows must lie in 0..{len(images) - 1}, but some do not.")
  invert = _is_white_ink(_bytes("images", images[used]))
  _, height, width, channels = images.shape
  gap = max(1, width // 8)
  columns = 1 + chosen.shape[1]
  # The sample stands apart from what was chosen for it.
  first = width + 4 * gap
  page = np.full(
    (
      len(rows) * (height + gap) - gap,
      first + chosen.shape[1] * (width + gap) - gap,
      channels,
    ),
    _PAPER,
    np.uint8,
  )
  for line, (row, others) in enumerate(zip(rows, chosen)):
    top = line * (height + gap)
    for k, other in enumerate([row, *others]):
      left = 0 if k == 0 else first + (k - 1) * (width + gap)
      image = images[other]
      page[top : top + height, left : left + width] = (
        _MISSING if other < 0 else 255 - image if invert else image
      )
  figure, axes = _show(page, columns)
  axes.set_xticks([width / 2, (first + page.shape[1]) / 2])
  axes.set_xticklabels(["Sample of $D_I$", "Chosen from $D_G$, in order"])
  axes.tick_params(top=False, labeltop=True, labelbottom=False)
  axes.set_yticks([])
  return figure


def _principal_components(
  latents: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Places [P, 2] and shares of variance [2]; signs don't depend on LAPACK."""
  centred = latents - latents.mean(axis=0)
  _, scales, directions = np.linalg.svd(centred, full_matrices=False)
  directions = directions[:2]
  largest = np.abs(directions).argmax(axis=1)
  directions = directions * np.sign(directions[[0, 1], largest])[:, None]
  variances = np.square(scales)
  shares = variances[:2] / max(variances.sum(), np.finfo(float).tiny)
  return centred @ directions.T, shares


def _bytes(name: str, images: np.ndarray) -> np.ndarray:
  """Images as uint8; floats count 1 as 255."""
  images = np.asarray(images)
  if images.ndim != 4 or not len(images) or images.shape[3] not in (1, 3):
    raise ValueError(
      f"{name} must be [n, H, W, 1] or [n, H, W, 3] with an image at least,"
      f" but have shape {list(images.shape)}."
    )
  if images.dtype == np.uint8:
    return images
  return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def _is_white_ink(images: np.ndarray) -> bool:
  return bool(images.shape[3] == 1 and np.median(images) < 128)


def _show(page: np.ndarray, columns: int) -> tuple[Figure, Axes]:
  """The page on a figure, two fifths of an inch an image, 3 inches or more."""
  inches = max(0.4 * columns, 3.0)
  figure = Figure(
    figsize=(inches + 1.0, inches * page.shape[0] / page.shape[1] + 0.4),
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


def _name_lines(axes: Axes, places: np.ndarray, names: Sequence[str]) -> None:
  axes.set_yticks(places)
  axes.set_yticklabels(names)
