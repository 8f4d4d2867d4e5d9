"""Table I and its like, from predictions (NumPy, pandas)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from personalization_jax.analysis import metrics
from personalization_jax.analysis.columns import DATA, TABLE_COLUMNS
from personalization_jax.analysis.result import Result
from personalization_jax.methods import known_method

# Data of `columns.DATA` -> method -> accuracies of seeds and people [K, S].
Values = Mapping[str, Mapping[str, np.ndarray]]

SHAPING, GROUPING = "Shaping", "Data grouping"


def of_results(
  results: Sequence[Result],
  labels: np.ndarray | None = None,
  distances: np.ndarray | None = None,
  baseline: str | None = None,
) -> pd.DataFrame:
  """The paper's Table I of finished methods, as `compare` describes it.

  An individual's accuracy is the mean over the seeds whose model didn't
  diverge; for tests, over those where neither of the two methods' did. Rows are
  of `TABLE_COLUMNS` and `one_model`. A cell is NaN where a number can't be
  computed, None where there is none: tests of the baseline, rank without a
  mean, fairness without distances.

  Source: section IV, Table I.
  """
  by_method = by_seed(results)
  return of_accuracies(
    {data: stacked(by_method, data, labels) for data in DATA},
    {
      method: sum(int(one.diverged.sum()) for one in own)
      for method, own in by_method.items()
    },
    {result.method for result in results if result.one_model},
    distances,
    baseline,
  )


def of_accuracies(
  values: Values,
  diverged: Mapping[str, int],
  one_model: Collection[str],
  distances: np.ndarray | None = None,
  baseline: str | None = None,
) -> pd.DataFrame:
  """As `of_results`, of accuracies.

  `diverged` counts each method's models that did; `one_model` has the methods
  of which all people share one.
  """
  by_method = values["individual"]
  if baseline is None:
    parts = [(half, baseline_of(half)) for half in halves(by_method).values()]
  elif baseline in by_method:
    parts = [(list(by_method), baseline)]
  else:
    raise ValueError(
      f"baseline={baseline!r} must be one of {', '.join(by_method)}."
    )
  rows: dict[str, dict[str, Any]] = {}
  for methods, reference in parts:
    for method in methods:
      rows[method] = dict.fromkeys(TABLE_COLUMNS) | {
        "method": method,
        "diverged": diverged[method],
        "seeds": len(by_method[method]),
        "one_model": method in one_model,
      }
    # acc(D_I) of one model is many numbers: people differ.
    for data, single in zip(DATA, ((), one_model)):
      of_data = {method: values[data][method] for method in methods}
      for method, own in _columns_of(data, of_data, reference, single).items():
        rows[method] |= own
  if distances is not None and len(distances) > 1:
    for method, row in rows.items():
      means = metrics.mean_without_nan(by_method[method])
      fairness = metrics.individual_fairness(means, distances)
      row |= {f"fairness_{name}": x for name, x in vars(fairness).items()}
  columns = [*TABLE_COLUMNS, "one_model"]
  return pd.DataFrame([*rows.values()], columns=columns, dtype=object)


def _columns_of(
  data: str,
  values: Mapping[str, np.ndarray],
  baseline: str | None,
  single: Collection[str],
) -> dict[str, dict[str, Any]]:
  """Method -> its columns of one accuracy [K, S], one number if in `single`."""
  means = map(metrics.mean_without_nan, values.values())
  spreads = [metrics.spread(of_people) for of_people in means]
  ranks = metrics.ranks([spread.mean for spread in spreads])
  tests: dict[str, metrics.Significance] = {}
  if baseline is not None:
    # Untested methods don't count in the others' correction.
    untested = values if baseline in single else single
    tests = metrics.significance(values, baseline, untested)
  found: dict[str, dict[str, Any]] = {}
  for method, rank, spread in zip(values, ranks, spreads):
    own = {**vars(spread), "rank": None if math.isnan(spread.mean) else rank}
    if method in single:
      own["sd"] = math.nan
    # Means of different people would take a difference of people for one of
    # seeds, so those whose model diverged with a seed are left out.
    complete = values[method][:, ~np.isnan(values[method]).any(axis=0)]
    own["seed_sd"] = metrics.spread(metrics.mean_without_nan(complete.T)).sd
    found[method] = {f"{data}_{name}": value for name, value in own.items()}
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


def accuracies(
  results: Iterable[Result], labels: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Every method's accuracies.

  Args:
    results: finished methods, each with one seed or several.
    labels: int32 [N], the store's; None if the results have their own.

  Returns:
    method -> (acc(D_I) [S], acc(D_G) [S]), each individual's mean over the
    seeds whose model didn't diverge; NaN if all did.

  Raises:
    ValueError: if there are none, or they aren't of the same individuals, seeds
      and test data.
  """
  by_method = by_seed(results)
  own, general = (stacked(by_method, data, labels) for data in DATA)
  mean = metrics.mean_without_nan
  return {m: (mean(own[m]), mean(general[m])) for m in by_method}


def stacked(
  by_method: Mapping[str, Sequence[Result]],
  data: str,
  labels: np.ndarray | None,
) -> dict[str, np.ndarray]:
  """Method -> its accuracies [K, S] on the data of `Result.{data}_accuracy`."""
  return {
    method: np.stack([getattr(r, f"{data}_accuracy")(labels)[0] for r in own])
    for method, own in by_method.items()
  }


def by_seed(results: Iterable[Result]) -> dict[str, list[Result]]:
  """Method -> its results, seeds in the same order, checked to be paired."""
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
    if seeds.keys() != reference.keys():
      both = (seeds, reference)
      there, wanted = (", ".join(map(str, sorted(each))) for each in both)
      raise ValueError(
        f"method {method!r} has seeds {there}, but {name!r} has {wanted}: give"
        " every method with the same seeds."
      )
    for seed, result in seeds.items():
      _check_paired(result, first, reference[seed])
  return {m: [seeds[k] for k in reference] for m, seeds in found.items()}


def named(
  results: Sequence[Result] | Mapping[str, Result | Sequence[Result]],
) -> Sequence[Result]:
  """The results; of a mapping, each with the name of its row as its method."""
  if not isinstance(results, Mapping):
    return results
  renamed = []
  for name, own in results.items():
    own = [own] if isinstance(own, Result) else own
    methods = dict.fromkeys(result.method for result in own)
    if len(methods) != 1:
      raise ValueError(
        f"results[{name!r}] must be of one method, with one seed or several,"
        f" but is of {' and '.join(map(repr, methods)) or 'none'}."
      )
    renamed += [dataclasses.replace(result, method=name) for result in own]
  return renamed


def _check_paired(result: Result, first: Result, other: Result) -> None:
  """Rejects other individuals than `first` has, or test rows than `other`."""
  what = f"method {result.method!r} with seed {result.seed} was"
  if not np.array_equal(result.individuals, first.individuals):
    raise ValueError(
      f"{what} trained for other individuals than {first.method!r} with seed"
      f" {first.seed}: take the same people for all."
    )
  for data, of in zip(DATA, ("the individuals", "D_G")):
    field = f"{data}_rows"
    if not np.array_equal(getattr(result, field), getattr(other, field)):
      raise ValueError(
        f"{what} tested on other samples of {of} than {other.method!r}"
        f" ({field} differ): make both from one split."
      )


def halves(methods: Iterable[str]) -> dict[str, list[str]]:
  """Table I's halves that aren't empty; custom names count as shaping."""
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
    group = method and method.group
    if method and (method.baseline or (group and group.kind == "random")):
      return spec
  return None
