"""What a run says of results made by hand."""

import types

import numpy as np
import pytest
from helpers.small_run import read

from experiments.outputs import choice, summary
from personalization_jax.analysis import model_choice
from personalization_jax.analysis.columns import CHOICE_COLUMNS
from personalization_jax.analysis.result import Result

NAN = float("nan")


def results(**diverged):
  return [
    types.SimpleNamespace(method=method, seed=0, diverged=np.array(gone, bool))
    for method, gone in diverged.items()
  ]


def test_models_that_diverged_are_counted_with_a_remedy():
  assert summary.divergence(results(a=[0, 0], b=[0, 0])) is None
  text = summary.divergence(results(a=[0, 1], b=[1, 1]))
  assert text.startswith("3 of 4 models diverged (a: 1, b: 2)")
  assert "--learning_rate" in text


@pytest.mark.parametrize(
  ("counts", "said"),
  [
    ([6, 6, 7, 17, 18, 24, 28, 243], "6 / 17.5 / 243"),
    ([5, 5, 5], "5"),
    ([1, 1, 9], "1 / 1 / 9"),
    ([1, 123456], "1 / 61728.5 / 123456"),
    ([0, 0], "0"),
  ],
)
def test_sizes_are_of_people_and_no_mean_that_nobody_has(counts, said):
  assert summary.sizes(np.array(counts)) == said


def right(method, seed, test, validation):
  """Two people with ten samples each for tests, and as many for validation."""
  rows = (np.arange(20) + seed).reshape(2, 10)
  answers = [
    (np.arange(10) < np.array(count)[:, None]).astype(np.int32)
    for count in (test, validation)
  ]
  return Result(
    method=method,
    seed=seed,
    individuals=np.array([3, 5], np.int32),
    individual_rows=rows,
    individual_predictions=answers[0],
    validation_rows=rows,
    validation_predictions=answers[1],
    global_rows=rows[0],
    global_predictions=answers[0],
    losses=np.ones((2, 1), np.float32),
  )


def test_shares_of_the_choice_are_of_people_and_not_of_seeds(tmp_path, capsys):
  """One of two people is worse with one of two seeds, and better on the mean.

  The other is worse with both; validation data say so with the first alone.
  """
  finished = [
    right("global", 0, [5, 5], [5, 5]),
    right("global", 1, [6, 6], [5, 5]),
    # Seeds come in any order.
    right("tl:2", 1, [5, 5], [6, 6]),
    right("tl:2", 0, [8, 4], [6, 4]),
  ]
  found = choice.compare(finished, np.ones(40, np.int32))
  one = found["tl:2"]
  assert one.personal.tolist() == [[True, False], [True, True]]
  np.testing.assert_allclose(one.accuracy, [0.65, 0.5])
  summary.write_further(choice, found, tmp_path)
  text = capsys.readouterr().out
  (line,) = read(tmp_path / "choice.csv")
  assert list(line) == list(CHOICE_COLUMNS)
  assert (line["hurt"], line["hurt_with_choice"]) == ("0.5", "0.5")
  assert float(line["gain"]) == pytest.approx((0.1 - 0.1) / 2)
  assert float(line["gain_with_choice"]) == pytest.approx((0.1 - 0.05) / 2)
  assert "an individual's means over them are compared" in text
  people = choice.by_person(
    finished, np.ones(40, np.int32), found, "person {}".format
  )
  assert people.to_numpy().tolist() == [
    ["tl:2", 0, "person 3", "tl:2", 0.6, 0.5, 0.8, 0.5],
    ["tl:2", 0, "person 5", "global", 0.4, 0.5, 0.4, 0.5],
    ["tl:2", 1, "person 3", "tl:2", 0.6, 0.5, 0.5, 0.6],
    ["tl:2", 1, "person 5", "tl:2", 0.6, 0.5, 0.5, 0.6],
  ]


def test_a_choice_without_anybody_to_compare_has_dashes(tmp_path, capsys):
  found = model_choice.judge_all(
    {"global": [NAN], "tl:2": [NAN]}, {"global": [NAN], "tl:2": [NAN]}, "global"
  )
  drawn = summary.write_further(choice, found, tmp_path)
  assert "nan" not in capsys.readouterr().out
  assert drawn.exists()
