"""Table I and its like as text: Markdown, aligned to be read as it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from personalization_jax.analysis import metrics, paper, tables
from personalization_jax.analysis.columns import (
  DATA,
  FAIRNESS,
  SPREAD,
  SYMBOLS,
  TABLE_COLUMNS,
)
from personalization_jax.analysis.tables import Values
from personalization_jax.methods import known_method

# A table for people: above each column's header, the header, and the cells.
Columns = list[tuple[str, str, Iterable[str]]]

# Header, column and format of what not every table has something in.
_FURTHER = (
  *zip(("fair max", "fair mean", "fair rho"), FAIRNESS, (".4f",) * 3),
  ("seed sd(D_I)", "individual_seed_sd", ".4f"),
  ("seed sd(D_G)", "global_seed_sd", ".4f"),
  ("diverged", "diverged", ".0f"),
  ("pairs", "individual_pairs", ".0f"),
)


def markdown(
  table: pd.DataFrame, baseline: str | None = None, *, of_run: bool = False
) -> str:
  """The table of `tables.of_results`, half by half or against a baseline."""
  table = table.astype(dict.fromkeys(TABLE_COLUMNS[1:], float))
  # What is ranked and corrected together stands together.
  halves = {"": list(table["method"])}
  if baseline is None:
    halves = tables.halves(table["method"])
  texts = []
  for name, half in halves.items():
    rows = told(table[table["method"].isin(half)], shown(table))
    title = f"{name}\n\n" if name else ""
    texts.append(f"{title}{aligned(rows)}\n")
  return "\n".join([*texts, *notes(table, baseline, of_run=of_run), ""])


def shown(table: pd.DataFrame) -> list[tuple[str, str, str, str]]:
  """What people see: what stands above a column, header, name and format."""
  used = table.dropna(axis="columns", how="all")
  if not (table["diverged"] > 0).any():
    used = used.drop(columns=["diverged", "individual_pairs"], errors="ignore")
  return [
    (symbol, header, column, form)
    for data, symbol in SYMBOLS.items()
    for header, column, form in (
      *((n, f"{data}_{n}", ".0f" if n == "rank" else ".4f") for n in SPREAD),
      ("p", f"p_{data}_holm", "p*"),
    )
  ] + [("", *further) for further in _FURTHER if further[1] in used]


def told(
  rows: pd.DataFrame, those: Iterable[tuple[str, str, str, str]]
) -> Columns:
  """Methods, and `those` columns as `shown` gives them."""
  return [("", "Method", rows["method"])] + [
    (above, header, cells(rows[column], form))
    for above, header, column, form in those
  ]


def cells(values: Iterable[float], form: str) -> list[str]:
  """Numbers, "-" for NaN; "p" is of p-values, "p*" marks those below 0.05."""
  texts = []
  for value in values:
    if form.startswith("p"):
      text = "<0.0001" if value < 1e-4 else f"{value:.4f}"
      text += ("*" if value < 0.05 else " ") * (form == "p*")
    else:
      text = format(value, form)
    texts.append("-" if math.isnan(value) else text)
  return texts


def aligned(columns: Columns, names: int = 1) -> str:
  """A Markdown table: the first `names` columns left, all others right."""
  # A mean is called by what stands above it.
  headers = [above if name == "mean" else name for above, name, _ in columns]
  lines = [headers, *zip(*(cells for *_, cells in columns))]
  # Markdown wants dashes beside the colon of a rule, however short the cells.
  widths = [max(3, *map(len, column)) for column in zip(*lines)]
  rule = ["-" * width for width in widths[:names]]
  rule += ["-" * (width - 1) + ":" for width in widths[names:]]
  cells = " | ".join(["{:<{}}"] * names + ["{:>{}}"] * (len(widths) - names))
  return "\n".join(
    f"| {cells} |".format(*itertools.chain(*zip(line, widths)))
    for line in (lines[0], rule, *lines[1:])
  )


def beside_paper(values: Values) -> str:
  """A Markdown table: ours, its change against the half's baseline, theirs.

  Ranges are 95% intervals of the mean difference (`metrics.interval`); of an
  individual's several seeds the mean counts. One model for all has no sd on
  D_G, and no change of it.
  """
  methods = [*values[DATA[0]]]
  columns: Columns = [("", "method", methods)]
  reference = {
    method: tables.baseline_of(half)
    for half in tables.halves(methods).values()
    for method in half
  }
  for data, symbol in SYMBOLS.items():
    cells = []
    for method in methods:
      of = metrics.spread(metrics.mean_without_nan(values[data][method]))
      theirs = "-"
      if method in paper.TABLE_1:
        its = paper.spread_of(data, method)
        theirs = f"{_short(its.mean)} ({_short(its.sd)})"
      known, baseline = known_method(method), reference[method]
      if known and known.one_model and data == "global":
        cells.append((_short(of.mean), "-", "-", theirs))
        continue
      change, better = "-", "-"
      if baseline not in (None, method):
        own = metrics.paired_changes(
          values[data][method], values[data][baseline]
        )
        low, high = metrics.interval_of_mean(own)
        change = _short(own.mean() if len(own) else np.nan, "+z.4f")
        change += f" [{_short(low, '+.4f')}, {_short(high, '+.4f')}]"
        better = f"{(own > 0).sum()} of {len(own)}"
      cells.append(
        (f"{_short(of.mean)} ({_short(of.sd)})", change, better, theirs)
      )
    headers = f"{symbol} (sd)", "change [95%]", "better for", "paper"
    columns += [("", *both) for both in zip(headers, zip(*cells))]
  return aligned(columns)


def _short(value: float, form: str = ".3f") -> str:
  """A number without the 0 before its point."""
  return format(value, form).replace("0.", ".", 1)


def of_best_steps(rows: pd.DataFrame) -> list[str]:
  """Sentences about the best steps in rows of results.csv, if there are any."""
  rows = rows.assign(best_steps=pd.to_numeric(rows["best_steps"]))
  found = rows.groupby("method", sort=False)["best_steps"]
  return [
    f"{method}: best on validation data after {own.min():.0f} to"
    f" {own.max():.0f} batches of D_I, median {own.median():.0f}."
    for method, own in found
    if own.notna().any()
  ]


def notes(
  table: pd.DataFrame, baseline: str | None = None, *, of_run: bool = False
) -> list[str]:
  """What the columns of `shown` are, and what dashes stand for."""
  against = baseline or "the half's first row of its kind (baseline or random)"
  others_in = "table1.csv" if of_run else "the table's records()"
  names_them = "results.csv" if of_run else "Result.diverged"
  columns = {column for *_, column, _ in shown(table)}
  of_one = table[table["one_model"].astype(bool)]
  single = [*of_one["method"]]
  # One model differs between individuals where each fold of them has its own.
  folds = (of_one["global_min"] < of_one["global_max"]).any()
  all_of, once = "all individuals", "one number"
  if folds:
    all_of, once = "each fold of individuals", "one number for each fold"
  diverged, pairs = (n in columns for n in ("diverged", "individual_pairs"))
  coincide = table["fairness_coincide"].max()
  seeds = table["seeds"].max() > 1
  unsure = any(
    (table[f"p_{data}"].isna() & table[f"p_{data}_wilcoxon"].notna()).any()
    for data in DATA
  )
  told = {
    "acc(D_I): mean accuracy over individuals on their own test data; acc(D_G):"
    " on the test data of D_G; sd, min and max over individuals.": True,
    f"p: two-sided paired t-test against {against}, Holm-corrected (* below"
    f" 0.05). Uncorrected values and Wilcoxon's test are in {others_in}.": True,
    f"{', '.join(single)}: one model for {all_of}. Its acc(D_G) is {once}: no"
    " sd over individuals, no test of it or against it.": single,
    "p of - with a difference: all individuals differ by the same, and a t-test"
    " can't tell how sure that is; Wilcoxon's can.": unsure,
    "fair max, fair mean: difference in acc(D_I) of two individuals over their"
    " distance in latent space, the largest and the mean over pairs; fair rho:"
    " rank correlation of the two.": columns & {*FAIRNESS},
    "Pairs of individuals at distance 0, left out of fair max and fair mean:"
    f" {coincide:.0f}.": coincide > 0,
    "Means of several seeds, an individual's first; seed sd: of the mean over"
    " individuals, from seed to seed, of those who diverged with none.": seeds,
    "diverged: models whose loss or parameters stopped being finite numbers;"
    f" all other columns are without them ({names_them} names them).": diverged,
    "pairs: individuals whom p compares, each by the mean over the seeds with"
    " which neither of the two methods diverged; their mean difference, which"
    f" isn't that of the means shown, is in {others_in}.": pairs,
  }
  return [note for note, holds in told.items() if holds]
