"""What a method gave people: accuracy, fairness, significance (NumPy, host)."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from personalization_jax.datasets.splits import PADDING


def accuracy(
  predictions: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Each individual's accuracy, over exactly the rows that are rows.

  Args:
    predictions: int32 [S, R], predicted classes.
    labels: int32 [N], the store's labels.
    rows: int32 [S, R], the rows classified, -1 for padding.

  Returns:
    Accuracy float64 [S] in 0..1, NaN for who has no rows, and the number of
    rows it stands on [S].

  Source: section II-A, acc(D_I) and acc(D_G).
  """
  return share_correct(
    predictions, np.where(rows == PADDING, PADDING, labels[rows])
  )


def share_correct(
  predictions: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """`accuracy`, from the true classes themselves.

  Args:
    predictions: int32 [S, R], predicted classes.
    truth: int32 [S, R], true classes, -1 for padding.

  Returns:
    Accuracy float64 [S] in 0..1, NaN for who has no rows, and the number of
    rows it stands on [S].
  """
  scored = truth != PADDING
  correct = scored & (predictions == truth)
  size = scored.sum(axis=1)
  with np.errstate(invalid="ignore"):
    return correct.sum(axis=1) / size, size


@dataclasses.dataclass(frozen=True)
class Spread:
  """How one accuracy is spread over individuals (section II-A, fairness).

  Attributes:
    mean: acc(D_S), the mean over individuals.
    sd: standard deviation over individuals (ddof 1); NaN for one individual.
    min: the worst treated individual's.
    max: the best treated individual's.
  """

  mean: float
  sd: float
  min: float
  max: float


def spread(accuracies: np.ndarray) -> Spread:
  """Mean, standard deviation, minimum and maximum.

  Args:
    accuracies: float [S]; NaN, of a model that diverged, is left out.

  Returns:
    The four numbers; NaN if there is nobody.
  """
  values = np.asarray(accuracies, np.float64)
  values = values[~np.isnan(values)]
  if not len(values):
    return Spread(*[float("nan")] * 4)
  return Spread(
    mean=float(values.mean()),
    sd=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
    min=float(values.min()),
    max=float(values.max()),
  )


def changes(values: Any, reference: Any) -> np.ndarray:
  """How far each accuracy lies above another: who gains, who is hurt.

  All that asks which of two accuracies is higher asks here. Means of the same
  counts can differ in the last bit by order of summation: that is a tie.

  Args:
    values: float, of any shape; NaN for who has none.
    reference: float, of a shape that fits.

  Returns:
    float64, the differences: above 0 for who gains, below for who is hurt, 0
    for a tie; NaN where one of the two is.
  """
  # Above 0 and -0 alike stands 0.
  return np.round(np.subtract(values, reference, dtype=np.float64), 12) + 0.0


def mean_without_nan(values: np.ndarray) -> np.ndarray:
  """The mean of each column, such as an individual's over seeds.

  Args:
    values: float [K, S]; NaN, of a model that diverged, is left out.

  Returns:
    float64 [S]; NaN for a column of nothing else.
  """
  counted = ~np.isnan(values)
  with np.errstate(invalid="ignore"):
    return np.where(counted, values, 0.0).sum(axis=0) / counted.sum(axis=0)


def paired_means(
  values: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Everybody's means over the seeds that two methods have in common.

  The mean of some seeds against that of others would take a difference of seeds
  for one of methods.

  Args:
    values: float [S], or [K, S] with a row for each of K seeds; NaN, of a model
      that diverged, is left out, and so is its pair.
    reference: likewise, of the other method; individuals and seeds in the same
      order.

  Returns:
    Both means, float64 [S] each; NaN for who has no such seed.
  """
  values, reference = (
    np.atleast_2d(np.asarray(side, np.float64)) for side in (values, reference)
  )
  both = ~np.isnan(values - reference)
  return (
    mean_without_nan(np.where(both, values, np.nan)),
    mean_without_nan(np.where(both, reference, np.nan)),
  )


def ranks(means: Sequence[float]) -> list[int]:
  """Ranks of means: 1 is the highest, equal means share the better rank.

  Args:
    means: one mean for each method; NaN comes last.

  Returns:
    One rank for each method.
  """
  known = np.nan_to_num(np.asarray(means, np.float64), nan=-1.0)
  return [int(1 + (changes(known, value) > 0).sum()) for value in known]


@dataclasses.dataclass(frozen=True)
class Significance:
  """Two-sided paired tests of a method against its baseline.

  Attributes:
    t: p of the paired t-test; NaN if everybody differs by the same, not 0: it
      takes how differences vary for how sure they are, and they don't.
    wilcoxon: p of Wilcoxon's signed-rank test.
    t_holm: p of the t-test, Holm-corrected over the methods compared.
    wilcoxon_holm: likewise for Wilcoxon's.
    difference: mean over the pairs, the method's accuracy minus the baseline's;
      NaN without any. Where models diverged it isn't the difference between the
      means of all individuals of each method.
    pairs: how many individuals are compared.
  """

  t: float
  wilcoxon: float
  t_holm: float
  wilcoxon_holm: float
  difference: float
  pairs: int


def significance(
  accuracies: Mapping[str, np.ndarray], baseline: str
) -> dict[str, Significance]:
  """Tests every method against the baseline, paired over individuals.

  Several seeds are averaged for each individual first, over those with which
  neither of the two methods has NaN (`paired_means`). Who has no such seed is
  left out of difference, tests and count.

  Args:
    accuracies: method -> float [S], or [K, S] with a row for each of K seeds;
      individuals and seeds in the same order everywhere.
    baseline: the method that the others are compared with.

  Returns:
    method -> its difference and p-values, for all methods but the baseline.
    With fewer than two pairs the p-values are NaN.

  Raises:
    ValueError: if a method has another number of individuals or of seeds.
  """
  reference = np.atleast_2d(np.asarray(accuracies[baseline], np.float64))
  others = [method for method in accuracies if method != baseline]
  tests = {}
  for method in others:
    values = np.atleast_2d(np.asarray(accuracies[method], np.float64))
    for count, there, what in zip(
      values.shape, reference.shape, ("seeds", "individuals")
    ):
      if count != there:
        raise ValueError(
          f"method {method!r} has {count} {what}, but {baseline!r} has {there}:"
          " they can't be paired."
        )
    means = paired_means(values, reference)
    differences = np.subtract(*means)
    tests[method] = Significance(
      t=_paired_t(*means),
      wilcoxon=_wilcoxon(*means),
      t_holm=math.nan,
      wilcoxon_holm=math.nan,
      difference=spread(differences).mean,
      pairs=int((~np.isnan(differences)).sum()),
    )
  return with_holm(tests)


def with_holm(tests: Mapping[str, Significance]) -> dict[str, Significance]:
  """Tests of several methods, with Holm's correction over them.

  Args:
    tests: method -> its tests, of which `t` and `wilcoxon` count.

  Returns:
    The same with `t_holm` and `wilcoxon_holm`.
  """
  t = holm([test.t for test in tests.values()])
  wilcoxon = holm([test.wilcoxon for test in tests.values()])
  return {
    method: dataclasses.replace(
      test, t_holm=t_corrected, wilcoxon_holm=wilcoxon_corrected
    )
    for (method, test), t_corrected, wilcoxon_corrected in zip(
      tests.items(), t, wilcoxon
    )
  }


def welch(values: np.ndarray, reference: np.ndarray) -> float:
  """Two-sided Welch's t-test, for accuracies of different people.

  Args:
    values: float [S]; NaN, of a model that diverged, is left out.
    reference: float [M], likewise.

  Returns:
    p; NaN with fewer than two people on a side, or if all people of each side
    are alike and the sides differ: without variance the test can't tell.

  Source: B. L. Welch, "The generalization of Student's problem when several
  different population variances are involved", Biometrika, 1947.
  """
  values, reference = (
    np.asarray(side, np.float64)[~np.isnan(side)]
    for side in (values, reference)
  )
  if min(len(values), len(reference)) < 2:
    return float("nan")
  if _constant(values) and _constant(reference):
    # Nobody differs: no evidence at all.
    return float("nan") if changes(values[0], reference[0]) else 1.0
  with warnings.catch_warnings():
    # SciPy warns of a constant side; the p-value it returns is right.
    warnings.simplefilter("ignore", RuntimeWarning)
    return float(stats.ttest_ind(values, reference, equal_var=False).pvalue)


@dataclasses.dataclass(frozen=True)
class IndividualFairness:
  """How differently a method treats similar individuals (section II-A).

  Over all pairs of individuals, with the distance of their class means in
  latent space as dissimilarity. Smaller ratios are fairer; a method that treats
  the similar alike has a positive rank correlation.

  Attributes:
    max_ratio: the largest difference in accuracy over distance; NaN, as the
      others, if no two individuals can be compared.
    mean_ratio: the mean of that ratio.
    rank_correlation: Spearman's, of difference in accuracy and distance; NaN
      if one of the two is the same for all pairs.
    coincide: how many pairs are at distance 0, and have no ratio. They count in
      the rank correlation, as the nearest.
  """

  max_ratio: float
  mean_ratio: float
  rank_correlation: float
  coincide: int = 0


def individual_fairness(
  accuracies: np.ndarray, distances: np.ndarray
) -> IndividualFairness:
  """Compares differences in accuracy with distances of individuals.

  Args:
    accuracies: float [S]; NaN, of a model that diverged, is left out.
    distances: float [S, S], symmetric, in latent space; infinite for pairs that
      can't be compared, such as two without a common class, which are left out.

  Returns:
    The numbers; NaN if no pair can be compared.

  Raises:
    ValueError: if shapes don't fit.

  Source: section II-A (3), similarity by the L2 norm in latent space; C. Dwork
  et al., "Fairness through awareness", 2012, for the ratio.
  """
  count = len(accuracies)
  if distances.shape != (count, count):
    raise ValueError(
      f"distances must have shape {(count, count)}, one for each pair, but have"
      f" shape {distances.shape}."
    )
  first, second = np.triu_indices(count, k=1)
  distance = np.asarray(distances, np.float64)[first, second]
  compared = np.isfinite(distance)
  compared &= ~np.isnan(accuracies[first] - accuracies[second])
  if not compared.any():
    nan = float("nan")
    return IndividualFairness(nan, nan, nan)
  distance = distance[compared]
  difference = np.abs(changes(accuracies[first], accuracies[second]))[compared]
  apart = distance > 0
  ratio = spread(difference[apart] / distance[apart])
  constant = len(set(difference)) == 1 or len(set(distance)) == 1
  return IndividualFairness(
    max_ratio=ratio.max,
    mean_ratio=ratio.mean,
    rank_correlation=float("nan")
    if constant
    else float(stats.spearmanr(distance, difference).statistic),
    coincide=int((~apart).sum()),
  )


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's step-down correction for several comparisons.

  Args:
    p_values: one for each comparison; NaN is passed through and not counted.

  Returns:
    The corrected p-values, at most 1.

  Source: S. Holm, "A simple sequentially rejective multiple test procedure",
  Scandinavian Journal of Statistics, 1979.
  """
  values = np.asarray(p_values, np.float64)
  corrected = np.full(len(values), np.nan)
  order = [int(i) for i in np.argsort(values) if not np.isnan(values[i])]
  largest = 0.0
  for position, index in enumerate(order):
    largest = max(largest, (len(order) - position) * float(values[index]))
    corrected[index] = min(largest, 1.0)
  return [float(value) for value in corrected]


def _constant(values: np.ndarray) -> bool:
  """Whether nothing but rounding tells the values apart."""
  return not changes(values, values[0]).any()


def _paired_t(values: np.ndarray, reference: np.ndarray) -> float:
  def test(values: np.ndarray, reference: np.ndarray) -> float:
    if _constant(values - reference):
      return float("nan")
    return stats.ttest_rel(values, reference).pvalue

  return _p_value(test, values, reference)


def _wilcoxon(values: np.ndarray, reference: np.ndarray) -> float:
  def test(values: np.ndarray, reference: np.ndarray) -> float:
    return stats.wilcoxon(changes(values, reference)).pvalue

  return _p_value(test, values, reference)


def _p_value(
  test: Callable[[np.ndarray, np.ndarray], float],
  values: np.ndarray,
  reference: np.ndarray,
) -> float:
  paired = ~np.isnan(values - reference)
  values, reference = values[paired], reference[paired]
  if len(values) < 2:
    return float("nan")
  if not changes(values, reference).any():
    return 1.0  # nobody differs: no evidence at all
  return float(test(values, reference))
