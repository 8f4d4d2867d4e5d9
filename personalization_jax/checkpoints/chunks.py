"""Individuals that are trained together: what is saved of them, what is to do.

Names of files and a plan; nothing here writes (host).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable

_STATE = re.compile(r"(\d{5,})-(\d{5,})-step-(\d{7,})")
_PART = re.compile(r"(\d{5,})-(\d{5,})\.npz")
# The newest may be damaged.
_KEPT = 2


@dataclasses.dataclass(frozen=True)
class Piece:
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


def plan(known: Iterable[Piece], count: int, chunk: int) -> list[Piece]:
  """What is to be trained together, from which step.

  Args:
    known: what is saved, finished or at a step; pieces may overlap.
    count: how many individuals there are.
    chunk: how many are trained at once, whatever it was when `known` was saved.

  Returns:
    Pieces that hold every individual once, in order. Each individual goes on
    from the latest that is known of it.
  """
  best: list[Piece | None] = [None] * count
  for piece in known:
    for index in range(piece.first, min(piece.last, count)):
      before = best[index]
      if (
        before is None
        or piece.step < 0
        or (before.step >= 0 and before.step < piece.step)
      ):
        best[index] = piece
  pieces: list[Piece] = []
  first = 0
  for index in range(1, count + 1):
    found = best[first]
    finished = found is not None and found.step < 0
    full = not finished and index - first == chunk
    if index == count or best[index] is not found or full:
      step, source = (found.step, found.source) if found else (0, (0, 0))
      pieces.append(Piece(first, index, step, source))
      first = index
  return pieces


def state_name(first: int, last: int, step: int) -> str:
  """The folder of a piece's models at a step."""
  return f"{first:05d}-{last:05d}-step-{step:07d}"


def part_name(first: int, last: int) -> str:
  """The file of what a finished piece gave."""
  return f"{first:05d}-{last:05d}.npz"


def of_state(name: str) -> Piece | None:
  """The piece that a folder's name says, if it is one of `state_name`."""
  match = _STATE.fullmatch(name)
  if match is None:
    return None
  first, last, step = map(int, match.groups())
  return Piece(first, last, step, (first, last))


def of_part(name: str) -> Piece | None:
  """The piece that a file's name says, if it is one of `part_name`."""
  match = _PART.fullmatch(name)
  if match is None:
    return None
  first, last = map(int, match.groups())
  return Piece(first, last, -1, (first, last))


def is_left_over(name: str) -> bool:
  """Whether a killed process left this folder: Orbax's temporary names."""
  return _STATE.match(name) is not None and ".orbax-checkpoint-tmp" in name


def older_states(path: pathlib.Path) -> list[pathlib.Path]:
  """The folders of the same piece that are no longer needed."""
  piece = path.name.partition("-step-")[0]
  same = sorted(path.parent.glob(f"{piece}-step-*"))
  return [folder for folder in same if of_state(folder.name)][:-_KEPT]
