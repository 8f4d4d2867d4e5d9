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
from typing import Any

import numpy as np

from personalization_jax.checkpoints import files, trees

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


def state_name(first: int, last: int, step: int) -> str:
  """The folder of a chunk's models at a step."""
  return f"{first:05d}-{last:05d}-step-{step:07d}"


def results_name(first: int, last: int) -> str:
  """The file of what a finished chunk gave."""
  return f"{first:05d}-{last:05d}.npz"


def named(name: str) -> Chunk | None:
  """The chunk that a name says, if it is one of `state_` or `results_name`."""
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


class SavedChunks:
  """Chunks of one training that are finished or under way."""

  def __init__(
    self,
    folder: pathlib.Path | None,
    name: str,
    identity: str,
    say: Callable[[str], None],
  ):
    """Reads nothing yet; see `Keeper.task`.

    Without a folder what is finished is kept in memory, nothing else.
    """
    self.folder = folder
    self._name = name
    self._identity = identity
    self._say = say
    self._results: dict[tuple[int, int], dict[str, np.ndarray]] = {}

  def path(self, name: str) -> pathlib.Path:
    """Where what has this name is; there must be a folder."""
    assert self.folder is not None
    return self.folder / name

  def about(self, path: pathlib.Path) -> dict[str, str]:
    """What a file or a checkpoint with this path says of itself."""
    return {"identity": self._identity, "piece": path.name}

  def remember(self, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
    """Has `results` give these arrays for a finished chunk."""
    self._results[chunk.first, chunk.last] = dict(arrays)

  def write(self, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what a finished chunk gave, and drops its checkpoints."""
    path = self.path(results_name(chunk.first, chunk.last))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **self.about(path), **arrays)  # type: ignore[arg-type]
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

  def results(self, chunk: Chunk) -> dict[str, np.ndarray]:
    """The arrays [n, ...] of a finished chunk, by name."""
    where = (chunk.first, chunk.last)
    if where not in self._results:
      path = self.path(results_name(*where))
      self._results[where], about = _read(path)
      if about != self.about(path):
        raise ValueError(f"{path} holds something else")
    return self._results[where]

  def intact(self) -> list[Chunk]:
    """Chunks that can be used, at a step or finished; all else is removed.

    Nothing may be being written.

    Raises:
      AnotherTrainingError: if something is another training's; then all is left
        as it is.
    """
    saved = self._saved()
    faults = [self._fault(chunk, path) for chunk, path in saved]
    if self.folder is not None and self.folder.is_dir():
      files.remove_temporary(self.folder)
      for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)
    for sentence in dict.fromkeys(filter(None, faults)):
      self._say(sentence)
    for (chunk, path), fault in zip(saved, faults):
      if fault is None:
        continue
      if chunk.is_finished:
        path.unlink(missing_ok=True)
      else:
        trees.remove(path)
    return [chunk for (chunk, _), fault in zip(saved, faults) if fault is None]

  def another(self) -> AnotherTrainingError:
    """What `intact` raises."""
    return AnotherTrainingError(
      f"{self.folder} keeps a training of {self._name!r} that was decided by"
      " something else: other data, settings, model, optimiser, schedule or"
      " groups. Give each study a Keeper with a folder of its own, or remove"
      " that folder to train it anew."
    )

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
        f"{self.folder} is of a version that didn't keep what {self._name!r}"
        " was trained with: it is trained again."
      )
    if about["identity"] != self._identity:
      raise self.another()
    if about["piece"] != path.name:
      return self._damaged(chunk, path, f"{path} is another one")
    if chunk.is_finished:
      self.remember(chunk, arrays)
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

  def _saved(self) -> list[tuple[Chunk, pathlib.Path]]:
    """What there is, by its names: whole, damaged or another training's."""
    if self.folder is None or not self.folder.is_dir():
      return []
    paths = dict.fromkeys(
      path.with_name(path.name.removesuffix(trees.SUFFIX))
      for path in sorted(self.folder.iterdir())
    )
    found = [(named(path.name), path) for path in paths]
    return [(chunk, path) for chunk, path in found if chunk is not None]


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """What a finished chunk gave, and what its file says of itself."""
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  names = [name for name in ("identity", "piece", "about") if name in arrays]
  return arrays, {name: str(arrays.pop(name)) for name in names}
