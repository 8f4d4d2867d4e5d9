"""Population: everybody's samples, flat, with whose each is (NumPy, host)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from personalization_jax.datasets import intake, pixels
from personalization_jax.datasets.scaling import Scaling


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
  """Labelled samples of many individuals, in one flat store.

  Splits, groups and batches are arrays of rows of this store.

  Attributes:
    images: the samples: uint8 [N, H, W, C], images whose 0..255 models see as
      0..1; or float32 [N, ...], used as they are: images [N, H, W, C], feature
      vectors [N, F], or what a model of one's own takes.
    labels: int32 [N], 0 <= label < num_classes.
    individuals: int32 [N], the id of the person a row belongs to.
    originals: int32 [N], the id of the drawing a row shows. Rows made from one
      drawing (its flips) share it, so that a split never separates them.
    num_classes: number of classes.
    label_names: names of the classes; None if the data have none.
    file_rows: int32 [N], the row of the user's file that a sample comes from;
      by default this store is that file. Samples left out, and flips, make the
      two differ.
    individual_names: names of people by id, where the data have no numbers of 0
      or more: person k is individual_names[k]. None if ids are names.
    parts: int8 [N], the user's own split: 0 to train on, 1 to validate on, 2 to
      test on; None if there is none.
    label_values: what whole numbers stand for the first classes in the data;
      None if 0, 1, ... do.
    white: the number of the data that is full ink, by which images were brought
      to 0..255 or 0..1; 0 if they were kept as numbers; None if they came so.
    scaling: what the samples were scaled by, which new people's want too; None
      if they are as they came.
    origin: the fingerprint of the samples as they came, if they were scaled.
  """

  images: np.ndarray
  labels: np.ndarray
  individuals: np.ndarray
  originals: np.ndarray
  num_classes: int
  label_names: tuple[str, ...] | None = None
  file_rows: np.ndarray = None  # type: ignore[assignment]
  individual_names: tuple[str, ...] | None = None
  parts: np.ndarray | None = None
  label_values: tuple[int, ...] | None = None
  white: float | None = None
  scaling: Scaling | None = None
  origin: str = ""

  def __post_init__(self) -> None:
    if self.file_rows is None:
      rows = np.arange(len(self.labels), dtype=np.int32)
      object.__setattr__(self, "file_rows", rows)

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def sample_shape(self) -> tuple[int, ...]:
    """The shape of one sample: (H, W, C), (F,) or another."""
    return self.images.shape[1:]

  @property
  def holds_images(self) -> bool:
    """Whether a sample is an image [H, W, C], to go by its axes."""
    return len(self.sample_shape) == 3

  @classmethod
  def from_arrays(
    cls,
    images: Any,
    labels: Any,
    individuals: Any,
    *,
    originals: Any = None,
    num_classes: int | None = None,
    complete: bool = True,
    label_names: Sequence[str] | None = None,
    is_test: Any = None,
    layout: str = "auto",
    pad: bool = False,
    white: float | None = None,
    say: Callable[[str], None] = logging.warning,
  ) -> Population:
    """Checks plain arrays and makes a population of them.

    Ids and labels are whole numbers, texts, bytes or bool; what are no numbers
    of 0 or more (labels: 0 .. C-1 without gaps) is numbered in sorted order,
    and its names are kept. GUIDE has a table of all kinds.

    Args:
      images: the samples: images [N, H, W, C], or integers [N, H, W] of one
        channel; or feature vectors [N, F]; or finite floats [N, ...] of any
        shape, kept as float32.
      labels: [N], [N, 1], or one-hot [N, C].
      individuals: [N], the id of each row's person.
      originals: [N], equal for rows made from one drawing; by default every row
        is its own.
      num_classes: if it is given, labels are numbers below it.
      complete: whether to reject classes without a sample and people with one
        sample, with which no study can be made.
      label_names: names of the classes; those without a sample are left out,
        but with num_classes, which says how many names there are.
      is_test: [N], the user's own split: whether a row is a test sample, or the
        texts train, validation and test.
      layout: what the axes of samples are: "channels_last", "channels_first",
        "grey" (no axis for the channel), "features" (anything, kept as it is),
        or "auto".
      pad: whether to bring images into the middle of a square of zeros.
      white: the number that is full ink; found out by default.
      say: told what was numbered or scaled, and how.

    Returns:
      The population.

    Raises:
      ValueError: naming, in one sentence, what is wrong with the arrays.
    """
    images, white = pixels.samples(
      images, layout=layout, pad=pad, white=white, say=say
    )
    count = len(images)
    ids, individual_names, _ = intake.individuals(individuals, count, say)
    label_values = None
    if num_classes is None:
      labels, label_names, label_values = intake.labels(
        labels, count, label_names, say
      )
      num_classes = int(labels.max()) + 1
    else:
      labels = intake.numbers_below(labels, count, num_classes)
      if label_names is not None and len(label_names) != num_classes:
        raise ValueError(
          f"label_names has {len(label_names)} names for"
          f" num_classes={num_classes}: one for each class."
        )
    if originals is None:
      originals = np.arange(count)
    found = cls(
      images,
      labels,
      ids,
      intake.originals(originals, count),
      int(num_classes),
      None if label_names is None else intake.class_names(label_names),
      individual_names=individual_names,
      parts=None if is_test is None else intake.parts(is_test, count),
      label_values=label_values,
      white=white,
    )
    if complete:
      found.check_complete()
    found.check_finite()
    return found

  def check_complete(self) -> None:
    """Rejects classes without a sample, and people who can't be tested."""
    originals, individuals = self.originals, self.individuals
    # More classes than rows leave one of the first empty.
    empty = np.setdiff1d(
      np.arange(min(self.num_classes, len(self) + 1)), self.labels
    )
    if empty.size:
      raise ValueError(
        f"class {empty[0]} of 0..{self.num_classes - 1} has no sample; number"
        " the labels without gaps."
      )
    shared = _count_different(individuals, originals) > 1
    if shared.any():
      raise ValueError(
        f"original {originals[shared].min()} belongs to more than one"
        " individual."
      )
    alone = _count_different(originals, individuals) < 2
    if alone.any():
      raise ValueError(
        f"individual {self.name_of(individuals[alone].min())} has one sample;"
        " everyone needs at least two, one to train on and one to test on."
      )

  def name_of(self, individual: int) -> str:
    """What the person with this id is called."""
    names = self.individual_names
    return str(individual) if names is None else names[individual]

  def names_of(self, people: np.ndarray) -> np.ndarray | None:
    """What people with these ids [S] are called; None if ids are names."""
    names = self.individual_names
    return None if names is None else np.array(names)[people]

  def take(self, rows: np.ndarray) -> Population:
    """The population of these rows [M] alone, with as many classes."""
    columns = ("images", "labels", "individuals", "originals", "file_rows")
    taken = {name: getattr(self, name)[rows] for name in columns}
    parts = None if self.parts is None else self.parts[rows]
    return dataclasses.replace(self, **taken, parts=parts, origin="")

  def check_finite(self) -> None:
    """Rejects float samples on which every model would diverge."""
    images = self.images
    with np.errstate(over="ignore"):  # models see them as float32
      ends = np.array([images.min(), images.max()]).astype(np.float32)
      if np.isfinite(ends).all():
        return
      samples = images.reshape(len(images), -1).astype(np.float32)
    row = int(np.argmin(np.isfinite(samples).all(axis=1)))
    raise ValueError(
      f"samples must be finite, but row {row} of images, of individual"
      f" {self.name_of(self.individuals[row])}, holds NaN, infinity or a number"
      " too large for float32: fill such entries in, or leave these rows out."
    )

  def fingerprint(self) -> str:
    """SHA-256 of the samples, to tell whether two runs saw the same data."""
    if self.origin:
      return self.origin
    digest = hashlib.sha256()
    for array in (self.images, self.labels, self.individuals, self.originals):
      digest.update(f"{array.dtype}{array.shape}".encode())
      digest.update(np.ascontiguousarray(array).tobytes())
    if self.parts is not None:
      digest.update(self.parts.tobytes())
    if self.individual_names is not None:
      digest.update(repr(self.individual_names).encode())
    return digest.hexdigest()


def with_two_drawings(
  people: np.ndarray, drawings: np.ndarray, say: Callable[[str], None]
) -> np.ndarray:
  """Rows of people with two drawings or more; tells how many others are out."""
  enough = _count_different(drawings, people) > 1
  if not enough.any():
    raise ValueError(
      "nobody has two samples: does something else say whose they are?"
    )
  if not enough.all():
    alone, everybody = (len(np.unique(p)) for p in (people[~enough], people))
    say(
      f"left out {alone} of {everybody} people, who have one sample each;"
      " everyone needs two."
    )
  return np.flatnonzero(enough)


def _count_different(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
  """How many different values the owner of each row [N] has."""
  count = len(values)
  places, numbers = (
    np.unique(each, return_inverse=True)[1] for each in (owners, values)
  )
  pairs = np.unique(places * count + numbers)
  return np.bincount(pairs // count)[places]
