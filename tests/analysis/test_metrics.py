import dataclasses

import numpy as np
import pytest
from scipy import stats

from personalization_jax.analysis import metrics


def test_accuracy_scores_exactly_the_rows_that_are_rows():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 50).astype(np.int32)
  rows = rng.integers(0, 50, (6, 9)).astype(np.int32)
  for person in range(6):
    rows[person, person + 2 :] = -1
  predictions = rng.integers(0, 4, rows.shape)
  accuracy, size = metrics.accuracy(predictions, metrics.at_rows(labels, rows))
  for person in range(6):
    hits = [
      predictions[person, k] == labels[rows[person, k]]
      for k in range(9)
      if rows[person, k] >= 0
    ]
    assert size[person] == len(hits)
    assert accuracy[person] == pytest.approx(sum(hits) / len(hits))


def test_a_padded_row_is_never_right():
  # Row -1 would be the last row of the store, and its label may match.
  labels = np.array([0, 7])
  accuracy, size = metrics.accuracy(
    np.array([[1, 7]]), metrics.at_rows(labels, np.array([[0, -1]]))
  )
  assert (accuracy[0], size[0]) == (0.0, 1)


def test_spread():
  spread = metrics.spread(np.array([0.5, 1.0, 0.75]))
  assert spread == metrics.Spread(0.75, 0.25, 0.5, 1.0)
  assert np.isnan(metrics.spread(np.array([0.5])).sd)


def test_ranks_share_ties():
  assert metrics.ranks([0.9, 0.95, 0.9, 0.8]) == [2, 1, 2, 4]
  assert metrics.ranks([0.1 + 0.2, 0.3]) == [1, 1]


def test_who_gains_and_who_is_hurt_is_not_a_matter_of_rounding():
  values = np.array([0.1 + 0.2, 0.7, 0.4, np.nan, 0.5])
  reference = np.array([0.3, 0.7 - 1e-16, 0.5, 0.5, np.nan])
  assert (values != reference).all()
  change = metrics.changes(values, reference)
  np.testing.assert_array_equal(change, [0, 0, -0.1, np.nan, np.nan])
  assert not np.signbit(metrics.changes(0.3, 0.1 + 0.2))
  # A difference of one sample in a billion is none of rounding.
  assert metrics.changes(0.5 + 1e-9, 0.5) > 0


def test_means_are_paired_over_seeds_in_common():
  rng = np.random.default_rng(4)
  values, reference = rng.random((2, 3, 40))
  values[rng.random((3, 40)) < 0.4] = np.nan
  reference[rng.random((3, 40)) < 0.4] = np.nan
  found = metrics.paired_means(values, reference)
  lonely = 0
  for person in range(40):
    both = [
      (a, b)
      for a, b in zip(values[:, person], reference[:, person])
      if a == a and b == b
    ]
    lonely += not both
    for side in range(2):
      expected = np.mean([pair[side] for pair in both]) if both else np.nan
      assert found[side][person] == pytest.approx(expected, nan_ok=True)
  assert lonely
  # One seed without an axis of seeds is itself.
  one = metrics.paired_means(np.array([0.5, np.nan]), np.array([0.25, 0.5]))
  np.testing.assert_array_equal(one, [[0.5, np.nan], [0.25, np.nan]])


def test_holm_by_hand():
  # Sorted .01 .02 .03 .04 times 4 3 2 1, made monotonous.
  corrected = metrics.holm([0.04, 0.01, 0.03, 0.02])
  np.testing.assert_allclose(corrected, [0.06, 0.04, 0.06, 0.06])
  np.testing.assert_allclose(metrics.holm([0.6, 0.9]), [1.0, 1.0])
  assert metrics.holm([]) == []
  nan, other = metrics.holm([float("nan"), 0.04])
  assert np.isnan(nan)
  assert other == 0.04


def test_significance_is_scipy_s_paired_tests():
  rng = np.random.default_rng(1)
  baseline = rng.uniform(0.8, 1.0, 30)
  accuracies = {
    "baseline": baseline,
    "better": np.clip(baseline + rng.normal(0.02, 0.02, 30), 0, 1),
    "same": baseline + rng.normal(0, 0.02, 30),
  }
  tests = metrics.significance(accuracies, "baseline")
  assert list(tests) == ["better", "same"]
  for method, test in tests.items():
    values = accuracies[method]
    assert test.t == pytest.approx(stats.ttest_rel(values, baseline).pvalue)
    assert test.wilcoxon == pytest.approx(
      stats.wilcoxon(values, baseline).pvalue, rel=0.05
    )
  assert tests["better"].t_holm == pytest.approx(2 * tests["better"].t)


def test_significance_is_paired():
  # A gain of one point for everyone, far below the spread over people.
  baseline = np.linspace(0.5, 0.9, 12)
  gained = baseline + 0.01 + np.tile([0.001, -0.001], 6)
  test = metrics.significance({"b": baseline, "m": gained}, "b")["m"]
  assert test.t < 1e-6
  assert test.wilcoxon < 0.01
  assert stats.ttest_ind(gained, baseline).pvalue > 0.5


def test_no_difference_is_no_evidence():
  values = np.array([0.5, 0.7, 0.9])
  test = metrics.significance({"b": values, "m": values.copy()}, "b")["m"]
  assert (test.t, test.wilcoxon, test.t_holm) == (1.0, 1.0, 1.0)


def test_one_individual_has_no_p_value():
  one = {"b": np.array([0.5]), "m": np.array([0.6])}
  test = metrics.significance(one, "b")["m"]
  assert np.isnan([test.t, test.wilcoxon, test.t_holm]).all()


@pytest.mark.parametrize("people", [2, 6])
def test_everybody_differing_by_the_same_is_nothing_a_t_test_can_tell(people):
  """Its p would be 0, for two people as for a thousand."""
  baseline = np.linspace(0.3, 0.7, people)
  gained = baseline + 0.1
  assert people == 2 or len(set(gained - baseline)) > 1  # but for rounding
  other = baseline + np.linspace(0.01, 0.05, people)
  tests = metrics.significance(
    {"b": baseline, "same": gained, "other": other}, "b"
  )
  assert np.isnan([tests["same"].t, tests["same"].t_holm]).all()
  # All differences up or all down: 2 of 2^n equally likely cases.
  assert tests["same"].wilcoxon == pytest.approx(2 * 0.5**people)
  # No test, so none to correct the others for.
  assert tests["other"].t_holm == tests["other"].t < 0.5


def test_people_are_paired_over_the_seeds_that_both_methods_have():
  """Models lost with some seeds alone make no difference of methods."""
  # With the second seed everybody is better, whatever the method.
  baseline = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.7, 0.9, 0.8]])
  same = baseline.copy()
  same[1, :3] = np.nan
  same[:, 3] = np.nan
  better = baseline + np.array([0.01, 0.02, 0.03, 0.02])
  better[0, 0] = np.nan
  accuracies = {"b": baseline, "same": same, "better": better}
  tests = metrics.significance(accuracies, "b")
  assert (tests["same"].t, tests["same"].wilcoxon) == (1.0, 1.0)
  gains = [0.01, 0.02, 0.03, 0.02]
  assert tests["better"].t == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)


def test_differences_and_their_number_are_of_the_pairs_that_are_tested():
  rng = np.random.default_rng(4)
  accuracies = {
    method: np.where(rng.uniform(size=(3, 20)) < lost, np.nan, values)
    for method, lost, values in (
      ("b", 0.3, rng.uniform(size=(3, 20))),
      ("m", 0.5, rng.uniform(size=(3, 20))),
      ("all", 0.0, rng.uniform(size=(3, 20))),
    )
  }
  tests = metrics.significance(accuracies, "b")
  for method, test in tests.items():
    pairs = []
    for person in range(20):
      both = [
        (accuracies[method][seed, person], accuracies["b"][seed, person])
        for seed in range(3)
        if not np.isnan(accuracies[method][seed, person])
        and not np.isnan(accuracies["b"][seed, person])
      ]
      if both:
        pairs.append(np.mean(both, axis=0))
    values, reference = np.array(pairs).T
    assert test.pairs == len(pairs)
    assert test.difference == pytest.approx((values - reference).mean())
    assert test.t == pytest.approx(stats.ttest_rel(values, reference).pvalue)
  assert tests["m"].pairs < tests["all"].pairs <= 20
  # The mean of some seeds of some people differs from that of others.
  means = {
    method: metrics.spread(metrics.mean_without_nan(x)).mean
    for method, x in accuracies.items()
  }
  unpaired = means["m"] - means["b"]
  assert abs(tests["m"].difference - unpaired) > 0.01


def test_nobody_to_pair_has_no_difference():
  apart = {"b": np.array([0.5, np.nan]), "m": np.array([np.nan, 0.5])}
  test = metrics.significance(apart, "b")["m"]
  assert test.pairs == 0
  assert np.isnan([test.difference, test.t, test.wilcoxon]).all()


def test_individual_fairness_by_hand():
  # Three people on a line, at 0, 1 and 3.
  distances = np.abs(np.subtract.outer([0.0, 1, 3], [0.0, 1, 3]))
  fairness = metrics.individual_fairness(np.array([0.5, 0.7, 0.9]), distances)
  ratios = [0.2 / 1, 0.4 / 3, 0.2 / 2]
  assert fairness.max_ratio == pytest.approx(0.2)
  assert fairness.mean_ratio == pytest.approx(np.mean(ratios))
  expected = stats.spearmanr([1, 3, 2], [0.2, 0.4, 0.2]).statistic
  assert fairness.rank_correlation == pytest.approx(expected)


def test_individual_fairness_leaves_out_pairs_that_cannot_be_compared():
  distances = np.array([[0, 1, np.inf], [1, 0, 2], [np.inf, 2, 0]])
  fairness = metrics.individual_fairness(np.array([0.0, 0.5, 1.0]), distances)
  assert fairness.mean_ratio == pytest.approx((0.5 + 0.25) / 2)
  nobody = metrics.individual_fairness(np.ones(2), np.full((2, 2), np.inf))
  assert np.isnan(dataclasses.astuple(nobody)[:3]).all()
  with pytest.raises(ValueError, match="distances has shape"):
    metrics.individual_fairness(np.ones(2), np.zeros((3, 3)))


def test_two_people_of_one_place_have_no_ratio_and_spoil_nobody_s():
  places = np.array([0.0, 1, 1, 1])
  distances = np.abs(np.subtract.outer(places, places))
  accuracies = np.array([0.5, 0.6, 0.8, 0.6])
  fairness = metrics.individual_fairness(accuracies, distances)
  assert fairness.max_ratio == pytest.approx(0.3)
  assert fairness.mean_ratio == pytest.approx(np.mean([0.1, 0.3, 0.1]))
  assert fairness.coincide == 3
  # A rank has no trouble with 0: they are the nearest of all pairs.
  rank = metrics.individual_fairness(accuracies[:3], distances[:3, :3])
  expected = stats.spearmanr([1, 1, 0], [0.1, 0.3, 0.2]).statistic
  assert rank.rank_correlation == pytest.approx(expected)
  everybody = metrics.individual_fairness(np.ones(3), np.zeros((3, 3)))
  assert np.isnan([everybody.max_ratio, everybody.mean_ratio]).all()
  assert everybody.coincide == 3


def test_somebody_far_away_hides_no_pair():
  distances = np.array([[0, 0.5, 1e6], [0.5, 0, 1e6], [1e6, 1e6, 0]])
  fairness = metrics.individual_fairness(np.array([0.1, 0.9, 0.3]), distances)
  assert fairness.max_ratio == pytest.approx(0.8 / 0.5)
  assert fairness.coincide == 0


def test_people_of_different_runs_are_compared_by_welch():
  rng = np.random.default_rng(3)
  a, b = rng.normal(0.9, 0.02, 12), rng.normal(0.85, 0.1, 30)
  # By the formula: unequal variances, and Welch and Satterthwaite's freedom.
  parts = np.array([a.var(ddof=1) / 12, b.var(ddof=1) / 30])
  t = (a.mean() - b.mean()) / np.sqrt(parts.sum())
  freedom = parts.sum() ** 2 / (parts**2 / [11, 29]).sum()
  expected = 2 * stats.t.sf(abs(t), freedom)
  assert metrics.welch(a, b) == pytest.approx(expected)
  assert metrics.welch(b, a) == pytest.approx(expected)
  assert metrics.welch(np.append(a, np.nan), b) == metrics.welch(a, b)


def test_welch_needs_people_who_vary():
  assert np.isnan(metrics.welch(np.array([0.9, np.nan]), np.array([0.1, 0.2])))
  assert metrics.welch(np.full(3, 0.9), np.full(5, 0.9)) == 1.0
  # Without any variance every difference would have a p of 0.
  assert np.isnan(metrics.welch(np.full(3, 0.9), np.full(5, 0.8)))
  alike = [0.9, 0.6 + 0.3, 0.1 + 0.8]
  assert np.isnan(metrics.welch(np.array(alike), np.full(5, 0.8)))
  # One side's is enough.
  some = metrics.welch(np.full(3, 0.9), np.array([0.7, 0.8, 0.9]))
  expected = stats.ttest_1samp([0.7, 0.8, 0.9], 0.9).pvalue
  assert some == pytest.approx(expected)
