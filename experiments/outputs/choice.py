"""Whom a run's methods made worse than the model of D_G alone would have."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from personalization_jax import figures
from personalization_jax.analysis import model_choice, tables
from personalization_jax.analysis.columns import CHOICE_COLUMNS as COLUMNS
from personalization_jax.analysis.model_choice import Choice
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints.files import write_atomically
from personalization_jax.figures import styles
from personalization_jax.runs import table_files

GLOBAL = "global"
_TITLES = ["Method", "hurt", "hurt, chosen", "gain", "gain, chosen"]
_FORMS = (".0%", ".0%", "+.4f", "+.4f")
_NOTE = """
hurt: share of individuals whose own model is worse on their test data than the\
 global one; gain: mean difference in acc(D_I). Chosen: each individual has the\
 better of the two on validation data, the global one if they are equal. Of\
 several seeds the choice is made for each, and an individual's means over them\
 are compared.
"""


def compare(
  finished: Sequence[Result], labels: np.ndarray
) -> dict[str, Choice] | None:
  """Method -> what people gain who choose between its models and `global`'s.

  None if the run has no `global`, or nothing to compare with it. Without
  validation data everybody keeps the global model. `finished` has all seeds.
  """
  by_seed = tables.by_seed(finished)
  if GLOBAL not in by_seed or len(by_seed) < 2:
    return None
  validated, tested = (
    {
      method: np.stack([accuracy(result, labels)[0] for result in own])
      for method, own in by_seed.items()
    }
    for accuracy in (Result.validation_accuracy, Result.individual_accuracy)
  )
  return model_choice.judge_all(validated, tested, GLOBAL)


def write(
  found: dict[str, Choice], workdir: pathlib.Path
) -> tuple[str, pathlib.Path]:
  """Writes choice.csv and its figure; the table for people, and the figure."""
  table = pd.DataFrame(
    map(vars, found.values()), pd.Index(found, name="method")
  )
  table = table[[*COLUMNS[1:]]]
  text = table.to_csv(na_rep="nan", lineterminator="\n")
  write_atomically(workdir / "choice.csv", text)
  lines = [
    [method, *("-" if np.isnan(x) else f"{x:{y}}" for x, y in zip(row, _FORMS))]
    for method, *row in table.itertuples(name=None)
  ]
  told = table_files.aligned([_TITLES, *lines])
  page = styles.figure_of(figures.choice(found))
  return (
    f"Against the model of D_G alone (global)\n\n{told}\n{_NOTE}",
    figures.save(page, workdir / "figures" / "choice.png"),
  )
