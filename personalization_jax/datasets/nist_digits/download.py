"""Fetches published files: mirrors in turn, verified, never half a file.

tfds's own downloader holds an archive to one checksum and knows no mirrors.
Here the content decides, since mirrors may compress it anew.
"""

from __future__ import annotations

import http.client
import os
import pathlib
import urllib.error
import urllib.request
import uuid

import tqdm
from absl import logging

from personalization_jax.datasets.nist_digits import files

_CHUNK_BYTES = 1 << 16


def fetch(
  digit_set: files.DigitSet,
  folder: str | os.PathLike[str],
  *,
  timeout: float = 30.0,
) -> None:
  """Downloads the files of a set that a folder lacks.

  Args:
    digit_set: whose files.
    folder: where they go; it is made if need be.
    timeout: seconds that a server may keep silent.

  Raises:
    DataError: if no place hands out a good copy; it lists what each one said.
  """
  folder = pathlib.Path(folder).expanduser()
  for file in digit_set.files:
    try:
      files.find(file, folder)
    except files.MissingDataError:
      folder.mkdir(parents=True, exist_ok=True)
      _fetch_file(file, folder, timeout)


def _fetch_file(
  file: files.DigitFile, folder: pathlib.Path, timeout: float
) -> None:
  failures = []
  for url in file.urls:
    logging.info("Downloading %s", url)
    # A name of its own for each attempt: two processes may fetch at once.
    part = folder / f".{file.name}.{uuid.uuid4().hex}"
    try:
      _copy(url, part, file.name, timeout)
      # A file gets its name only when it has been found good.
      files.read_idx(part, file, published=True)
      part.replace(folder / file.name)
      return
    except (OSError, http.client.HTTPException, files.DataError) as error:
      reason = str(getattr(error, "reason", error)).replace(
        str(part), "the file"
      )
      failures.append(f"{url} ({reason})")
    finally:
      part.unlink(missing_ok=True)
  raise files.DataError(
    f"{file.name} couldn't be downloaded from"
    f" {' or '.join(failures) or 'anywhere: it has no address'}; fetch it by"
    " other means, put it in a folder and name that folder by manual_dir"
    " (--manual_dir)."
  )


def _copy(url: str, path: pathlib.Path, name: str, timeout: float) -> None:
  with (
    urllib.request.urlopen(url, timeout=timeout) as response,
    path.open("wb") as out,
  ):
    size = response.headers.get("Content-Length")
    # disable=None: no bar where nobody watches (not a terminal).
    with tqdm.tqdm(
      total=int(size) if size else None,
      desc=name,
      unit="B",
      unit_scale=True,
      disable=None,
    ) as bar:
      while chunk := response.read(_CHUNK_BYTES):
        out.write(chunk)
        bar.update(len(chunk))
