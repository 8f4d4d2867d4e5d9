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

import itertools
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

_NAME = re.compile(r"(\d{5,})-(\d{5,})(?:\.npz|-step-(\d{7,}))")


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
  """Chunks of at most `size`, from the latest known; what is finished stays."""
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
  """The same chunk's folders but the last two: the newest may be damaged."""
  chunk = path.name.partition("-step-")[0]
  same = sorted(path.parent.glob(f"{chunk}-step-*"))
  return [folder for folder in same if named(folder.name)][:-2]
