"""A population from an npz file of plain arrays (NumPy, host)."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from personalization_jax.datasets.population import Population

_REQUIRED = ("images", "labels", "individuals")
_OPTIONAL = ("originals",)


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
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"npz_path={path} is no file.")
  try:
    with np.load(path, allow_pickle=False) as file:
      known = _REQUIRED + _OPTIONAL
      arrays = {name: file[name] for name in known if name in file}
  except Exception as error:  # zip, zlib and NumPy each raise their own
    raise ValueError(
      f"npz_path={path} can't be read as an npz file of plain arrays: {error}"
    ) from error
  missing = [name for name in _REQUIRED if name not in arrays]
  if missing:
    raise ValueError(
      f"npz_path={path} has no array {missing[0]!r}; it needs"
      f" {', '.join(_REQUIRED)}."
    )
  try:
    return Population.from_arrays(**arrays)
  except ValueError as error:
    raise ValueError(f"npz_path={path}: {error}") from error
