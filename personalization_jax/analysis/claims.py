"""The paper's claims about its Table I, each tested (NumPy, SciPy, pandas)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from personalization_jax.analysis import markdown, metrics, paper
from personalization_jax.analysis.columns import CLAIM_COLUMNS, DATA, SYMBOLS
from personalization_jax.analysis.paper import TABLE_1
from personalization_jax.analysis.tables import Values

LEVEL = 0.05  # of Holm-corrected p-values
_THEIR_LEVEL = 0.1  # the paper's for most claims; it names no correction
HOLDS, FAILS, UNSURE, LACKS = "holds", "doesn't", "can't be told", "lacks"
# Sides of claim (e), over methods.
_RHO, _SD = "rank correlation of mean and -sd", "mean sd over methods"
_LEAST_METHODS = 4
_MOST_PEOPLE = 10_000  # of which an estimate says a number
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
    "SW n=2 is worse than the baseline on D_G",
    _pairs("global", "baseline", "sw:2"),
  ),
  # Its table's rank; no sentence says it.
  Claim(
    "c3",
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
  tested = max(1, sum(not math.isnan(p) for p in corrected))
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
  return row | {
    "difference": test.difference,
    **_ends(metrics.interval_of_mean(change)),
    "pairs": test.pairs,
    "p_wilcoxon": test.wilcoxon,
    "change": change,
  }


def _over_methods(values: Values, data: str, what: str) -> dict[str, Any]:
  """Claim (e): of the paper's methods that are there, and the same people."""
  methods = [method for method in TABLE_1 if method in values[DATA[0]]]
  if len(methods) < _LEAST_METHODS:
    missing = [method for method in TABLE_1 if method not in methods]
    return {"verdict": " ".join([LACKS, *missing])}
  mean = metrics.mean_without_nan
  of_data = np.array([[mean(values[d][m]) for m in methods] for d in DATA])
  people = np.moveaxis(of_data, -1, 0)  # [S, 2, M]
  people = people[~np.isnan(people).any(axis=(1, 2))]
  if len(people) < 2:
    return {"pairs": len(people)}
  theirs = np.array(
    [[[*vars(paper.spread_of(of, m)).values()] for m in methods] for of in DATA]
  )  # [2, M, mean, sd, ...]
  if what == _RHO:
    k = DATA.index(data)
    own = people[:, k]
    rho, p = float(_correlations(own[None])[0]), math.nan
    if not math.isnan(rho):  # SciPy warns of what is constant
      sds = own.std(axis=0, ddof=1)
      p = float(stats.spearmanr(own.mean(axis=0), -sds).pvalue)
    row = _sides("paper", [float(_spearman(*theirs[k, :, :2].T)), 0.0])
    row |= _sides("ours", [rho, 0.0]) | {"difference": rho}
    row |= _ends(metrics.interval(own, _correlations)) | {"p_wilcoxon": p}
  else:
    distances = np.abs(people - np.median(people, axis=0)).mean(axis=2).T
    sds = _sds(people[None])[0].tolist()
    row = _sides("paper", theirs[:, :, 1].mean(axis=1).tolist())
    row |= _sides("ours", sds) | {"difference": sds[0] - sds[1]}
    row |= _ends(metrics.interval(people, lambda p: -np.diff(_sds(p))[:, 0]))
    row |= {"p_wilcoxon": metrics.paired_tests(*distances).wilcoxon}
    row |= {"change": metrics.paired_changes(*distances)}
  return row | {"pairs": len(people)}


def _sides(whose: str, both: Sequence[float]) -> dict[str, Any]:
  return dict(zip((f"{whose}_method", f"{whose}_against"), both))


def _ends(interval: tuple[float, float]) -> dict[str, Any]:
  return dict(zip(("low", "high"), interval))


def _correlations(people: np.ndarray) -> np.ndarray:
  """Of people's accuracies [R, S, M]: [R]; see `_spearman`."""
  return _spearman(people.mean(axis=1), people.std(axis=1, ddof=1))


def _spearman(means: np.ndarray, sds: np.ndarray) -> np.ndarray:
  """Correlation of the ranks of mean and -sd [..., M]; NaN if all are alike."""
  # Equal means may differ in their last bits.
  ranks = stats.rankdata(np.round([means, -sds], 12), axis=-1)
  first, second = ranks - ranks.mean(axis=-1, keepdims=True)
  norms = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
  with np.errstate(invalid="ignore"):
    return (first * second).sum(axis=-1) / norms


def _sds(people: np.ndarray) -> np.ndarray:
  """Standard deviation over people [R, S, 2, M], mean over methods: [R, 2]."""
  return people.std(axis=1, ddof=1).mean(axis=-1)


def text(table: pd.DataFrame) -> str:
  """What `judge` found, as Markdown: verdicts, comparisons, and notes."""
  claims = table.drop_duplicates("claim")
  says = {claim.name: claim.says for claim in CLAIMS}
  summary: markdown.Columns = [
    ("", "claim", claims["claim"]),
    ("", "the paper says", claims["claim"].map(says)),
    ("", "here", [_told(table, claim) for claim in CLAIMS]),
    ("", "at p < .1, uncorrected", [loosely(table, c) for c in CLAIMS]),
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
    ("", "people needed", map(_count, table["people_needed"])),
  ]
  tested = table.drop_duplicates(["data", "method", "against"])
  count = tested["p_holm"].notna().sum()
  notes = f"""\
a1 to a3 and b2 ask for one of their comparisons, the others for all of them.
The paper tests most of them at p < .1 and names no correction, as the first
table's last column does.
Difference [95%]: mean over people, paired; percentiles of 10,000 bootstrap
samples of people. p: Wilcoxon's signed-rank test, two-sided; Holm: corrected
over all {count} comparisons. A comparison holds, or doesn't (the other way), if
this is below 0.05 and the interval lies on that side of 0.
People needed, an estimate: those with whom Wilcoxon's test would tell a
difference of the observed size with a power of 80% at 0.05 / {count}, by the
normal approximation: pi / 3 ((z(1 - 0.05 / {2 * count}) + z(0.8)) sd / mean)^2.
It takes the observed difference for the true one, and adds no evidence to p.
e1: Spearman's correlation, of more accuracy with less sd, and its p over the
paper's methods that are here, as if they were independent: they share people,
and near 1 a higher mean leaves less room for an sd. What it needs more of is
methods, not people. e2: p compares each person's distances from the medians
over people.
"""
  return "\n\n".join(
    [markdown.aligned(summary, 4), markdown.aligned(comparisons, 3), notes]
  )


def _told(table: pd.DataFrame, claim: Claim) -> str:
  """A claim's verdict; if it can't be told, with how many people."""
  own = table[table["claim"] == claim.name]
  verdict, needed = own["claim_verdict"].iloc[0], own["people_needed"].dropna()
  if verdict != UNSURE or needed.empty:
    return str(verdict)
  # One comparison is enough to settle it one way, all are needed for the other.
  way = own["difference"] < 0 if claim.every else own["difference"] > 0
  enough = needed[way[needed.index]]
  most = needed.max() if enough.empty else enough.min()
  what = "refute" if claim.every != enough.empty else "confirm"
  return (
    f"{verdict} with {own['pairs'].max():.0f} people; {_count(most)} needed to"
    f" {what} it (estimate)"
  )


def loosely(table: pd.DataFrame, claim: Claim) -> str:
  """A claim's verdict by p < .1 without a correction, as the paper tests."""
  own = table[table["claim"] == claim.name]
  verdicts = own["verdict"].mask(~own["verdict"].str.startswith(LACKS), UNSURE)
  told = own["p_wilcoxon"] < _THEIR_LEVEL
  verdicts = verdicts.mask(told & (own["difference"] > 0), HOLDS)
  verdicts = verdicts.mask(told & (own["difference"] < 0), FAILS)
  return _verdict([*verdicts], every=claim.every)


def _count(people: float) -> str:
  if people > _MOST_PEOPLE:
    return f">{_MOST_PEOPLE}"
  return markdown.cells([people], ".0f")[0]


def _both(table: pd.DataFrame, whose: str, form: str) -> list[str]:
  sides = [table[f"{whose}_{side}"] for side in ("method", "against")]
  return [
    " / ".join(pair) for pair in zip(*(markdown.cells(s, form) for s in sides))
  ]


def _ranges(table: pd.DataFrame) -> list[str]:
  columns = ("difference", "low", "high")
  cells = [markdown.cells(table[column], "+z.4f") for column in columns]
  return [
    "-" if mean == "-" else f"{mean} [{low}, {high}]"
    for mean, low, high in zip(*cells)
  ]
