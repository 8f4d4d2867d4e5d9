"""Files of a run directory, or a sentence that says which is broken."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Sequence

Line = dict[str, str]


def number(path: pathlib.Path, line: Line, column: str) -> float:
  """A cell's number.

  Args:
    path: the file, for the message.
    line: one of its lines.
    column: which cell.

  Returns:
    The number.

  Raises:
    ValueError: if it is none.
  """
  try:
    return float(line[column])
  except ValueError as error:
    raise ValueError(
      f"{path} is broken: {column} must be a number, but is {line[column]!r};"
      " delete it and run experiments.table1 again."
    ) from error


def csv_lines(path: pathlib.Path, needed: Sequence[str]) -> list[Line] | None:
  """The lines of a CSV file.

  Args:
    path: the file.
    needed: columns that it must have.

  Returns:
    Column -> text, of each line; None if there is no file.

  Raises:
    ValueError: if the file is broken or lacks a column.
  """
  if not path.exists():
    return None
  try:
    lines = list(csv.reader(io.StringIO(text(path)), strict=True))
  except csv.Error as error:
    raise ValueError(
      f"{path} is broken ({error}): delete it and run experiments.table1 again."
    ) from error
  header = lines.pop(0) if lines else []
  for column in needed:
    if column not in header:
      raise ValueError(
        f"{path} has no column {column!r}: delete it and run"
        " experiments.table1 again."
      )
  for number, line in enumerate(lines, 2):
    if len(line) != len(header):
      raise ValueError(
        f"{path} is broken: row {number} has {len(line)} fields instead of"
        f" {len(header)}; delete it and run experiments.table1 again."
      )
  return [dict(zip(header, line)) for line in lines]


def text(path: pathlib.Path) -> str:
  """A file's text, or ValueError if it is none in UTF-8."""
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{path} is broken: it is no text in UTF-8; run experiments.table1 again."
    ) from error
