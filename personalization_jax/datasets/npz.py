"""A population from an npz file of plain arrays (NumPy, host)."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from personalization_jax import checks
from personalization_jax.datasets.population import Population


def load(path: str | os.PathLike[str]) -> Population:
  """Reads an npz file with the arrays images, labels, individuals.

  It may hold originals as well; other arrays aren't looked at.

  Args:
    path: the file; see `Population.from_arrays` for the arrays.

  Returns:
    The population.

  Raises:
    ValueError: if the file is missing, unreadable, or its arrays are faulty.
  """
  required = ("images", "labels", "individuals")
  arrays: Any = load_arrays(path, required, ("originals",))
  with checks.naming(f"npz_path={path}"):
    return Population.from_arrays(**arrays)


def unread(path: str | os.PathLike[str], read: Sequence[str]) -> list[str]:
  """Names of an npz file's arrays that aren't among those that are read."""
  with np.load(path, allow_pickle=False) as file:
    return [name for name in file.files if name not in read]


def load_arrays(
  path: str | os.PathLike[str],
  required: Sequence[str],
  optional: Sequence[str] = (),
  *,
  name: str = "npz_path",
) -> dict[str, np.ndarray]:
  """Reads arrays of an npz file by name, and never a pickle.

  Arrays that aren't named aren't read. Raises ValueError, which calls the file
  by `name`, if it is missing or unreadable or lacks a required array.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"{name}={path} is no file.")
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {
        array: file[array] for array in (*required, *optional) if array in file
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
  missing = [array for array in required if array not in arrays]
  if missing:
    raise ValueError(
      f"{name}={path} has no array {missing[0]!r}; it needs"
      f" {', '.join(required)}."
    )
  return arrays
