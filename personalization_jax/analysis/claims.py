"""The paper's claims about its Table I, each tested (NumPy, SciPy, pandas)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from personalization_jax.analysis import markdown, metrics, paper
from personalization_jax.analysis.columns import CLAIM_COLUMNS, DATA, SYMBOLS
from personalization_jax.analysis.paper import TABLE_1
from personalization_jax.analysis.tables import Values

LEVEL = 0.05  # of Holm-corrected p-values
HOLDS, FAILS, UNSURE, LACKS = "holds", "doesn't", "can't be told", "lacks"
# Sides of claim (e), over methods.
_RHO, _SD = "rank correlation of mean and -sd", "sd, mean over methods"
_LEAST_METHODS = 4
# Data, and the method that the paper has above another one there.
Comparison = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Claim:
  """A sentence of section IV, as comparisons."""

  name: str
  says: str
  comparisons: Sequence[Comparison]
  every: bool = True  # all must hold; otherwise one of them


def _pairs(data: str, methods: str, others: str) -> list[Comparison]:
  """Each of these methods above each of the others."""
  return [(data, m, o) for m in methods.split() for o in others.split()]


_SHAPING = "baseline es:40 es:400 sw:12 tl:10 tl:300"  # but sw:2
_GROUPING = "random:1500 ig:5 ig:21 sg:1500 sg:6500"  # but random:6500
CLAIMS = (
  *(
    Claim(
      f"a{k}",
      f"one setting of {name} beats the baseline on D_I",
      _pairs("individual", settings, "baseline"),
      every=False,
    )
    for k, name, settings in (
      (1, "ES", "es:40 es:400"),
      (2, "SW", "sw:12 sw:2"),
      (3, "TL", "tl:10 tl:300"),
    )
  ),
  Claim(
    "b1",
    "ES n=400 beats the baseline on D_G",
    _pairs("global", "es:400", "baseline"),
  ),
  # The paper says "TL with 400 initial iterations", which its table lacks.
  Claim(
    "b2",
    "one setting of TL beats the baseline on D_G",
    _pairs("global", "tl:10 tl:300", "baseline"),
    every=False,
  ),
  Claim(
    "c1",
    "SW n=2 is the first of shaping on D_I",
    _pairs("individual", "sw:2", _SHAPING),
  ),
  Claim(
    "c2",
    "SW n=2 is the last of shaping on D_G",
    _pairs("global", _SHAPING, "sw:2"),
  ),
  Claim(
    "d1",
    "groups with small n beat random samples on D_I",
    _pairs("individual", "ig:5 sg:1500", "random:1500 random:6500"),
  ),
  Claim(
    "d2",
    "random samples with large n are the best of grouping on D_G",
    _pairs("global", "random:6500", _GROUPING),
  ),
  Claim(
    "e1",
    "methods of higher accuracy have a lower sd over people",
    [(data, _RHO, "0") for data in DATA],
  ),
  Claim(
    "e2",
    "accuracy varies more between people on D_I than on D_G",
    [("both", _SD + " on D_I", _SD + " on D_G")],
  ),
)


def judge(values: Values) -> pd.DataFrame:
  """Tests every claim: the rows of claims.csv, one for each comparison.

  A comparison is of people, of each the mean over seeds (`metrics.paired_means`
  has which). `p_wilcoxon` is of Wilcoxon's signed-rank test, of e1 of
  Spearman's correlation over methods, and of e2 Wilcoxon's of each person's
  distance from the median over people, mean over methods (as Brown and
  Forsythe's test has it). `p_holm` is corrected over all comparisons. A
  comparison holds, or doesn't, if this is below 0.05 and the 95% interval
  (`metrics.interval`) lies on that side of 0. `people_needed` is
  `metrics.people_needed` at 0.05 over the number of comparisons, an estimate
  from the observed effect, where it can't be told.

  Args:
    values: data -> method -> accuracies [K, S], people in the same order.

  Returns:
    A table of `CLAIM_COLUMNS`, with NaN for what can't be computed. A verdict
    names the methods that it lacks.
  """
  measured: dict[Comparison, dict[str, Any]] = {}
  for claim in CLAIMS:
    for comparison in claim.comparisons:
      if comparison not in measured:
        measured[comparison] = _measure(values, *comparison)
  rows = [*measured.values()]
  corrected = metrics.holm([row["p_wilcoxon"] for row in rows])
  tested = max(1, np.count_nonzero(~np.isnan(corrected)))
  for row, p in zip(rows, corrected):
    row["p_holm"] = p
    row["people_needed"] = math.nan
    change = row.pop("change")
    if "verdict" in row:
      continue
    row["verdict"] = UNSURE
    if p < LEVEL and row["low"] > 0:
      row["verdict"] = HOLDS
    elif p < LEVEL and row["high"] < 0:
      row["verdict"] = FAILS
    elif change is not None:
      needed = metrics.people_needed(change, LEVEL / tested)
      row["people_needed"] = np.maximum(needed, len(change) + 1)
  table = []
  for claim in CLAIMS:
    own = [measured[comparison] for comparison in claim.comparisons]
    verdict = _verdict([row["verdict"] for row in own], every=claim.every)
    about = {"claim": claim.name, "claim_verdict": verdict}
    table += [about | row for row in own]
  return pd.DataFrame(table, columns=[*CLAIM_COLUMNS])


def _verdict(verdicts: Sequence[str], *, every: bool) -> str:
  """A claim's, by those of its comparisons."""
  enough, other = (FAILS, HOLDS) if every else (HOLDS, FAILS)
  if enough in verdicts:
    return enough
  lacking = [v.split()[1:] for v in verdicts if v.startswith(LACKS)]
  if lacking:
    return " ".join([LACKS, *dict.fromkeys(m for ms in lacking for m in ms)])
  return other if {*verdicts} == {other} else UNSURE


def _measure(
  values: Values, data: str, method: str, against: str
) -> dict[str, Any]:
  """A comparison's numbers, and the changes [S] that its power depends on."""
  row: dict[str, Any] = dict.fromkeys(CLAIM_COLUMNS[5:-1], math.nan)
  row |= {"data": data, "method": method, "against": against, "change": None}
  if method not in TABLE_1:
    return row | _over_methods(values, data, method)
  sides = method, against
  row |= _sides("paper", [paper.spread_of(data, side).mean for side in sides])
  if missing := [side for side in sides if side not in values[data]]:
    return row | {"verdict": " ".join([LACKS, *missing])}
  both = [values[data][side] for side in sides]
  means = metrics.paired_means(*both)
  row |= _sides("ours", [metrics.spread(side).mean for side in means])
  test, change = metrics.paired_tests(*both), metrics.paired_changes(*both)
  row |= {"difference": test.difference, "pairs": test.pairs, "change": change}
  return row | _interval(change, np.mean) | {"p_wilcoxon": test.wilcoxon}


def _over_methods(values: Values, data: str, what: str) -> dict[str, Any]:
  """Claim (e): of the paper's methods that are there, and the same people."""
  methods = [method for method in TABLE_1 if method in values[DATA[0]]]
  if len(methods) < _LEAST_METHODS:
    missing = [method for method in TABLE_1 if method not in methods]
    return {"verdict": " ".join([LACKS, *missing])}
  own = np.stack(
    [[metrics.mean_without_nan(values[of][m]) for m in methods] for of in DATA]
  )
  people = np.moveaxis(own, -1, 0)  # [S, 2, M]
  people = people[~np.isnan(people).any(axis=(1, 2))]
  theirs = np.array(
    [[[*vars(paper.spread_of(of, m)).values()] for m in methods] for of in DATA]
  )  # [2, M, mean, sd, ...]
  if what == _RHO:
    k = DATA.index(data)
    rho = _correlation(people[:, k])
    row = _sides("paper", [_spearman(*theirs[k, :, :2].T), 0.0])
    row |= _sides("ours", [rho, 0.0]) | {"difference": rho}
    row |= {"p_wilcoxon": _p_of_spearman(rho, len(methods))}
    row |= _interval(people[:, k], _correlation)
  else:
    distances = np.abs(people - np.median(people, axis=0)).mean(axis=2).T
    change = metrics.paired_changes(*distances)
    row = _sides("paper", theirs[:, :, 1].mean(axis=1).tolist())
    row |= _sides("ours", _sds(people).tolist()) | {"change": change}
    row |= {"p_wilcoxon": metrics.paired_tests(*distances).wilcoxon}
    row |= {"difference": _sd_difference(people)}
    row |= _interval(people, _sd_difference)
  return row | {"pairs": len(people)}


def _sides(whose: str, both: Sequence[float]) -> dict[str, Any]:
  return dict(zip((f"{whose}_method", f"{whose}_against"), both))


def _interval(
  values: np.ndarray, statistic: Callable[[np.ndarray], float]
) -> dict[str, Any]:
  return dict(zip(("low", "high"), metrics.interval(values, statistic)))


def _correlation(people: np.ndarray) -> float:
  """Of people's accuracies [S, M]; see `_spearman`."""
  return _spearman(people.mean(axis=0), people.std(axis=0, ddof=1))


def _spearman(means: np.ndarray, sds: np.ndarray) -> float:
  """Correlation of the ranks, over methods, of mean and -sd; NaN if alike."""
  # Equal means may differ in their last bits.
  ranks = stats.rankdata(np.round([means, -sds], 12), axis=1)
  with np.errstate(invalid="ignore", divide="ignore"):
    return float(np.corrcoef(ranks)[0, 1])


def _p_of_spearman(rho: float, count: int) -> float:
  """Two-sided p over so many methods, by Student's t as `stats.spearmanr`."""
  with np.errstate(divide="ignore"):
    t = np.abs(rho) * np.sqrt(np.divide(count - 2, 1 - rho**2))
  return float(2 * stats.t.sf(t, count - 2))


def _sds(people: np.ndarray) -> np.ndarray:
  """Standard deviation over people [S, 2, M], mean over methods: [2]."""
  return people.std(axis=0, ddof=1).mean(axis=-1)


def _sd_difference(people: np.ndarray) -> float:
  own, general = _sds(people)
  return float(own - general)


def text(table: pd.DataFrame) -> str:
  """What `judge` found, as Markdown: verdicts, comparisons, and notes."""
  people = table["pairs"].max()
  few = f" with {people:.0f} people"
  claims = table.drop_duplicates("claim")
  verdicts = [v + few * (v == UNSURE) for v in claims["claim_verdict"]]
  says = {claim.name: claim.says for claim in CLAIMS}
  summary: markdown.Columns = [
    ("", "claim", claims["claim"]),
    ("", "the paper says", claims["claim"].map(says)),
    ("", "here", verdicts),
  ]
  names = table["method"] + " > " + table["against"]
  comparisons: markdown.Columns = [
    ("", "claim", table["claim"]),
    ("", "on", table["data"].map({**SYMBOLS, "both": "both"})),
    ("", "comparison", names),
    ("", "paper", _both(table, "paper", ".3f")),
    ("", "ours", _both(table, "ours", "z.4f")),
    ("", "difference [95%]", _ranges(table)),
    ("", "p", markdown.cells(table["p_wilcoxon"], "p")),
    ("", "Holm", markdown.cells(table["p_holm"], "p*")),
    ("", "verdict", table["verdict"]),
    ("", "people needed", markdown.cells(table["people_needed"], ".0f")),
  ]
  tested = table.drop_duplicates(["data", "method", "against"])
  count = tested["p_holm"].notna().sum()
  notes = f"""\
a1 to a3 and b2 ask for one of their comparisons, the others for all of them.
Difference [95%]: mean over people, paired; percentiles of 10,000 bootstrap
samples of people. p: Wilcoxon's signed-rank test, two-sided; Holm: corrected
over all {count} comparisons. A comparison holds, or doesn't (the other way), if
this is below 0.05 and the interval lies on that side of 0.
People needed, an estimate: those with whom Wilcoxon's test would tell a
difference of the observed size with a power of 80% at 0.05 / {count}, by the
normal approximation: pi / 3 ((z(1 - 0.05 / {2 * count}) + z(0.8)) sd / mean)^2.
e1: Spearman's correlation, of more accuracy with less sd, and its p over the
paper's methods that are here; what it needs more of is methods, not people. e2:
p compares each person's distances from the medians over people.
"""
  return "\n\n".join(
    [markdown.aligned(summary, 3), markdown.aligned(comparisons, 3), notes]
  )


def _both(table: pd.DataFrame, whose: str, form: str) -> list[str]:
  sides = [table[f"{whose}_{side}"] for side in ("method", "against")]
  return [
    " / ".join(pair) for pair in zip(*(markdown.cells(s, form) for s in sides))
  ]


def _ranges(table: pd.DataFrame) -> list[str]:
  columns = ("difference", "low", "high")
  cells = [markdown.cells(table[column], "+z.4f") for column in columns]
  return [f"{mean} [{low}, {high}]" for mean, low, high in zip(*cells)]
