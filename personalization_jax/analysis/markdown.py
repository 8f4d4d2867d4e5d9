"""Table I and its like as text: Markdown, aligned to be read as it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from personalization_jax.analysis import tables
from personalization_jax.analysis.columns import DATA, FAIRNESS


def markdown(
  table: pd.DataFrame, baseline: str | None = None, *, of_run: bool = False
) -> str:
  """The table of `tables.of_results`, half by half or against a baseline.

  The notes point to the files of a run, or else to `Comparison.records`.
  """
  columns = _columns(table)
  methods = list(table["method"])
  # What is ranked and corrected together stands together.
  halves = tables.halves(methods) if baseline is None else {"": methods}
  texts = []
  for name, half in halves.items():
    rows = table[table["method"].isin(half)]
    cells = [rows[column].map(write) for _, column, write in columns]
    lines = [[header for header, *_ in columns], *zip(*cells)]
    title = f"{name}\n\n" if name else ""
    texts.append(f"{title}{aligned(lines)}\n")
  return "\n".join([*texts, _notes(table, baseline, of_run)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """A Markdown table of a header and lines: names left, all else right."""
  # Markdown wants dashes beside the colon of a rule, however short the cells.
  widths = [max(3, *map(len, column)) for column in zip(*lines)]
  rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
  cells = " | ".join(["{:<{}}", *["{:>{}}"] * (len(widths) - 1)])
  return "\n".join(
    f"| {cells} |".format(*itertools.chain(*zip(line, widths)))
    for line in (lines[0], rule, *lines[1:])
  )


def _columns(table: pd.DataFrame) -> list[tuple[str, str, Any]]:
  """Header, column and how its cells are written, of all that are shown."""
  names = dict(zip(DATA, ("D_I", "D_G")))
  columns: list[tuple[str, str, Any]] = [("Method", "method", str)]
  for data, name in names.items():
    columns += [
      (f"acc({name})", f"{data}_mean", _number),
      ("rank", f"{data}_rank", _count),
      *((one, f"{data}_{one}", _number) for one in ("sd", "min", "max")),
      ("p", f"p_{data}_holm", _p_value),
    ]
  if _has_fairness(table):
    headers = ("fair max", "fair mean", "fair rho")
    columns += [(*both, _number) for both in zip(headers, FAIRNESS)]
  if _has_seeds(table):
    columns += [
      (f"seed sd({name})", f"{data}_seed_sd", _number)
      for data, name in names.items()
    ]
  if table["diverged"].any():
    columns += [
      ("diverged", "diverged", _count),
      ("pairs", "individual_pairs", _count),
    ]
  return columns


def _notes(table: pd.DataFrame, baseline: str | None, of_run: bool) -> str:
  """What the columns are, and what dashes stand for."""
  against = baseline or "the half's first row of its kind (baseline or random)"
  others_in = "table1.csv" if of_run else "the table's records()"
  notes = (
    "acc(D_I): mean accuracy over individuals on their own test data; acc(D_G):"
    " on the test data of D_G; sd, min and max over individuals.\n"
    f"p: two-sided paired t-test against {against}, Holm-corrected (* below"
    f" 0.05). Uncorrected values and Wilcoxon's test are in {others_in}.\n"
  )
  if single := list(table["method"][table["one_model"].astype(bool)]):
    notes += (
      f"{', '.join(single)}: one model for all individuals. Its acc(D_G) is one"
      " number: no sd over individuals, no test of it or against it.\n"
    )
  if any(
    (table[f"p_{data}"].isna() & table[f"p_{data}_wilcoxon"].notna()).any()
    for data in DATA
  ):
    notes += (
      "p of - with a difference: all individuals differ by the same, and a"
      " t-test can't tell how sure that is; Wilcoxon's can.\n"
    )
  if _has_fairness(table):
    notes += (
      "fair max, fair mean: difference in acc(D_I) of two individuals over"
      " their distance in latent space, the largest and the mean over pairs;"
      " fair rho: rank correlation of the two.\n"
    )
    if most := max(table["fairness_coincide"]):
      notes += (
        f"Pairs of individuals at distance 0, left out of fair max and fair"
        f" mean: {most}.\n"
      )
  if _has_seeds(table):
    notes += (
      "Means of several seeds, an individual's first; seed sd: of the mean over"
      " individuals, from seed to seed, of those who diverged with none.\n"
    )
  if table["diverged"].any():
    notes += (
      "diverged: models whose loss or parameters stopped being finite numbers;"
      " all other columns are without them ("
      f"{'results.csv' if of_run else 'Result.diverged'} names them).\n"
      "pairs: individuals whom p compares, each by the mean over the seeds with"
      " which neither of the two methods diverged; their mean difference, which"
      f" isn't that of the means shown, is in {others_in}.\n"
    )
  return notes


def _has_fairness(table: pd.DataFrame) -> bool:
  return bool(table["fairness_coincide"].notna().any())


def _has_seeds(table: pd.DataFrame) -> bool:
  return bool((table["seeds"] > 1).any())


def _number(value: float | None) -> str:
  return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def _count(value: int | None) -> str:
  return "-" if value is None else str(value)


def _p_value(value: float | None) -> str:
  if value is None or math.isnan(value):
    return "-"
  text = "<0.0001" if value < 1e-4 else f"{value:.4f}"
  return text + ("*" if value < 0.05 else " ")
