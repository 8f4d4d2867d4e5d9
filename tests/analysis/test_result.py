"""What a result's fields say they are, they are."""

import dataclasses
import typing

import jax.numpy as jnp
import numpy as np
import pytest

from personalization_jax.analysis.result import Result

GIVEN = {
  "individuals": np.array([3, 5, 8], np.int32),
  "individual_rows": np.array([[0, 1], [2, 3], [4, -1]], np.int32),
  "individual_predictions": np.array([[1, 1], [0, 1], [1, -1]], np.int32),
  "global_rows": np.array([5, 6, 7, 8], np.int32),
  "global_predictions": np.ones((3, 4), np.int32),
  "losses": np.ones((3, 6), np.float32),
}
LABELS = np.ones(9, np.int32)


def make_result(**changes):
  return Result(method="mine", seed=0, **{**GIVEN, **changes})


def check_types(result):
  """Every field holds what its annotation says."""
  hints = typing.get_type_hints(Result)
  for field in dataclasses.fields(Result):
    kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
    plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
    assert isinstance(getattr(result, field.name), plain), field.name


def test_every_field_has_the_type_that_it_says():
  result = make_result()
  check_types(result)
  check_types(make_result(individual_labels=LABELS[GIVEN["individual_rows"]]))
  shapes = {
    name: getattr(result, name).shape
    for name in ("validation_rows", "curve_steps", "global_curve", "diverged")
  }
  assert shapes == {
    "validation_rows": (3, 0),
    "curve_steps": (0,),
    "global_curve": (3, 0),
    "diverged": (3,),
  }
  accuracy, size = result.validation_accuracy()
  assert np.isnan(accuracy).all()
  assert not size.any()


def test_arrays_of_a_device_and_lists_become_numpy_s():
  result = make_result(
    losses=jnp.ones((3, 6)), diverged=[False, True, False], curve_steps=[2],
    individual_curve=jnp.ones((3, 1)), global_curve=jnp.ones((3, 1)),
  )  # fmt: skip
  check_types(result)
  np.testing.assert_array_equal(
    result.individual_accuracy(LABELS)[0], [1, np.nan, 1]
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"losses": np.ones(6, np.float32)}, r"losses must be floats \[S, T\]"),
    ({"losses": np.ones((2, 6))}, r"losses has shape \[2, 6\], but S of"),
    ({"diverged": np.zeros(3)}, r"diverged must be booleans \[S\]"),
    ({"diverged": None}, r"diverged must be booleans \[S\], but is object"),
    (
      {"individual_rows": np.zeros((3, 3), int)},
      r"individual_predictions has shape \[3, 2\], but R of \[S, R\] is 3",
    ),
    ({"global_labels": LABELS}, r"global_labels has shape \[9\], but Q of"),
    ({"individuals": np.array(["a"])}, r"individuals must be integers \[S\]"),
    ({"curve_steps": [3]}, r"individual_curve has shape \[3, 0\], but E of"),
  ],
)  # fmt: skip
def test_other_arrays_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    make_result(**changes)


def test_results_of_folds_are_joined_person_by_person():
  """What is shorter in one fold is padded; everyone keeps their accuracies."""
  labels = np.arange(12) % 3
  rng = np.random.default_rng(0)
  folds = []
  for people, tests, of_global, steps in (
    ([3, 5, 8], [[0, 1], [2, 3], [4, -1]], [5, 6, 7, 8], [2, 4]),
    ([1, 2], [[6, 7, 8], [9, -1, -1]], [0, 1, 2], [2, 3]),
  ):
    tests, of_global = np.array(tests), np.array(of_global)
    count = len(people)
    folds.append(
      Result(
        "mine",
        7,
        individuals=np.array(people),
        individual_rows=tests,
        individual_predictions=rng.integers(0, 3, tests.shape),
        individual_labels=np.where(tests < 0, -1, labels[tests]),
        global_rows=of_global,
        global_predictions=rng.integers(0, 3, (count, len(of_global))),
        global_labels=labels[of_global],
        losses=rng.random((count, 4 + count)).astype(np.float32),
        diverged=np.arange(count) == 1,
        curve_steps=np.array(steps),
        individual_curve=rng.random((count, 2)),
        global_curve=rng.random((count, 2)),
      )
    )
  joined = Result.joined(folds)
  check_types(joined)
  assert joined.global_rows.shape == joined.global_labels.shape == (5, 4)
  assert joined.individuals.tolist() == [3, 5, 8, 1, 2]
  for given in (None, labels):
    for of in ("individual", "global", "validation"):
      own = [getattr(fold, f"{of}_accuracy")(given) for fold in folds]
      for of_joined, of_folds in zip(
        getattr(joined, f"{of}_accuracy")(given), zip(*own)
      ):
        np.testing.assert_array_equal(of_joined, np.concatenate(of_folds))
  assert joined.curve_steps.tolist() == [2, 3, 4]
  first, second = folds
  np.testing.assert_array_equal(
    joined.individual_curve[:3, [0, 2]], first.individual_curve
  )
  np.testing.assert_array_equal(
    joined.global_curve[3:, [0, 1]], second.global_curve
  )
  assert np.isnan(joined.global_curve[:3, 1]).all()
  np.testing.assert_array_equal(joined.losses[3:, :6], second.losses)
  assert np.isnan(joined.losses[3:, 6:]).all()
  assert Result.joined([first]) is first


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seed": 1}, "one method and seed"),
    ({"method": "other"}, "one method and seed"),
    ({}, "different people"),
  ],
)
def test_what_are_no_folds_is_not_joined(changes, message):
  one = make_result()
  with pytest.raises(ValueError, match=message):
    Result.joined([one, dataclasses.replace(one, **changes)])
