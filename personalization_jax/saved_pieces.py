"""What is saved of one training, piece by piece (host, Orbax).

    RUNNING/METHOD/00000-00008.npz                  finished individuals 0 .. 7
    RUNNING/METHOD/00008-00016-step-0000350/        models of 8 .. 15 at a step
    RUNNING/METHOD/00008-00016-step-0000350.sha256.json

The last two steps of a piece are kept, so that one may be damaged. Every file
has its name only once it is complete, so a process may be killed at any moment.
"""

from __future__ import annotations

import io
import pathlib
import shutil
from collections.abc import Callable, Mapping

import numpy as np

from personalization_jax import checkpoints, files, hosts, pieces
from personalization_jax.pieces import Piece


class SavedPieces:
  """Pieces that are finished or under way; what is damaged counts as none."""

  def __init__(
    self,
    folder: pathlib.Path | None,
    name: str,
    say: Callable[[str], None],
  ):
    """Nothing is read yet.

    Args:
      folder: of this training alone; None keeps in memory what is finished, and
        nothing of what is under way.
      name: of the training.
      say: told in a sentence what was found damaged.
    """
    self.folder = folder
    self._name = name
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
    if self.folder is None or not hosts.is_first():
      return
    path = self.path(pieces.part_name(piece.first, piece.last))
    buffer = io.BytesIO()
    about = np.asarray(self._about(piece))
    np.savez_compressed(buffer, about=about, **dict(arrays))  # type: ignore[arg-type]
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
        checkpoints.remove(state_path)

  def part(self, piece: Piece) -> dict[str, np.ndarray]:
    """What a finished piece gave.

    Args:
      piece: a piece that was kept, or that `intact_parts` found.

    Returns:
      Arrays by name, each with a leading axis of the piece's individuals.

    Raises:
      ValueError: if another training's piece is in its place.
    """
    where = (piece.first, piece.last)
    if where not in self._parts:
      path = self.path(pieces.part_name(*where))
      with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
      if str(arrays.pop("about")) != self._about(piece):
        raise ValueError("it holds something else")
      self._parts[where] = arrays
    return self._parts[where]

  def discard(self) -> None:
    """Removes everything."""
    self._parts.clear()
    if self.folder is not None and hosts.is_first():
      shutil.rmtree(self.folder, ignore_errors=True)

  def intact_states(self) -> list[Piece]:
    """Pieces at a step whose checkpoint can be used; others are removed.

    Nothing may be being written.
    """
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
      self._say(
        f"{damage}: the checkpoint of {self._name!r} at step {piece.step} can't"
        " be used; going on from what was saved before it."
      )
      checkpoints.remove(path)
    return intact

  def intact_parts(self) -> list[Piece]:
    """Finished pieces that can be read; others are removed."""
    intact = []
    for piece in self._finished():
      try:
        self.part(piece)
      except Exception as error:  # zip, zlib and NumPy each raise their own
        path = self.path(pieces.part_name(piece.first, piece.last))
        self._say(
          f"{path} can't be read ({error}): individuals {piece.first} .."
          f" {piece.last - 1} of {self._name!r} are trained again."
        )
        path.unlink(missing_ok=True)
        continue
      intact.append(piece)
    return intact

  def _about(self, piece: Piece) -> str:
    return f"{self._name} {piece.first} {piece.last}"

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
    if self.folder is None or not self.folder.is_dir():
      return []
    return sorted(self.folder.iterdir())
