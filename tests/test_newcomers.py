import dataclasses

import numpy as np
import pytest

from personalization_jax import newcomers


def arrays(count=12, **changes):
  rng = np.random.default_rng(0)
  return {
    "images": rng.integers(0, 256, (count, 16, 16), np.uint8),
    "labels": np.arange(count) % 2 * 2,
    "individuals": np.repeat([5, 9], count // 2),
    **changes,
  }


def test_people_may_lack_classes_and_have_images_of_any_size():
  given = arrays(images=np.full((12, 28, 28), 7, np.uint8))
  population = newcomers.population_of(given, 10, (16, 16, 1))
  assert population.num_classes == 10
  assert population.images.shape == (12, 16, 16, 1)
  assert population.images[:, 1:-1, 1:-1].min() == 7
  np.testing.assert_array_equal(population.labels, given["labels"])


def test_without_ids_all_samples_are_one_persons():
  given = arrays()
  del given["individuals"], given["labels"]
  population = newcomers.population_of(given, 3, (16, 16, 1))
  assert not population.individuals.any()
  assert not population.labels.any()


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_what_is_held_out_never_trains(fraction):
  population = newcomers.population_of(arrays(), 3, (16, 16, 1))
  split = newcomers.hold_out(population, fraction, seed=3)
  assert split.individuals.tolist() == [5, 9]
  for index, person in enumerate([5, 9]):
    train, validation, test = split.parts(index)
    own = np.flatnonzero(population.individuals == person)
    assert not len(validation)
    assert len(test) == min(max(round(6 * fraction), 1), 5)
    np.testing.assert_array_equal(np.sort([*train, *test]), own)


def test_test_samples_of_their_own_are_all_held_out():
  population = newcomers.population_of(arrays(), 3, (16, 16, 1))
  other = newcomers.population_of(
    arrays(4, individuals=np.array([9, 5, 9, 9])), 3, (16, 16, 1)
  )
  both, split = newcomers.join(population, other)
  for index, tested in enumerate([[1], [0, 2, 3]]):
    train, _, test = split.parts(index)
    np.testing.assert_array_equal(
      both.images[train], population.images[6 * index : 6 * index + 6]
    )
    np.testing.assert_array_equal(both.images[test], other.images[tested])
    np.testing.assert_array_equal(both.labels[test], other.labels[tested])
    assert not set(both.originals[train]) & set(both.originals[test])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"labels": np.full(12, 3)}, r"labels must lie in 0..2, but row 0 holds 3"),
    ({"labels": np.full(12, -1)}, "row 0 holds -1"),
    ({"labels": np.zeros(11, int)}, "labels has 11 entries, but images has 12"),
    ({"labels": np.zeros(12)}, "labels must be integers"),
    ({"images": np.zeros((12, 16, 16, 3), np.uint8)}, "images have 3 channels"),
    ({"images": np.zeros((12, 16, 8), np.uint8)}, "square"),
    ({"images": np.zeros((12, 16), np.uint8)}, "must have shape"),
    ({"images": np.uint8(3)}, "must have shape"),
    ({"images": np.zeros((0, 16, 16), np.uint8)}, "no samples"),
    ({"images": np.zeros((12, 16, 16), int)}, "must be uint8"),
    ({"images": np.zeros((12, 16, 16))}, "but the model takes images"),
    ({"individuals": np.full(12, -2)}, "ids of 0 or more"),
  ],
)
def test_faulty_arrays_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    newcomers.population_of(arrays(**changes), 3, (16, 16, 1))


def test_what_can_not_be_held_out_is_named():
  ids = np.repeat([5, 9], [11, 1])
  population = newcomers.population_of(arrays(individuals=ids), 3, (16, 16, 1))
  with pytest.raises(ValueError, match="individual 9 has one sample"):
    newcomers.hold_out(population, 0.2)
  for fraction in (0.0, 1.0, float("nan")):
    with pytest.raises(ValueError, match=f"validation_fraction={fraction}"):
      newcomers.hold_out(population, fraction)
  with pytest.raises(ValueError, match="individual 9 has samples to"):
    newcomers.join(population, population.take(np.arange(11)))
  floats = dataclasses.replace(
    population, images=population.images / np.float32(255)
  )
  with pytest.raises(ValueError, match="uint8 to train on, but float32"):
    newcomers.join(population, floats)
