"""Reads run directories of `experiments.table1`, and checks their files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import PIL.Image

from personalization_jax import checks
from personalization_jax.analysis import columns, metrics, paper, tables
from personalization_jax.methods import known_method
from personalization_jax.runs import directory

_KEY = list(columns.RESULT_COLUMNS[:3])
_ACCURACIES = list(columns.RESULT_COLUMNS[3:5])
SIZES = columns.RESULT_COLUMNS[5:7]  # of test data
# Older runs may lack them.
_FURTHER = (*SIZES, columns.RESULT_COLUMNS[8])
# Methods or checkpoints, each with a seed.
Pairs = list[tuple[str, str]]


class Run:
  """A run, as far as it has come; ValueError names what is broken, and why.

  Tables are empty without their file.
  """

  def __init__(self, folder: pathlib.Path, name: str):
    self.name = name  # in the report
    self.about = _config(folder)  # what config.json says beside settings
    self.settings: dict[str, Any] = self.about.pop("settings")  # by flag
    first = str(self.settings.get("seed") or 0)
    # Older runs have one seed, and later ones don't say which pairs they have.
    seeds = _listed(self.about.get("seeds")) or [first]
    own = self.about.get("asked")
    own = own if isinstance(own, dict) else {}
    self.asked: Pairs = [
      (method, seed)
      for seed in seeds
      for method in _listed(self.about.get("methods"))
      if seed in (_listed(own.get(method)) or seeds)
    ]
    # Whether several seeds were asked for.
    self.several_seeds = len({seed for _, seed in self.asked}) > 1
    makers = self.about.get("made_with")
    self.makers: list[dict[str, Any]] = [  # of which results, if it says that
      entry
      for entry in (makers if isinstance(makers, list) else ())
      if isinstance(entry, dict) and isinstance(entry.get("results"), dict)
    ]
    remarks = folder / "remarks.md"
    self.remarks = remarks.read_text("utf-8") if remarks.exists() else ""
    baseline = self.about.get("compare_to")
    # What all methods are compared with; None for the paper's baselines.
    self.baseline = baseline if isinstance(baseline, str) else None
    means = ("method", "individual_mean", "global_mean")
    measured = columns.MEASURE_COLUMNS
    self.measures = _table(folder / "measures.csv", measured, measured[1:])
    chosen, judged = columns.CHOICE_COLUMNS, columns.AGREEMENT_COLUMNS
    # Older runs lack some columns.
    self.table = table = _table(
      folder / "table1.csv", means, columns.TABLE_COLUMNS[1:]
    )
    table["one_model"] = table["method"].map(one_model).astype(bool)
    # They have a p of one model on global data all the same.
    table.loc[table["one_model"], "p_global_holm"] = math.nan
    self.results = results = _results(folder / "results.csv")
    self.choice = _table(folder / "choice.csv", chosen, chosen[1:])
    agreement = folder / "group_agreement.csv"
    self.agreement = _table(agreement, judged[:8], judged[4:])
    drawn = sorted((folder / "figures").glob("*.*"))
    figures = {
      path.name: path.read_bytes()
      for path in drawn
      if path.suffix in _WHOLE and path.is_file()
    }
    self.figures = {  # by the file's name
      name: image
      for name, image in figures.items()
      if _WHOLE[pathlib.Path(name).suffix](image)
    }
    self.damaged = [name for name in figures if name not in self.figures]
    self.not_shown = [path.name for path in drawn if path.suffix == ".pdf"]
    saved = {(method, str(seed)) for method, seed in directory.saved(folder)}
    self.trained = [pair for pair in self.asked if pair in saved]
    homes = {s: folder if s == first else folder / "seeds" / s for s in seeds}
    self.checkpoints: Pairs = [  # of training under way
      (path.name, seed)
      for seed, home in homes.items()
      for path in sorted(home.glob("checkpoints/*"))
      if path.is_dir()
    ]
    # How far the tables have come.
    methods = [*table["method"]]
    there = dict.fromkeys(zip(results["method"], results["seed"]))
    self.people = sorted({*results["individual"]})
    self.seeds: list[str] = [*results["seed"].unique()]
    by_method = results.groupby("method", sort=False)["seed"]
    self.seeds_of = {method: [*own.unique()] for method, own in by_method}
    self.table_seeds = [  # those that all of the table's methods have
      seed
      for seed in self.seeds
      if methods and {(method, seed) for method in methods} <= there.keys()
    ]
    self.unfinished = [
      (method, seed)
      for method, seed in self.asked
      # Without one of the table's seeds it belongs into results.csv alone.
      if (method, seed) not in there
      or (
        method not in methods
        and {*self.table_seeds} <= {*self.seeds_of[method]}
      )
    ]
    self.beside = [  # in results.csv, but not in table1.csv
      (method, seed)
      for method, seed in there
      if method not in methods or seed not in self.table_seeds
    ]
    # Stopped after results.csv, where the table's results come first, and
    # before table1.csv.
    count = len(self.table_seeds)
    self.outdated = bool(methods and self.seeds) and (
      next(iter(self.seeds_of)) not in methods
      or bool((table["seeds"].fillna(count) != count).any())
    )
    # Whether everything that was asked for is in the tables.
    self.finished = not (table.empty or self.unfinished or self.outdated)

  def accuracies(
    self,
    method: str,
    of: str,
    people: Sequence[str] = (),
    seeds: Sequence[str] = (),
  ) -> np.ndarray:
    """Accuracies on "individual" or "global" data: [K, S], or means [S].

    NaN for models that diverged. The default is all people by id, and means
    over the table's seeds, or over all seeds if the table lacks the method.
    """
    own = self.results[self.results["method"] == method]
    of_table = self.table_seeds if method in [*self.table["method"]] else ()
    table = own.pivot(
      index="seed", columns="individual", values=f"{of}_accuracy"
    )
    values = table.reindex(
      index=seeds or of_table or self.seeds, columns=people or table.columns
    ).to_numpy()
    return values if seeds else metrics.mean_without_nan(values)

  def values(self) -> tables.Values:
    """Accuracies of the table's methods and seeds, or of all without a table.

    The paper's methods come first, in its order.
    """
    there = [*self.table["method"]] or [*self.seeds_of]
    methods = [m for m in paper.TABLE_1 if m in there]
    methods += [m for m in there if m not in methods]
    seeds = self.table_seeds or self.seeds
    return {
      of: {m: self.accuracies(m, of, self.people, seeds) for m in methods}
      for of in columns.DATA
    }


def read_all(paths: Sequence[str]) -> list[Run]:
  """Reads run directories, each named by as much of its path as it takes."""
  if not paths:
    raise ValueError(
      "no run is given: name one or several directories that"
      " experiments.table1 wrote (its --workdir)."
    )
  places = [pathlib.Path(path).resolve() for path in paths]
  for place, path in zip(places, paths):
    if places.count(place) > 1:
      raise ValueError(f"{path} is given twice: name each run once.")
  names = []
  for place in places:
    for length in range(1, len(place.parts) + 1):
      end = place.parts[-length:]
      if sum(other.parts[-length:] == end for other in places) == 1:
        break
    # A path may hold bytes that are no text.
    names.append(os.fsencode(pathlib.PurePath(*end)).decode(errors="replace"))
  return [Run(pathlib.Path(path), name) for path, name in zip(paths, names)]


def one_model(method: str) -> bool:
  """Whether all individuals share one model, with one accuracy on D_G."""
  known = known_method(method)
  return known is not None and known.one_model


def _config(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / "config.json"
  if not folder.is_dir():
    raise ValueError(f"{folder} is no directory: name a run's --workdir.")
  if not path.exists():
    raise ValueError(
      f"{folder} holds no run of experiments.table1: it has no config.json."
    )
  try:
    config = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:  # no JSON, or no UTF-8
    raise ValueError(
      f"{path} is broken ({error}): run experiments.table1 anew in another"
      " directory."
    ) from error
  settings = config.get("settings") if isinstance(config, dict) else None
  if not isinstance(settings, dict):
    raise ValueError(f"{path} is no run's: it has no settings.")
  return config


def _listed(values: Any) -> list[str]:
  """What a list of config.json holds, as text; nothing if it is none."""
  return list(map(str, values)) if isinstance(values, list) else []


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except (ValueError, csv.Error) as error:
    raise ValueError(
      f"{path} is broken: {str(error).rstrip('.')}; delete it and run"
      " experiments.table1 again."
    ) from error


def _table(
  path: pathlib.Path, needed: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
  """Text and numbers of a CSV file; NaN where nothing is, empty without it."""
  with _naming(path):
    text = path.read_text("utf-8") if path.exists() else ",".join(needed)
    # pandas.read_csv fills up rows that were cut, as on a full disk.
    header, *lines = [*csv.reader(io.StringIO(text), strict=True)] or [[]]
    if missing := [column for column in needed if column not in header]:
      raise ValueError(f"it has no column {missing[0]!r}")
    for place, line in enumerate(lines, 2):
      if len(line) != len(header):
        raise ValueError(
          f"row {place} has {len(line)} fields instead of {len(header)}"
        )
    table = pd.DataFrame(lines, columns=header, dtype=object)
    for column in numbers:
      try:
        cells = table.get(column, pd.Series("", table.index))
        table[column] = cells.replace("", "nan").astype(float)
      except ValueError as error:
        raise ValueError(f"{column} must be a number ({error})") from error
  return table


def _results(path: pathlib.Path) -> pd.DataFrame:
  results = _table(path, (*_KEY, *_ACCURACIES), [*_ACCURACIES, *_FURTHER])
  values = results[_ACCURACIES]
  with _naming(path):
    for method, person, seed in results[results.duplicated(_KEY)][_KEY].values:
      raise ValueError(
        f"it has individual {person} with method {method!r} and seed {seed}"
        " twice"
      )
    for column in _ACCURACIES:
      checks.fractions(column, values[column].to_numpy(), nan=True)
  results.loc[values.isna().any(axis=1), _ACCURACIES] = math.nan
  return results


def _is_whole_png(png: bytes) -> bool:
  """Whether this is a PNG whose chunks are all there, and as written."""
  try:
    PIL.Image.open(io.BytesIO(png), formats=["PNG"]).verify()
  except (OSError, SyntaxError):
    return False
  return png.endswith(b"IEND\xaeB`\x82")  # the last one isn't verified


def _is_whole_svg(svg: bytes) -> bool:
  try:
    return ElementTree.fromstring(svg).tag.endswith("}svg")
  except ElementTree.ParseError:
    return False


_WHOLE = {".png": _is_whole_png, ".svg": _is_whole_svg}
