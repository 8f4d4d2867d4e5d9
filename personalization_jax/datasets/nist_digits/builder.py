"""The tfds builder: NIST digits, one record for each writer.

One record for each writer, rather than for each digit, reads in a fraction of
the time, and by-writer data is what personalisation asks for. Tensors stored as
bytes in the array_record format need no TensorFlow, neither to write nor read.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from personalization_jax.datasets import tfds_loader
from personalization_jax.datasets.nist_digits import files

SPLIT = "writers"
# Of a record beside its "writer" and "series": integers, and the images.
_INTEGERS = ("labels", "digit_ids", "duplicate_of")


@functools.cache  # tfds takes its own configs alone for those of their names
def _config(digit_set: files.DigitSet) -> tfds.core.BuilderConfig:
  return tfds.core.BuilderConfig(name=digit_set.name)


class NistDigits(tfds.core.GeneratorBasedBuilder):
  """Handwritten digits of NIST Special Database 19, by writer."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "One record for each writer."}  # noqa: RUF012
  BUILDER_CONFIGS = [*map(_config, files.DIGIT_SETS.values())]  # noqa: RUF012
  # To prepare: read beforehand, since tfds rewrites errors of the generator.
  digits: dict[str, np.ndarray]

  def _info(self) -> tfds.core.DatasetInfo:
    encoding = tfds.features.Encoding.BYTES
    integer = tfds.features.Scalar(dtype=np.int32)
    integers = tfds.features.Tensor(
      shape=(None,), dtype=np.int32, encoding=encoding
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      features=tfds.features.FeaturesDict(
        {
          "images": tfds.features.Tensor(
            shape=(None, 28, 28, 1), dtype=np.uint8, encoding=encoding
          ),
          **dict.fromkeys(_INTEGERS, integers),
          **dict.fromkeys(("writer", "series"), integer),
        }
      ),
      homepage="https://github.com/facebookresearch/qmnist",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    return {SPLIT: self._generate_examples(self.digits)}

  def _generate_examples(
    self, digits: dict[str, np.ndarray]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    # A stable sort keeps each writer's digits in the order of the files.
    order = np.argsort(digits["writers"], kind="stable")
    starts = np.flatnonzero(np.diff(digits["writers"][order])) + 1
    for rows in np.split(order, starts):
      example = {name: column[rows] for name, column in digits.items()}
      writer = int(example.pop("writers")[0])
      series = int(example.pop("series")[0])
      yield writer, {**example, "writer": writer, "series": series}


def prepare(
  digit_set: files.DigitSet,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  manual_dir: str | os.PathLike[str] | None = None,
) -> NistDigits:
  """The builder of a set whose records are on disk, written now if need be.

  tfds writes them into a temporary folder and renames it at the end: what an
  interrupted preparation leaves behind is never taken for a data set.
  """
  builder = _builder(digit_set, data_dir)
  if not builder.data_path.exists():
    if manual_dir is None:
      manual_dir = builder.data_dir_root / "downloads" / "manual"
      files.fetch(digit_set, manual_dir)
    builder.digits = files.read_digits(digit_set, manual_dir)
    logging.info("Preparing %s in %s", digit_set.name, builder.data_dir)
    try:
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    except OSError:
      # Another process that prepared the same set may have been faster: its
      # folder is in place, and ours can't be renamed onto it.
      if not builder.data_path.exists():
        raise
  # A builder learns what was prepared when it is made, and the one above may
  # have been made before.
  return _builder(digit_set, data_dir)


def read(builder: NistDigits, num_digits: int) -> dict[str, np.ndarray]:
  """All but the series, by writer, each writer's in the order of the files."""
  with _blaming(builder.data_dir):
    source = builder.as_data_source(SPLIT)
    records = [source[i] for i in range(len(source))]
    records.sort(key=lambda record: record["writer"])
    digits = {
      name: np.concatenate([record[name] for record in records])
      for name in ("images", *_INTEGERS)
    }
    writers = np.array([record["writer"] for record in records], np.int32)
    counts = [len(record["labels"]) for record in records]
    digits["writers"] = np.repeat(writers, counts)
    if len(digits["writers"]) != num_digits:
      raise ValueError("digits are missing")
    return digits


def _builder(
  digit_set: files.DigitSet, data_dir: str | os.PathLike[str] | None
) -> NistDigits:
  root = tfds_loader.root_of(tfds, data_dir)
  # It reads what an earlier preparation wrote about itself, if there was one.
  with _blaming(os.path.join(root, NistDigits.name, digit_set.name)):
    return NistDigits(
      config=_config(digit_set),
      data_dir=root,
      file_format=tfds_loader.FILE_FORMAT,
    )


@contextlib.contextmanager
def _blaming(folder: str) -> Iterator[None]:
  """Calls prepared records damaged if they are there and can't be read."""
  try:
    yield
  except Exception as error:  # array_record, protobuf and tfds have their own
    if not os.path.exists(folder):
      raise
    raise files.DataError(
      f"the prepared records in {folder} are damaged; delete that folder and"
      " run again."
    ) from error
