"""NIST SD 19 digits by writer: the real data, through tensorflow-datasets.

Importing this package needs NumPy alone; tensorflow-datasets (never TensorFlow)
is imported when data are loaded.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from absl import logging

from personalization_jax.datasets.nist_digits import files, reader
from personalization_jax.datasets.population import Population
from personalization_jax.datasets.tfds_loader import import_tfds


def load(
  config: str | files.DigitSet = "mnist",
  *,
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
) -> Population:
  """Loads NIST digits by writer, preparing them first if need be.

  Args:
    config: 'mnist' (60,000 digits of 539 writers), 'qmnist' (120,000), 'xnist'
      (402,953 digits of 3,579 writers), or a digit set of one's own.
    data_dir: where tfds keeps prepared data; by default its own default.
    manual_dir: folder of files already downloaded, directly or in subfolders
      mnist and qmnist, compressed or not; by default they are downloaded.

  Returns:
    The population: 28x28 images, sorted by writer, each writer's in the order
    of the files. individuals are NIST's writer numbers, and originals its digit
    numbers. Writers with fewer than two different drawings are left out.

  Raises:
    ValueError: no such config, or a `files.DataError`: a file is missing,
      damaged or can't be downloaded.
    ImportError: tensorflow-datasets or array_record isn't installed.

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
  return population_of(builder.read(prepared))


def population_of(digits: reader.Digits) -> Population:
  """Digits as a population, without writers of fewer than two drawings.

  Raises ValueError if nobody is left, or nobody wrote one of the ten digits.
  """
  originals = _originals(digits)
  drawings = np.unique(np.stack([digits.writers, originals], axis=1), axis=0)
  writers, counts = np.unique(drawings[:, 0], return_counts=True)
  enough = writers[counts >= 2]
  if len(enough) < len(writers):
    logging.info(
      "Left out %d of %d writers with fewer than two digits.",
      len(writers) - len(enough),
      len(writers),
    )
  rows = np.flatnonzero(np.isin(digits.writers, enough))
  # Everybody's digits needn't be copied.
  kept = rows if len(rows) < len(originals) else slice(None)
  population = Population.from_arrays(
    digits.images[kept],
    digits.labels[kept],
    digits.writers[kept],
    originals=originals[kept],
    num_classes=10,
  )
  return dataclasses.replace(population, file_rows=rows.astype(np.int32))


def _originals(digits: reader.Digits) -> np.ndarray:
  """Digit numbers, a duplicate's being that of the digit it repeats.

  The database holds three digits twice. If one writer has both, a split mustn't
  put one into training and the other into testing; two writers' equal drawings
  remain two drawings.
  """
  order = np.argsort(digits.digit_ids, kind="stable")
  places = np.searchsorted(digits.digit_ids, digits.duplicate_of, sorter=order)
  first = order[np.minimum(places, len(order) - 1)]
  repeated = (
    (digits.duplicate_of > 0)
    & (digits.digit_ids[first] == digits.duplicate_of)
    & (digits.writers[first] == digits.writers)
  )
  return np.where(repeated, digits.duplicate_of, digits.digit_ids)
