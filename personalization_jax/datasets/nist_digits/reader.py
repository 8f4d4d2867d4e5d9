"""Digits with their writers, read from the published files (NumPy)."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np

from personalization_jax.datasets.nist_digits.files import (
  DataError,
  DigitSet,
  find,
  read_idx,
)

# Columns of QMNIST's extended labels (QMNIST's README, section 2.2). Column 3,
# the index within the writer, and column 7, unused, are not needed here.
# NIST's class codes are ASCII, printed in hexadecimal: 30 is a zero.
_CLASS, _SERIES, _WRITER, _NIST_CODE, _DIGIT, _DUPLICATE = 0, 1, 2, 4, 5, 6


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
  """Digits and where in NIST Special Database 19 they come from."""

  images: np.ndarray  # uint8 [N, H, W, 1], ink is 255
  labels: np.ndarray  # int32 [N], as all below; 0..9
  writers: np.ndarray  # NIST's numbers of the writers
  series: np.ndarray  # the handwriting sample form (HSF) series of the writers
  digit_ids: np.ndarray  # the digits' numbers among all of the database
  duplicate_of: np.ndarray  # an earlier digit with the very same image, or 0


def read_digits(digit_set: DigitSet, folder: str | os.PathLike[str]) -> Digits:
  """All digits of a set, in the order of its files, or a DataError."""
  # All are found before one is read: a missing file is known at once.
  paths = {file: find(file, folder) for file in digit_set.files}
  images, labels = [], []
  for part in digit_set.parts:
    labels.append(read_idx(paths[part.labels], part.labels))
    _check_labels(labels[-1], paths[part.labels])
    images.append(read_idx(paths[part.images], part.images))
  table = np.concatenate(labels)
  # 316 MB of images needn't be copied when they are in one file.
  pixels = images[0] if len(images) == 1 else np.concatenate(images)
  return Digits(
    images=pixels[..., None],
    labels=table[:, _CLASS],
    writers=table[:, _WRITER],
    series=table[:, _SERIES],
    digit_ids=table[:, _DIGIT],
    duplicate_of=table[:, _DUPLICATE],
  )


def _check_labels(labels: np.ndarray, path: pathlib.Path) -> None:
  """Holds every row to what QMNIST documents about it."""
  classes = labels[:, _CLASS]
  wrong = (labels[:, [_CLASS, _SERIES, _WRITER, _DIGIT]] < 0).any(axis=1)
  wrong |= (classes > 9) | (labels[:, _NIST_CODE] != classes + 30)
  if wrong.any():
    row = int(np.argmax(wrong))
    raise DataError(
      f"{path} is damaged: row {row} holds {labels[row].tolist()}, where a"
      " class 0..9, its NIST code (30 more), and numbers of a series, a writer"
      " and a digit belong."
    )
