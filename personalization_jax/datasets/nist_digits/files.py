"""Published idx files: find, verify and read them (NumPy, host).

No file is trusted: container, digest, header and length are checked, and
whatever is wrong is said in one sentence that names the file.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import lzma
import math
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

# Folders people keep these files in, tried in this order under manual_dir.
SUBFOLDERS = ("", "mnist", "qmnist")

_TYPE_CODES = {"uint8": 0x08, "int32": 0x0C}
_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\x00"


class DataError(ValueError):
  """A data file is damaged, is another file, or can't be fetched."""


class MissingDataError(DataError, FileNotFoundError):
  """A data file isn't where it was looked for."""


@dataclasses.dataclass(frozen=True)
class DigitFile:
  """One published idx file and everything known about it.

  Attributes:
    name: file name as published, with .gz or .xz.
    urls: where it is published, the preferred place first.
    shape: axes of the array inside, the digits first.
    dtype: 'uint8' (images) or 'int32' (labels).
    content_sha256: of the decompressed bytes; None where it isn't known.
    archive_sha256: of the compressed file as published, for where the content's
      isn't known. The content's is better: a good copy may be compressed anew.
  """

  name: str
  urls: tuple[str, ...]
  shape: tuple[int, ...]
  dtype: str
  content_sha256: str | None = None
  archive_sha256: str | None = None

  @property
  def content_name(self) -> str:
    """File name of the decompressed content."""
    return self.name.removesuffix(".gz").removesuffix(".xz")


@dataclasses.dataclass(frozen=True)
class DigitPart:
  """Images and the extended labels of the same digits, in the same order."""

  images: DigitFile
  labels: DigitFile


@dataclasses.dataclass(frozen=True)
class DigitSet:
  """A data set: one or more parts, read one after the other.

  Attributes:
    name: of the tfds config.
    description: one sentence.
    parts: their images share one height and width.
    num_writers: as published or measured; None where it isn't known.
  """

  name: str
  description: str
  parts: tuple[DigitPart, ...]
  num_writers: int | None = None

  @property
  def files(self) -> tuple[DigitFile, ...]:
    """All files, in reading order."""
    return tuple(f for part in self.parts for f in (part.images, part.labels))

  @property
  def num_digits(self) -> int:
    """Number of digits of all parts."""
    return sum(part.images.shape[0] for part in self.parts)


def find(file: DigitFile, folder: str | os.PathLike[str]) -> pathlib.Path:
  """Finds a file, compressed as published, otherwise, or not at all.

  Args:
    file: what to look for.
    folder: it may lie here or in a subfolder mnist or qmnist.

  Returns:
    The path of the first candidate that exists, the published name first.

  Raises:
    MissingDataError: if there is none; it says where to get the file.
  """
  root = pathlib.Path(folder).expanduser()
  stem = file.content_name
  for name in dict.fromkeys((file.name, stem, f"{stem}.gz", f"{stem}.xz")):
    for subfolder in SUBFOLDERS:
      path = root / subfolder / name
      if path.is_file():
        return path
  where = f" Get it from {file.urls[0]}." if file.urls else ""
  raise MissingDataError(
    f"{file.name} (or {stem}) is missing: it is neither in {root} nor in its"
    f" subfolders mnist and qmnist.{where}"
  )


def read_idx(
  path: str | os.PathLike[str], file: DigitFile, *, published: bool = False
) -> np.ndarray:
  """Reads and verifies one idx file.

  Format: http://yann.lecun.com/exdb/mnist and section 2.2 of QMNIST's README:
  two zero bytes, a type code, the number of axes, each axis as a big-endian
  int32, and the values in row-major order, also big-endian.

  The content is held to content_sha256. Where that isn't known, a file with the
  published name is held to archive_sha256; a copy that was decompressed has
  only its header and length to be checked by.

  Args:
    path: of the file; gzip, xz or plain, told by its first bytes.
    file: what it has to be.
    published: whether it has to be the archive as published, whatever its name.

  Returns:
    The array, of file.shape and file.dtype in native byte order, read-only.

  Raises:
    DataError: naming the file and what is wrong with it.
  """
  path = pathlib.Path(path)
  try:
    raw = path.read_bytes()
  except OSError as error:
    raise DataError(f"{path} can't be read: {error.strerror}.") from error
  if file.content_sha256 is None and file.archive_sha256 is not None:
    if published or path.name == file.name:
      _check_archive(raw, path, file)
    else:
      logging.warning(
        "%s isn't compressed as published, so no digest is known for it: only"
        " its header and its length are checked.",
        path,
      )
  header_size = 4 + 4 * len(file.shape)
  size = header_size + math.prod(file.shape) * np.dtype(file.dtype).itemsize
  content = _decompress(raw, path, limit=size + 1)
  header = bytes((0, 0, _TYPE_CODES[file.dtype], len(file.shape)))
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
  if file.content_sha256 is not None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.content_sha256:
      raise DataError(
        f"{path} is damaged or another file: its content has SHA-256 {digest}"
        f" instead of {file.content_sha256}."
      )
  stored = np.dtype(file.dtype).newbyteorder(">")
  values = np.frombuffer(content, stored, offset=header_size)
  values = values.reshape(file.shape).astype(file.dtype, copy=False)
  values.flags.writeable = False
  return values


def _check_archive(raw: bytes, path: pathlib.Path, file: DigitFile) -> None:
  digest = hashlib.sha256(raw).hexdigest()
  if digest != file.archive_sha256:
    raise DataError(
      f"{path} is damaged or isn't {file.name} as published: it has SHA-256"
      f" {digest} instead of {file.archive_sha256} (decompress a copy that"
      " was compressed anew)."
    )


def _decompress(raw: bytes, path: pathlib.Path, limit: int) -> bytes:
  """Returns at most limit bytes, so that no file can fill the memory."""
  opener: Callable[[io.BytesIO], Any]
  if raw.startswith(_GZIP_MAGIC):
    opener = gzip.open
  elif raw.startswith(_XZ_MAGIC):
    opener = lzma.open
  else:
    return raw[:limit]
  try:
    # Asking for a byte more than there should be reaches the end of a good
    # stream, and so has its check sum verified.
    with opener(io.BytesIO(raw)) as stream:
      return stream.read(limit)
  except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
    raise DataError(
      f"{path} is damaged or was cut off: it can't be decompressed ({error})."
    ) from error
