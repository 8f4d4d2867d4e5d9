"""What is saved of one training, piece by piece (host, Orbax).

    RUNNING/METHOD/00000-00008.npz                  finished individuals 0 .. 7
    RUNNING/METHOD/00008-00016-step-0000350/        models of 8 .. 15 at a step
    RUNNING/METHOD/00008-00016-step-0000350.sha256.json

The last two steps of a piece are kept, so that one may be damaged. Every file
has its name only once it is complete, so a process may be killed at any moment.
Each says whose it is, by the digest of all that decides the training, and at
which place of it: what another training left is never used.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import pathlib
import shutil
from collections.abc import Callable, Mapping

import numpy as np

from personalization_jax import distributed
from personalization_jax.checkpoints import chunks, files, trees
from personalization_jax.checkpoints.chunks import Piece


class AnotherTrainingError(ValueError):
  """A folder holds what another training left."""


class _Kind(enum.Enum):
  """What a file or a checkpoint turned out to be."""

  OWN = enum.auto()
  ANOTHER_S = enum.auto()
  UNSIGNED = enum.auto()  # made before they told whose they are
  INCOMPLETE = enum.auto()
  DAMAGED = enum.auto()


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One file of a finished piece, or one checkpoint.

  Attributes:
    piece: by its name.
    path: where it is.
    kind: what it is.
    fault: in a sentence, of what is damaged.
  """

  piece: Piece
  path: pathlib.Path
  kind: _Kind
  fault: str = ""


class SavedPieces:
  """Pieces that are finished or under way; what is damaged counts as none."""

  def __init__(
    self,
    folder: pathlib.Path | None,
    name: str,
    identity: str,
    say: Callable[[str], None],
  ):
    """Nothing is read yet.

    Args:
      folder: of this training alone; None keeps in memory what is finished, and
        nothing of what is under way.
      name: of the training.
      identity: the digest of all that decides it.
      say: told in a sentence what was found damaged.
    """
    self.folder = folder
    self._name = name
    self._identity = identity
    self._say = say
    self._parts: dict[tuple[int, int], dict[str, np.ndarray]] = {}

  def path(self, name: str) -> pathlib.Path:
    """Where what has this name is; there must be a folder."""
    assert self.folder is not None
    return self.folder / name

  def keep(self, piece: Piece, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps what a piece gave, and drops its checkpoints.

    Args:
      piece: what was trained.
      arrays: of which each has a leading axis of the piece's individuals.
    """
    self._parts[piece.first, piece.last] = dict(arrays)
    if self.folder is None or not distributed.is_first():
      return
    path = self.path(chunks.part_name(piece.first, piece.last))
    buffer = io.BytesIO()
    about = {key: np.asarray(value) for key, value in self.about(path).items()}
    np.savez_compressed(buffer, **about, **dict(arrays))  # type: ignore[arg-type]
    try:
      files.write_atomically(path, buffer.getvalue())
    except OSError as error:
      raise files.explained(error, path) from error
    done = [(part.first, part.last) for part in self._finished()]
    for state, state_path in self._states():
      covered = sum(
        max(0, min(last, state.last) - max(first, state.first))
        for first, last in done
      )
      if covered == state.last - state.first:
        trees.remove(state_path)

  def part(self, piece: Piece) -> dict[str, np.ndarray]:
    """What a finished piece gave.

    Args:
      piece: a piece that was kept, or that `intact` found.

    Returns:
      Arrays by name, each with a leading axis of the piece's individuals.

    Raises:
      ValueError: if another piece is in its place, or another training's.
    """
    where = (piece.first, piece.last)
    if where not in self._parts:
      path = self.path(chunks.part_name(*where))
      arrays, about = _read(path)
      if about != self.about(path):
        raise ValueError(f"{path} holds something else")
      self._parts[where] = arrays
    return self._parts[where]

  def about(self, path: pathlib.Path) -> dict[str, str]:
    """What a file or a checkpoint with this path says of itself."""
    return {"identity": self._identity, "piece": path.name}

  def intact(self) -> list[Piece] | None:
    """Pieces that can be used, at a step or finished; all else is removed.

    Nothing may be being written.

    Returns:
      The pieces; None if something is another training's, and then all is left
      as it is.
    """
    entries = [self._state(*found) for found in self._states()]
    entries += [self._part(piece) for piece in self._finished()]
    if any(entry.kind is _Kind.ANOTHER_S for entry in entries):
      return None
    for path in self._entries():
      if chunks.is_left_over(path.name):
        shutil.rmtree(path, ignore_errors=True)
    if any(entry.kind is _Kind.UNSIGNED for entry in entries):
      self._say(
        f"{self.folder} is of a version that didn't keep what {self._name!r}"
        " was trained with: it is trained again."
      )
    for entry in entries:
      if entry.fault:
        self._say(entry.fault)
      if entry.kind is _Kind.OWN:
        continue
      if entry.piece.step < 0:
        entry.path.unlink(missing_ok=True)
      else:
        trees.remove(entry.path)
    return [entry.piece for entry in entries if entry.kind is _Kind.OWN]

  def another_s(self) -> AnotherTrainingError:
    """What to raise where `intact` found another training's pieces."""
    return AnotherTrainingError(
      f"{self.folder} keeps a training of {self._name!r} that was decided by"
      " something else: other data, settings, model, optimiser, schedule or"
      " groups. Give each study a Keeper with a folder of its own, or remove"
      " that folder to train it anew."
    )

  def _state(self, piece: Piece, path: pathlib.Path) -> _Entry:
    """What is there of a piece at a step."""
    if not trees.exists(path):  # killed while it was being written
      return _Entry(piece, path, _Kind.INCOMPLETE)
    fault = trees.damage(path)
    if fault is None:
      about = trees.about(path)
      kind = self._kind(about, path)
      if kind is not _Kind.DAMAGED:
        return _Entry(piece, path, kind)
      fault = f"{path} is another one"
    return _Entry(
      piece,
      path,
      _Kind.DAMAGED,
      f"{fault}: the checkpoint of {self._name!r} at step {piece.step} can't"
      " be used; going on from what was saved before it.",
    )

  def _part(self, piece: Piece) -> _Entry:
    """What is there of a finished piece."""
    path = self.path(chunks.part_name(piece.first, piece.last))
    try:
      arrays, about = _read(path)
      kind = self._kind(about, path)
      if kind is _Kind.DAMAGED:
        raise ValueError("it holds something else")
    except Exception as error:  # zip, zlib and NumPy each raise their own
      return _Entry(
        piece,
        path,
        _Kind.DAMAGED,
        f"{path} can't be read ({error}): individuals {piece.first} .."
        f" {piece.last - 1} of {self._name!r} are trained again.",
      )
    if kind is _Kind.OWN:
      self._parts[piece.first, piece.last] = arrays
    return _Entry(piece, path, kind)

  def _kind(self, about: Mapping[str, str], path: pathlib.Path) -> _Kind:
    """Whose a whole file or checkpoint is, by what it says of itself."""
    if "identity" not in about:
      return _Kind.UNSIGNED
    if about["identity"] != self._identity:
      return _Kind.ANOTHER_S
    return _Kind.OWN if about["piece"] == path.name else _Kind.DAMAGED

  def _states(self) -> list[tuple[Piece, pathlib.Path]]:
    paths = dict.fromkeys(
      path.with_name(path.name.removesuffix(trees.SUFFIX))
      for path in self._entries()
    )
    found = ((chunks.of_state(path.name), path) for path in paths)
    return [(piece, path) for piece, path in found if piece is not None]

  def _finished(self) -> list[Piece]:
    found = (chunks.of_part(path.name) for path in self._entries())
    return [piece for piece in found if piece is not None]

  def _entries(self) -> list[pathlib.Path]:
    if self.folder is None or not self.folder.is_dir():
      return []
    return sorted(self.folder.iterdir())


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """What a finished piece gave, and what its file says of itself."""
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  names = [name for name in ("identity", "piece", "about") if name in arrays]
  return arrays, {name: str(arrays.pop(name)) for name in names}
