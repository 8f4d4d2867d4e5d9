"""When a run saves what is under way, and when it stops (host)."""

from __future__ import annotations

import concurrent.futures
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from personalization_jax import distributed
from personalization_jax.checkpoints import chunks, files, trees
from personalization_jax.checkpoints.chunks import Task


class Stopped(Exception):
  """The run was asked to stop, and everything is saved."""


class Keeper:
  """Saves what is under way now and then, and stops when asked to."""

  def __init__(
    self,
    folder: pathlib.Path | None = None,
    *,
    seconds: float = 600.0,
    should_stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
  ):
    """Starts the clock.

    Args:
      folder: where the checkpoints go; None keeps none.
      seconds: between two checkpoints; 0 saves after every block of steps.
      should_stop: asked after every block; then everything is saved and
        `Stopped` raised.
      say: told in a sentence what was found damaged.
    """
    self.folder = folder
    self.say = say
    self._seconds = seconds
    self._should_stop = should_stop
    self._saved = time.monotonic()
    self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._writing: concurrent.futures.Future[None] | None = None

  def task(self, name: str, identity: str) -> Task:
    """The training of one method, or of a model that several start from.

    `identity` is the digest of all that decides it; see `identities`.
    """
    return Task(self, name, identity, self._folder_of(name))

  def forget(self, name: str) -> None:
    """Removes what is kept of a training, whatever decided it."""
    self.wait()
    folder = self._folder_of(name)
    if folder is not None and distributed.is_first():
      shutil.rmtree(folder, ignore_errors=True)

  def _folder_of(self, name: str) -> pathlib.Path | None:
    """Where a training is kept: in the keeper's own folder, never outside."""
    inside = files.safe_name(name)
    assert pathlib.PurePath(inside).name == inside not in ("", ".."), name
    return self.folder and self.folder / inside

  def check(self, save: Callable[[], None] = lambda: None) -> None:
    """Saves if it is time to; raises `Stopped`, once all is saved, if asked to.

    All hosts agree. OSError if the last checkpoint couldn't be written.
    """
    if self._writing is not None and self._writing.done():
      self.wait()
    stop = self._should_stop()
    due = (
      distributed.is_first()
      and self.folder is not None
      and self._writing is None
      and time.monotonic() - self._saved >= self._seconds
    )
    demand = distributed.highest(2 * stop + due)
    if demand and self.folder is not None:
      save()
    if demand >= 2:
      self.wait()
      raise Stopped

  def write(
    self, path: pathlib.Path, tree: Any, about: Mapping[str, Any]
  ) -> None:
    """Begins to write a checkpoint; the one before is finished first."""
    self.wait()
    with files.writing(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      finish = trees.save_async(path, tree, about)

    def write() -> None:
      finish()
      if distributed.is_first():
        for older in chunks.older_states(path):
          trees.remove(older)

    self._saved = time.monotonic()
    self._writing_path = path
    self._writing = self._writer.submit(write)

  def wait(self) -> None:
    """Returns when nothing is being written any more."""
    writing, self._writing = self._writing, None
    if writing is not None:
      with files.writing(self._writing_path):
        writing.result()
