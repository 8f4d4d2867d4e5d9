"""A run directory of `experiments.table1`, read and checked."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reports import parsing
from experiments.reports.parsing import Line
from personalization_jax import files

PNG = b"\x89PNG\r\n\x1a\n"
_RESULTS = (
  "method", "individual", "seed", "individual_accuracy", "global_accuracy",
)  # fmt: skip
_TABLE = ("method", "individual_mean", "global_mean")
# Columns of table1.csv that the report shows; older runs lack some.
SPREAD = ("mean", "rank", "sd", "min", "max")
FAIRNESS = (
  "fairness_max_ratio", "fairness_mean_ratio", "fairness_rank_correlation",
)  # fmt: skip
_NUMBERS = (
  *(f"individual_{column}" for column in SPREAD),
  *(f"global_{column}" for column in SPREAD),
  "p_individual_holm", "p_global_holm", *FAIRNESS, "diverged",
)  # fmt: skip
_AGREEMENT = (
  "group", "measure", "part", "latent_space", "mean", "sd", "random",
  "individuals",
)  # fmt: skip
CHOICE = ("hurt", "hurt_with_choice", "gain", "gain_with_choice")


@dataclasses.dataclass(frozen=True)
class Results:
  """What results.csv says.

  Attributes:
    accuracies: method -> individual -> (acc(D_I), acc(D_G)), averaged over the
      seeds in which the model didn't diverge; NaN if there is none.
    diverged: method -> individuals and seeds whose models diverged.
    seeds: all of them, in order.
  """

  accuracies: Mapping[str, Mapping[str, tuple[float, float]]]
  diverged: Mapping[str, Sequence[tuple[str, str]]]
  seeds: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, as far as it has come.

  Attributes:
    name: what the report calls it.
    settings: flag -> value.
    about: what else config.json says.
    methods: what was asked for.
    table: lines of table1.csv; None until there are any.
    notes: the notes below table1.md's tables.
    results: from results.csv; None until there are any.
    choice: lines of choice.csv; none without `global` and validation data.
    agreement: lines of group_agreement.csv; none for other data.
    figures: name of the file without .png -> its bytes.
    trained: methods whose predictions are saved.
    checkpoints: what is saved of the training under way.
  """

  name: str
  settings: Mapping[str, Any]
  about: Mapping[str, Any]
  methods: Sequence[str]
  table: Sequence[Line] | None
  notes: Sequence[str]
  results: Results | None
  choice: Sequence[Line]
  agreement: Sequence[Line]
  figures: Mapping[str, bytes]
  trained: Sequence[str]
  checkpoints: Sequence[str]

  @property
  def unfinished(self) -> list[str]:
    """What was asked for and isn't in the table."""
    shown = {line["method"] for line in self.table or ()}
    return [method for method in self.methods if method not in shown]

  @property
  def finished(self) -> bool:
    """Whether everything that was asked for is in the table."""
    return self.table is not None and not self.unfinished


def read_all(paths: Sequence[str]) -> list[Run]:
  """Reads run directories.

  Args:
    paths: at least one; no directory twice.

  Returns:
    The runs, in the same order, called by the shortest ends of their paths that
    tell them apart.

  Raises:
    ValueError: naming the directory or the file that is no run's.
  """
  if not paths:
    raise ValueError(
      "no run is given: name one or several directories that"
      " experiments.table1 wrote (its --workdir)."
    )
  folders = [pathlib.Path(path) for path in paths]
  places = [folder.resolve() for folder in folders]
  for place, path in zip(places, paths):
    if places.count(place) > 1:
      raise ValueError(f"{path} is given twice: name each run once.")
  return [
    read(folder, name) for folder, name in zip(folders, _short_names(places))
  ]


def read(folder: pathlib.Path, name: str) -> Run:
  """Reads a run directory, finished or not.

  Args:
    folder: the directory.
    name: what the report is to call it.

  Returns:
    The run.

  Raises:
    ValueError: naming what is no run's, and why.
  """
  config = _config(folder)
  methods = config.get("methods")
  methods = list(map(str, methods)) if isinstance(methods, list) else []
  table = parsing.csv_lines(folder / "table1.csv", _TABLE)
  for line in table or ():
    for column in _NUMBERS:
      if line.get(column):
        parsing.number(folder / "table1.csv", line, column)
  return Run(
    name=name,
    settings=config["settings"],
    about={key: value for key, value in config.items() if key != "settings"},
    methods=methods,
    table=table,
    notes=_notes(folder / "table1.md"),
    results=_results(folder / "results.csv"),
    choice=_numbers(folder / "choice.csv", ("method", *CHOICE), CHOICE),
    agreement=_numbers(
      folder / "group_agreement.csv", _AGREEMENT, ("mean", "sd", "random")
    ),
    figures={
      path.stem: _png(path)
      for path in sorted((folder / "figures").glob("*.png"))
      if not files.is_temporary(path)
    },
    trained=[
      method
      for method in methods
      if (folder / "predictions" / f"{files.safe_name(method)}.npz").exists()
    ],
    checkpoints=sorted(
      path.name for path in (folder / "checkpoints").glob("*") if path.is_dir()
    ),
  )


def _short_names(places: Sequence[pathlib.Path]) -> list[str]:
  """The shortest ends of paths, all different, that tell them apart."""
  names = []
  for place in places:
    for length in range(1, len(place.parts) + 1):
      end = place.parts[-length:]
      if sum(other.parts[-length:] == end for other in places) == 1:
        break
    name = os.fsencode(pathlib.PurePath(*end))
    names.append(name.decode(errors="replace"))
  return names


def _config(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / "config.json"
  if not folder.is_dir():
    raise ValueError(f"{folder} is no directory: name a run's --workdir.")
  if not path.exists():
    raise ValueError(
      f"{folder} holds no run of experiments.table1: it has no config.json."
    )
  try:
    config = json.loads(parsing.text(path))
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{path} is broken ({error}): run experiments.table1 anew in another"
      " directory."
    ) from error
  if not isinstance(config, dict) or not isinstance(
    config.get("settings"), dict
  ):
    raise ValueError(f"{path} is no run's: it has no settings.")
  return config


def _results(path: pathlib.Path) -> Results | None:
  lines = parsing.csv_lines(path, _RESULTS)
  if lines is None:
    return None
  found: dict[str, dict[str, list[tuple[float, float]]]] = {}
  diverged: dict[str, list[tuple[str, str]]] = {}
  seen = set()
  for line in lines:
    method, person, seed = (line[column] for column in _RESULTS[:3])
    if (method, person, seed) in seen:
      raise ValueError(
        f"{path} has individual {person} with method {method!r} and seed {seed}"
        " twice: delete it and run experiments.table1 again."
      )
    seen.add((method, person, seed))
    own, general = (_accuracy(path, line, column) for column in _RESULTS[3:])
    if math.isnan(own + general):
      diverged.setdefault(method, []).append((person, seed))
    found.setdefault(method, {}).setdefault(person, []).append((own, general))
  return Results(
    accuracies={
      method: {person: _mean(pairs) for person, pairs in people.items()}
      for method, people in found.items()
    },
    diverged=diverged,
    seeds=tuple(dict.fromkeys(line["seed"] for line in lines)),
  )


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
  """Over the seeds whose model didn't diverge."""
  kept = [pair for pair in pairs if not math.isnan(pair[0] + pair[1])]
  if not kept:
    return math.nan, math.nan
  own, general = (math.fsum(values) / len(kept) for values in zip(*kept))
  return own, general


def _accuracy(path: pathlib.Path, line: Line, column: str) -> float:
  if not line[column]:
    return math.nan  # diverged
  value = parsing.number(path, line, column)
  if not 0 <= value <= 1:
    raise ValueError(
      f"{path} is broken: {column} of {line['method']!r} must be in 0..1, but"
      f" is {line[column]!r}."
    )
  return value


def _numbers(
  path: pathlib.Path, needed: Sequence[str], numbers: Sequence[str]
) -> list[Line]:
  """Lines of a table that a run may lack, with numbers in some columns."""
  lines = parsing.csv_lines(path, needed) or []
  for line in lines:
    for column in numbers:
      if line[column]:
        parsing.number(path, line, column)
  return lines


def _notes(path: pathlib.Path) -> list[str]:
  """What stands below the last table of table1.md, line by line."""
  if not path.exists():
    return []
  lines = parsing.text(path).splitlines()
  last = max((k for k, line in enumerate(lines) if line[:1] == "|"), default=-1)
  return [line for line in lines[last + 1 :] if line.strip()]


def _png(path: pathlib.Path) -> bytes:
  content = path.read_bytes()
  if not content.startswith(PNG) or len(content) < 24:
    raise ValueError(
      f"{path} is no PNG: delete it and run experiments.table1 again."
    )
  return content
