"""When a run saves what is under way, and when it stops (host)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from personalization_jax import distributed
from personalization_jax.checkpoints import chunks, files, trees
from personalization_jax.checkpoints.chunks import Chunk

# What is recorded while a chunk is trained: name -> float32 [n, ...].
History = Mapping[str, np.ndarray]


class Stopped(Exception):
  """The run was asked to stop, and everything is saved."""


class AnotherTrainingError(ValueError):
  """A folder holds what another training left."""


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

  def task(self, name: str, identity: str | Callable[[], str]) -> Task:
    """A training, told by the digest of all that decides it (`identities`).

    What gives that digest is asked for it only if there is a folder.
    """
    if callable(identity):
      identity = "" if self.folder is None else identity()
    inside = files.safe_name(name)  # and never outside the keeper's folder
    assert pathlib.PurePath(inside).name == inside not in ("", ".."), name
    return Task(self, name, identity, self.folder and self.folder / inside)

  def forget(self, name: str) -> None:
    """Removes what is kept of a training, whatever decided it."""
    self.wait()
    folder = self.task(name, "").folder
    if folder is not None and distributed.is_first():
      shutil.rmtree(folder, ignore_errors=True)

  def check(self, save: Callable[[], None] = lambda: None) -> None:
    """Saves if it is time; then raises `Stopped` if asked to. All agree."""
    if self._writing is not None and self._writing.done():
      self.wait()
    due = distributed.is_first() and self._writing is None
    due &= time.monotonic() - self._saved >= self._seconds
    demand = distributed.highest(2 * self._should_stop() + due)
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
      with files.writing(path):
        finish()
      if distributed.is_first():
        for older in chunks.older_states(path):
          trees.remove(older)

    self._saved = time.monotonic()
    self._writing = self._writer.submit(write)

  def wait(self) -> None:
    """Returns when nothing is being written any more."""
    writing, self._writing = self._writing, None
    if writing is not None:
      writing.result()


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
    """What is finished and what is to do; see `chunks.plan`. All hosts agree.

    Raises AnotherTrainingError, and changes nothing, for another training's.
    """
    planned: Any = None
    if distributed.is_first():
      self.keeper.wait()
      with contextlib.suppress(AnotherTrainingError):
        planned = chunks.plan(self._intact(), count, size)
    planned = json.loads(distributed.text_from_first(json.dumps(planned)))
    if planned is None:
      raise self._another()
    return [Chunk(a, b, step, (c, d)) for a, b, step, (c, d) in planned]

  def restore(self, chunk: Chunk, like: Any) -> tuple[Any, History]:
    """The models [n, ...] of a chunk that has begun, and its record (NumPy)."""
    first, last = chunk.source
    path = self._path(Chunk(first, last, chunk.step))
    about = trees.about(path)
    states = jax.tree.map(
      lambda leaf: np.zeros((about["rows"], *leaf.shape[1:]), leaf.dtype),
      jax.eval_shape(distributed.copy, like),
    )
    history = {
      key: np.zeros((last - first, *shape), np.float32)
      for key, shape in about["history"].items()
    }
    own = slice(chunk.first - first, chunk.last - first)
    saved = trees.restore(path, (states, history))
    return jax.tree.map(lambda leaf: leaf[own], saved)

  def save(
    self, chunk: Chunk, step: int, states: Any, history: History
  ) -> None:
    """Begins to write a checkpoint, whatever the time."""
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
    self._results[chunk[:2]] = dict(arrays)
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
      if chunk[:2] not in self._results:
        self._results[chunk[:2]], _ = _read(self._path(chunk._replace(step=-1)))
    return [self._results[chunk[:2]] for chunk in done]

  def _intact(self) -> list[Chunk]:
    """Chunks that can be used, once nothing is written; removes all else."""
    faults = {chunk: self._fault(chunk) for chunk in self._saved()}
    if self.folder is not None:
      files.remove_temporary(self.folder)
      for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)
    for sentence in dict.fromkeys(filter(None, faults.values())):
      self.keeper.say(sentence)
    for chunk, fault in faults.items():
      if fault is not None:
        trees.remove(self._path(chunk))
    return [chunk for chunk, fault in faults.items() if fault is None]

  def _fault(self, chunk: Chunk) -> str | None:
    """Why a chunk can't be used; None if it can, "" if writing was killed."""
    path = self._path(chunk)
    if not (chunk.is_finished or trees.exists(path)):
      return ""
    try:
      about = _read(path)[1] if chunk.is_finished else trees.about(path)
    except Exception as error:  # zip, zlib and NumPy each raise their own
      why = f"{path} can't be read ({error})"
    else:
      if about.get("identity", self.identity) != self.identity:
        raise self._another()
      if about == {**about, **self._about(path)}:
        return None
      why = f"{path} is another one, or too old to say which it is"
    return (
      f"{why}: individuals {chunk.first} .. {chunk.last - 1} of {self.name!r}"
      " are trained again from what was saved before it."
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
    found = [chunks.named(name.removesuffix(trees.SUFFIX)) for name in names]
    return list(dict.fromkeys(filter(None, found)))


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """What a finished chunk gave, and what its file says of itself."""
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  texts = [name for name in arrays if arrays[name].dtype.kind == "U"]
  return arrays, {name: str(arrays.pop(name)) for name in texts}
