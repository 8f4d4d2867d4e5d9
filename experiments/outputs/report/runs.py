"""A run directory of `experiments.table1`, read and checked."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.outputs.report import parsing
from experiments.outputs.report.parsing import Line
from personalization_jax.checkpoints import files

PNG = b"\x89PNG\r\n\x1a\n"
_RESULTS = (
  "method", "individual", "seed", "individual_accuracy", "global_accuracy",
)  # fmt: skip
_TABLE = ("method", "individual_mean", "global_mean")
_BOTH = ("individual", "global")
# Columns of table1.csv that the report shows; older runs lack some.
SPREAD = ("mean", "rank", "sd", "min", "max")
FAIRNESS = (
  "fairness_max_ratio", "fairness_mean_ratio", "fairness_rank_correlation",
)  # fmt: skip
SEEDS = tuple(f"{data}_seed_sd" for data in _BOTH)
PAIRS = "individual_pairs"
_NUMBERS = (
  *(f"{data}_{column}" for data in _BOTH for column in SPREAD),
  *(f"p_{data}_holm" for data in _BOTH),
  *FAIRNESS, *SEEDS, "seeds", "diverged", PAIRS,
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
    accuracies: method -> individual -> seed -> (acc(D_I), acc(D_G)), NaN if the
      model diverged.
    diverged: method -> individuals and seeds whose models diverged.
    seeds: all of them, in order.
  """

  accuracies: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]
  diverged: Mapping[str, Sequence[tuple[str, str]]]
  seeds: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, as far as it has come.

  Attributes:
    name: what the report calls it.
    settings: flag -> value.
    about: what else config.json says.
    asked: methods and seeds that were asked for.
    table: lines of table1.csv; None until there are any.
    results: from results.csv; None until there are any.
    choice: lines of choice.csv; none without `global` and validation data.
    agreement: lines of group_agreement.csv; none for other data.
    figures: name of the file without .png -> its bytes.
    damaged: names of figures that are no whole PNG.
    trained: methods and seeds whose predictions are saved.
    checkpoints: what is saved of the training under way, and of which seed.
  """

  name: str
  settings: Mapping[str, Any]
  about: Mapping[str, Any]
  asked: Sequence[tuple[str, str]]
  table: Sequence[Line] | None
  results: Results | None
  choice: Sequence[Line]
  agreement: Sequence[Line]
  figures: Mapping[str, bytes]
  damaged: Sequence[str]
  trained: Sequence[tuple[str, str]]
  checkpoints: Sequence[tuple[str, str]]

  @property
  def makers(self) -> list[dict[str, Any]]:
    """What config.json says of who made which results, if it does."""
    entries = self.about.get("made_with")
    if not isinstance(entries, list):
      return []
    return [
      entry
      for entry in entries
      if isinstance(entry, dict) and isinstance(entry.get("results"), dict)
    ]

  @property
  def methods(self) -> list[str]:
    """The methods asked for."""
    return list(dict.fromkeys(method for method, _ in self.asked))

  @property
  def seeds(self) -> list[str]:
    """The seeds asked for."""
    return list(dict.fromkeys(seed for _, seed in self.asked))

  @property
  def table_methods(self) -> list[str]:
    """The methods of table1.csv."""
    return [line["method"] for line in self.table or ()]

  @property
  def table_seeds(self) -> tuple[str, ...]:
    """The seeds of table1.csv: those that all of its methods have."""
    methods = self.table_methods
    return tuple(
      seed
      for seed in (self.results.seeds if self.results and methods else ())
      if all(seed in self._seeds(method) for method in methods)
    )

  @property
  def beside(self) -> list[tuple[str, str]]:
    """The methods and seeds that are in results.csv, but not in table1.csv."""
    methods, seeds = self.table_methods, self.table_seeds
    return [
      (method, seed)
      for method in (self.results.accuracies if self.results else ())
      for seed in self._seeds(method)
      if method not in methods or seed not in seeds
    ]

  @property
  def unfinished(self) -> list[tuple[str, str]]:
    """The methods and seeds that were asked for and aren't in the tables."""
    methods, seeds = self.table_methods, self.table_seeds

    def shown(method: str, seed: str) -> bool:
      own = self._seeds(method)
      # Without one of the table's seeds it belongs into results.csv alone.
      return seed in own and (method in methods or not {*seeds} <= {*own})

    return [(method, seed) for method, seed in self.asked
            if not shown(method, seed)]  # fmt: skip

  @property
  def outdated(self) -> bool:
    """Whether the run was stopped after results.csv, before table1.csv."""
    if self.table is None or self.results is None:
      return False
    count = len(self.table_seeds)
    # The results of the table come first.
    first = next(iter(self.results.accuracies), None)
    return first not in self.table_methods or any(
      float(line.get("seeds") or count) != count for line in self.table
    )

  @property
  def finished(self) -> bool:
    """Whether everything that was asked for is in the tables."""
    return self.table is not None and not (self.unfinished or self.outdated)

  def _seeds(self, method: str) -> list[str]:
    """The seeds that results.csv has of a method, in the order of all."""
    if self.results is None:
      return []
    people = self.results.accuracies.get(method, {}).values()
    own = {seed for by_seed in people for seed in by_seed}
    return [seed for seed in self.results.seeds if seed in own]


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
  first = str(config["settings"].get("seed") or 0)
  methods = _listed(config.get("methods"))
  # One seed for each run once was all there was.
  seeds = _listed(config.get("seeds")) or [first]
  homes = {
    seed: folder if seed == first else folder / "seeds" / seed for seed in seeds
  }
  pairs = config.get("asked")
  pairs = pairs if isinstance(pairs, dict) else {}
  # Older runs don't say which pairs.
  seeds_of = {method: _listed(pairs.get(method)) or seeds for method in methods}
  asked = [
    (method, seed)
    for seed in seeds
    for method in methods
    if seed in seeds_of[method]
  ]
  figures = {
    path.stem: path.read_bytes()
    for path in sorted((folder / "figures").glob("*.png"))
    if path.is_file()
  }
  table = parsing.csv_lines(folder / "table1.csv", _TABLE)
  for line in table or ():
    for column in _NUMBERS:
      if line.get(column):
        parsing.number(folder / "table1.csv", line, column)
  return Run(
    name=name,
    settings=config["settings"],
    about={key: value for key, value in config.items() if key != "settings"},
    asked=asked,
    table=table,
    results=_results(folder / "results.csv"),
    choice=_numbers(folder / "choice.csv", ("method", *CHOICE), CHOICE),
    agreement=_numbers(
      folder / "group_agreement.csv", _AGREEMENT, ("mean", "sd", "random")
    ),
    figures={name: png for name, png in figures.items() if _is_whole(png)},
    damaged=[name for name, png in figures.items() if not _is_whole(png)],
    trained=[
      (method, seed)
      for method, seed in asked
      if (
        homes[seed] / "predictions" / f"{files.safe_name(method)}.npz"
      ).exists()
    ],
    checkpoints=[
      (path.name, seed)
      for seed, home in homes.items()
      for path in sorted((home / "checkpoints").glob("*"))
      if path.is_dir()
    ],
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
  found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
  diverged: dict[str, list[tuple[str, str]]] = {}
  for line in lines:
    method, person, seed = (line[column] for column in _RESULTS[:3])
    by_seed = found.setdefault(method, {}).setdefault(person, {})
    if seed in by_seed:
      raise ValueError(
        f"{path} has individual {person} with method {method!r} and seed {seed}"
        " twice: delete it and run experiments.table1 again."
      )
    own, general = (_accuracy(path, line, column) for column in _RESULTS[3:])
    if math.isnan(own + general):
      diverged.setdefault(method, []).append((person, seed))
      own = general = math.nan
    by_seed[seed] = (own, general)
  return Results(
    accuracies=found,
    diverged=diverged,
    seeds=tuple(dict.fromkeys(line["seed"] for line in lines)),
  )


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


def _listed(values: Any) -> list[str]:
  """What a list of config.json holds, as text; nothing if it is none."""
  return list(map(str, values)) if isinstance(values, list) else []


def _is_whole(content: bytes) -> bool:
  """Whether this is a PNG whose chunks are all there, and as written."""
  if not content.startswith(PNG + b"\0\0\0\rIHDR"):
    return False
  start = len(PNG)
  while True:
    # Its length, its kind, its data, their checksum.
    end = start + 12 + int.from_bytes(content[start : start + 4])
    chunk, checksum = content[start + 4 : end - 4], content[end - 4 : end]
    if end > len(content) or zlib.crc32(chunk) != int.from_bytes(checksum):
      return False
    if chunk[:4] == b"IEND":
      return True
    start = end
