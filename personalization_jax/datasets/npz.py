"""A population from an npz file of plain arrays (NumPy, host)."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from absl import logging

from personalization_jax import checks
from personalization_jax.datasets import intake, pixels
from personalization_jax.datasets.population import Population

# The argument that names the array of a kind, where it may have another name.
_KEYS = {
  "images": "image_key",
  "labels": "label_key",
  "individuals": "individual_key",
  "is_test": "split_key",
}


def load(
  path: str | os.PathLike[str],
  *,
  image_key: str = "images",
  label_key: str = "labels",
  individual_key: str = "individuals",
  split_key: str | None = None,
  layout: str = "auto",
  pad: bool = False,
  say: Callable[[str], None] = logging.warning,
) -> Population:
  """Reads an npz file with the arrays images, labels, individuals.

  It may hold originals, label_names and is_test as well; what other arrays
  there are is told.

  Args:
    path: the file; see `Population.from_arrays` for the arrays.
    image_key: the array of samples.
    label_key: the array of labels.
    individual_key: the array that says whose each sample is.
    split_key: the array of the user's own split; by default is_test, if it is
      there.
    layout: see `Population.from_arrays`. Floats with two axes a sample need
      one, since they may be images.
    pad: see `Population.from_arrays`.
    say: told what was numbered, scaled or not read.

  Returns:
    The population.

  Raises:
    ValueError: if the file is missing, unreadable, or its arrays are faulty.
  """
  keys = keys_of(image_key, label_key, individual_key)
  required = ["images", "labels", "individuals"]
  if split_key:
    required.append("is_test")
  keys["is_test"] = split_key or "is_test"
  arrays: Any = load_arrays(path, keys, required)
  with checks.naming(f"npz_path={path}"):
    pixels.ask_layout(arrays["images"], layout)
    found = Population.from_arrays(**arrays, layout=layout, pad=pad, say=say)
  tell_unread(path, keys.values(), say)
  return found


def keys_of(
  image_key: str, label_key: str, individual_key: str
) -> dict[str, str]:
  """The arrays of `Population.from_arrays`, by what they are called in a file.

  Without the user's own split, which a study has alone.
  """
  own = {
    "images": image_key,
    "labels": label_key,
    "individuals": individual_key,
  }
  return own | {name: name for name in ("originals", "label_names")}


def load_arrays(
  path: str | os.PathLike[str],
  keys: Mapping[str, str],
  required: Collection[str],
  *,
  name: str = "npz_path",
) -> dict[str, np.ndarray]:
  """Reads arrays of an npz file by the names in `keys`, and never a pickle.

  Other arrays aren't read. Raises ValueError, which calls the file by `name`,
  if it is missing or unreadable or lacks a required array.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"{name}={path} is no file.")
  try:
    with np.load(path, allow_pickle=False) as file:
      there = file.files
      arrays = {
        array: np.asarray(file[key])
        for array, key in keys.items()
        if key in there
      }
  except Exception as error:  # zip, zlib and NumPy each raise their own
    # NumPy takes whatever is no archive for a pickle.
    told = zipfile.is_zipfile(path) and "Object arrays" in str(error)
    if told or isinstance(error, MemoryError) or getattr(error, "errno", None):
      raise ValueError(
        f"{name}={path} can't be read as an npz file of plain arrays: {error}"
      ) from error
    raise ValueError(
      f"{name}={path} is no complete npz file: write it with np.savez(...)."
    ) from error
  if missing := [array for array in required if array not in arrays]:
    raise ValueError(
      f"{name}={path} has no array"
      f" {', '.join(repr(keys[array]) for array in missing)}; it has"
      f" {', '.join(there) or 'none'}: say which to take by"
      f" {', '.join(_KEYS[array] for array in missing)}."
    )
  return arrays


def unread(path: str | os.PathLike[str], names: Collection[str]) -> list[str]:
  """The arrays of an npz file that aren't among these names."""
  with np.load(path, allow_pickle=False) as file:
    return [name for name in file.files if name not in names]


def tell_unread(
  path: str | os.PathLike[str],
  names: Collection[str],
  say: Callable[[str], None],
) -> None:
  """Says which arrays of a file had no use."""
  if rest := unread(path, names):
    say(f"{path}: arrays that aren't read: {intake.listed(rest)}.")
