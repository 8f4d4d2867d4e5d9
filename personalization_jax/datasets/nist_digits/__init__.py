"""NIST SD 19 digits by writer: the real data, through tensorflow-datasets.

Importing this package needs NumPy alone; tensorflow-datasets (never TensorFlow)
is imported when data are loaded.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from absl import logging

from personalization_jax.datasets.nist_digits import files
from personalization_jax.datasets.population import (
  Population,
  with_two_drawings,
)
from personalization_jax.datasets.tfds_loader import import_tfds


def load(
  config: str | files.DigitSet = "mnist",
  *,
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
) -> Population:
  """Loads NIST digits by writer, preparing them first if need be.

  `config` is "mnist" (60,000 digits of 539 writers), "qmnist" (120,000),
  "xnist" (402,953 digits of 3,579 writers), or a digit set of one's own. Files
  are downloaded unless `manual_dir` has them, directly or in subfolders mnist
  and qmnist, compressed or not. Raises ValueError, which names what is missing
  or damaged, or ImportError.

  Returns 28x28 images, sorted by writer, each writer's in the order of the
  files. individuals are NIST's writer numbers, and originals its digit numbers.
  Writers with fewer than two different drawings are left out.

  Source: section IV, whose individuals are of NIST Special Database 19.
  """
  if isinstance(config, str):
    if config not in files.DIGIT_SETS:
      raise ValueError(
        f"nist_digits has no config {config!r}; it has"
        f" {', '.join(files.DIGIT_SETS)}."
      )
    config = files.DIGIT_SETS[config]
  import_tfds("nist_digits")
  from personalization_jax.datasets.nist_digits import builder

  prepared = builder.prepare(config, data_dir=data_dir, manual_dir=manual_dir)
  return population_of(builder.read(prepared, config.num_digits))


def population_of(digits: dict[str, np.ndarray]) -> Population:
  """Digits as a population, without writers of fewer than two drawings."""
  ids, writers = digits["digit_ids"], digits["writers"]
  duplicate_of = digits["duplicate_of"]
  # A duplicate has the number of the digit that it repeats: if one writer has
  # both, a split mustn't put one into training and the other into testing. Two
  # writers' equal drawings remain two. The database holds three digits twice.
  originals = ids.copy()
  for row in np.flatnonzero(duplicate_of):
    first = ids == duplicate_of[row]
    if (writers[first] == writers[row]).any():
      originals[row] = duplicate_of[row]
  rows = with_two_drawings(writers, originals, logging.info)
  # Everybody's digits needn't be copied.
  kept = rows if len(rows) < len(originals) else slice(None)
  population = Population.from_arrays(
    digits["images"][kept],
    digits["labels"][kept],
    writers[kept],
    originals=originals[kept],
    num_classes=10,
  )
  return dataclasses.replace(population, file_rows=rows.astype(np.int32))
