import numpy as np
import pytest

from personalization_jax.analysis import model_choice

NAN = float("nan")


def judge(validation, test):
  """The choice by (personalised, global) accuracies."""
  pairs = [dict(zip(("own", "global"), pair)) for pair in (validation, test)]
  return model_choice.judge_all(*pairs, "global")["own"]


def hurt(personal, general):
  return model_choice.hurt(np.array(personal), np.array(general))


def test_ties_and_models_that_diverged_leave_the_global_model():
  personal = np.array([0.9, 0.8, 0.7, NAN, 0.1 + 0.2, NAN])
  general = np.array([0.8, 0.8, 0.8, 0.1, 0.3, NAN])
  assert model_choice.choose(personal, general).tolist() == [True] + [False] * 5


def test_a_global_model_that_diverged_is_nobody_s_choice():
  found = judge(
    ([0.9, NAN, 0.2], [NAN] * 2 + [0.1]), ([0.7, NAN, 0.6], [NAN] * 2 + [0.5])
  )
  assert found.personal.tolist() == [True, False, True]
  np.testing.assert_array_equal(found.accuracy, [0.7, NAN, 0.6])
  # Only the third has two models to compare.
  assert (found.hurt, found.hurt_with_choice) == (0, 0)
  assert found.gain == found.gain_with_choice == pytest.approx(0.1)


def test_who_diverged_is_hurt_and_who_has_nothing_to_compare_is_left_out():
  assert hurt([0.9, 0.8, 0.7, 0.8], [0.8] * 4) == 0.25
  assert hurt([0.9, NAN], [0.8, 0.8]) == 0.5
  assert hurt([0.9, 0.7, 0.7], [0.8, 0.8, NAN]) == 0.5
  assert np.isnan(hurt([0.9], [NAN]))


def test_the_choice_sees_validation_data_alone():
  found = judge(
    # The third is misled: better on validation data, worse on test data.
    validation=([0.9, 0.5, 0.9, NAN], [0.6, 0.6, 0.8, 0.7]),
    test=([0.8, 0.4, 0.5, NAN], [0.6, 0.7, 0.7, 0.5]),
  )
  assert found.personal.tolist() == [True, False, True, False]
  np.testing.assert_array_equal(found.accuracy, [0.8, 0.7, 0.5, 0.5])
  assert (found.hurt, found.hurt_with_choice) == (0.75, 0.25)
  assert found.gain == pytest.approx((0.2 - 0.3 - 0.2) / 3)
  assert found.gain_with_choice == pytest.approx((0.2 - 0.2) / 4)


def test_nobody_is_hurt_where_test_data_agree_with_validation_data():
  rng = np.random.default_rng(0)
  accuracies = rng.integers(0, 50, (2, 200)) / 50
  found = judge(tuple(accuracies), tuple(accuracies))
  assert found.hurt > 0.3
  assert found.hurt_with_choice == 0
  assert found.gain_with_choice > max(found.gain, 0)


def test_every_method_is_judged_against_the_same_model():
  validation = {"tl:3": [0.9, 0.5], "global": [0.6, 0.6], "sw:2": [0.5, 0.5]}
  test = {"sw:2": [0.7, 0.7], "tl:3": [0.4, 0.9], "global": [0.5, 0.5]}
  found = model_choice.judge_all(validation, test, "global")
  assert list(found) == ["tl:3", "sw:2"]
  assert found["tl:3"].hurt_with_choice == 0.5
  assert found["sw:2"].gain_with_choice == 0


def test_who_is_hurt_with_one_seed_of_three_is_a_person_who_isn_t():
  """20 people; of 60 pairs of seed and person 4 are worse, and nobody is."""
  general = np.full((3, 20), 0.5)
  personal = np.full((3, 20), 0.6)
  personal[0, :4] = 0.45
  assert (personal < general).sum() == 4
  assert hurt(personal, general) == 0
  # Two people are worse on the mean of their seeds, one with a single seed.
  personal[:, 5] = 0.49
  personal[1, 6] = 0.1
  assert (personal < general).mean() == pytest.approx(8 / 60)
  assert hurt(personal, general) == 2 / 20


def test_means_over_seeds_that_tie_hurt_nobody():
  seeds = np.array([[0.1], [0.7], [0.4]])
  orders = [seeds[order] for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0])]
  assert len({float(order.mean()) for order in orders}) > 1
  for personal in orders:
    for general in orders:
      assert hurt(personal, general) == 0
      assert not model_choice.choose(personal.mean(0), general.mean(0)).any()


def test_people_are_judged_over_the_seeds_that_both_models_have():
  """By hand: three seeds, five people."""
  general = np.array([[0.5] * 5, [0.8, 0.8, NAN, 0.8, NAN], [0.5] * 4 + [NAN]])
  personal = np.array([
    [0.6, 0.4, 0.6, NAN, NAN],
    [NAN, 0.9, 0.1, NAN, 0.9],
    [0.5, 0.6, 0.3, NAN, 0.9],
  ])  # fmt: skip
  # Pairs: +.1 and 0; -.1, +.1 and +.1; +.1 and -.2; none but NaN; none but NaN.
  assert hurt(personal, general) == 3 / 5
  found = judge((personal, general), (personal, general))
  assert found.personal.shape == (3, 5)
  # Of each seed the better; the global one where there is no other.
  np.testing.assert_allclose(
    found.accuracy,
    np.mean(
      [
        [0.6, 0.5, 0.6, 0.5, 0.5],
        [0.8, 0.9, 0.1, 0.8, 0.9],
        [0.5, 0.6, 0.5, 0.5, 0.9],
      ],
      axis=0,
    ),
  )
  assert found.hurt_with_choice == 0
  assert found.gain == pytest.approx((0.1 / 2 + 0.1 / 3 - 0.1 / 2) / 3)
  gains = [0.1 / 3, 0.2 / 3, 0.1 / 2, 0, 0]
  assert found.gain_with_choice == pytest.approx(np.mean(gains))


def test_one_seed_of_a_row_is_judged_as_a_vector_is():
  rng = np.random.default_rng(5)
  validation, test = rng.integers(0, 9, (2, 2, 1, 30)) / 8
  rows = judge(tuple(validation), tuple(test))
  flat = judge(tuple(validation[:, 0]), tuple(test[:, 0]))
  np.testing.assert_array_equal(rows.personal[0], flat.personal)
  for field in ("accuracy", "hurt", "hurt_with_choice", "gain"):
    np.testing.assert_array_equal(getattr(rows, field), getattr(flat, field))


BOTH = {"a": [0.5], "global": [0.5]}


@pytest.mark.parametrize(
  ("validation", "test", "message"),
  [
    ({"a": [0.5]}, {"a": [0.5]}, "validation has no .* of method 'global'"),
    (BOTH, {"global": [0.5]}, "test has no accuracies of method 'a'"),
    (
      BOTH | {"a": [0.5] * 2},
      BOTH,
      r"'a' has shape \[2\], but S of \[S\] is 1",
    ),
    (BOTH, {"a": [0.5] * 2, "global": [0.5] * 2}, r"test of .*\[2\], but S"),
    (BOTH | {"a": [[0.5]]}, BOTH, r"'a' must be \[S\], .* is \[1, 1\]"),
    (BOTH | {"global": [[0.5]]}, BOTH, r"must be \[K, S\], .* is \[1\]"),
    ({"a": 0.5, "global": 0.5}, BOTH, r"must be \[S\], .* is \[\]"),
    ({"a": [], "global": []}, BOTH, r"must be \[S\], none of them 0"),
    (BOTH | {"a": [50.0]}, BOTH, "0..1, but one is 50.0"),
    (BOTH, BOTH | {"a": [2.0]}, "test of method 'a' must lie in"),
  ],
)
def test_faults_are_named(validation, test, message):
  with pytest.raises(ValueError, match=message):
    model_choice.judge_all(validation, test, "global")
