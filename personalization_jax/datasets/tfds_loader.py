"""Any tensorflow-datasets set that says whose each sample is (NumPy, host).

tensorflow-datasets is imported when data are loaded, and TensorFlow never is:
records are read through `as_data_source`, which wants the array_record format.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from personalization_jax import checks
from personalization_jax.checks import first_line
from personalization_jax.datasets import intake, pixels
from personalization_jax.datasets.population import (
  Population,
  with_two_drawings,
)

FILE_FORMAT = "array_record"


def import_tfds(name: str) -> Any:
  """Imports tensorflow-datasets, if it can write and read records here.

  Raises ImportError, which names what needs it, and says what to install.
  """
  try:
    importlib.import_module("array_record.python.array_record_module")
  except ImportError as error:
    raise ImportError(
      f"{name} needs array_record, which can't be imported ({error}): on Linux"
      " and on macOS with Apple silicon, pip install array_record; for other"
      " systems it has no wheels, so load the people from an npz file there."
    ) from error
  try:
    return importlib.import_module("tensorflow_datasets")
  except ImportError as error:
    raise ImportError(
      f"{name} needs tensorflow-datasets and importlib_resources ({error})."
    ) from error


def root_of(tfds: Any, data_dir: str | os.PathLike[str] | None) -> str:
  """The folder of prepared data; by default tensorflow-datasets' own."""
  root = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR)
  return os.fspath(root.expanduser())


def load(
  name: str,
  *,
  individual_feature: str,
  image_feature: str = "image",
  label_feature: str = "label",
  split: str | None = None,
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
  layout: str = "auto",
  pad: bool = False,
  say: Callable[[str], None] = logging.info,
) -> Population:
  """Loads a set of tensorflow-datasets, preparing it first if need be.

  The name is tensorflow-datasets' own, as "my_set/config:1.0.0"; a set of one's
  own has to be imported, or prepared in data_dir. Samples are of one shape; by
  default all splits are read. See `Population.from_arrays` for samples, labels,
  ids, `layout` and `pad`.

  Returns the population, in the order of the records. People with a single
  sample are left out, and `say` is told.
  """
  builder = _prepared(name, data_dir, manual_dir)
  features = (image_feature, label_feature, individual_feature)
  there = list(getattr(builder.info.features, "keys", list)())
  for feature in features:
    if feature not in there:
      raise ValueError(
        f"tfds:{name} has no feature {feature!r}; it has {', '.join(there)}."
      )
  origins = list(builder.info.splits) if split is None else [split]
  records = _read(builder, name, origins, features)
  images, labels, people, origins = ([r[k] for r in records] for k in range(4))

  def tell(text: str) -> None:
    say(f"tfds:{name}: {text}")

  with checks.naming(f"tfds:{name}"):
    _check_shapes(image_feature, images)
    ids, classes = np.array(people), np.array(labels)
    _check_labelled(label_feature, classes, origins)
    rows = with_two_drawings(ids, np.arange(len(ids)), tell)
    shown = np.stack([images[row] for row in rows])
    pixels.ask_layout(shown, layout)
    population = Population.from_arrays(
      shown,
      classes[rows],
      ids[rows],
      label_names=_names(builder.info.features[label_feature], classes),
      layout=layout,
      pad=pad,
      say=tell,
    )
  return dataclasses.replace(population, file_rows=rows.astype(np.int32))


def _names(feature: Any, classes: np.ndarray) -> list[str] | None:
  """The set's own names of classes, if its labels are numbers of them."""
  count = getattr(feature, "num_classes", None) or 0
  if classes.dtype.kind not in "iu" or classes.max() >= count:
    return None
  names = [str(name) for name in feature.names]
  # A feature without names gives their numbers.
  return names if intake.are_named(names) else None


def _prepared(
  name: str,
  data_dir: str | os.PathLike[str] | None,
  manual_dir: str | os.PathLike[str] | None,
) -> Any:
  """The builder of a set whose records are on disk."""
  tfds = import_tfds(f"tfds:{name}")
  root = root_of(tfds, data_dir)

  # What tensorflow-datasets raises is its own and its builders' affair.
  try:
    builder = tfds.builder(name, data_dir=root, file_format=FILE_FORMAT)
  except Exception as error:
    raise ValueError(
      f"tensorflow-datasets has no set {name!r} ({first_line(error)}); one of"
      f" your own has to be imported, or prepared in data_dir={root}."
    ) from error
  if builder.info.splits:
    return builder
  try:
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        manual_dir=manual_dir, try_download_gcs=False
      )
    )
  except ImportError as error:
    raise ValueError(
      f"tfds:{name} can't be prepared without {error.name or 'TensorFlow'}:"
      " prepare it where that is installed, with"
      f" file_format={FILE_FORMAT!r}, and name the folder by data_dir."
    ) from error
  except AssertionError as error:
    raise ValueError(
      f"tfds:{name} needs files that have to be fetched by hand"
      f" ({first_line(error)}); name their folder by manual_dir."
    ) from error
  except Exception as error:
    raise ValueError(
      f"tfds:{name} can't be downloaded or prepared in data_dir={root}"
      f" ({type(error).__name__}: {first_line(error)})."
    ) from error
  # A builder learns what was prepared when it is made.
  return tfds.builder(name, data_dir=root, file_format=FILE_FORMAT)


def _read(
  builder: Any, name: str, origins: list[str], features: tuple[str, ...]
) -> list[list[Any]]:
  """The values of these features in each record, and the split it is of."""
  records: list[list[Any]] = []
  for split in origins:
    try:
      source = builder.as_data_source(split)
    except Exception as error:
      raise ValueError(
        f"tfds:{name} has no split {split!r} that can be read"
        f" ({first_line(error)}); it has {', '.join(builder.info.splits)}."
      ) from error
    for index in range(len(source)):
      try:
        record = source[index]
        records.append([*(record[feature] for feature in features), split])
      except Exception as error:
        raise ValueError(
          f"record {index} of split {split!r} of tfds:{name} can't be read"
          f" ({type(error).__name__}: {first_line(error)})."
        ) from error
  return records


def _check_shapes(feature: str, samples: list[Any]) -> None:
  if not samples:
    raise ValueError("there are no records.")
  for row, sample in enumerate(samples):
    if np.shape(sample) != np.shape(samples[0]):
      raise ValueError(
        f"samples of feature {feature!r} are of different shapes,"
        f" {np.shape(samples[0])} in row 0 and {np.shape(sample)} in row {row}:"
        " bring them to one shape beforehand."
      )


def _check_labelled(
  feature: str, labels: np.ndarray, origins: list[str]
) -> None:
  """Rejects samples without a label, which would be a class of their own."""
  if labels.dtype.kind in "SU" or labels.min() >= 0:
    return
  unlabelled = labels < 0
  touched = np.unique(np.array(origins)[unlabelled])
  remedy = "write the others into an npz file"
  if whole := "+".join(np.setdiff1d(origins, touched)):
    remedy = f"leave them out by split={whole!r}"
  raise ValueError(
    f"feature {feature!r} is below 0 in {unlabelled.sum()} of {len(labels)}"
    f" records (of {', '.join(touched)}), which says that they have no label:"
    f" {remedy}."
  )
