"""Table I and its like, from predictions (NumPy, host)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from personalization_jax import metrics
from personalization_jax.methods import known_method
from personalization_jax.result import Result

SHAPING, GROUPING = "Shaping", "Data grouping"


@dataclasses.dataclass(frozen=True)
class OverSeeds:
  """How a method's mean accuracies vary from seed to seed.

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


Accuracies = dict[str, tuple[np.ndarray, np.ndarray]]


def accuracies(results: Iterable[Result], labels: np.ndarray) -> Accuracies:
  """Every method's accuracies.

  Args:
    results: finished methods, each with one seed or several.
    labels: int32 [N], the store's labels.

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
  results: Iterable[Result], labels: np.ndarray
) -> dict[str, OverSeeds]:
  """How much the seed matters, for every method.

  Args:
    results: finished methods, each with one seed or several.
    labels: int32 [N], the store's labels.

  Returns:
    method -> the spread over seeds of its means over individuals.
  """
  return {
    method: OverSeeds(
      len(own),
      metrics.spread(metrics.mean_without_nan(own.T)).sd,
      metrics.spread(metrics.mean_without_nan(general.T)).sd,
    )
    for method, (own, general) in _by_seed(results, labels).items()
  }


def _by_seed(
  results: Iterable[Result], labels: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Method -> acc(D_I) and acc(D_G), each [seeds, S]."""
  found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
  for result in results:
    own, general = (
      result.individual_accuracy(labels)[0],
      result.global_accuracy(labels)[0],
    )
    found.setdefault(result.method, []).append((own, general))
  return {
    method: (np.stack([o for o, _ in pairs]), np.stack([g for _, g in pairs]))
    for method, pairs in found.items()
  }


def _mean_over_seeds(values: np.ndarray) -> np.ndarray:
  """Means of the columns, without NaN; NaN for a column of nothing else."""
  counted = ~np.isnan(values)
  with np.errstate(invalid="ignore"):
    return np.where(counted, values, 0.0).sum(axis=0) / counted.sum(axis=0)


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
  labels: np.ndarray,
  distances: np.ndarray | None = None,
  baseline: str | None = None,
) -> list[TableRow]:
  """The paper's Table I of finished methods.

  Args:
    results: every method with the same seeds.
    labels: int32 [N], the store's labels.
    distances: see `table`.
    baseline: likewise.

  Returns:
    A row for each method, half by half.
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
    for row in table(_by_seed(results, labels), distances, baseline)
  ]


def table(
  accuracies: Accuracies,
  distances: np.ndarray | None = None,
  baseline: str | None = None,
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
    return _part_of_table(accuracies, distances, baseline)
  return [
    row
    for half in halves(accuracies).values()
    for row in _part_of_table(
      {m: accuracies[m] for m in half}, distances, baseline_of(half)
    )
  ]


def _part_of_table(
  accuracies: Accuracies, distances: np.ndarray | None, baseline: str | None
) -> list[TableRow]:
  columns = []
  for index in range(2):
    values = {
      method: np.atleast_2d(pair[index]) for method, pair in accuracies.items()
    }
    means = {
      method: metrics.mean_without_nan(each) for method, each in values.items()
    }
    spreads = {method: metrics.spread(mean) for method, mean in means.items()}
    ranks = metrics.ranks([spread.mean for spread in spreads.values()])
    tests: dict[str, metrics.Significance] = {}
    if baseline is not None:
      tests = metrics.significance(values, baseline)
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
    )
    for method in accuracies
  ]
