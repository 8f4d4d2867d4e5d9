"""A run in a few sentences: what its best method gives whom, at what cost."""

from __future__ import annotations

import math

import numpy as np

from experiments.outputs.report.runs import SIZES, Run, one_model
from personalization_jax.analysis import markdown, metrics, tables
from personalization_jax.analysis.columns import DATA

_FEW, _MOST_NAMES = 10, 20


def of_results(run: Run) -> str | None:
  """The best method by mean acc(D_I) against its reference; None if untrained.

  The reference is what the run compares with: a method that was asked for, the
  baseline of its half of Table I or of the other one, or else `global`. The
  p-values are Table I's, which has none of another half's baseline.
  """
  methods = [*run.table["method"]]
  means = {
    of: {m: metrics.spread(run.accuracies(m, of)).mean for m in methods}
    for of in DATA
  }
  ranked = [m for m in methods if not math.isnan(means["individual"][m])]
  if not ranked:
    trained = run.results["method"].isin(methods).any()
    return "All models diverged." if trained else None
  best = max(ranked, key=means["individual"].__getitem__)
  mean = f"mean acc(D_I) {means['individual'][best]:.4f}"
  half = next(own for own in tables.halves(methods).values() if best in own)
  tested = run.baseline or tables.baseline_of(half)
  reference = tested or tables.baseline_of(methods) or "global"
  if best == reference and len(ranked) > 1:
    return f"{best} has the highest {mean}: no other method has more."
  changes = {}
  for of in DATA:
    own, others = (
      run.accuracies(m, of, run.people, run.table_seeds)
      for m in (best, reference)
    )
    change = metrics.changes(*metrics.paired_means(own, others))
    changes[of] = change[~np.isnan(change)]
  change = changes["individual"]
  if best == reference or not len(change):
    what = "nothing" if reference in methods else "no baseline or global"
    return f"{best} has the highest {mean}; there is {what} to compare it with."
  told = {}
  for of in DATA:
    points = 100 * changes[of].mean()
    where = "above" if points >= 0 else "below"
    told[of] = f"{abs(points):.1f} points {where} {reference}"
    if tested:
      p = dict(zip(methods, run.table[f"p_{of}_holm"]))[best]
      why = "too few or too alike"
      if of == "global" and any(map(one_model, (best, reference))):
        why = f"one model for {'each fold' if rotates(run) else 'all'}"
      told[of] += _significance(p, why)
  own = run.accuracies(best, "individual", run.people, run.table_seeds)
  diverged = np.count_nonzero(np.isnan(own))
  lost = f" (left out: {diverged} of its models that diverged)"
  return (
    f"{best} is the best for individuals: {mean}{lost if diverged else ''},"
    f" {told['individual']}. Of {len(change)} individuals it helps"
    f" {np.count_nonzero(change > 0)} and hurts {np.count_nonzero(change < 0)}."
    f" On D_G's test data it has acc(D_G) {means['global'][best]:.4f},"
    f" {told['global']}."
  )


def rotates(run: Run) -> bool:
  """Whether everyone is tested, fold by fold."""
  return run.settings.get("people") == "rotate"


def _significance(p: float, why: str) -> str:
  """How sure a difference is, or why there is no test of it."""
  if math.isnan(p):
    return f" (no test: {why})"
  (cell,) = markdown.cells([p], "p")
  but = "" if p < 0.05 else ", but can't be told apart from it"
  return f"{but} (p {cell})"


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
  own = settings.get("global_includes_individuals")
  also = " and the individuals' training samples" if own else ""
  classes = about.get("num_classes") or len(about.get("label_names") or ())
  told = [
    f"{len(run.people)} individuals, each tested on {tested}{spread} samples of"
    " their own"
  ]
  if rotates(run):
    folds = settings.get("num_folds")
    told.append(
      f"everyone is tested, in {folds} folds: D_G is all others{also}"
    )
  elif others:
    told.append(
      f"D_G of {others} other people{also}, tested on {of_all.max():g} samples"
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
