"""Individuals that are trained together: what is to do, what is saved of them.

    CHECKPOINTS/METHOD/00000-00008.npz               finished individuals 0 .. 7
    CHECKPOINTS/METHOD/00008-00016-step-0000350/     models of 8 .. 15 at a step
    CHECKPOINTS/METHOD/00008-00016-step-0000350.sha256.json

The last two steps of a chunk are kept, so that one may be damaged. Every file
has its name only once it is complete, so a process may be killed at any moment.
Each says whose it is, by the digest of all that decides the training, and at
which place of it: what another training left is never used.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from personalization_jax import distributed
from personalization_jax.checkpoints import files, trees

if TYPE_CHECKING:
  from personalization_jax.checkpoints.keeper import Keeper

# What is recorded while a chunk is trained: name -> float32 [n, ...].
History = Mapping[str, np.ndarray]

_STATE = re.compile(r"(\d{5,})-(\d{5,})-step-(\d{7,})")
_RESULTS = re.compile(r"(\d{5,})-(\d{5,})\.npz")
# The newest may be damaged.
_KEPT = 2


class AnotherTrainingError(ValueError):
  """A folder holds what another training left."""


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Individuals first .. last - 1, trained together from a step on.

  Attributes:
    first: place of the first in the split.
    last: one behind the last.
    step: steps of the schedule that are done; -1 if all is.
    source: (first, last) of the checkpoint with that step.
  """

  first: int
  last: int
  step: int = 0
  source: tuple[int, int] = (0, 0)

  @property
  def indices(self) -> range:
    """The places in the split."""
    return range(self.first, self.last)

  @property
  def is_finished(self) -> bool:
    """Whether nothing is to be trained."""
    return self.step < 0

  @property
  def name(self) -> str:
    """Of the folder of its models at its step, or of the file of results."""
    people = f"{self.first:05d}-{self.last:05d}"
    return (
      f"{people}.npz" if self.step < 0 else f"{people}-step-{self.step:07d}"
    )


def plan(known: Iterable[Chunk], count: int, size: int) -> list[Chunk]:
  """Chunks of at most `size` that hold all individuals once, in order.

  Each individual goes on from the latest that is known of it: known chunks may
  overlap, and had whatever size. What is finished keeps it.
  """
  best: list[Chunk | None] = [None] * count
  for chunk in known:
    for index in range(chunk.first, min(chunk.last, count)):
      before = best[index]
      if before is None or chunk.is_finished or 0 <= before.step < chunk.step:
        best[index] = chunk
  chunks: list[Chunk] = []
  first = 0
  for index in range(1, count + 1):
    found = best[first]
    finished = found is not None and found.is_finished
    full = not finished and index - first == size
    if index == count or best[index] is not found or full:
      step, source = (found.step, found.source) if found else (0, (0, 0))
      chunks.append(Chunk(first, index, step, source))
      first = index
  return chunks


def named(name: str) -> Chunk | None:
  """The chunk that has this name, if one can have it."""
  match = _STATE.fullmatch(name) or _RESULTS.fullmatch(name)
  if match is None:
    return None
  first, last, *step = map(int, match.groups())
  return Chunk(first, last, step[0] if step else -1, (first, last))


def older_states(path: pathlib.Path) -> list[pathlib.Path]:
  """The folders of the same chunk that are no longer needed."""
  chunk = path.name.partition("-step-")[0]
  same = sorted(path.parent.glob(f"{chunk}-step-*"))
  return [folder for folder in same if _STATE.fullmatch(folder.name)][:-_KEPT]


class Task:
  """What is done of one training, and what is to do."""

  def __init__(
    self,
    keeper: Keeper,
    name: str,
    identity: str,
    folder: pathlib.Path | None,
  ):
    """See `Keeper.task`; without a folder it keeps results in memory alone."""
    self._keeper = keeper
    self._name = name
    self._identity = identity
    self._folder = folder
    self._results: dict[tuple[int, int], dict[str, np.ndarray]] = {}

  def plan(self, count: int, size: int) -> list[Chunk]:
    """What is finished and what is to do; see `plan`. All processes agree.

    Raises:
      AnotherTrainingError: if the folder keeps what isn't this training's,
        which is left as it is.
    """
    known: list[Chunk] = []
    another = False
    if distributed.is_first():
      self._keeper.wait()
      try:
        known = self._intact()
      except AnotherTrainingError:
        another = True
    if distributed.highest(int(another)):
      raise self._another()
    table = np.full((count, 5), -1, np.int32)
    for row, chunk in enumerate(plan(known, count, size)):
      table[row] = (chunk.first, chunk.last, chunk.step, *chunk.source)
    return [
      Chunk(first, last, step, tuple(source))
      for first, last, step, *source in distributed.from_first(table).tolist()
      if first >= 0
    ]

  def restore(self, chunk: Chunk, like: Any) -> tuple[Any, History]:
    """The models [n, ...] of a chunk that has begun, and what was recorded.

    They are NumPy arrays, keys as `distributed.gather` gives them; `like` tells
    the shapes of the states of a chunk.
    """
    first, last = chunk.source
    path = self._path(Chunk(first, last, chunk.step))
    about = trees.about(path)
    rows = about["rows"]
    numbers = jax.eval_shape(distributed.copy, like)
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
      self._keeper.stop()

  def save(
    self, chunk: Chunk, step: int, states: Any, history: History
  ) -> None:
    """Begins to write a checkpoint, whatever the time; see `watch`."""
    if self._folder is None:
      return
    # The next block is given the states' memory: hence a copy.
    kept, rows = _own(distributed.copy(states), len(chunk.indices))
    path = self._path(dataclasses.replace(chunk, step=step))
    about = {
      **self._about(path),
      "rows": rows,
      "history": {key: values.shape[1:] for key, values in history.items()},
    }
    self._keeper.write(path, (kept, dict(history)), about)

  def finish(self, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps arrays [n, ...] that a chunk gave, and drops its checkpoints."""
    self._keeper.wait()
    self._results[chunk.first, chunk.last] = dict(arrays)
    if self._folder is None or not distributed.is_first():
      return
    path = self._path(dataclasses.replace(chunk, step=-1))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **self._about(path), **arrays)  # type: ignore[arg-type]
    try:
      files.write_atomically(path, buffer.getvalue())
    except OSError as error:
      raise files.explained(error, path) from error
    saved = self._saved()
    done: set[int] = set()
    done.update(*(each.indices for each, _ in saved if each.is_finished))
    for state, state_path in saved:
      if not state.is_finished and done.issuperset(state.indices):
        trees.remove(state_path)

  def results(self, done: list[Chunk]) -> list[dict[str, np.ndarray]]:
    """What every chunk gave, in order; all must be finished."""
    distributed.wait_for_all("parts")
    for chunk in done:
      where = (chunk.first, chunk.last)
      if where not in self._results:
        path = self._path(Chunk(*where, step=-1))
        self._results[where], about = _read(path)
        if about != self._about(path):
          raise ValueError(f"{path} holds something else")
    return [self._results[chunk.first, chunk.last] for chunk in done]

  def _intact(self) -> list[Chunk]:
    """Chunks that can be used, at a step or finished; all else is removed.

    Nothing may be being written. If something is another training's, all is
    left as it is and that is raised.
    """
    saved = self._saved()
    faults = [self._fault(chunk, path) for chunk, path in saved]
    if self._folder is not None and self._folder.is_dir():
      files.remove_temporary(self._folder)
      for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)
    for sentence in dict.fromkeys(filter(None, faults)):
      self._keeper.say(sentence)
    for (chunk, path), fault in zip(saved, faults):
      if fault is not None and chunk.is_finished:
        path.unlink(missing_ok=True)
      elif fault is not None:
        trees.remove(path)
    return [chunk for (chunk, _), fault in zip(saved, faults) if fault is None]

  def _fault(self, chunk: Chunk, path: pathlib.Path) -> str | None:
    """Why a chunk can't be used, in a sentence; None if it can.

    The sentence is empty where a process was killed while it wrote.
    """
    arrays: dict[str, np.ndarray] = {}
    if chunk.is_finished:
      try:
        arrays, about = _read(path)
      except Exception as error:  # zip, zlib and NumPy each raise their own
        return self._damaged(chunk, path, str(error))
    elif not trees.exists(path):
      return ""
    elif damage := trees.damage(path):
      return self._damaged(chunk, path, damage)
    else:
      about = trees.about(path)
    if "identity" not in about:
      return (
        f"{self._folder} is of a version that didn't keep what {self._name!r}"
        " was trained with: it is trained again."
      )
    if about["identity"] != self._identity:
      raise self._another()
    if about.get("piece") != path.name:
      return self._damaged(chunk, path, f"{path} is another one")
    if chunk.is_finished:
      self._results[chunk.first, chunk.last] = arrays
    return None

  def _damaged(self, chunk: Chunk, path: pathlib.Path, why: str) -> str:
    if chunk.is_finished:
      return (
        f"{path} can't be read ({why}): individuals {chunk.first} .."
        f" {chunk.last - 1} of {self._name!r} are trained again."
      )
    return (
      f"{why}: the checkpoint of {self._name!r} at step {chunk.step} can't be"
      " used; going on from what was saved before it."
    )

  def _another(self) -> AnotherTrainingError:
    return AnotherTrainingError(
      f"{self._folder} keeps a training of {self._name!r} that was decided by"
      " something else: other data, settings, model, optimiser, schedule or"
      " groups. Give each study a Keeper with a folder of its own, or remove"
      " that folder to train it anew."
    )

  def _about(self, path: pathlib.Path) -> dict[str, str]:
    """What a file or a checkpoint with this path says of itself."""
    return {"identity": self._identity, "piece": path.name}

  def _path(self, chunk: Chunk) -> pathlib.Path:
    assert self._folder is not None
    return self._folder / chunk.name

  def _saved(self) -> list[tuple[Chunk, pathlib.Path]]:
    """What there is, by its names: whole, damaged or another training's."""
    if self._folder is None or not self._folder.is_dir():
      return []
    paths = dict.fromkeys(
      path.with_name(path.name.removesuffix(trees.SUFFIX))
      for path in sorted(self._folder.iterdir())
    )
    found = [(named(path.name), path) for path in paths]
    return [(chunk, path) for chunk, path in found if chunk is not None]


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """What a finished chunk gave, and what its file says of itself."""
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  names = [name for name in ("identity", "piece", "about") if name in arrays]
  return arrays, {name: str(arrays.pop(name)) for name in names}


def _own(states: Any, count: int) -> tuple[Any, int]:
  """States without fillers where they can be dropped, and how many remain."""
  leaf = jax.tree.leaves(states)[0]
  if not leaf.is_fully_addressable:
    return states, len(leaf)
  states = jax.tree.map(lambda leaf: leaf[:count], states)
  # With several processes Orbax takes what is each one's for NumPy's.
  several = jax.process_count() > 1
  return (distributed.gather(states) if several else states), count
