import dataclasses

import numpy as np
import pytest

from personalization_jax.datasets import Population, variations


def test_flips_make_classes_of_their_own(people):
  flipped = variations.flips(people)
  n = len(people)
  assert len(flipped) == 3 * n
  assert flipped.num_classes == 9
  np.testing.assert_array_equal(flipped.labels[n : 2 * n], people.labels + 3)
  np.testing.assert_array_equal(flipped.labels[2 * n :], people.labels + 6)
  for row in (0, 17, n - 1):
    picture = people.images[row]
    np.testing.assert_array_equal(flipped.images[row], picture)
    np.testing.assert_array_equal(flipped.images[n + row], np.fliplr(picture))
    np.testing.assert_array_equal(
      flipped.images[2 * n + row], np.flipud(picture)
    )
  np.testing.assert_array_equal(flipped.originals, np.tile(np.arange(n), 3))
  np.testing.assert_array_equal(
    flipped.individuals, np.tile(people.individuals, 3)
  )


def test_flips_are_named_too(people):
  assert variations.flips(people).label_names is None
  named = dataclasses.replace(people, label_names=("a", "b", "c"))
  flipped = variations.flips(named)
  assert flipped.label_names[:4] == ("a", "b", "c", "a flipped left to right")
  assert flipped.label_names[8] == "c upside down"
  assert len(flipped.label_names) == flipped.num_classes


def test_flips_refuse_what_is_no_image():
  vectors = Population.from_arrays(np.ones((4, 3)), [0, 1, 0, 1], [0, 0, 1, 1])
  with pytest.raises(ValueError, match=r"leave flips out"):
    variations.flips(vectors)


def test_resize_pads_then_averages_or_repeats():
  images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1))
  population = Population.from_arrays(
    images.astype(np.uint8), np.array([0, 0]), np.array([3, 3])
  )
  padded = variations.resize(population, 32).images
  np.testing.assert_array_equal(padded[:, 2:30, 2:30], images)
  assert padded.sum() == images.sum()
  small = variations.resize(population, 16).images
  expected = padded[1, 4:6, 8:10, 0].mean()
  assert abs(int(small[1, 2, 4, 0]) - expected) <= 0.5
  large = variations.resize(population, 64).images
  np.testing.assert_array_equal(large[:, ::2, 1::2], padded)


def test_resize_refuses_what_it_cannot_do(people):
  with pytest.raises(ValueError, match="image_size=24 is no power of two"):
    variations.resize(people, 24)
  wide = Population.from_arrays(
    np.zeros((2, 16, 20, 1), np.uint8), np.zeros(2, int), np.zeros(2, int)
  )
  with pytest.raises(ValueError, match="must be square"):
    variations.resize(wide, 16)


@pytest.fixture(scope="module")
def writers():
  individuals = np.repeat(np.arange(20), 100)
  return Population.from_arrays(
    np.zeros((2000, 2, 2, 1), np.uint8),
    np.tile(np.arange(10), 200),
    individuals,
  )


def proportions(population, person):
  labels = population.labels[population.individuals == person]
  return np.bincount(labels, minlength=10) / len(labels)


def test_class_counts_vary_with_the_concentration(writers):
  people = np.arange(10)

  def unevenness(concentration):
    varied = variations.vary_class_counts(
      writers, people, concentration=concentration, seed=1
    )
    return np.mean([proportions(varied, person).std() for person in people])

  uneven = [unevenness(c) for c in (0.1, 1.0, 10.0, 1e4)]
  assert uneven == sorted(uneven, reverse=True)
  assert uneven[-1] < 0.01
  assert uneven[0] > 0.08  # 0.1 if five classes had all that they can give


def test_class_counts_follow_the_proportions_drawn(writers):
  rng = np.random.default_rng(5)
  for _ in range(50):
    wanted = rng.dirichlet(np.ones(10))
    available = rng.integers(0, 30, 10)
    total = int(rng.integers(0, available.sum() + 1))
    counts = variations._fill(wanted, available, total)
    assert counts.sum() == total
    assert (counts <= available).all()
    # A class is short of its share only where it is used up.
    short = counts < np.floor(wanted * total)
    assert (counts == available)[short].all()


def test_class_counts_touch_nobody_else(writers):
  varied = variations.vary_class_counts(
    writers, np.array([2, 3]), concentration=0.5, seed=0
  )
  sizes = np.bincount(varied.individuals)
  assert list(sizes[:5]) == [100, 100, 50, 50, 100]
  alone = variations.vary_class_counts(
    writers, np.array([3]), concentration=0.5, seed=0
  )
  np.testing.assert_array_equal(
    varied.originals[varied.individuals == 3],
    alone.originals[alone.individuals == 3],
  )


def test_class_counts_leave_two_drawings():
  population = variations.flips(
    Population.from_arrays(
      np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, int), np.zeros(2, int)
    )
  )
  for seed in range(20):
    varied = variations.vary_class_counts(
      population, np.array([0]), concentration=0.1, seed=seed
    )
    assert len(np.unique(varied.originals)) >= 2


@pytest.mark.parametrize(
  ("arguments", "name"),
  [
    ({"concentration": 0.0}, "concentration=0.0"),
    ({"concentration": float("nan")}, "concentration=nan"),
  ],
)
def test_class_counts_refuse_bad_parameters(writers, arguments, name):
  with pytest.raises(ValueError, match=name):
    variations.vary_class_counts(writers, np.array([0]), **arguments)
