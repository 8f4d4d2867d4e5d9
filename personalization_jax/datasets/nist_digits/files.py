"""Published idx files of NIST digits: fetched, found, verified, read (NumPy).

No file is trusted: container, digest, header and length are checked, and
whatever is wrong is said in one sentence that names the file.

Sources: QMNIST's README (github.com/facebookresearch/qmnist; Yadav and Bottou,
*Cold Case: The Lost MNIST Digits*) for names, shapes and label columns;
torchvision's prototype of QMNIST for the SHA-256 of the archives. The content
digests are those of the published MNIST images and training labels. For the
test digits and xnist no content digest is known: their archives are verified.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.client
import io
import lzma
import math
import os
import pathlib
import shutil
import tempfile
import urllib.request
import zlib
from typing import Any

import numpy as np
import tqdm
from absl import logging

# Folders people keep these files in, tried in this order under manual_dir.
SUBFOLDERS = ("", "mnist", "qmnist")

# Those that torchvision and tensorflow-datasets use.
_MNIST_MIRRORS = (
  "https://ossci-datasets.s3.amazonaws.com/mnist/",
  "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_QMNIST_MIRRORS = (
  "https://raw.githubusercontent.com/facebookresearch/qmnist/master/",
)
# By an array's number of axes (labels, images): idx's and NumPy's type.
_TYPES = {2: (0x0C, "int32"), 3: (0x08, "uint8")}
# Columns of the extended labels that are kept (QMNIST's README, section 2.2).
# Of the others, 4 is NIST's class code, ASCII printed in hexadecimal: 30 is a
# zero; 3, the index within the writer, and 7, unused, aren't needed here.
_COLUMNS = {
  "labels": 0, "series": 1, "writers": 2, "digit_ids": 5, "duplicate_of": 6,
}  # fmt: skip


class DataError(ValueError):
  """A data file is damaged, is another file, or can't be fetched."""


class MissingDataError(DataError, FileNotFoundError):
  """A data file isn't where it was looked for."""


@dataclasses.dataclass(frozen=True)
class DigitFile:
  """One published idx file and everything known about it."""

  name: str  # as published, with .gz or .xz
  mirrors: tuple[str, ...]  # folders where it is published, the preferred first
  shape: tuple[int, ...]  # of the array inside, the digits first
  # Of the decompressed bytes; where it isn't known, of the file as published.
  # The content's is better: a good copy may be compressed anew.
  content_sha256: str | None = None
  archive_sha256: str | None = None

  @property
  def content_name(self) -> str:
    """File name of the decompressed content."""
    return self.name.removesuffix(".gz").removesuffix(".xz")


@dataclasses.dataclass(frozen=True)
class DigitSet:
  """A data set: 28x28 images and extended labels, in one pair or more."""

  name: str  # of the tfds config
  # In reading order: images, the labels of the same digits, further images ...
  files: tuple[DigitFile, ...]

  @property
  def num_digits(self) -> int:
    """Number of digits of all files."""
    return sum(file.shape[0] for file in self.files[::2])


_MNIST_TRAIN = (
  DigitFile(
    "train-images-idx3-ubyte.gz", _MNIST_MIRRORS, (60_000, 28, 28),
    content_sha256=
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
  ),
  DigitFile(
    "qmnist-train-labels-idx2-int.gz", _QMNIST_MIRRORS, (60_000, 8),
    content_sha256=
    "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
  ),
)  # fmt: skip
_QMNIST_TEST = (
  DigitFile(
    "qmnist-test-images-idx3-ubyte.gz", _QMNIST_MIRRORS, (60_000, 28, 28),
    archive_sha256=
    "43fc22bf7498b8fc98de98369d72f752d0deabc280a43a7bcc364ab19e57b375",
  ),
  DigitFile(
    "qmnist-test-labels-idx2-int.gz", _QMNIST_MIRRORS, (60_000, 8),
    archive_sha256=
    "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06",
  ),
)  # fmt: skip
_XNIST = (
  DigitFile(
    "xnist-images-idx3-ubyte.xz", _QMNIST_MIRRORS, (402_953, 28, 28),
    archive_sha256=
    "f075553993026d4359ded42208eff77a1941d3963c1eff49d6015814f15f0984",
  ),
  DigitFile(
    "xnist-labels-idx2-int.xz", _QMNIST_MIRRORS, (402_953, 8),
    archive_sha256=
    "db042968723ec2b7aed5f1beac25d2b6e983b9286d4f4bf725f1086e5ae55c4f",
  ),
)  # fmt: skip

DIGIT_SETS = {
  "mnist": DigitSet("mnist", _MNIST_TRAIN),
  "qmnist": DigitSet("qmnist", _MNIST_TRAIN + _QMNIST_TEST),
  # All of NIST Special Database 19, prepared like MNIST.
  "xnist": DigitSet("xnist", _XNIST),
}


def read_digits(
  digit_set: DigitSet, folder: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
  """All digits of a set, in the order of its files, or a DataError.

  images are uint8 [N, 28, 28, 1], ink is 255. Of NIST Special Database 19, all
  int32 [N], are the labels 0..9; the numbers of the writers, and the series of
  their handwriting sample forms; digit_ids, the digits' numbers among all; and
  duplicate_of, an earlier digit with the very same image, or 0.
  """
  # All are found before one is read: a missing file is known at once.
  paths = [find(file, folder) for file in digit_set.files]
  arrays = [read_idx(path, file) for path, file in zip(paths, digit_set.files)]
  images, tables = arrays[::2], arrays[1::2]
  for path, table in zip(paths[1::2], tables):
    _check_labels(table, path)
  # 316 MB of images needn't be copied when they are in one file.
  pixels = images[0] if len(images) == 1 else np.concatenate(images)
  table = np.concatenate(tables)
  columns = {name: table[:, column] for name, column in _COLUMNS.items()}
  return {"images": pixels[..., None], **columns}


def _check_labels(labels: np.ndarray, path: pathlib.Path) -> None:
  """Holds every row to what QMNIST documents about it."""
  classes = labels[:, 0]
  wrong = (labels[:, [0, 1, 2, 5]] < 0).any(axis=1)
  wrong |= (classes > 9) | (labels[:, 4] != classes + 30)
  if wrong.any():
    row = int(np.argmax(wrong))
    raise DataError(
      f"{path} is damaged: row {row} holds {labels[row].tolist()}, where a"
      " class 0..9, its NIST code (30 more), and numbers of a series, a writer"
      " and a digit belong."
    )


def find(file: DigitFile, folder: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a file in a folder or its subfolders mnist and qmnist.

  It may be compressed as published, otherwise, or not at all. Raises
  MissingDataError, which says where to get it.
  """
  root = pathlib.Path(folder).expanduser()
  stem = file.content_name
  for name in dict.fromkeys((file.name, stem, f"{stem}.gz", f"{stem}.xz")):
    for subfolder in SUBFOLDERS:
      path = root / subfolder / name
      if path.is_file():
        return path
  raise MissingDataError(
    f"{file.name} (or {stem}) is missing: it is neither in {root} nor in its"
    f" subfolders mnist and qmnist. Get it from {file.mirrors[0]}{file.name}."
  )


def fetch(digit_set: DigitSet, folder: str | os.PathLike[str]) -> None:
  """Downloads the files of a set that a folder lacks, from mirrors in turn.

  tfds's own downloader holds an archive to one checksum and knows no mirrors.
  Here the content decides, since mirrors may compress it anew. Raises DataError
  if no place hands out a good copy; it lists what each one said.
  """
  folder = pathlib.Path(folder).expanduser()
  folder.mkdir(parents=True, exist_ok=True)
  for file in digit_set.files:
    try:
      find(file, folder)
    except MissingDataError:
      _fetch_file(file, folder)


def _fetch_file(file: DigitFile, folder: pathlib.Path) -> None:
  failures = []
  for mirror in file.mirrors:
    url = mirror + file.name
    logging.info("Downloading %s", url)
    # A folder of its own for each attempt: two processes may fetch at once.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as own:
      part = pathlib.Path(own, file.name)
      try:
        _copy(url, part)
        read_idx(part, file)  # or it stays out
        part.replace(folder / file.name)
        return
      except (OSError, http.client.HTTPException, DataError) as error:
        reason = str(getattr(error, "reason", error))
        failures.append(f"{url} ({reason.replace(str(part), 'the file')})")
  raise DataError(
    f"{file.name} couldn't be downloaded from {' or '.join(failures)}; fetch it"
    " by other means, put it in a folder and name that folder by manual_dir."
  )


def _copy(url: str, path: pathlib.Path) -> None:
  """Downloads with a bar; a server may keep silent for 30 seconds."""
  with (
    urllib.request.urlopen(url, timeout=30.0) as response,
    path.open("wb") as out,
  ):
    size = int(response.headers.get("Content-Length") or 0)
    # disable=None: no bar where nobody watches (not a terminal).
    with tqdm.tqdm.wrapattr(
      out, "write", total=size, desc=path.name, disable=None
    ) as watched:
      shutil.copyfileobj(response, watched)


def read_idx(path: pathlib.Path, file: DigitFile) -> np.ndarray:
  """The array in an idx file (gzip, xz or plain), or DataError.

  Format: http://yann.lecun.com/exdb/mnist and section 2.2 of QMNIST's README:
  two zero bytes, a type code, the number of axes, each axis as a big-endian
  int32, and the values in row-major order, also big-endian.

  The content is held to content_sha256. Where that isn't known, a file with the
  published name is held to archive_sha256; a copy that was decompressed has
  only its header and length to be checked by.
  """
  try:
    raw = path.read_bytes()
  except OSError as error:
    raise DataError(f"{path} can't be read: {error.strerror}.") from error
  code, dtype = _TYPES[len(file.shape)]
  header_size = 4 + 4 * len(file.shape)
  size = header_size + math.prod(file.shape) * np.dtype(dtype).itemsize
  content = _decompress(raw, path, limit=size + 1)
  header = bytes((0, 0, code, len(file.shape)))
  if content[:4] != header:
    raise DataError(
      f"{path} isn't the idx file {file.content_name}: it starts with"
      f" {content[:4].hex() or 'nothing'} instead of {header.hex()}."
    )
  axes = tuple(
    int.from_bytes(content[i : i + 4], "big") for i in range(4, header_size, 4)
  )
  if axes != file.shape:
    raise DataError(
      f"{path} holds an array of shape {axes}, but {file.content_name} has"
      f" shape {file.shape}."
    )
  if len(content) != size:
    ending = "ends early" if len(content) < size else "goes on after its end"
    raise DataError(
      f"{path} {ending}: its content must be exactly {size} bytes long."
    )
  checked, digest, wanted = content, file.content_sha256, file.content_name
  if digest is None and path.name == file.name:
    checked, digest = raw, file.archive_sha256
    wanted = f"{file.name} as published"
    wanted += " (decompress a copy that was compressed anew)"
  elif digest is None:
    logging.warning(
      "%s isn't compressed as published, so no digest is known for it: only"
      " its header and its length are checked.",
      path,
    )
  found = hashlib.sha256(checked).hexdigest()
  if digest not in (None, found):
    raise DataError(
      f"{path} is damaged or isn't {wanted}: it has SHA-256 {found} instead of"
      f" {digest}."
    )
  stored = np.dtype(dtype).newbyteorder(">")
  values = np.frombuffer(content, stored, offset=header_size)
  return values.reshape(file.shape).astype(dtype, copy=False)


def _decompress(raw: bytes, path: pathlib.Path, limit: int) -> bytes:
  """Returns at most limit bytes, so that no file can fill the memory."""
  containers: dict[bytes, Any] = {b"\x1f\x8b": gzip, b"\xfd7": lzma}
  container = containers.get(raw[:2])
  if container is None:
    return raw[:limit]
  try:
    # Asking for a byte more than there should be reaches the end of a good
    # stream, and so has its check sum verified.
    with container.open(io.BytesIO(raw)) as stream:
      return stream.read(limit)
  except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
    raise DataError(
      f"{path} is damaged or was cut off: it can't be decompressed ({error})."
    ) from error
