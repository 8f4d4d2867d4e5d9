"""Methods side by side, as `compare` shows them in a notebook."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from personalization_jax.analysis import tables
from personalization_jax.analysis.columns import TABLE_COLUMNS
from personalization_jax.analysis.markdown import markdown
from personalization_jax.analysis.result import Result
from personalization_jax.datasets import Population


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
  """Methods side by side; a notebook shows it as a table.

  Attributes:
    table: a row for each method, as `tables.of_results` gives it.
    baseline: what all are ranked with and tested against; None if each half of
      the table has its own.
  """

  table: pd.DataFrame
  baseline: str | None = None

  def __str__(self) -> str:
    return markdown(self.table, self.baseline)

  # A notebook keeps this text beside the table, a terminal shows it.
  __repr__ = _repr_markdown_ = __str__

  def records(self) -> list[dict[str, Any]]:
    """Columns of table1.csv by name, for pandas; NaN where a cell is empty."""
    table = self.table[list(TABLE_COLUMNS)]
    return table.where(table.notna(), math.nan).to_dict("records")


def compare(
  results: Sequence[Result] | Mapping[str, Result | Sequence[Result]],
  population: Population | None = None,
  baseline: str | None = None,
  *,
  distances: np.ndarray | None = None,
) -> Comparison:
  """Means, ranks, fairness and p-values of several methods.

  Several seeds of a method make one row, from each individual's mean over them.
  Other variants of a method need rows of their own:

      compare({"lr 1e-3": first, "lr 1e-2": second}, population, "lr 1e-3")

  Args:
    results: one for each method and seed, every method with the same seeds and
      all of a seed made from one split; or the name of a row -> its result, or
      its results with several seeds.
    population: what they were made of; results without true labels need it.
    baseline: the method or name that all others are ranked with and tested
      against; by default the first `baseline` or `random:n` of each half of the
      table, as in the paper. Names of one's own are in the first half.
    distances: float [S, S], of `Study.groups.distances()`, for individual
      fairness.

  Returns:
    The table. A method with one model for everybody (`global`) has one acc(D_G)
    without sd, isn't tested there, nor tested against.

  Raises:
    ValueError: if results can't be compared person by person, a name has
      several methods, the baseline is missing, or the results are of another
      population.

  Source: section IV, Table I; section II-A.
  """
  labels = None if population is None else population.labels
  table = tables.of_results(tables.named(results), labels, distances, baseline)
  return Comparison(table, baseline)
