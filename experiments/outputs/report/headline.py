"""A run in a few sentences: what its best method gives whom, at what cost."""

from __future__ import annotations

import math

import numpy as np

from experiments.outputs.report.runs import SIZES, Run, one_model
from personalization_jax.analysis import markdown, metrics, tables
from personalization_jax.analysis.columns import DATA

_NO_REFERENCE = "there is no baseline or global to compare it with"
_FEW, _MOST_NAMES = 10, 20


def of_results(run: Run) -> str | None:
  """The best method by mean acc(D_I) against its reference; None if untrained.

  The reference is what the run compares with: a method that was asked for, the
  baseline of its half of Table I, or else `global`.
  """
  methods = [*run.table["method"]]
  means = {
    of: {m: metrics.spread(run.accuracies(m, of)).mean for m in methods}
    for of in DATA
  }
  ranked = [m for m in methods if not math.isnan(means["individual"][m])]
  if not ranked:
    return None
  best = max(ranked, key=means["individual"].__getitem__)
  mean = f"mean acc(D_I) {means['individual'][best]:.4f}"
  half = next(own for own in tables.halves(methods).values() if best in own)
  reference = run.baseline or tables.baseline_of(half) or "global"
  if best == reference and len(ranked) > 1:
    return f"{best} has the highest {mean}: no other method has more."
  own, others = (
    run.accuracies(m, "individual", run.people, run.table_seeds)
    for m in (best, reference)
  )
  change = metrics.changes(*metrics.paired_means(own, others))
  change = change[~np.isnan(change)]
  if best == reference or not len(change):
    return f"{best} has the highest {mean}; {_NO_REFERENCE}."
  told = {}
  for of in DATA:
    values = {
      m: run.accuracies(m, of, run.people, run.table_seeds)
      for m in dict.fromkeys([*half, reference])
    }
    single = [m for m in values if of == "global" and one_model(m)]
    untested = values if reference in single else single
    tests = metrics.significance(values, reference, untested)
    told[of] = _difference(tests[best], reference, of)
  diverged = np.count_nonzero(np.isnan(own))
  lost = f" (left out: {diverged} of its models that diverged)"
  return (
    f"{best} is the best for individuals: {mean}{lost if diverged else ''},"
    f" {told['individual']}. Of {len(change)} individuals it helps"
    f" {np.count_nonzero(change > 0)} and hurts {np.count_nonzero(change < 0)}."
    f" On D_G's test data it has acc(D_G) {means['global'][best]:.4f},"
    f" {told['global']}."
  )


def _difference(test: metrics.Significance, reference: str, of: str) -> str:
  """How far a method is from its reference, and how sure that is."""
  points = 100 * test.difference
  where = "above" if points >= 0 else "below"
  if math.isnan(test.t_holm):
    why = "one model for all" if of == "global" else "too few or too alike"
    return f"{abs(points):.1f} points {where} {reference} (no test: {why})"
  (p,) = markdown.cells([test.t_holm], "p")
  but = "" if test.t_holm < 0.05 else ", but can't be told apart from it"
  return f"{abs(points):.1f} points {where} {reference}{but} (p {p})"


def of_data(run: Run) -> str:
  """Whose data a run is of, as far as its files say."""
  about, settings = run.about, run.settings
  sizes = run.results.groupby("individual")[list(SIZES)].max()
  each, of_all = sizes.T.values
  numbers = (
    [each.min(), np.median(each), each.max()] if np.ptp(each) else [each[0]]
  )
  tested = " / ".join(f"{number:g}" for number in numbers)
  spread = " (min / median / max)" if len(numbers) > 1 else ""
  others = settings.get("num_global_individuals")
  classes = about.get("num_classes") or len(about.get("label_names") or ())
  told = [
    f"{len(run.people)} individuals, each tested on {tested}{spread} samples of"
    " their own"
  ]
  if others:
    told.append(
      f"D_G of {others} other people, tested on {of_all.max():g} samples"
    )
  if classes:
    told.append(f"{classes} classes")
  if dataset := about.get("npz_path") or settings.get("dataset"):
    told.append(f"data: {dataset}")
  few = [name for name, size in zip(sizes.index, each) if size < _FEW]
  more = f" and {len(few) - _MOST_NAMES} more" if len(few) > _MOST_NAMES else ""
  names = (
    f" Fewer than {_FEW} test samples, so accuracies of coarse steps:"
    f" {', '.join(few[:_MOST_NAMES])}{more}."
  )
  return f"{'; '.join(told)}.{names if few else ''}"
