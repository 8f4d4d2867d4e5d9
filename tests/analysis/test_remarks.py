"""What is said of people's data before training, and nothing of good data."""

import dataclasses
import re

import numpy as np
import pytest

from personalization_jax.analysis import remarks
from personalization_jax.datasets import Population, splits, variations

PEOPLE, SAMPLES, FEATURES = 8, 40, 12


def of(population):
  chosen = splits.choose_people(population, 3, 4, seed=1)
  split = splits.split(population, *chosen, seed=1)
  return remarks.of_study(population, split, {})


def vectors(**changes):
  """Nothing is wrong with these; two classes, 40 samples a person."""
  count = PEOPLE * SAMPLES
  arrays = {
    "images": np.random.default_rng(0).normal(size=(count, FEATURES)),
    "labels": np.arange(count) % 2,
    "individuals": np.repeat(np.arange(PEOPLE), SAMPLES),
  }
  return Population.from_arrays(**{**arrays, **changes})


def digits(values=256):
  """Images with a margin, as all scans have."""
  images = np.zeros((PEOPLE * SAMPLES, 16, 16, 1), np.uint8)
  ink = np.random.default_rng(0).integers(0, values, (len(images), 8, 8, 1))
  images[:, 4:12, 4:12] = ink * (255 // (values - 1))
  return vectors(images=images)


def signals(step, length=20, channels=()):
  """Windows of recordings, four of each, begun so many values apart."""
  rng = np.random.default_rng(0)
  windows = []
  for _ in range(PEOPLE * SAMPLES // 4):
    recording = rng.normal(size=(3 * step + length, *channels))
    windows += [recording[k * step : k * step + length] for k in range(4)]
  return np.stack(windows)


@pytest.mark.parametrize(
  "population",
  [
    vectors(),
    digits(),
    digits(values=2),
    variations.flips(digits()),
    vectors(images=np.random.default_rng(1).normal(size=(320, 9, 2))),
    # Binary features have equal ends by chance.
    vectors(images=np.random.default_rng(1).integers(0, 2, (320, 60)) * 1.0),
    vectors(images=signals(step=20)),
  ],
  ids=["vectors", "images", "binary", "flips", "series", "features", "apart"],
)
def test_nothing_is_said_of_good_data(population):
  assert of(population) == []


def test_equal_rows_of_a_person_are_counted():
  images = vectors().images
  images[1 : 2 * SAMPLES : 2] = images[: 2 * SAMPLES : 2]
  population = vectors(images=images)
  chosen = np.arange(3), np.arange(3, 8)
  split = splits.split(population, *chosen, seed=1)
  expected = sum(
    any((images[row] == images[k]).all() for k in split.parts(person)[0])
    for person in range(3)
    for row in split.parts(person)[2]
  )
  (said,) = remarks.of_study(population, split, {})
  assert said.startswith(
    f"{expected} of 36 test samples, of 2 of 3 people (0, 1), equal a training"
    " sample of the same person"
  )
  assert "`originals`" in said


def test_rows_that_share_an_original_are_together_and_not_counted():
  images = vectors().images
  images[1::2] = images[::2]
  originals = np.arange(len(images)) // 2
  assert of(vectors(images=images, originals=originals)) == []


def test_rows_that_d_g_holds_are_counted():
  images = vectors().images
  images[:SAMPLES] = images[SAMPLES : 2 * SAMPLES]
  population = vectors(images=images)
  split = splits.split(population, np.array([0, 2]), np.array([1, 3]))
  (said,) = remarks.of_study(population, split, {})
  assert "of 1 of 2 people (0), equal a training sample of D_G" in said


@pytest.mark.parametrize(
  ("step", "length", "channels"), [(5, 20, ()), (10, 20, (3,)), (14, 20, ())]
)
def test_windows_that_overlap_are_told_from_others(step, length, channels):
  population = vectors(images=signals(step, length, channels))
  (said,) = of(population)
  assert re.search(r"in [78]\d% of pairs", said)
  assert "--split_key" in said
  # A recording's windows are together.
  originals = np.arange(len(population)) // 4
  assert of(dataclasses.replace(population, originals=originals)) == []


def test_people_may_take_turns_in_the_file():
  population = vectors(images=signals(5))
  order = np.argsort(np.arange(len(population)) % SAMPLES, kind="stable")
  (said,) = of(population.take(order))
  assert "as the next begins" in said


def test_names_are_up_to_three_and_people_s_own():
  names = tuple(f"name{k}" for k in range(PEOPLE))
  labels = np.arange(PEOPLE * SAMPLES)  # each class once
  population = dataclasses.replace(
    vectors(labels=labels), individual_names=names
  )
  split = splits.split(population, np.arange(4), np.arange(4, 8))
  (said,) = remarks.of_study(population, split, {})
  assert said.startswith(
    "48 of 48 test samples, of 4 of 4 people (name0, name1, name2, ...), are of"
    " classes without a training sample"
  )


def test_classes_that_somebody_lacks_are_counted():
  population = vectors()
  labels = population.labels.copy()
  split = splits.split(population, np.arange(3), np.arange(3, 8), seed=1)
  labels[split.parts(1)[2][:5]] = 2
  population = dataclasses.replace(population, labels=labels, num_classes=3)
  (said,) = remarks.of_study(population, split, {})
  assert said.startswith("5 of 36 test samples, of 1 of 3 people (1), are of")


def test_who_has_few_tests_is_named():
  people = np.repeat(np.arange(PEOPLE), SAMPLES)
  people[30:40] = people[50:80] = 7
  population = vectors(individuals=people)
  split = splits.split(population, np.arange(3), np.arange(3, 8), seed=1)
  (said,) = remarks.of_study(population, split, {})
  assert said.startswith(
    "2 of 3 people (0, 1) have fewer than 10 test samples (the least: 3)"
  )


def test_people_of_all_folds_are_looked_at():
  """But for D_G, which is the first fold's."""
  people = np.repeat(np.arange(PEOPLE), SAMPLES)
  people[SAMPLES // 2 : SAMPLES] = 7  # half of person 0's
  population = vectors(individuals=people)
  everyone, nobody = np.arange(PEOPLE), np.empty(0, np.int32)
  everybody = splits.split(population, everyone, nobody, seed=1)
  train, _, test = everybody.parts(3)
  population.images[test[:2]] = population.images[train[:2]]
  in_second, _, _ = everybody.parts(5)
  population.images[everybody.parts(1)[2][0]] = population.images[in_second[0]]
  first = splits.split(population, everyone[1:3], everyone[4:], seed=1)
  own, of_all, few = remarks.of_study(population, first, {}, everybody)
  assert "2 of 96 test samples, of 1 of 8 people (3), equal" in own
  assert "of 1 of 2 people (1), equal a training sample of D_G in the" in of_all
  assert few.startswith("1 of 8 people (0) have fewer than 10")


def test_short_trainings_are_named():
  assert remarks.lagging({"global": 0, "es:40": 50, "tl:50": 50}) is None
  steps = {"tl:10": 10, "tl:100": 100, "local:49": 49}
  said = remarks.lagging(steps)
  assert "of tl:10, local:49 has fewer than 50 steps" in said
  assert "--precise_batch_stats" in said


def test_an_auto_encoder_is_compared_with_the_mean():
  assert remarks.of_autoencoder(0.05, 0.1) is None
  assert "0.2000 against 0.1000" in remarks.of_autoencoder(0.2, 0.1)
