"""Training that is saved while it is under way, so that a run survives (host).

A `Keeper` says for a whole run when to save and when to stop. A `Task` knows of
each training what is done and what is to do.
"""

from __future__ import annotations

import concurrent.futures
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from personalization_jax import distributed
from personalization_jax.checkpoints import chunks, files, trees
from personalization_jax.checkpoints.chunks import (
  AnotherTrainingError,
  Chunk,
  SavedChunks,
)

# What is recorded while a chunk is trained: name -> float32 [n, ...].
History = Mapping[str, np.ndarray]


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

  def check(self) -> None:
    """Where nothing needs saving: raises `Stopped` if asked to stop."""
    if distributed.highest(int(self._should_stop())):
      self.wait()
      raise Stopped

  def demand(self) -> tuple[bool, bool]:
    """Whether it is time to save, and whether to stop; all hosts agree."""
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
    return demand > 0 and self.folder is not None, demand >= 2

  def write(
    self, path: pathlib.Path, tree: Any, about: Mapping[str, Any]
  ) -> None:
    """Begins to write a checkpoint; the one before is finished first."""
    self.wait()
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      finish = trees.save_async(path, tree, about)
    except Exception as error:
      raise files.explained(error, path) from error

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
      try:
        writing.result()
      except Exception as error:
        raise files.explained(error, self._writing_path) from error


class Task:
  """What is done of one training, and what is to do."""

  def __init__(
    self,
    keeper: Keeper,
    name: str,
    identity: str,
    folder: pathlib.Path | None,
  ):
    """See `Keeper.task`."""
    self._keeper = keeper
    self._saved = SavedChunks(folder, name, identity, keeper.say)

  def plan(self, count: int, size: int) -> list[Chunk]:
    """What is finished and what is to do; see `chunks.plan`. Hosts agree.

    Raises:
      AnotherTrainingError: if the folder keeps what isn't this training's,
        which is left as it is.
    """
    table = np.full((count, 5), -1, np.int32)
    known: list[Chunk] = []
    another = False
    if distributed.is_first():
      self._keeper.wait()
      try:
        known = self._saved.intact()
      except AnotherTrainingError:
        another = True
    if distributed.highest(int(another)):
      raise self._saved.another()
    for row, chunk in enumerate(chunks.plan(known, count, size)):
      table[row] = (chunk.first, chunk.last, chunk.step, *chunk.source)
    return [
      Chunk(first, last, step, (source_first, source_last))
      for first, last, step, source_first, source_last in (
        distributed.from_first(table).tolist()
      )
      if first >= 0
    ]

  def restore(self, chunk: Chunk, like: Any) -> tuple[Any, History]:
    """The models [n, ...] of a chunk that has begun, and what was recorded.

    They are NumPy arrays, keys as `distributed.gather` gives them; `like` tells
    the shapes of the states of a chunk.
    """
    first, last = chunk.source
    path = self._saved.path(chunks.state_name(first, last, chunk.step))
    about = trees.about(path)
    rows = about["rows"]
    numbers = jax.eval_shape(distributed.numbers_of_keys, like)
    saved = trees.restore(
      path,
      (
        jax.tree.map(
          lambda leaf: np.zeros((rows, *leaf.shape[1:]), leaf.dtype), numbers
        ),
        {
          key: np.zeros((last - first, *shape), np.float32)
          for key, shape in about["history"].items()
        },
      ),
    )
    own = slice(chunk.first - first, chunk.last - first)
    states, history = jax.tree.map(lambda leaf: leaf[own], saved)
    return states, history

  def watch(
    self,
    chunk: Chunk,
    step: int,
    states: Any,
    history: Callable[[], History],
  ) -> None:
    """After each block: saves its states if it is time to.

    Raises:
      Stopped: if asked to stop, after saving.
      OSError: if the last checkpoint couldn't be written.
    """
    save, stop = self._keeper.demand()
    if save:
      self.save(chunk, step, states, history())
    if stop:
      self._keeper.wait()
      raise Stopped

  def save(
    self, chunk: Chunk, step: int, states: Any, history: History
  ) -> None:
    """Begins to write a checkpoint, whatever the time; see `watch`."""
    if self._saved.folder is None:
      return
    # The next block is given the states' memory: hence a copy.
    kept, rows = _own(distributed.copy(states), len(chunk.indices))
    path = self._saved.path(chunks.state_name(chunk.first, chunk.last, step))
    about = {
      **self._saved.about(path),
      "rows": rows,
      "history": {key: values.shape[1:] for key, values in history.items()},
    }
    self._keeper.write(path, (kept, dict(history)), about)

  def finish(self, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps arrays [n, ...] that a chunk gave, and drops its checkpoints."""
    self._keeper.wait()
    self._saved.remember(chunk, arrays)
    if self._saved.folder is not None and distributed.is_first():
      self._saved.write(chunk, arrays)

  def results(self, done: list[Chunk]) -> list[dict[str, np.ndarray]]:
    """What every chunk gave, in order; all must be finished."""
    distributed.wait_for_all("parts")
    return [self._saved.results(chunk) for chunk in done]


def _own(states: Any, count: int) -> tuple[Any, int]:
  """States without fillers where they can be dropped, and how many remain."""
  leaf = jax.tree.leaves(states)[0]
  if not leaf.is_fully_addressable:
    return states, len(leaf)
  states = jax.tree.map(lambda leaf: leaf[:count], states)
  # With several processes Orbax takes what is each one's for NumPy's.
  several = jax.process_count() > 1
  return (distributed.gather(states) if several else states), count
