import fractions

import numpy as np
import pytest

from personalization_jax import schedules
from personalization_jax.randomness import SHARED
from personalization_jax.schedules import GLOBAL, INDIVIDUAL


def line_6(period, j):
  """Algorithm 1, line 6, as printed, in exact arithmetic."""
  n = fractions.Fraction(period)
  return (j % n == 0 and n >= 1) or (j % (1 / n) != 0 and n < 1)


def test_sources_are_the_contract_s_numbers():
  assert (GLOBAL, INDIVIDUAL) == (0, 1)


@pytest.mark.parametrize(("n", "global_steps"), [(0, 5), (40, 7), (3, 0)])
def test_early_shaping_is_individual_first(n, global_steps):
  sources = schedules.early_shaping(n, global_steps)
  assert sources.dtype == np.int32
  assert list(sources) == [INDIVIDUAL] * n + [GLOBAL] * global_steps


@pytest.mark.parametrize(("n", "global_steps"), [(0, 5), (10, 7), (3, 0)])
def test_transfer_learning_is_individual_last(n, global_steps):
  sources = schedules.transfer_learning(global_steps, n)
  assert list(sources) == [GLOBAL] * global_steps + [INDIVIDUAL] * n


@pytest.mark.parametrize("period", [12, 2, 1, "1/2", "1/4", 5, "1/7"])
@pytest.mark.parametrize("steps", [1, 24, 25, 165])
def test_sample_weighing_is_line_6(period, steps):
  period = fractions.Fraction(period)
  sources = schedules.sample_weighing(period, 3, steps)
  expected = [
    INDIVIDUAL if line_6(period, j) else GLOBAL for j in range(1, steps + 1)
  ]
  # j starts anew in each epoch.
  assert list(sources) == expected * 3


@pytest.mark.parametrize(
  ("period", "share"),
  [(12, 1 / 12), (2, 1 / 2), (1, 1), (0.5, 1 / 2), (0.25, 3 / 4)],
)
def test_sample_weighing_share_of_individual_batches(period, share):
  assert schedules.sample_weighing(period, 2, 24).mean() == pytest.approx(share)


def test_sample_weighing_takes_floats_and_fractions_alike():
  for period in (0.5, 0.25, 1 / 3, 2.0):
    exact = fractions.Fraction(period).limit_denominator(100)
    np.testing.assert_array_equal(
      schedules.sample_weighing(period, 2, 30),
      schedules.sample_weighing(exact, 2, 30),
    )


@pytest.mark.parametrize(
  "period", [0, -1, 0.3, 2.5, 0.7, float("nan"), float("inf")]
)
def test_sample_weighing_refuses_other_periods(period):
  with pytest.raises(ValueError, match="n_I="):
    schedules.sample_weighing(period, 1, 10)


def test_negative_steps_are_refused():
  with pytest.raises(ValueError, match="-1 steps"):
    schedules.early_shaping(-1, 5)
  with pytest.raises(ValueError, match="-2 steps"):
    schedules.transfer_learning(3, -2)


def test_combined_is_early_then_weighing_then_late():
  sources = schedules.combined(
    epochs=2, steps_per_epoch=6, early=3, period=3, late=2
  )
  middle = list(schedules.sample_weighing(3, 2, 6))
  assert list(sources) == [1] * 3 + middle + [1] * 2
  plain = schedules.combined(epochs=2, steps_per_epoch=6)
  assert list(plain) == [0] * 12


GLOBAL_ROWS = np.arange(100, 123)
OWN_ROWS = np.arange(7)


def draw(sources, **arguments):
  arguments = {
      "global_rows": GLOBAL_ROWS, "individual_rows": OWN_ROWS, "batch_size": 5,
      "seed": 0, "individual": 3, **arguments,
  }  # fmt: skip
  return schedules.sample_rows(sources, **arguments)


def test_every_batch_is_of_one_source():
  sources = schedules.combined(
    epochs=4, steps_per_epoch=5, early=4, period=2, late=3
  )
  rows = draw(sources, early=4)
  assert rows.shape == (27, 5)
  assert rows.dtype == np.int32
  for source, batch in zip(sources, rows):
    allowed = OWN_ROWS if source == INDIVIDUAL else [*GLOBAL_ROWS, -1]
    assert np.isin(batch, allowed).all()


def test_an_epoch_of_d_g_shows_every_row_once():
  rows = draw(schedules.transfer_learning(3 * 5, 2))
  for epoch in range(3):
    seen = rows[5 * epoch : 5 * epoch + 5].ravel()
    np.testing.assert_array_equal(np.sort(seen[seen >= 0]), GLOBAL_ROWS)
    assert (rows[5 * epoch + 4] == -1).sum() == 2
  assert list(rows[0]) != list(rows[5])


def test_d_i_is_an_endless_row_of_permutations():
  drawn = draw(schedules.early_shaping(30, 0)).ravel()
  assert (drawn >= 0).all()
  for k in range(len(drawn) // 7):
    np.testing.assert_array_equal(np.sort(drawn[7 * k : 7 * k + 7]), OWN_ROWS)


def test_a_step_taken_by_d_i_skips_d_g_s_batch():
  plain = draw(schedules.transfer_learning(20, 0))
  sources = schedules.sample_weighing(3, 4, 5)
  weighed = draw(sources)
  from_global = sources == GLOBAL
  np.testing.assert_array_equal(weighed[from_global], plain[from_global])


def test_early_shaping_delays_d_g():
  plain = draw(schedules.transfer_learning(10, 0))
  shaped = draw(schedules.early_shaping(6, 10), early=6)
  np.testing.assert_array_equal(shaped[6:], plain)


def test_more_steps_begin_with_fewer():
  short = draw(schedules.transfer_learning(5, 10))
  long = draw(schedules.transfer_learning(5, 300))
  np.testing.assert_array_equal(long[:15], short)


def test_draws_depend_on_seed_and_individual():
  sources = schedules.sample_weighing(2, 2, 5)
  draws = [
    draw(sources),
    draw(sources, individual=4),
    draw(sources, seed=1),
    draw(sources, individual=SHARED),
  ]
  np.testing.assert_array_equal(draws[0], draw(sources))
  assert len({rows.tobytes() for rows in draws}) == 4


def test_fewer_own_samples_than_a_batch():
  rows = draw(schedules.early_shaping(2, 0), individual_rows=np.array([9]))
  assert (rows == 9).all()


def test_a_schedule_of_one_s_own_takes_sample_weighing_s_place():
  given = []

  def schedule(epochs, steps):
    given.append((epochs, steps))
    return [GLOBAL, INDIVIDUAL, GLOBAL]

  sources = schedules.combined(
    epochs=4, steps_per_epoch=9, early=2, late=1, schedule=schedule
  )
  assert given == [(4, 9)]
  assert sources.dtype == np.int32
  assert list(sources) == [1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
  ("faulty", "message"),
  [
    ([0, 1, 2, 3], "but step 2 holds 2"),
    ([-1], "step 0 holds -1"),
    ([0.0, 1.0], r"integers \[T\] .* is float64 \[2\]"),
    ([True], r"is bool \[1\]"),
    ([[0, 1]], r"is int64 \[1, 2\]"),
    (np.empty(0, int), "at least one step"),
    (None, "is object"),
  ],
  ids=str,
)
def test_what_is_no_schedule_is_refused(faulty, message):
  with pytest.raises(ValueError, match=message):
    schedules.check_sources(faulty)


def test_a_share_of_any_size_is_exact():
  """No number that a float has no digits for becomes another one, or 0."""
  for count in (3, 10**6 + 1, 10**19):
    period = fractions.Fraction(1, count)
    assert schedules.check_period(period) == period
  assert schedules.check_period(0.1) == fractions.Fraction(1, 10)
  with pytest.raises(ValueError, match="n_I=1e-09 is neither"):
    schedules.check_period(1e-9)
