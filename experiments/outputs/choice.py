"""Whom a run's methods made worse than the model of D_G alone would have."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from personalization_jax import figures
from personalization_jax.analysis import markdown, model_choice, tables
from personalization_jax.analysis.columns import CHOICE_COLUMNS
from personalization_jax.analysis.model_choice import Choice
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints.files import write_atomically

GLOBAL = "global"
NAMES = 1  # columns of text
TITLE = "Against the model of D_G alone (global)"
NOTE = """\
hurt: share of individuals whose own model is worse on their test data than the\
 global one; gain: mean difference in acc(D_I). Chosen: each individual has the\
 better of the two on validation data, the global one if they are equal. Of\
 several seeds the choice is made for each, and an individual's means over them\
 are compared.
"""
# Headers and formats of the numbers that people see.
_SHOWN = (
  ("hurt", ".0%"), ("hurt, chosen", ".0%"),
  ("gain", "+z.4f"), ("gain, chosen", "+z.4f"),
)  # fmt: skip


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
  validated = tables.stacked(by_seed, "validation", labels)
  tested = tables.stacked(by_seed, "individual", labels)
  return model_choice.judge_all(validated, tested, GLOBAL)


def columns(table: pd.DataFrame) -> dict[str, Iterable[str]]:
  """What people see of choice.csv: header -> cells."""
  return {"Method": table["method"]} | {
    header: markdown.cells(table[column], form)
    for column, (header, form) in zip(CHOICE_COLUMNS[1:], _SHOWN)
  }


def write(
  found: dict[str, Choice], workdir: pathlib.Path
) -> tuple[str, pathlib.Path]:
  """Writes choice.csv and its figure; the table for people, and the figure."""
  table = pd.DataFrame([{"method": m} | vars(one) for m, one in found.items()])
  text = table[[*CHOICE_COLUMNS]].to_csv(
    index=False, na_rep="nan", lineterminator="\n"
  )
  write_atomically(workdir / "choice.csv", text)
  shown = columns(table)
  told = markdown.aligned([[*shown], *zip(*shown.values())])
  path = workdir / "figures" / "choice.png"
  drawn = figures.save(figures.choice(found), path)
  return f"{TITLE}\n\n{told}\n\n{NOTE}", drawn
