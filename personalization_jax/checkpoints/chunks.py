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

import contextlib
import dataclasses
import io
import itertools
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from personalization_jax import distributed
from personalization_jax.checkpoints import files, trees

if TYPE_CHECKING:
  from personalization_jax.checkpoints.keeper import Keeper

# What is recorded while a chunk is trained: name -> float32 [n, ...].
History = Mapping[str, np.ndarray]

_NAME = re.compile(r"(\d{5,})-(\d{5,})(?:\.npz|-step-(\d{7,}))")
# The newest may be damaged.
_KEPT = 2


class AnotherTrainingError(ValueError):
  """A folder holds what another training left."""


class Chunk(NamedTuple):
  """Individuals first .. last - 1 of the split, trained at once from a step."""

  first: int
  last: int
  step: int = 0  # steps of the schedule that are done; -1 if all is
  source: tuple[int, int] = (0, 0)  # first, last of the checkpoint at that step

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
    end = ".npz" if self.is_finished else f"-step-{self.step:07d}"
    return f"{self.first:05d}-{self.last:05d}{end}"


def plan(known: Iterable[Chunk], count: int, size: int) -> list[Chunk]:
  """Chunks of at most `size` that hold all individuals once, in order.

  Each individual goes on from the latest that is known of it: known chunks may
  overlap, and had whatever size. What is finished keeps it.
  """
  latest: dict[int, Chunk] = {}
  for chunk in sorted(known, key=lambda chunk: (chunk.is_finished, chunk.step)):
    latest |= dict.fromkeys(chunk.indices, chunk)
  chunks: list[Chunk] = []
  for found, group in itertools.groupby(range(count), latest.get):
    indices, chunk = list(group), found or Chunk(0, 0)
    most = len(indices) if chunk.is_finished else size
    for start in range(0, len(indices), most):
      own = indices[start : start + most]
      chunks.append(chunk._replace(first=own[0], last=own[-1] + 1))
  return chunks


def named(name: str) -> Chunk | None:
  """The chunk that has this name, if one can have it."""
  match = _NAME.fullmatch(name)
  if match is None:
    return None
  first, last, step = (int(number or -1) for number in match.groups())
  return Chunk(first, last, step, (first, last))


def older_states(path: pathlib.Path) -> list[pathlib.Path]:
  """The folders of the same chunk that are no longer needed."""
  chunk = path.name.partition("-step-")[0]
  same = sorted(path.parent.glob(f"{chunk}-step-*"))
  return [folder for folder in same if named(folder.name)][:-_KEPT]


@dataclasses.dataclass(eq=False)
class Task:
  """What is done of one training, and what is to do; see `Keeper.task`."""

  keeper: Keeper
  name: str
  identity: str
  folder: pathlib.Path | None  # without one, results are in memory alone

  # What chunks gave, by their first and last.
  _results: dict[tuple[int, int], dict[str, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )

  def plan(self, count: int, size: int) -> list[Chunk]:
    """What is finished and what is to do; see `plan`. All processes agree.

    Raises AnotherTrainingError, and leaves all as it is, if the folder keeps
    what isn't this training's.
    """
    planned: Any = None
    if distributed.is_first():
      self.keeper.wait()
      with contextlib.suppress(AnotherTrainingError):
        planned = plan(self._intact(), count, size)
    planned = json.loads(distributed.text_from_first(json.dumps(planned)))
    if planned is None:
      raise self._another()
    return [Chunk(a, b, step, (c, d)) for a, b, step, (c, d) in planned]

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
    self, chunk: Chunk, step: int, states: Any, history: Callable[[], History]
  ) -> None:
    """After a block: saves its states if it is time to; see `Keeper.check`."""
    self.keeper.check(lambda: self.save(chunk, step, states, history()))

  def save(
    self, chunk: Chunk, step: int, states: Any, history: History
  ) -> None:
    """Begins to write a checkpoint, whatever the time; see `watch`."""
    if self.folder is None:
      return
    # The next block is given the states' memory: hence a copy.
    kept, rows = distributed.copy(states), len(chunk.indices)
    leaf = jax.tree.leaves(kept)[0]
    if leaf.is_fully_addressable:  # so fillers can be dropped
      kept = jax.tree.map(lambda leaf: leaf[:rows], kept)
      # With several processes Orbax takes what is each one's for NumPy's.
      kept = distributed.gather(kept) if jax.process_count() > 1 else kept
    else:
      rows = len(leaf)
    path = self._path(chunk._replace(step=step))
    about = {
      **self._about(path),
      "rows": rows,
      "history": {key: values.shape[1:] for key, values in history.items()},
    }
    self.keeper.write(path, (kept, dict(history)), about)

  def finish(self, chunk: Chunk, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps arrays [n, ...] that a chunk gave, and drops its checkpoints."""
    self.keeper.wait()
    self._results[chunk.first, chunk.last] = dict(arrays)
    if self.folder is None or not distributed.is_first():
      return
    path = self._path(chunk._replace(step=-1))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **self._about(path), **arrays)  # type: ignore[arg-type]
    with files.writing(path):
      files.write_atomically(path, buffer.getvalue())
    saved = self._saved()
    done = {i for each in saved if each.is_finished for i in each.indices}
    for state in saved:
      if not state.is_finished and done.issuperset(state.indices):
        trees.remove(self._path(state))

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

    Nothing may be being written. Raises as `plan` does.
    """
    faults = {chunk: self._fault(chunk) for chunk in self._saved()}
    if self.folder is not None and self.folder.is_dir():
      files.remove_temporary(self.folder)
      for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)
    for sentence in dict.fromkeys(filter(None, faults.values())):
      self.keeper.say(sentence)
    for chunk, fault in faults.items():
      if fault is not None and chunk.is_finished:
        self._path(chunk).unlink(missing_ok=True)
      elif fault is not None:
        trees.remove(self._path(chunk))
    return [chunk for chunk, fault in faults.items() if fault is None]

  def _fault(self, chunk: Chunk) -> str | None:
    """Why a chunk can't be used, in a sentence; None if it can.

    The sentence is empty where a process was killed while it wrote.
    """
    path = self._path(chunk)
    if not (chunk.is_finished or trees.exists(path)):
      return ""
    try:
      about = _read(path)[1] if chunk.is_finished else trees.about(path)
    except Exception as error:  # zip, zlib and NumPy each raise their own
      why = f"{path} can't be read ({error})"
    else:
      if "identity" not in about:
        return (
          f"{self.folder} is of a version that didn't keep what {self.name!r}"
          " was trained with: it is trained again."
        )
      if about["identity"] != self.identity:
        raise self._another()
      if about.get("piece") == path.name:
        return None
      why = f"{path} is another one"
    if chunk.is_finished:
      return (
        f"{why}: individuals {chunk.first} .. {chunk.last - 1} of"
        f" {self.name!r} are trained again."
      )
    return (
      f"{why}: the checkpoint of {self.name!r} at step {chunk.step} can't be"
      " used; going on from what was saved before it."
    )

  def _another(self) -> AnotherTrainingError:
    return AnotherTrainingError(
      f"{self.folder} keeps a training of {self.name!r} that was decided by"
      " something else: other data, settings, model, optimiser, schedule or"
      " groups. Give each study a Keeper with a folder of its own, or remove"
      " that folder to train it anew."
    )

  def _about(self, path: pathlib.Path) -> dict[str, str]:
    """What a file or a checkpoint with this path says of itself."""
    return {"identity": self.identity, "piece": path.name}

  def _path(self, chunk: Chunk) -> pathlib.Path:
    assert self.folder is not None
    return self.folder / chunk.name

  def _saved(self) -> list[Chunk]:
    """What there is, by its names: whole, damaged or another training's."""
    if self.folder is None or not self.folder.is_dir():
      return []
    names = sorted(path.name for path in self.folder.iterdir())
    chunks = [named(name.removesuffix(trees.SUFFIX)) for name in names]
    return list(dict.fromkeys(filter(None, chunks)))


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """What a finished chunk gave, and what its file says of itself."""
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  texts = [name for name in arrays if arrays[name].dtype.kind == "U"]
  return arrays, {name: str(arrays.pop(name)) for name in texts}
