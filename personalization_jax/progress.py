"""Training that is under way, on disk, so that a run survives (host, Orbax).

    RUNNING/METHOD/00000-00008.npz                  finished individuals 0 .. 7
    RUNNING/METHOD/00008-00016-step-0000350/        models of 8 .. 15 at a step
    RUNNING/METHOD/00008-00016-step-0000350.sha256.json

The last two steps of a piece are kept, so that one may be damaged. Every file
has its name only once it is complete, so a process may be killed at any moment.
"""

from __future__ import annotations

import concurrent.futures
import errno
import io
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from personalization_jax import checkpoints, files, hosts, pieces
from personalization_jax.pieces import Piece

# What is recorded while a piece is trained: name -> float32 [n, ...].
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

  def task(self, name: str) -> Task:
    """The training of one method, or of a model that several start from."""
    folder = self.folder and self.folder / files.safe_name(name)
    return Task(self, name, folder)

  def check(self) -> None:
    """Where nothing needs saving: raises `Stopped` if asked to stop."""
    if hosts.highest(int(self._should_stop())):
      self.wait()
      raise Stopped

  def demand(self) -> tuple[bool, bool]:
    """Whether it is time to save, and whether to stop; all hosts agree."""
    if self._writing is not None and self._writing.done():
      self.wait()
    stop = self._should_stop()
    due = (
      hosts.is_first()
      and self.folder is not None
      and self._writing is None
      and time.monotonic() - self._saved >= self._seconds
    )
    demand = hosts.highest(2 * stop + due)
    return demand > 0 and self.folder is not None, demand >= 2

  def write(
    self, path: pathlib.Path, tree: Any, about: Mapping[str, Any]
  ) -> None:
    """Begins to write a checkpoint; the one before is finished first."""
    self.wait()
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      finish = checkpoints.save_async(path, tree, about)
    except Exception as error:
      raise _explained(error, path) from error

    def write() -> None:
      finish()
      if hosts.is_first():
        for older in pieces.older_states(path):
          checkpoints.remove(older)

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
        raise _explained(error, self._writing_path) from error


class Task:
  """What is done of one training, and what is to do."""

  def __init__(self, keeper: Keeper, name: str, folder: pathlib.Path | None):
    """See `Keeper.task`."""
    self.keeper = keeper
    self._name = name
    self._folder = folder
    self._parts: dict[tuple[int, int], dict[str, np.ndarray]] = {}

  def plan(self, count: int, chunk: int) -> list[Piece]:
    """What is finished, and what is to be trained together from which step.

    Args:
      count: how many individuals there are.
      chunk: how many are trained at once, whatever it was before.

    Returns:
      Pieces that hold every individual once, in order; the same on all hosts.
    """
    table = np.full((count, 5), -1, np.int32)
    if hosts.is_first():
      known = [*self._intact_states(), *self._intact_parts()]
      for row, piece in enumerate(pieces.plan(known, count, chunk)):
        table[row] = (piece.first, piece.last, piece.step, *piece.source)
    rows = hosts.from_first(table).tolist()
    return [
      Piece(first, last, step, (source_first, source_last))
      for first, last, step, source_first, source_last in rows
      if first >= 0
    ]

  def restore(self, piece: Piece, like: Any) -> tuple[Any, History]:
    """The models of a piece that has begun.

    Args:
      piece: from `plan`, at a step above 0.
      like: the shapes of a chunk's states.

    Returns:
      States of NumPy arrays with a leading axis of the piece's individuals,
      keys as `hosts.gather` gives them, and what was recorded of them.
    """
    first, last = piece.source
    path = self._path(pieces.state_name(first, last, piece.step))
    about = checkpoints.about(path)
    rows = about["rows"]
    numbers = jax.eval_shape(hosts.numbers_of_keys, like)
    states, history = checkpoints.restore_on_host(
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
    own = slice(piece.first - first, piece.last - first)
    return jax.tree.map(lambda leaf: leaf[own], (states, history))

  def watch(
    self,
    piece: Piece,
    step: int,
    states: Callable[[], Any],
    history: Callable[[], History],
  ) -> None:
    """Saves a piece if it is time to; see `PopulationTrainer.train`.

    Args:
      piece: what is being trained.
      step: steps of the schedule that are done.
      states: gives its states on the devices, with a leading axis.
      history: gives what was recorded of it.

    Raises:
      Stopped: if asked to stop, after saving.
      OSError: if the last checkpoint couldn't be written.
    """
    save, stop = self.keeper.demand()
    if save:
      self.save(piece, step, states(), history())
    if stop:
      self.keeper.wait()
      raise Stopped

  def save(
    self, piece: Piece, step: int, states: Any, history: History
  ) -> None:
    """Begins to write a checkpoint, whatever the time.

    Args:
      piece: whose.
      step: steps of the schedule that are done.
      states: on the devices, with a leading axis; they may change after.
      history: what was recorded of it up to that step.
    """
    if self._folder is None:
      return
    # The next block is given the states' memory: hence a copy.
    kept, rows = _own(hosts.copy(states), len(piece.indices))
    name = pieces.state_name(piece.first, piece.last, step)
    about = {
      "piece": name,
      "rows": rows,
      "history": {key: values.shape[1:] for key, values in history.items()},
    }
    self.keeper.write(self._folder / name, (kept, dict(history)), about)

  def finish(self, piece: Piece, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps what a piece gave, and drops its checkpoints.

    Args:
      piece: what was trained.
      arrays: of which each has a leading axis of the piece's individuals.
    """
    self.keeper.wait()
    self._parts[piece.first, piece.last] = dict(arrays)
    if self._folder is None or not hosts.is_first():
      return
    path = self._path(pieces.part_name(piece.first, piece.last))
    buffer = io.BytesIO()
    about = np.asarray(self._about(piece))
    np.savez_compressed(buffer, about=about, **dict(arrays))  # type: ignore[arg-type]
    try:
      files.write_atomically(path, buffer.getvalue())
    except OSError as error:
      raise _explained(error, path) from error
    done = [(part.first, part.last) for part in self._finished()]
    for state, state_path in self._states():
      covered = sum(
        max(0, min(last, state.last) - max(first, state.first))
        for first, last in done
      )
      if covered == state.last - state.first:
        checkpoints.remove(state_path)

  def parts(self, done: list[Piece]) -> list[dict[str, np.ndarray]]:
    """What every piece gave, in order; all must be finished."""
    hosts.wait_for_all("parts")
    return [self._part(piece) for piece in done]

  def discard(self) -> None:
    """Removes everything: the training's result is kept elsewhere."""
    self.keeper.wait()
    self._parts.clear()
    if self._folder is not None and hosts.is_first():
      shutil.rmtree(self._folder, ignore_errors=True)

  def _part(self, piece: Piece) -> dict[str, np.ndarray]:
    where = (piece.first, piece.last)
    if where not in self._parts:
      path = self._path(pieces.part_name(*where))
      with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
      if str(arrays.pop("about")) != self._about(piece):
        raise ValueError("it holds something else")
      self._parts[where] = arrays
    return self._parts[where]

  def _about(self, piece: Piece) -> str:
    return f"{self._name} {piece.first} {piece.last}"

  def _path(self, name: str) -> pathlib.Path:
    assert self._folder is not None
    return self._folder / name

  def _intact_states(self) -> list[Piece]:
    self.keeper.wait()
    for path in self._entries():
      if pieces.is_left_over(path.name):
        shutil.rmtree(path, ignore_errors=True)
    intact = []
    for piece, path in self._states():
      if not checkpoints.exists(path):
        checkpoints.remove(path)  # killed while it was being written
        continue
      damage = checkpoints.damage(path)
      if damage is None and checkpoints.about(path).get("piece") != path.name:
        damage = f"{path} is another one"
      if damage is None:
        intact.append(piece)
        continue
      self.keeper.say(
        f"{damage}: the checkpoint of {self._name!r} at step {piece.step} can't"
        " be used; going on from what was saved before it."
      )
      checkpoints.remove(path)
    return intact

  def _intact_parts(self) -> list[Piece]:
    intact = []
    for piece in self._finished():
      try:
        self._part(piece)
      except Exception as error:  # zip, zlib and NumPy each raise their own
        path = self._path(pieces.part_name(piece.first, piece.last))
        self.keeper.say(
          f"{path} can't be read ({error}): individuals {piece.first} .."
          f" {piece.last - 1} of {self._name!r} are trained again."
        )
        path.unlink(missing_ok=True)
        continue
      intact.append(piece)
    return intact

  def _states(self) -> list[tuple[Piece, pathlib.Path]]:
    paths = dict.fromkeys(
      path.with_name(path.name.removesuffix(checkpoints.SUFFIX))
      for path in self._entries()
    )
    found = ((pieces.of_state(path.name), path) for path in paths)
    return [(piece, path) for piece, path in found if piece is not None]

  def _finished(self) -> list[Piece]:
    found = (pieces.of_part(path.name) for path in self._entries())
    return [piece for piece in found if piece is not None]

  def _entries(self) -> list[pathlib.Path]:
    if self._folder is None or not self._folder.is_dir():
      return []
    return sorted(self._folder.iterdir())


def _own(states: Any, count: int) -> tuple[Any, int]:
  """States without fillers where they can be dropped, and how many remain."""
  leaf = jax.tree.leaves(states)[0]
  if not leaf.is_fully_addressable:
    return states, len(leaf)
  states = jax.tree.map(lambda leaf: leaf[:count], states)
  # With several processes Orbax takes what is each one's for NumPy's.
  return (hosts.gather(states) if jax.process_count() > 1 else states), count


def _explained(error: Exception, path: pathlib.Path) -> Exception:
  """A full disk by its name, whoever found it; other errors as they are."""
  full = isinstance(error, OSError) and error.errno in (
    errno.ENOSPC,
    errno.EDQUOT,
  )
  if full or "No space left" in str(error) or "quota exceeded" in str(error):
    return OSError(errno.ENOSPC, "the disk is full", str(path))
  return error
