"""Measures against the slow way, sample by sample."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

import personalization_jax as pj
from personalization_jax.analysis.columns import MEASURE_COLUMNS
from personalization_jax.analysis.result import Result

PEOPLE, CLASSES = 12, 4
SIZES = (9, 30, 4, 17, 1, 12, 25, 8, 3, 14, 20, 6)
OF_ALL = 40


def make_result(method="tl:2", seed=0, diverged=()):
  """People with tests of all sizes, whose answers are drawn by chance."""
  rng = np.random.default_rng([seed, *method.encode()])
  gone = np.isin(np.arange(PEOPLE), diverged)
  own = np.where(
    np.arange(max(SIZES)) < np.array(SIZES)[:, None],
    np.arange(PEOPLE * max(SIZES)).reshape(PEOPLE, -1),
    -1,
  ).astype(np.int32)
  labels = np.random.default_rng(1).integers(0, CLASSES, 1000).astype(np.int32)
  truth = np.where(own < 0, -1, labels[own])
  general = np.arange(900, 900 + OF_ALL, dtype=np.int32)
  of_all = labels[general]

  def answers(truth):
    logits = rng.normal(size=(*truth.shape, CLASSES))
    logits += 2 * np.eye(CLASSES)[truth]
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    known = truth >= 0
    of_truth = np.take_along_axis(logs, truth[..., None], axis=-1)[..., 0]
    return (
      np.where(known, logs.argmax(axis=-1), -1).astype(np.int32),
      np.where(known, of_truth, np.nan).astype(np.float32),
      np.where(known, logs.max(axis=-1), np.nan).astype(np.float32),
    )

  of_own = answers(truth)
  of_general = answers(np.broadcast_to(of_all, (PEOPLE, OF_ALL)))
  return Result(
    method=method,
    seed=seed,
    individuals=np.arange(100, 100 + PEOPLE, dtype=np.int32),
    individual_rows=own,
    individual_labels=truth,
    individual_predictions=of_own[0],
    individual_log_probability=of_own[1],
    individual_log_confidence=of_own[2],
    global_rows=general,
    global_labels=of_all,
    global_predictions=of_general[0],
    global_log_probability=of_general[1],
    global_log_confidence=of_general[2],
    losses=np.ones((PEOPLE, 1), np.float32),
    diverged=gone,
    train_size=np.array(SIZES, np.int32) * 2,
    train_classes=np.full(PEOPLE, CLASSES, np.int32),
  )


def samples(result, data, person):
  """(truth, prediction, ln p(truth), ln p(prediction)) of a person's tests."""
  truth = getattr(result, f"{data}_labels")
  truth = truth if data == "global" else truth[person]
  of_person = (
    getattr(result, f"{data}_{name}")[person]
    for name in ("predictions", "log_probability", "log_confidence")
  )
  return [one for one in zip(truth, *of_person) if one[0] >= 0]


def slow_accuracy(tested):
  return sum(t == p for t, p, *_ in tested) / len(tested)


def slow_of_classes(tested):
  """Macro-F1 and balanced accuracy, class by class."""
  f1, recall = [], []
  for one in {t for t, *_ in tested}:
    hits = sum(t == p == one for t, p, *_ in tested)
    true = sum(t == one for t, *_ in tested)
    predicted = sum(p == one for _, p, *_ in tested)
    precision = hits / predicted if predicted else 0.0
    recall.append(hits / true)
    both = precision + recall[-1]
    f1.append(2 * precision * recall[-1] / both if both else 0.0)
  return np.mean(f1), np.mean(recall)


def slow_calibration(tested):
  """Expected calibration error, bin by bin."""
  total = 0.0
  for number in range(15):
    own = [
      (t == p, math.exp(confidence))
      for t, p, _, confidence in tested
      if number / 15 < math.exp(confidence) <= (number + 1) / 15
    ]
    if own:
      correct, confidence = zip(*own)
      gap = abs(np.mean(correct) - np.mean(confidence))
      total += gap * len(own) / len(tested)
  return total


def decile(values, share):
  """By linear interpolation between the values in order."""
  values = sorted(values)
  place = share * (len(values) - 1)
  low = math.floor(place)
  high = min(low + 1, len(values) - 1)
  return values[low] + (place - low) * (values[high] - values[low])


def slow_measures(results, data):
  """One method's, by its results with several seeds."""
  by_person = []
  for person in range(PEOPLE):
    with_seeds = []
    for result in results:
      if not result.diverged[person]:
        tested = samples(result, data, person)
        loss = np.mean([-log for _, _, log, _ in tested])
        of_classes = slow_of_classes(tested)
        with_seeds.append((slow_accuracy(tested), *of_classes, loss))
    if with_seeds:
      by_person.append(np.mean(with_seeds, axis=0))
  accuracy, f1, recall, loss = zip(*by_person)
  together = [
    [
      one
      for person in np.flatnonzero(~result.diverged)
      for one in samples(result, data, person)
    ]
    for result in results
  ]
  return {
    "mean": np.mean(accuracy),
    "pooled": np.mean([slow_accuracy(tested) for tested in together]),
    "bottom_decile": decile(accuracy, 0.1),
    "median": decile(accuracy, 0.5),
    "top_decile": decile(accuracy, 0.9),
    "macro_f1": np.mean(f1),
    "balanced_accuracy": np.mean(recall),
    "log_loss": np.mean(loss),
    "calibration_error": np.mean([slow_calibration(own) for own in together]),
  }


def test_measures_are_those_of_the_slow_way():
  by_method = {
    "global": [make_result("global", seed) for seed in (0, 1)],
    "tl:2": [make_result("tl:2", 0, [3, 5]), make_result("tl:2", 1, [5, 7])],
  }
  found = pj.measures([*itertools.chain(*by_method.values())])
  assert [*found] == [*MEASURE_COLUMNS]
  assert [*found["method"]] == [*by_method]
  for row, results in zip(found.to_dict("records"), by_method.values()):
    for data in ("individual", "global"):
      for name, value in slow_measures(results, data).items():
        assert row[f"{data}_{name}"] == pytest.approx(value, rel=1e-6), name


def test_the_mean_is_table_1s():
  results = [make_result("global"), make_result("tl:2", diverged=[1])]
  found, table = pj.measures(results), pj.compare(results).table
  for column in ("individual_mean", "global_mean"):
    np.testing.assert_allclose(found[column], table[column].astype(float))


def without_probabilities(result):
  """As an older version kept it."""
  names = [
    f.name for f in dataclasses.fields(result) if f.name.startswith("train_")
    or "_log_" in f.name
  ]  # fmt: skip
  return dataclasses.replace(result, **dict.fromkeys(names))


def test_an_older_result_has_no_log_loss_and_all_else():
  result = make_result()
  found = pj.measures([without_probabilities(result)])
  unknown = {
    f"{data}_{name}"
    for data in ("individual", "global")
    for name in ("log_loss", "calibration_error")
  }
  assert {*found.columns[found.isna().all()]} == unknown
  known = pj.measures([result]).drop(columns=[*unknown])
  assert known.equals(found.drop(columns=[*unknown]))
  people = pj.to_dataframe([without_probabilities(result)])
  assert {*people.columns[people.isna().all()]} == {
    "train_size", "train_classes", "individual_log_loss", "global_log_loss",
    "validation_accuracy",
  }  # fmt: skip


def test_whose_models_all_diverged_has_nothing():
  found = pj.measures([make_result(diverged=range(PEOPLE))])
  assert found.drop(columns="method").isna().all(axis=None)


def test_classes_that_nobody_is_tested_on_do_not_count():
  """Sure answers: one right, one that is no class of the test."""
  result = Result(
    method="tl:2",
    seed=0,
    individuals=np.array([1]),
    individual_rows=np.array([[0, 1]]),
    individual_labels=np.array([[2, 2]]),
    individual_predictions=np.array([[2, 3]]),
    individual_log_probability=np.array([[0.0, -5.0]]),
    individual_log_confidence=np.zeros((1, 2)),
    global_rows=np.array([0]),
    global_labels=np.array([2]),
    global_predictions=np.array([[2]]),
    losses=np.ones((1, 1)),
  )
  (row,) = pj.measures([result]).to_dict("records")
  assert row["individual_macro_f1"] == pytest.approx(2 / 3)
  assert row["individual_balanced_accuracy"] == 0.5
  assert row["individual_log_loss"] == 2.5
  assert row["individual_calibration_error"] == 0.5


def test_a_row_for_each_method_seed_and_person():
  results = [make_result("tl:2", 0, [4]), make_result("global", 1)]
  table = pj.to_dataframe(results)
  assert len(table) == 2 * PEOPLE
  for row in table.to_dict("records"):
    result = results[row["method"] == "global"]
    person = row["individual"] - 100
    assert row["seed"] == result.seed
    assert row["diverged"] == result.diverged[person]
    assert row["train_size"] == 2 * row["test_size"] == 2 * SIZES[person]
    tested = samples(result, "individual", person)
    assert row["test_classes"] == len({truth for truth, *_ in tested})
    assert np.isnan(row["validation_accuracy"])
    for data in ("individual", "global"):
      tested = samples(result, data, person)
      wanted = slow_accuracy(tested), np.mean([-log for *_, log, _ in tested])
      if row["diverged"]:
        wanted = np.nan, np.nan
      both = [row[f"{data}_{name}"] for name in ("accuracy", "log_loss")]
      np.testing.assert_allclose(both, wanted, rtol=1e-6)


def test_variants_have_names_of_their_own():
  results = {"one": make_result(), "two": make_result(seed=0)}
  assert [*pj.measures(results)["method"]] == ["one", "two"]
  assert [*pj.to_dataframe(results)["method"].unique()] == ["one", "two"]
