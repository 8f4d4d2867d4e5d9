"""The library's face: from people to a table, in a script or a notebook.

    population, _ = make_population(60, samples_per_writer=100)
    parts = split(population, num_individuals=10, num_global_individuals=50)
    study = Study(population, parts, Settings(epochs=3, width=0.25))
    found = [study.personalize(spec) for spec in ("baseline", "sw:2", "tl:300")]
    compare(found, population)

All of it is made of the same parts as `experiments.table1`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from personalization_jax.analysis import tables
from personalization_jax.analysis.result import Result
from personalization_jax.datasets import Population, splits
from personalization_jax.datasets.splits import Split
from personalization_jax.methods import Method
from personalization_jax.runs import table_files
from personalization_jax.settings import Settings
from personalization_jax.study import Study


def split(
  population: Population,
  num_individuals: int,
  num_global_individuals: int,
  *,
  train_fraction: float = 0.7,
  validation_fraction: float = 0.0,
  seed: int = 0,
) -> Split:
  """Chooses who gets a model and who feeds D_G, and divides their samples.

  Args:
    population: everybody.
    num_individuals: |S|, people with a model each.
    num_global_individuals: how many others feed D_G.
    train_fraction: part of a person's samples to train on.
    validation_fraction: part to choose by and to draw curves of; the rest is
      for tests.
    seed: of who and what.

  Returns:
    Rows of the population for every purpose.

  Raises:
    ValueError: if there are too few people, or a fraction is out of range.

  Source: section IV.
  """
  return splits.split(
    population,
    *splits.choose_people(
      population, num_individuals, num_global_individuals, seed
    ),
    train_fraction=train_fraction,
    validation_fraction=validation_fraction,
    seed=seed,
  )


def personalize(
  population: Population,
  split: Split,
  method: Method | str,
  settings: Settings | None = None,
  *,
  keep_models: bool = False,
  **about: Any,
) -> Result:
  """Trains one model for every individual by one method, and tests it.

  Several methods on one split want one `Study`, which trains what they share
  once and compiles once.

  Args:
    population: everybody's samples.
    split: from `split`.
    method: or its spec, as on the command line: "tl:300", "es:40+sw:12".
    settings: how to train; by default the paper's.
    keep_models: whether the result holds everybody's parameters.
    **about: of `Study`: `model` for a network of one's own, `trainer`,
      `eval_every` and others.

  Returns:
    Predictions, losses and, if asked for, curves and parameters.

  Raises:
    ValueError: if method, data and model don't fit.
  """
  study = Study(population, split, settings or Settings(), **about)
  return study.personalize(method, keep_models=keep_models)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Methods side by side; a notebook shows it as a table.

  Attributes:
    rows: one for each method.
    baseline: what all are ranked with and tested against; None if each half of
      the table has its own.
  """

  rows: tuple[tables.TableRow, ...]
  baseline: str | None = None

  def __str__(self) -> str:
    return table_files.markdown(self.rows, self.baseline)

  # A notebook keeps this text beside the table, a terminal shows it.
  __repr__ = __str__

  def _repr_markdown_(self) -> str:
    return str(self)

  def records(self) -> list[dict[str, Any]]:
    """Columns of table1.csv by name, for pandas; NaN where a cell is empty."""
    return table_files.records(self.rows)


def compare(
  results: Sequence[Result] | Mapping[str, Result | Sequence[Result]],
  population: Population | None = None,
  baseline: str | None = None,
  *,
  distances: np.ndarray | None = None,
) -> Comparison:
  """Means, ranks, fairness and p-values of several methods.

  Several seeds of a method make one row, from each individual's mean over them.
  Variants of a method that differ in something else want rows of their own:

      compare({"lr 1e-3": first, "lr 1e-2": second}, population, "lr 1e-3")

  Args:
    results: one for each method and seed, every method with the same seeds and
      all of a seed made from one split; or the name of a row -> its result, or
      its results with several seeds.
    population: what they were made of; only results without true labels of
      their own need it, and any other is refused.
    baseline: the method or name that all others are ranked with and tested
      against; by default the first `baseline` or `random:n` of each half of the
      table, as in the paper. Names of one's own stand in the first half.
    distances: float [S, S], of `Study.groups.distances()`, for individual
      fairness.

  Returns:
    The table. A method with one model for everybody (`global`) has one acc(D_G)
    and not one for each individual, so there it isn't tested, nor tested
    against.

  Raises:
    ValueError: if there is no result; a method has two with one seed, or other
      seeds than the others; individuals or test rows differ; a name has results
      of several methods; the population is another; or the baseline is none of
      the rows.

  Source: section IV, Table I; section II-A.
  """
  if isinstance(results, Mapping):
    results = _renamed(results)
  labels = None if population is None else population.labels
  rows = tables.of_results(results, labels, distances, baseline)
  return Comparison(tuple(rows), baseline)


def _renamed(
  results: Mapping[str, Result | Sequence[Result]],
) -> list[Result]:
  """The results, each with the name of its row as its method."""
  renamed = []
  for name, own in results.items():
    own = [own] if isinstance(own, Result) else list(own)
    methods = list(dict.fromkeys(result.method for result in own))
    if len(methods) != 1:
      raise ValueError(
        f"results[{name!r}] must be of one method, with one seed or several,"
        f" but is of {' and '.join(map(repr, methods)) or 'none'}."
      )
    renamed += [dataclasses.replace(result, method=name) for result in own]
  return renamed
