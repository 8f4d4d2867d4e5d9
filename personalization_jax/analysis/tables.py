"""Table I and its like, from predictions (NumPy, host)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.analysis.result import Result
from personalization_jax.methods import known_method

SHAPING, GROUPING = "Shaping", "Data grouping"


@dataclasses.dataclass(frozen=True)
class OverSeeds:
  """How a method's mean accuracies vary from seed to seed.

  They are means over the individuals whose model diverged with no seed: those
  of other people would take a difference of people for one of seeds.

  Attributes:
    count: how many seeds; the other numbers are NaN for one.
    individual_sd: standard deviation (ddof 1) of the mean acc(D_I).
    global_sd: of the mean acc(D_G).
  """

  count: int
  individual_sd: float
  global_sd: float


@dataclasses.dataclass(frozen=True)
class TableRow:
  """One row of Table I.

  Attributes:
    method: the spec, or the name of a method or variant of one's own.
    individual: spread of acc(D_I), of an individual's mean over seeds.
    individual_rank: rank of its mean; 1 is the highest.
    individual_p: against the baseline; None for the baseline itself or if
      there is none.
    global_: spread of acc(D_G).
    global_rank: rank of its mean.
    global_p: likewise.
    fairness: individual fairness of acc(D_I); None if there are no distances.
    diverged: how many models diverged; all numbers are without them.
    seeds: over how many seeds.
    one_model: all individuals share one model. Its acc(D_G) is one number: no
      sd over individuals, and p-values are NaN.
  """

  method: str
  individual: metrics.Spread
  individual_rank: int
  individual_p: metrics.Significance | None
  global_: metrics.Spread
  global_rank: int
  global_p: metrics.Significance | None
  fairness: metrics.IndividualFairness | None = None
  diverged: int = 0
  seeds: OverSeeds | None = None
  one_model: bool = False


Accuracies = dict[str, tuple[np.ndarray, np.ndarray]]


def accuracies(
  results: Iterable[Result], labels: np.ndarray | None
) -> Accuracies:
  """Every method's accuracies.

  Args:
    results: finished methods, each with one seed or several.
    labels: int32 [N], the store's; None if the results have their own.

  Returns:
    method -> (acc(D_I) [S], acc(D_G) [S]), an individual's mean over the seeds
    with which its model didn't diverge; NaN for who diverged with each of them.

  Raises:
    ValueError: as `of_results`.
  """
  return {
    method: (
      metrics.mean_without_nan(own),
      metrics.mean_without_nan(general),
    )
    for method, (own, general) in _by_seed(results, labels).items()
  }


def over_seeds(
  results: Iterable[Result], labels: np.ndarray | None = None
) -> dict[str, OverSeeds]:
  """How much the seed matters, for every method.

  Args:
    results: finished methods, each with one seed or several.
    labels: int32 [N], the store's; None if the results have their own.

  Returns:
    method -> the spread over seeds of its means over individuals.

  Raises:
    ValueError: as `of_results`.
  """
  return {
    method: OverSeeds(
      len(pair[0]),
      *(
        metrics.spread(
          metrics.mean_without_nan(values[:, ~np.isnan(values).any(axis=0)].T)
        ).sd
        for values in pair
      ),
    )
    for method, pair in _by_seed(results, labels).items()
  }


def _by_seed(
  results: Iterable[Result], labels: np.ndarray | None
) -> Accuracies:
  """Method -> acc(D_I) and acc(D_G), each [K, S], seeds in the same order."""
  return {
    method: (
      np.stack([result.individual_accuracy(labels)[0] for result in own]),
      np.stack([result.global_accuracy(labels)[0] for result in own]),
    )
    for method, own in by_seed(results).items()
  }


def by_seed(results: Iterable[Result]) -> dict[str, list[Result]]:
  """Every method's results, checked to be comparable person by person.

  Args:
    results: finished methods, each with one seed or several.

  Returns:
    method -> its results, with the seeds in the same order for all.

  Raises:
    ValueError: as `of_results`.
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
      raise ValueError(
        f"method {method!r} has seeds {_listed(seeds)}, but {name!r} has"
        f" {_listed(reference)}: give every method with the same seeds."
      )
    for seed, result in seeds.items():
      _check_paired(result, first, reference[seed])
  return {
    method: [seeds[seed] for seed in reference]
    for method, seeds in found.items()
  }


def _check_paired(result: Result, first: Result, other: Result) -> None:
  """Refuses what can't be compared person by person.

  Args:
    result: of any method and seed.
    first: whose individuals it must have.
    other: whose test rows it must have, of the same seed.
  """
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


def _listed(seeds: Iterable[int]) -> str:
  return ", ".join(map(str, sorted(seeds)))


def halves(methods: Iterable[str]) -> dict[str, list[str]]:
  """Table I's two halves, each ranked and tested by itself.

  Args:
    methods: specs, and names of methods of one's own, which are shaping.

  Returns:
    "Shaping" and "Data grouping" -> their specs; a half without any is left
    out.
  """
  found: dict[str, list[str]] = {}
  for spec in methods:
    method = known_method(spec)
    grouping = method is not None and method.group is not None
    found.setdefault(GROUPING if grouping else SHAPING, []).append(spec)
  return found


def baseline_of(half: Iterable[str]) -> str | None:
  """What a half is compared with: the first baseline or random group in it.

  Args:
    half: specs of one half.

  Returns:
    The baseline's spec, or None.
  """
  for spec in half:
    method = known_method(spec)
    if method is None:
      continue
    if method.baseline or (method.group and method.group.kind == "random"):
      return spec
  return None


def of_results(
  results: Sequence[Result],
  labels: np.ndarray | None = None,
  distances: np.ndarray | None = None,
  baseline: str | None = None,
) -> list[TableRow]:
  """The paper's Table I of finished methods.

  Args:
    results: one for each method and seed, every method with the same seeds; all
      results of the same individuals, and those of a seed of one split.
    labels: int32 [N], the store's; None if the results have their own.
    distances: see `table`.
    baseline: likewise.

  Returns:
    A row for each method, half by half.

  Raises:
    ValueError: if there is no result; a method has two with one seed, or other
      seeds than the others; the individuals differ, or with one seed the test
      rows; or as `table`.
  """
  seeds = over_seeds(results, labels)
  diverged: dict[str, int] = {}
  for result in results:
    before = diverged.get(result.method, 0)
    diverged[result.method] = before + int(result.diverged.sum())
  return [
    dataclasses.replace(
      row, seeds=seeds[row.method], diverged=diverged[row.method]
    )
    for row in table(
      _by_seed(results, labels),
      distances,
      baseline,
      one_model={result.method for result in results if result.one_model},
    )
  ]


def table(
  accuracies: Accuracies,
  distances: np.ndarray | None = None,
  baseline: str | None = None,
  one_model: Collection[str] = (),
) -> list[TableRow]:
  """The paper's Table I.

  Of several seeds an individual's mean counts. Means, ranks and fairness are of
  all models of a method that didn't diverge; who diverged with some seeds has
  the mean of the others there. Tests against the baseline leave out an
  individual's seeds with which one of the two methods diverged, in both (see
  `metrics.significance`).

  Args:
    accuracies: method -> (acc(D_I), acc(D_G)), each [S], or [K, S] with a row
      for each seed, in the same order everywhere; NaN for who diverged.
    distances: float [S, S] between individuals in latent space, for individual
      fairness; None leaves it out.
    baseline: what all methods are ranked with and tested against; by default
      each half of the table has its own.
    one_model: methods whose individuals all share one model. Its acc(D_G) is
      one number, however many share it: it has no sd over them, and isn't
      tested, nor is another method's against it.

  Returns:
    A row for each method, half by half.

  Raises:
    ValueError: if the baseline isn't among the methods, or shapes don't fit.

  Source: section IV, Table I.
  """
  if baseline is not None:
    if baseline not in accuracies:
      raise ValueError(
        f"baseline={baseline!r} must be one of {', '.join(accuracies)}."
      )
    return _part_of_table(accuracies, distances, baseline, one_model)
  return [
    row
    for half in halves(accuracies).values()
    for row in _part_of_table(
      {m: accuracies[m] for m in half}, distances, baseline_of(half), one_model
    )
  ]


def _part_of_table(
  accuracies: Accuracies,
  distances: np.ndarray | None,
  baseline: str | None,
  one_model: Collection[str],
) -> list[TableRow]:
  columns = []
  # acc(D_I) of one model is many numbers: people differ.
  for index, single in enumerate(((), one_model)):
    values = {
      method: np.atleast_2d(pair[index]) for method, pair in accuracies.items()
    }
    means = {
      method: metrics.mean_without_nan(each) for method, each in values.items()
    }
    spreads = {
      method: dataclasses.replace(spread, sd=math.nan)
      if method in single
      else spread
      for method, spread in (
        (method, metrics.spread(mean)) for method, mean in means.items()
      )
    }
    ranks = metrics.ranks([spread.mean for spread in spreads.values()])
    tests: dict[str, metrics.Significance] = {}
    if baseline is not None:
      tests = _tests(values, baseline, single)
    columns.append((spreads, dict(zip(values, ranks)), tests, means))
  own, general = columns
  return [
    TableRow(
      method=method,
      individual=own[0][method],
      individual_rank=own[1][method],
      individual_p=own[2].get(method),
      global_=general[0][method],
      global_rank=general[1][method],
      global_p=general[2].get(method),
      fairness=None
      if distances is None or len(distances) < 2
      else metrics.individual_fairness(own[3][method], distances),
      diverged=int(np.isnan(accuracies[method][0]).sum()),
      one_model=method in one_model,
    )
    for method in accuracies
  ]


def _tests(
  values: Mapping[str, np.ndarray], baseline: str, single: Collection[str]
) -> dict[str, metrics.Significance]:
  """Tests against the baseline; p is NaN where a side is a single number."""
  untested = values if baseline in single else single
  # What isn't tested doesn't count in the others' correction.
  return metrics.with_holm(
    {
      method: dataclasses.replace(test, t=math.nan, wilcoxon=math.nan)
      if method in untested
      else test
      for method, test in metrics.significance(values, baseline).items()
    }
  )
