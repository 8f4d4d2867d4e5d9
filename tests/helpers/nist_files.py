"""Small files of the NIST digits' format, and ways to damage them."""

import dataclasses
import gzip
import lzma
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from personalization_jax.datasets.nist_digits import files

# Tests that import this are skipped where there is nothing to prepare with.
pytest.importorskip("tensorflow_datasets")
pytest.importorskip("personalization_jax.datasets.nist_digits.builder")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
  ".gz": gzip.compress,
  ".xz": lzma.compress,
  "": bytes,
}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
  ".gz": gzip.decompress,
  ".xz": lzma.decompress,
  "": bytes,
}


def idx_bytes(array, code=None):
  """An idx file's content, written independently of the reader's code."""
  code = {"uint8": 8, "int32": 12}[array.dtype.name] if code is None else code
  header = [bytes([0, 0, code, array.ndim])]
  header += [length.to_bytes(4, "big") for length in array.shape]
  return (
    b"".join(header) + array.astype(array.dtype.newbyteorder(">")).tobytes()
  )


def pair_of(stem, first_id, writers, seed=0, suffix=".gz"):
  """A pair of files, images [n, 28, 28] and labels [n, 8]."""
  rng = np.random.default_rng(seed)
  count = len(writers)
  images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
  labels = np.zeros((count, 8), np.int32)
  labels[:, 0] = np.arange(count) % 10
  labels[:, 1] = np.where(np.array(writers) >= 2100, 4, 0)
  labels[:, 2] = writers
  labels[:, 4] = labels[:, 0] + 30
  labels[:, 5] = first_id + np.arange(count)
  pair = (
    files.DigitFile(
      f"{stem}-images-idx3-ubyte{suffix}",
      ("https://example.org/",),
      images.shape,
    ),
    files.DigitFile(
      f"{stem}-labels-idx2-int{suffix}",
      ("https://example.org/",),
      labels.shape,
    ),
  )
  return pair, images, labels


def write(folder, file, array, *, suffix=None):
  folder.mkdir(parents=True, exist_ok=True)
  suffix = pathlib.Path(file.name).suffix if suffix is None else suffix
  path = folder / f"{file.content_name}{suffix}"
  path.write_bytes(COMPRESS[suffix](idx_bytes(array)))
  return path


def tiny_set(folder, name="tiny", suffix=".gz"):
  """One pair of 40 digits by writers 7, 2101 and 3, and its files."""
  writers = [7, 2101, 3, 7] * 10
  pair, images, labels = pair_of(name, 100, writers, suffix=suffix)
  write(folder, pair[0], images)
  write(folder, pair[1], labels)
  digit_set = files.DigitSet(name, pair)
  return digit_set, images, labels


def with_file(digit_set, place, **changes):
  """The set, something else being known about its images (0) or labels (1)."""
  changed = list(digit_set.files)
  changed[place] = dataclasses.replace(changed[place], **changes)
  return dataclasses.replace(digit_set, files=tuple(changed))


def flip_content(path):
  suffix = path.suffix if path.suffix in COMPRESS else ""
  content = bytearray(DECOMPRESS[suffix](path.read_bytes()))
  content[-1] ^= 1
  path.write_bytes(COMPRESS[suffix](bytes(content)))


def flip_stored(path):
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 16
  path.write_bytes(raw)


def cut(path):
  raw = path.read_bytes()
  path.write_bytes(raw[: len(raw) - 20])


def assert_equal(population, other):
  for field in ("images", "labels", "individuals", "originals"):
    np.testing.assert_array_equal(
      getattr(population, field), getattr(other, field)
    )


def assert_one_sentence(message, *parts):
  assert "\n" not in message and message.endswith(".")
  for part in parts:
    assert str(part) in message
