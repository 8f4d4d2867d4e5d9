"""Table I and its like, from predictions (NumPy, pandas)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from personalization_jax.analysis import metrics
from personalization_jax.analysis.columns import TABLE_COLUMNS
from personalization_jax.analysis.result import Result
from personalization_jax.methods import known_method

SHAPING, GROUPING = "Shaping", "Data grouping"
# Method -> acc(D_I) and acc(D_G), each [S], or [K, S] with a row for each seed.
Accuracies = dict[str, tuple[np.ndarray, np.ndarray]]


def of_results(
  results: Sequence[Result],
  labels: np.ndarray | None = None,
  distances: np.ndarray | None = None,
  baseline: str | None = None,
) -> pd.DataFrame:
  """The paper's Table I of finished methods.

  An individual's accuracy is the mean over the seeds whose model didn't
  diverge. Tests against the baseline leave out the seeds of an individual in
  which one of the two methods diverged, in both (see `metrics.significance`).
  If all individuals share one model, its acc(D_G) is one number: it has no sd
  over individuals, and isn't tested, nor is another method's against it.

  Args:
    results: one for each method and seed, every method with the same seeds; all
      results of the same individuals, and those of a seed of one split.
    labels: int32 [N], the store's; None if the results have their own.
    distances: float [S, S] between individuals in latent space, for individual
      fairness, if wanted.
    baseline: the method that all others are ranked with and tested against; by
      default each half of the table has its own.

  Returns:
    A row for each method, half by half, of `TABLE_COLUMNS` and `one_model`. A
    cell is NaN where a number can't be told, None where there is none to tell:
    tests of the baseline, rank without a mean, fairness without distances.

  Raises:
    ValueError: as `by_seed`, or if the baseline isn't among the methods.

  Source: section IV, Table I.
  """
  by_method = by_seed(results)
  values = _accuracies_by_seed(by_method, labels)
  if baseline is None:
    parts = [(half, baseline_of(half)) for half in halves(values).values()]
  elif baseline in values:
    parts = [(list(values), baseline)]
  else:
    raise ValueError(
      f"baseline={baseline!r} must be one of {', '.join(values)}."
    )
  one_model = {result.method for result in results if result.one_model}
  rows = []
  for methods, reference in parts:
    own, general = (
      _columns_of(
        data, {m: values[m][index] for m in methods}, reference, single
      )
      for index, (data, single) in enumerate(
        # acc(D_I) of one model is many numbers: people differ.
        (("individual", ()), ("global", one_model))
      )
    )
    for method in methods:
      row: dict[str, Any] = dict.fromkeys(TABLE_COLUMNS)
      row |= own[method] | general[method]
      row |= {
        "method": method,
        "diverged": sum(int(one.diverged.sum()) for one in by_method[method]),
        "seeds": len(by_method[method]),
        "one_model": method in one_model,
      }
      if distances is not None and len(distances) > 1:
        fairness = metrics.individual_fairness(
          metrics.mean_without_nan(values[method][0]), distances
        )
        for name, value in dataclasses.asdict(fairness).items():
          row[f"fairness_{name}"] = value
      rows.append(row)
  return pd.DataFrame(rows, columns=[*TABLE_COLUMNS, "one_model"], dtype=object)


def _columns_of(
  data: str,
  values: Mapping[str, np.ndarray],
  baseline: str | None,
  single: Collection[str],
) -> dict[str, dict[str, Any]]:
  """Method -> the columns of one accuracy [K, S], of methods ranked together.

  Methods in `single` have one number instead of one for each individual.
  """
  spreads = {
    method: metrics.spread(metrics.mean_without_nan(each))
    for method, each in values.items()
  }
  ranks = metrics.ranks([spread.mean for spread in spreads.values()])
  tests = {}
  if baseline is not None:
    untested = values if baseline in single else single
    # What isn't tested doesn't count in the others' correction.
    tests = metrics.with_holm(
      {
        method: dataclasses.replace(test, t=math.nan, wilcoxon=math.nan)
        if method in untested
        else test
        for method, test in metrics.significance(values, baseline).items()
      }
    )
  found: dict[str, dict[str, Any]] = {}
  for rank, (method, spread) in zip(ranks, spreads.items()):
    found[method] = {
      f"{data}_mean": spread.mean,
      f"{data}_rank": None if math.isnan(spread.mean) else rank,
      f"{data}_sd": math.nan if method in single else spread.sd,
      f"{data}_min": spread.min,
      f"{data}_max": spread.max,
      f"{data}_seed_sd": _seed_sd(values[method]),
    }
    if test := tests.get(method):
      found[method] |= {
        f"p_{data}": test.t,
        f"p_{data}_holm": test.t_holm,
        f"p_{data}_wilcoxon": test.wilcoxon,
        f"p_{data}_wilcoxon_holm": test.wilcoxon_holm,
        f"{data}_difference": test.difference,
        f"{data}_pairs": test.pairs,
      }
  return found


def _seed_sd(values: np.ndarray) -> float:
  """Standard deviation over seeds of the mean accuracy, of [K, S].

  Without individuals whose model diverged with a seed: means of different
  people would take a difference of people for one of seeds.
  """
  complete = values[:, ~np.isnan(values).any(axis=0)]
  return metrics.spread(metrics.mean_without_nan(complete.T)).sd


def accuracies(
  results: Iterable[Result], labels: np.ndarray | None = None
) -> Accuracies:
  """Every method's accuracies.

  Args:
    results: finished methods, each with one seed or several.
    labels: int32 [N], the store's; None if the results have their own.

  Returns:
    method -> (acc(D_I) [S], acc(D_G) [S]), each individual's mean over the
    seeds whose model didn't diverge; NaN if all did.

  Raises:
    ValueError: as `by_seed`.
  """
  own_of_all = _accuracies_by_seed(by_seed(results), labels)
  return {
    method: (
      metrics.mean_without_nan(own),
      metrics.mean_without_nan(general),
    )
    for method, (own, general) in own_of_all.items()
  }


def _accuracies_by_seed(
  by_method: Mapping[str, Sequence[Result]], labels: np.ndarray | None
) -> Accuracies:
  """Method -> acc(D_I) and acc(D_G), each [K, S]."""
  return {
    method: (
      np.stack([result.individual_accuracy(labels)[0] for result in own]),
      np.stack([result.global_accuracy(labels)[0] for result in own]),
    )
    for method, own in by_method.items()
  }


def by_seed(results: Iterable[Result]) -> dict[str, list[Result]]:
  """Method -> its results, seeds in the same order for all.

  Raises:
    ValueError: if there are none, or they can't be compared person by person.
  """
  found: dict[str, dict[int, Result]] = {}
  for result in results:
    seeds = found.setdefault(result.method, {})
    if result.seed in seeds:
      raise ValueError(
        f"method {result.method!r} has two results with seed {result.seed}:"
        " give one for each seed, or a name to each variant, as in"
        ' compare({"lr 1e-3": ..., "lr 1e-2": ...}, population).'
      )
    seeds[result.seed] = result
  if not found:
    raise ValueError("results is empty: there is nothing to compare.")
  name, reference = next(iter(found.items()))
  first = next(iter(reference.values()))
  for method, seeds in found.items():
    if set(seeds) != set(reference):
      there, wanted = (
        ", ".join(map(str, sorted(each))) for each in (seeds, reference)
      )
      raise ValueError(
        f"method {method!r} has seeds {there}, but {name!r} has {wanted}: give"
        " every method with the same seeds."
      )
    for seed, result in seeds.items():
      _check_paired(result, first, reference[seed])
  return {
    method: [seeds[seed] for seed in reference]
    for method, seeds in found.items()
  }


def _check_paired(result: Result, first: Result, other: Result) -> None:
  """Rejects other individuals than `first` has, or test rows than `other`."""
  what = f"method {result.method!r} with seed {result.seed} was"
  if not np.array_equal(result.individuals, first.individuals):
    raise ValueError(
      f"{what} trained for other individuals than {first.method!r} with seed"
      f" {first.seed}: take the same people for all."
    )
  for field, of in (
    ("individual_rows", "the individuals"),
    ("global_rows", "D_G"),
  ):
    if not np.array_equal(getattr(result, field), getattr(other, field)):
      raise ValueError(
        f"{what} tested on other samples of {of} than {other.method!r}"
        f" ({field} differ): make both from one split."
      )


def halves(methods: Iterable[str]) -> dict[str, list[str]]:
  """Table I's halves that aren't empty, each ranked and tested by itself.

  Methods that are no spec, but a name of one's own, are shaping.
  """
  found: dict[str, list[str]] = {}
  for spec in methods:
    method = known_method(spec)
    grouping = method is not None and method.group is not None
    found.setdefault(GROUPING if grouping else SHAPING, []).append(spec)
  return found


def baseline_of(half: Iterable[str]) -> str | None:
  """The first baseline or random group of a half, if any."""
  for spec in half:
    method = known_method(spec)
    if method and (
      method.baseline or (method.group and method.group.kind == "random")
    ):
      return spec
  return None
