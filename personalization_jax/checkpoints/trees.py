"""Trees of arrays on disk, by Orbax, with a SHA-256 of every file beside them.

    NAME/               Orbax's folder
    NAME.sha256.json    its files' digests and what else is known of it

A checkpoint counts once its digests are there, and only while they are right:
Orbax alone doesn't notice every flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from orbax.checkpoint import v1 as ocp

from personalization_jax import distributed
from personalization_jax.checkpoints import files

SUFFIX = ".sha256.json"


def save_async(
  path: pathlib.Path, tree: Any, about: Mapping[str, Any]
) -> Callable[[], None]:
  """Begins to write a tree, and JSON values about it; all processes must.

  What it returns waits, in any thread, and makes the checkpoint count. Until
  then the arrays must stay as they are (no donation).
  """
  path = path.absolute()
  first = distributed.is_first()
  if first:
    # Digests of the old content must not vouch for a half of the new one.
    _manifest(path).unlink(missing_ok=True)
  writing = ocp.save_async(path, tree, overwrite=True)

  def finish() -> None:
    writing.result()
    if first:
      content = {"about": dict(about), "files": files.digests(path)}
      manifest = {**content, "sha256": _digest_of(content)}
      files.write_atomically(_manifest(path), json.dumps(manifest, indent=1))

  return finish


def exists(path: pathlib.Path) -> bool:
  """Whether the writing of this folder was finished."""
  return path.is_dir() and _manifest(path).is_file()


def about(path: pathlib.Path) -> dict[str, Any]:
  """JSON values of an intact checkpoint; else an error names the fault."""
  try:
    manifest = json.loads(_manifest(path).read_bytes())
    digest = manifest.pop("sha256")
    if digest != _digest_of(manifest):
      raise ValueError
    expected, found = manifest["files"], files.digests(path)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{_manifest(path)} isn't as it was written") from error
  for name in {**expected, **found}:
    if found.get(name) != expected.get(name):
      raise ValueError(f"{path / name} is missing or isn't as it was written")
  return dict(manifest["about"])


def remove(path: pathlib.Path) -> None:
  """Removes a checkpoint, which stops counting first, or a file."""
  _manifest(path).unlink(missing_ok=True)
  if path.is_file():
    path.unlink()
  shutil.rmtree(path, ignore_errors=True)


def restore(path: pathlib.Path, like: Any) -> Any:
  """Reads a tree that any devices wrote, as NumPy arrays shaped `like` it."""
  return ocp.load(path.absolute(), like)


def _manifest(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name + SUFFIX)


def _digest_of(content: Mapping[str, Any]) -> str:
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
