"""Accuracy, fairness and significance (NumPy, SciPy).

An accuracy is NaN where its model diverged or there is nothing to test on.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from personalization_jax import checks
from personalization_jax.datasets.splits import PADDING


def at_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """What values [N] have in these rows; padding stays padding."""
  return np.where(rows == PADDING, PADDING, values[rows])


def accuracy(
  predictions: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """acc(D_I) or acc(D_G) of each individual [S], and the rows it's over [S].

  Of predictions [S, R] and the true classes [S, R] or [1, R], -1 for padding.
  Source: section II-A.
  """
  scored = truth != PADDING
  correct = scored & (predictions == truth)
  size = scored.sum(axis=1)
  with np.errstate(invalid="ignore"):
    return correct.sum(axis=1) / size, size


def sizes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of samples [S], and of their classes, by labels [S, R]."""
  ordered = np.sort(labels, axis=1)
  known = ordered != PADDING
  begins = known & (np.diff(ordered, axis=1, prepend=PADDING) != 0)
  return known.sum(axis=1, dtype=np.int32), begins.sum(axis=1, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Spread:
  """acc(D_S), and fairness: sd (ddof 1), worst and best (section II-A)."""

  mean: float
  sd: float
  min: float
  max: float


def spread(accuracies: np.ndarray) -> Spread:
  """Spread of accuracies [S] without NaN; all NaN if no value is left."""
  values = _known(accuracies)
  if not len(values):
    return Spread(math.nan, math.nan, math.nan, math.nan)
  sd = values.std(ddof=1) if len(values) > 1 else math.nan
  return Spread(*map(float, (values.mean(), sd, values.min(), values.max())))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
  """Mean of [S] without NaN, and its standard error; NaN if all are alike."""
  known = _known(values)
  alike = not len(known) or _constant(known)  # as a single one is
  return spread(known).mean, math.nan if alike else float(stats.sem(known))


def _known(values: np.ndarray) -> np.ndarray:
  """Values [S] as float64, without NaN."""
  values = np.asarray(values, np.float64)
  return values[~np.isnan(values)]


def changes(values: Any, reference: Any) -> np.ndarray:
  """Differences of accuracies, float64 [...], with 0 for a tie."""
  # Means of the same counts can differ in the last bit by order of summation.
  # Adding 0 turns -0 into 0.
  return np.round(np.subtract(values, reference, dtype=np.float64), 12) + 0.0


def mean_without_nan(values: np.ndarray) -> np.ndarray:
  """Mean of each column of [K, S] without NaN; NaN for a column of NaN."""
  counted = ~np.isnan(values)
  with np.errstate(invalid="ignore"):
    return np.where(counted, values, 0.0).sum(axis=0) / counted.sum(axis=0)


def paired_means(
  values: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Means [S] of both [S] or [K, S], over the seeds where both have a value."""
  # Other seeds would take a difference of seeds for one of methods.
  sides = [np.atleast_2d(np.asarray(s, float)) for s in (values, reference)]
  both = ~np.isnan(np.subtract(*sides))
  own, others = (mean_without_nan(np.where(both, s, np.nan)) for s in sides)
  return own, others


def paired_changes(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Differences of `paired_means`, of the people who have both."""
  return _known(changes(*paired_means(values, reference)))


def interval(
  values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
  """95% interval of a statistic of people's values [S, ...]; NaN without any.

  By the bootstrap's percentiles: people are drawn again, each with all values,
  10,000 times and always by the same seed. The statistic is of several draws at
  once, [R, S, ...] -> [R].

  Source: B. Efron, "Bootstrap methods: another look at the jackknife", Annals
  of Statistics, 1979.
  """
  count = len(values)
  if not count:
    return math.nan, math.nan
  rows = np.random.default_rng(0).integers(count, size=(10_000, count))
  # In parts, for memory's sake.
  drawn = [statistic(values[part]) for part in np.array_split(rows, 50)]
  low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
  return float(low), float(high)


def interval_of_mean(values: np.ndarray) -> tuple[float, float]:
  """95% interval of the mean of [S], as `interval` has it."""
  return interval(values, lambda drawn: drawn.mean(axis=1))


def people_needed(change: np.ndarray, level: float) -> float:
  """An estimate of the people that Wilcoxon's test needs for a power of 80%.

  For differences [S] like these, whichever their sign, tested at this level:
  pi / 3 * ((z(1 - level / 2) + z(0.8)) * sd / mean)^2 by the normal
  approximation, with 3 / pi the test's efficiency against a t-test. Infinite
  without a mean difference, NaN for fewer than two.

  Source: E. L. Lehmann, "Nonparametrics: statistical methods based on ranks",
  1975, chapter 4.
  """
  of = spread(change)
  with np.errstate(divide="ignore", invalid="ignore"):
    ratio = np.divide(of.sd, of.mean)
  of_level, of_power = stats.norm.ppf([1 - level / 2, 0.8])
  return float(np.ceil(np.pi / 3 * ((of_level + of_power) * ratio) ** 2))


def ranks(means: Sequence[float]) -> list[int]:
  """Rank 1 for the highest mean, the better rank for ties, the last for NaN."""
  known = np.nan_to_num(np.asarray(means, np.float64), nan=-1.0)
  return [int(1 + (changes(known, value) > 0).sum()) for value in known]


@dataclasses.dataclass(frozen=True)
class Significance:
  """Two-sided paired tests of a method against its baseline."""

  # The method minus the baseline, mean over pairs: not the difference of the
  # two means where models diverged.
  difference: float
  pairs: int  # number of individuals compared
  # p of the paired t-test: NaN, not 0, if all individuals differ by the same.
  t: float = math.nan
  wilcoxon: float = math.nan  # p of Wilcoxon's signed-rank test
  t_holm: float = math.nan  # Holm-corrected over the methods compared
  wilcoxon_holm: float = math.nan


def significance(
  accuracies: Mapping[str, np.ndarray],
  baseline: str,
  untested: Collection[str] = (),
) -> dict[str, Significance]:
  """Tests the other methods' [S] or [K, S] against the baseline's (Table I)."""
  tested = [method for method in accuracies if method != baseline]
  tests = {m: paired_tests(accuracies[m], accuracies[baseline]) for m in tested}
  return with_holm(tests, untested)


def paired_tests(values: np.ndarray, reference: np.ndarray) -> Significance:
  """Tests of a method's [S] or [K, S] against the baseline's, uncorrected.

  NaN with fewer than two pairs, which are means over seeds (`paired_means`).
  """
  both = np.stack(paired_means(values, reference))
  values, reference = both[:, ~np.isnan(both).any(axis=0)]
  change, t, wilcoxon = changes(values, reference), math.nan, math.nan
  count = len(change)
  if count > 1 and not change.any():
    t = wilcoxon = 1.0
  elif count > 1:
    if not _constant(values - reference):
      t = float(stats.ttest_rel(values, reference).pvalue)
    wilcoxon = float(stats.wilcoxon(change).pvalue)
  return Significance(spread(values - reference).mean, count, t, wilcoxon)


def with_holm(
  tests: Mapping[str, Significance], untested: Collection[str] = ()
) -> dict[str, Significance]:
  """The tests with Holm's correction; those untested lose their p-values."""
  tests = {
    m: Significance(one.difference, one.pairs) if m in untested else one
    for m, one in tests.items()
  }
  t = holm([one.t for one in tests.values()])
  wilcoxon = holm([one.wilcoxon for one in tests.values()])
  return {
    m: dataclasses.replace(tests[m], t_holm=of_t, wilcoxon_holm=of_wilcoxon)
    for m, of_t, of_wilcoxon in zip(tests, t, wilcoxon)
  }


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's step-down correction; NaN stays NaN and doesn't count.

  Source: S. Holm, "A simple sequentially rejective multiple test procedure",
  Scandinavian Journal of Statistics, 1979.
  """
  values = np.asarray(p_values, np.float64)
  corrected = np.full(len(values), np.nan)
  order = np.argsort(values)[: (~np.isnan(values)).sum()]  # NaN sorts last
  steps = np.arange(len(order), 0, -1) * values[order]
  corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
  return corrected.tolist()


def welch(values: np.ndarray, reference: np.ndarray) -> float:
  """Welch's two-sided p-value, for accuracies of different people.

  NaN without two people on a side, or if the sides differ but neither varies.

  Source: B. L. Welch, "The generalization of Student's problem when several
  different population variances are involved", Biometrika, 1947.
  """
  values, reference = _known(values), _known(reference)
  if min(len(values), len(reference)) < 2:
    return math.nan
  if _constant(values) and _constant(reference):
    return math.nan if changes(values[0], reference[0]) else 1.0
  # SciPy warns of a constant side; the p-value it returns is right.
  with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
    return float(stats.ttest_ind(values, reference, equal_var=False).pvalue)


def _constant(values: np.ndarray) -> bool:
  """Whether values are equal but for rounding."""
  return not changes(values, values[0]).any()


@dataclasses.dataclass(frozen=True)
class IndividualFairness:
  """How differently a method treats similar individuals; NaN if unknown."""

  max_ratio: float  # the largest difference in accuracy over distance
  mean_ratio: float  # the mean of that ratio; smaller ratios are fairer
  # Spearman's, of both: positive if similar individuals are treated alike.
  rank_correlation: float
  # Pairs at distance 0 have no ratio; by rank they are the nearest.
  coincide: int


def individual_fairness(
  accuracies: np.ndarray, distances: np.ndarray
) -> IndividualFairness:
  """Compares differences of accuracies [S] with distances [S, S], in pairs.

  NaN and infinite distances, as without a common class, are left out.

  Source: section II-A (3), similarity by the L2 norm in latent space; C. Dwork
  et al., "Fairness through awareness", 2012, for the ratio.
  """
  checks.shapes(("accuracies", accuracies, "S"), ("distances", distances, "SS"))
  first, second = np.triu_indices(len(accuracies), k=1)
  distance = np.asarray(distances, np.float64)[first, second]
  difference = np.abs(changes(accuracies[first], accuracies[second]))
  compared = np.isfinite(distance) & ~np.isnan(difference)
  distance, difference = distance[compared], difference[compared]
  apart = distance > 0
  ratio = spread(difference[apart] / distance[apart])
  correlation = math.nan
  if compared.any() and np.ptp(difference) and np.ptp(distance):
    correlation = float(stats.spearmanr(distance, difference).statistic)
  return IndividualFairness(
    ratio.max, ratio.mean, correlation, int((~apart).sum())
  )
