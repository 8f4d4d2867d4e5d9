"""Whom a run's methods made worse than the model of D_G alone would have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from personalization_jax import figures
from personalization_jax.analysis import markdown, model_choice, tables
from personalization_jax.analysis.columns import (
  CHOICE_BY_PERSON_COLUMNS,
  CHOICE_COLUMNS,
)
from personalization_jax.analysis.markdown import Columns
from personalization_jax.analysis.model_choice import Choice
from personalization_jax.analysis.result import Result

GLOBAL = "global"
FILE, MISSING = "choice", "nan"
BY_PERSON = "choice_by_person"
NAMES = 1  # columns of text
TITLE = "Against the model of D_G alone (global)"
NOTE = """\
hurt: share of individuals whose own model is worse on their test data than the\
 global one; gain: mean difference in acc(D_I). Chosen: each individual has the\
 better of the two on validation data, the global one if they are equal. Of\
 several seeds the choice is made for each, and an individual's means over them\
 are compared.
"""
# What people see, as `markdown.shown` gives it.
_SHOWN = (
  ("", "hurt", "hurt", ".0%"),
  ("", "hurt, chosen", "hurt_with_choice", ".0%"),
  ("", "gain", "gain", "+z.4f"),
  ("", "gain, chosen", "gain_with_choice", "+z.4f"),
)


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


def by_person(
  finished: Sequence[Result],
  labels: np.ndarray,
  found: dict[str, Choice],
  name_of: Callable[[int], str] = str,
) -> pd.DataFrame:
  """choice_by_person.csv: which model each person gets with each seed.

  `found` is what `compare` found of the same results.
  """
  by_seed = tables.by_seed(finished)
  lines = []
  for method, one in found.items():
    both = zip(by_seed[method], by_seed[GLOBAL], one.personal)
    for own, general, personal in both:
      accuracies = [
        getattr(result, f"{data}_accuracy")(labels)[0]
        for data in ("validation", "individual")
        for result in (own, general)
      ]
      names = map(name_of, own.individuals.tolist())
      chosen = np.where(personal, method, GLOBAL)
      lines += [
        (method, own.seed, *of_person)
        for of_person in zip(names, chosen, *accuracies)
      ]
  return pd.DataFrame(lines, columns=[*CHOICE_BY_PERSON_COLUMNS])


def columns(table: pd.DataFrame) -> Columns:
  """What people see of choice.csv."""
  return markdown.told(table, _SHOWN)


def judged(found: dict[str, Choice]) -> tuple[pd.DataFrame, Axes]:
  """choice.csv and its figure."""
  table = pd.DataFrame([{"method": m} | vars(one) for m, one in found.items()])
  return table[[*CHOICE_COLUMNS]], figures.choice(found)
