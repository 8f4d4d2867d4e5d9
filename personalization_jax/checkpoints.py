"""Trees of arrays on disk, by Orbax."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp


def save(path: str | os.PathLike[str], tree: Any) -> None:
  """Writes a tree of arrays; the folder appears once it is complete.

  Args:
    path: the folder to make; what was there is replaced.
    tree: arrays, typed keys among them.
  """
  ocp.save(pathlib.Path(path).absolute(), tree, overwrite=True)


def exists(path: str | os.PathLike[str]) -> bool:
  """Whether `save` wrote this folder; it has the name only once complete."""
  path = pathlib.Path(path).absolute()
  return path.is_dir() and ocp.is_orbax_checkpoint(path)


def restore(path: str | os.PathLike[str], like: Any) -> Any:
  """Reads a tree of arrays onto the first device of this process.

  Args:
    path: a folder that `save` wrote, on any devices.
    like: a tree of the same structure whose leaves have shape and dtype.

  Returns:
    The tree.
  """
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
    like,
  )
  return ocp.load(pathlib.Path(path).absolute(), like)
