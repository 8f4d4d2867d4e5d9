"""What is finished of a run of `experiments.table1`: read, and kept."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.flags import study_flags
from experiments.outputs import summary
from experiments.outputs.summary import Finished, Rows
from experiments.runtime.console import say
from personalization_jax.analysis.result import Result
from personalization_jax.datasets import Population
from personalization_jax.methods import Method
from personalization_jax.runs import directory


def open_directory(
  workdir: pathlib.Path,
  methods: Sequence[Method],
  seeds: Sequence[int],
  population: Population,
  determining: Mapping[str, Any],
  made_with: Mapping[str, Any],
) -> tuple[Rows, dict[Finished, Result]]:
  """Writes config.json; the tables' rows, and what is finished."""
  now = [(method.spec, seed) for method in methods for seed in seeds]
  finished = directory.saved(workdir)
  names = population.label_names
  config = directory.open_run(
    workdir,
    determining,
    population.fingerprint(),
    {
      "num_classes": population.num_classes,
      **({"label_names": names} if names else {}),
      **made_with,
    },
    inert=study_flags.inert(population),
    asked=now,
  )
  results: dict[Finished, Result] = {}
  for spec, seed in dict.fromkeys([*finished, *now]):
    home = study_flags.home(workdir, seed)
    asked = (spec, seed) in now
    if result := load(home, spec, seed, population, asked=asked):
      results[spec, seed] = result
  rows = summary.choose(
    {spec: config["asked"].get(spec, ()) for spec in config["methods"]},
    config["seeds"],
    {*now, *results},
    [method.spec for method in methods],
  )
  return rows, results


def load(
  home: pathlib.Path,
  spec: str,
  seed: int,
  population: Population,
  *,
  asked: bool = True,
) -> Result | None:
  """A result, if it is finished; sets a broken one aside that is asked for."""
  try:
    return directory.load_result(home, spec, population, seed)
  except ValueError as error:
    if asked:
      say(f"{error} It is trained again.")
      directory.set_aside(home, spec)
    else:
      say(f"{error} It is left out of all tables.")
  return None


def save(
  home: pathlib.Path,
  result: Result,
  population: Population,
  workdir: pathlib.Path,
  made_with: Mapping[str, Any],
) -> None:
  """Keeps a result in its folder, and tells the run what made it."""
  directory.save_result(home, result, population, made_with)
  directory.tell_origins(workdir)
