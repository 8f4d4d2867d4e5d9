"""Trees of arrays on disk, by Orbax, with a SHA-256 of every file beside them.

    NAME/               Orbax's folder
    NAME.sha256.json    its files' digests and what else is known of it

A checkpoint counts once its digests are there, and only while they are right:
Orbax alone doesn't notice every flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from personalization_jax.checkpoints import files

SUFFIX = ".sha256.json"


def save_async(
  path: str | os.PathLike[str],
  tree: Any,
  about: Mapping[str, Any] | None = None,
) -> Callable[[], None]:
  """Begins to write a tree of arrays.

  With several processes all must call it, in the same order.

  Args:
    path: the folder to make; what was there is replaced.
    tree: arrays, typed keys among them. They must stay as they are (no
      donation) until the writing is finished.
    about: JSON values to keep with it.

  Returns:
    Waits for the writing and makes the checkpoint count; to be called once.
    From another thread too.
  """
  path = pathlib.Path(path).absolute()
  first = jax.process_index() == 0
  if first:
    # Digests of the old content must not vouch for a half of the new one.
    _manifest(path).unlink(missing_ok=True)
  writing = ocp.save_async(path, tree, overwrite=True)

  def finish() -> None:
    writing.result()
    if first:
      content = {"about": dict(about or {}), "files": files.digests(path)}
      manifest = {**content, "sha256": _digest_of(content)}
      files.write_atomically(_manifest(path), json.dumps(manifest, indent=1))

  return finish


def exists(path: str | os.PathLike[str]) -> bool:
  """Whether the writing of this folder was finished."""
  path = pathlib.Path(path).absolute()
  return path.is_dir() and _manifest(path).is_file()


def damage(path: str | os.PathLike[str]) -> str | None:
  """What is wrong: half a sentence ("FILE is missing"), or None if nothing."""
  path = pathlib.Path(path).absolute()
  try:
    manifest = json.loads(_manifest(path).read_bytes())
    digest = manifest.pop("sha256")
    if digest != _digest_of(manifest):
      raise ValueError
    expected, found = manifest["files"], files.digests(path)
  except OSError as error:
    return f"{error.filename or path} can't be read ({error.strerror})"
  except (ValueError, KeyError, TypeError, AttributeError):
    return f"{_manifest(path)} isn't as it was written"
  for name in {**expected, **found}:
    if name not in found:
      return f"{path / name} is missing"
    if found[name] != expected.get(name):
      return f"{path / name} isn't as it was written"
  return None


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The JSON values that are kept with a checkpoint."""
  manifest = json.loads(_manifest(pathlib.Path(path).absolute()).read_text())
  return dict(manifest["about"])


def remove(path: str | os.PathLike[str]) -> None:
  """Removes a checkpoint; it stops counting first."""
  path = pathlib.Path(path).absolute()
  _manifest(path).unlink(missing_ok=True)
  shutil.rmtree(path, ignore_errors=True)


def restore(path: str | os.PathLike[str], like: Any) -> Any:
  """Reads a tree that any devices wrote, as NumPy arrays shaped `like` it."""
  return ocp.load(pathlib.Path(path).absolute(), like)


def _manifest(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name + SUFFIX)


def _digest_of(content: Mapping[str, Any]) -> str:
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
