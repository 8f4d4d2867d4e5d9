"""What the report says of several runs, beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.outputs.report import comparison
from experiments.outputs.report.comparison import Data
from experiments.outputs.report.formats import (
  NOTHING,
  ONE_MODEL,
  corrected,
  number,
  p_value,
  value,
)
from experiments.outputs.report.markup import (
  Html,
  element,
  join,
  picture,
  table,
)
from experiments.outputs.report.runs import Run
from personalization_jax import figures
from personalization_jax.analysis import metrics
from personalization_jax.figures import styles

_ACCURACIES: dict[Data, str] = {"individual": "acc(D_I)", "global": "acc(D_G)"}


def section(runs: Sequence[Run], anchor: str) -> Html:
  """Everything that differs between runs.

  Args:
    runs: two or more; the others are compared with the first.
    anchor: the id of its heading.

  Returns:
    The section.
  """
  parts = [
    element("h2", "Comparison", id=anchor),
    element("h3", "Settings that differ"),
    _settings(runs),
    element("h3", "Accuracies"),
  ]
  without = [run.name for run in runs if run.results is None]
  if without:
    parts.append(
      element("p", f"No results.csv yet: {', '.join(without)}.", class_="state")
    )
  compared = [run for run in runs if run.results is not None]
  methods = comparison.methods_in_common(compared) if compared else []
  if not methods:
    parts.append(element("p", "No two of the runs share a method."))
    return element("section", *parts, aria_labelledby=anchor)
  parts += [_table(compared, methods, of) for of in _ACCURACIES]
  parts += [_notes(compared, methods), _figure(compared)]
  return element("section", *parts, aria_labelledby=anchor)


def _settings(runs: Sequence[Run]) -> Html:
  rows = comparison.differing(runs)
  said = [
    element("p", "No flag differs.")
    for _ in range(not any(name.startswith("--") for name, _ in rows))
  ]
  if rows:
    said.append(
      table(
        "What differs",
        ("Setting", *(run.name for run in runs)),
        [(name, *map(value, values)) for name, values in rows],
        text_columns=1 + len(runs),
      )
    )
  return join(said)


def _table(runs: Sequence[Run], methods: Sequence[str], of: Data) -> Html:
  first, *others = runs
  accuracies = [comparison.accuracies(run, of) for run in runs]
  header, groups = ["Method", "mean (sd)"], [("", 1), (first.name, 1)]
  found = []
  for run in others:
    tests = ["pairs", "t, p", "Holm", "Wilcoxon, p", "Holm"]
    if not comparison.common(first, run).people:
      tests = ["Welch, p", "Holm"]
    header += ["mean (sd)", "difference", *tests]
    groups.append((run.name, 2 + len(tests)))
    found.append((tests, comparison.compare(first, run, methods, of)))
  rows = []
  for method in methods:
    row = [method, _mean(accuracies[0], method, of)]
    for values, (tests, differences) in zip(accuracies[1:], found):
      if method not in differences:
        row += [NOTHING] * (2 + len(tests))
        continue
      one = differences[method]
      paired = "pairs" in tests
      row += [
        _mean(values, method, of),
        number(one.difference, "+.4f"),
        *([str(one.pairs)] if paired else []),
        p_value(one.t),
        corrected(one.t_holm),
      ]
      if paired:
        row += [p_value(one.wilcoxon), corrected(one.wilcoxon_holm)]
    rows.append(row)
  return table(
    f"{_ACCURACIES[of]} of each run, and its difference to {first.name}",
    header,
    rows,
    groups=groups,
  )


def _mean(accuracies: dict[str, np.ndarray], method: str, of: Data) -> str:
  spread = metrics.spread(accuracies[method])
  sd = math.nan if comparison.one_model(method, of) else spread.sd
  return f"{number(spread.mean)} ({number(sd)})"


def _notes(runs: Sequence[Run], methods: Sequence[str]) -> Html:
  first, *others = runs
  lines = [
    "mean (sd): of each run by itself, over individuals, without who diverged;"
    f" difference: to {first.name}. All tests are two-sided; Holm: corrected"
    " over the methods of a run (* below 0.05)."
  ]
  shared = [comparison.common(first, run) for run in others]
  if any(both.people for both in shared):
    lines.append(
      "pairs: individuals in both runs, each by the mean over the seeds with"
      " which neither run's model diverged. Difference and tests are of these"
      " alone, so the difference needn't be that of the means beside it."
    )
  lines += [_paired_by(first, run, both) for run, both in zip(others, shared)]
  for run in runs:
    lines += _seeds(run)
  if any(comparison.one_model(method, "global") for method in methods):
    lines.append(ONE_MODEL)
  alone = [
    f"{run.name} ({', '.join(left)})"
    for run in runs
    if (
      left := [
        method
        for method in comparison.accuracies(run, "individual")
        if method not in methods
      ]
    )
  ]
  if alone:
    lines.append(f"Not compared, for want of the other: {'; '.join(alone)}.")
  return join([element("p", line, class_="notes") for line in lines])


def _seeds(run: Run) -> list[str]:
  """What seeds a run's means are over, if there are several."""
  assert run.results
  seeds = run.table_seeds or run.results.seeds
  lines = []
  if len(seeds) > 1:
    lines.append(
      f"{run.name}: {len(seeds)} seeds; an individual's accuracy is the mean"
      " over them."
    )
  own: dict[str, list[str]] = {}
  for method, seed in run.beside:
    if run.table_seeds and method not in run.table_methods:
      own.setdefault(method, []).append(seed)
  if own:
    left = "; ".join(f"{x} (seed {', '.join(own[x])})" for x in own)
    lines.append(
      f"{run.name}: Table I is of seed {', '.join(seeds)}; not in there, and so"
      f" by their own seeds: {left}."
    )
  return lines


def _paired_by(first: Run, run: Run, both: comparison.Common) -> str:
  """How a run is compared with the first one."""
  if not both.people:
    return (
      f"{run.name}: other data or other individuals than {first.name}, so it is"
      " Welch's t-test, which takes them as unrelated people."
    )
  here, there = (len(comparison.individuals(one)) for one in (first, run))
  whom = "the same data and individuals as"
  if not len(both.people) == here == there:
    whom = (
      f"the same data as, and {len(both.people)} of {there} individuals in"
      f" common with the {here} of"
    )
  assert first.results and run.results
  if not both.seeds:
    by = (
      " They have no seed in common, so an individual's means over each run's"
      " own seeds are compared, and other seeds count as a difference too."
    )
  elif {*first.results.seeds, *run.results.seeds} == {*both.seeds}:
    by = ""
  else:
    by = f" Only what both have with seed {', '.join(both.seeds)} is compared."
  return (
    f"{run.name}: {whom} {first.name}, so the t-test and Wilcoxon's signed-rank"
    f" test are paired over individuals.{by}"
  )


def _figure(runs: Sequence[Run]) -> Html:
  shown = runs[: figures.MOST_RUNS]
  axes = figures.runs(
    {run.name: comparison.accuracies(run, "individual") for run in shown}
  )
  names = ", ".join(run.name for run in shown)
  shows = f"acc(D_I) of each method in {names}; bars: one sd over individuals."
  return picture(
    figures.png(styles.figure_of(axes)),
    f"Figure: the runs compared. {shows} The numbers are in the tables above.",
    f"The runs compared. {shows}",
  )
