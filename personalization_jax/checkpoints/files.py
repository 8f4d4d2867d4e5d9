"""Files that are either as before or complete (host)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_TEMPORARY = re.compile(r"\..+\.\d+\.part")


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
  """Writes text (as UTF-8) or bytes: the file is as before or complete."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
  data = content.encode() if isinstance(content, str) else content
  try:
    with temporary.open("wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def is_temporary(path: pathlib.Path) -> bool:
  """Whether `write_atomically` was killed before this file was complete."""
  return _TEMPORARY.fullmatch(path.name) is not None


def check_writable(folder: pathlib.Path) -> None:
  """Makes a folder; raises an OSError that names it if it is read-only."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    why = f"{folder} can't be written to ({error.strerror})."
    raise OSError(why) from error


def remove_temporary(folder: pathlib.Path) -> None:
  """Removes what killed `write_atomically` left below, while nobody writes."""
  for path in folder.rglob(".*.part"):
    if is_temporary(path):
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Calls a full disk by its name, whoever finds it; see `_full`."""
  try:
    yield
  except Exception as error:
    number, words = getattr(error, "errno", None), str(error)
    by_number = number in (errno.ENOSPC, errno.EDQUOT)
    if by_number or "No space left" in words or "quota exceeded" in words:
      raise _full(path) from error
    raise


def _full(path: pathlib.Path) -> OSError:
  return OSError(errno.ENOSPC, "the disk is full", str(path))


def free_space(path: pathlib.Path) -> int:
  """Bytes that are free on the disk of a path, which need not exist."""
  places = (path.absolute(), *path.absolute().parents)
  return shutil.disk_usage(next(filter(pathlib.Path.exists, places))).free


def check_space(path: pathlib.Path, size: int) -> None:
  """Raises an OSError if the disk of a path has no room for so many bytes."""
  if free_space(path) < size:
    raise _full(path)


def digests(folder: pathlib.Path) -> dict[str, str]:
  """The SHA-256 of every file below a folder, by its path in there."""
  found = {}
  for path in sorted(filter(pathlib.Path.is_file, folder.rglob("*"))):
    with path.open("rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    found[path.relative_to(folder).as_posix()] = digest
  return found


def digest(values: Sequence[Any]) -> str:
  """SHA-256 of arrays by their content, and of all else by its `repr`."""
  total = hashlib.sha256()
  for value in values:
    if isinstance(value, np.ndarray):
      total.update(f"{value.dtype}{value.shape}".encode())
      total.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    else:
      total.update(repr(value).encode())
    total.update(b"\0")  # or 1, 12 would be as 11, 2
  return total.hexdigest()


def safe_name(spec: str) -> str:
  """A method's spec as the name of a file.

  Colons and slashes are no characters for file names everywhere. Two methods
  have two names: `methods.Method` refuses a name that gives a spec's.
  """
  return spec.replace(":", "-").replace("/", "_")


def folder_names(people: Iterable[str]) -> list[str]:
  """Folders for people, by their names; rejects names that can't be folders."""
  names = [*people]
  folders = [safe_name(name) for name in names]
  # Some disks take upper case for lower case.
  counts = Counter(folder.casefold() for folder in folders)
  for name, folder in zip(names, folders):
    if folder.startswith(".") or not folder.isprintable() or "\\" in folder:
      raise ValueError(f"{name!r} can't be a folder's name: rename the person.")
    if len(folder.encode()) > 200:
      raise ValueError(
        f"{name[:40]!r}... is too long for a folder's name: rename the person."
      )
    if counts[folder.casefold()] > 1:
      raise ValueError(
        f"{name!r} and another person would share the folder {folder!r}: rename"
        " one of them."
      )
  return folders
