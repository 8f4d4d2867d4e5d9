import dataclasses

import numpy as np
import pytest

from personalization_jax.datasets import new_people, variations


def arrays(count=12, **changes):
  rng = np.random.default_rng(0)
  return {
    "images": rng.integers(0, 256, (count, 16, 16), np.uint8),
    "labels": np.arange(count) % 2 * 2,
    "individuals": np.repeat([5, 9], count // 2),
    **changes,
  }


def test_people_may_lack_classes_and_have_images_of_any_size():
  given = arrays(images=np.full((12, 28, 28), 70, np.uint8))
  population = new_people.population_of(given, 10, (16, 16, 1))
  assert population.num_classes == 10
  assert population.images.shape == (12, 16, 16, 1)
  assert population.images[:, 1:-1, 1:-1].min() == 70
  np.testing.assert_array_equal(population.labels, given["labels"])


def test_without_ids_all_samples_are_one_persons():
  given = arrays()
  del given["individuals"], given["labels"]
  population = new_people.population_of(given, 3, (16, 16, 1))
  assert not population.individuals.any()
  assert not population.labels.any()


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 28, 1), (16, 16, 1)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("is_fig_4", [True, False])
def test_samples_of_the_model_s_shape_are_as_they_were(shape, kind, is_fig_4):
  images = np.random.default_rng(0).random((12, *shape)).astype(kind)
  population = new_people.population_of(
    arrays(images=images), 3, shape, is_fig_4=is_fig_4
  )
  np.testing.assert_array_equal(population.images, images)
  assert population.images.dtype == kind


def test_floats_of_any_axes_are_no_pictures_to_be_resized():
  """For a model of one's own; the paper's sees pictures."""
  images = np.ones((12, 8, 8, 2), np.float32)
  same = new_people.population_of(
    arrays(images=images), 3, (8, 8, 2), is_fig_4=False
  )
  np.testing.assert_array_equal(same.images, images)
  with pytest.raises(ValueError, match=r"\[8, 8, 2\], but the model takes"):
    new_people.population_of(
      arrays(images=images), 3, (16, 16, 2), is_fig_4=False
    )
  paper_s = new_people.population_of(arrays(images=images), 3, (16, 16, 2))
  assert paper_s.sample_shape == (16, 16, 2)
  # An MLP's pictures were resized in its run, too.
  pictures = new_people.population_of(arrays(), 3, (32, 32, 1), is_fig_4=False)
  assert pictures.sample_shape == (32, 32, 1)


@pytest.mark.parametrize("side", [16, 28])
def test_floats_of_one_channel_need_no_axis_for_it(side):
  images = np.random.default_rng(0).random((12, side, side))
  with_axis, without = (
    new_people.population_of(arrays(images=given), 3, (16, 16, 1))
    for given in (images[..., None], images)
  )
  np.testing.assert_array_equal(with_axis.images, without.images)


def test_floats_for_a_model_of_uint8_images_are_in_0_to_1():
  images = np.linspace(0, 1, 12 * 256).reshape(12, 16, 16)
  given = arrays(images=images - 0.5)
  with pytest.raises(ValueError, match=r"uint8 .* from -0\.5 to 0\.5"):
    new_people.population_of(given, 3, (16, 16, 1), dtype="uint8")
  # A model of floats takes them, and an older file doesn't say.
  for dtype in ("float32", None):
    new_people.population_of(given, 3, (16, 16, 1), dtype=dtype)
  given = arrays(images=images)
  new_people.population_of(given, 3, (16, 16, 1), dtype="uint8")
  new_people.population_of(arrays(), 3, (16, 16, 1), dtype="uint8")


def test_originals_are_read():
  given = arrays(originals=np.repeat(np.arange(6), 2))
  population = new_people.population_of(given, 3, (16, 16, 1))
  np.testing.assert_array_equal(population.originals, given["originals"])


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_copies_of_a_drawing_are_held_out_together(fraction):
  """As for a base whose classes are flips."""
  flipped = variations.flips(new_people.population_of(arrays(), 3, (16, 16, 1)))
  names = ("images", "labels", "individuals", "originals")
  given = {name: getattr(flipped, name) for name in names}
  population = new_people.population_of(given, 9, (16, 16, 1))
  split = new_people.hold_out(population, fraction)
  for index in range(2):
    train, _, test = split.parts(index)
    assert len(train) + len(test) == 18
    assert len(test) == 3 * round(6 * fraction)
    assert not set(population.originals[train]) & set(
      population.originals[test]
    )


def test_samples_of_two_files_share_no_originals():
  """However each of them numbers its own."""
  given = arrays(originals=np.repeat([2, 2**31 - 1, 0, 1], 3))
  population = new_people.population_of(given, 3, (16, 16, 1))
  both, split = new_people.join(population, population)
  for index in range(2):
    train, _, test = split.parts(index)
    for rows in (train, test):
      assert len(set(both.originals[rows])) == 2
    assert not set(both.originals[train]) & set(both.originals[test])
  assert both.originals.min() >= 0


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_what_is_held_out_never_trains(fraction):
  population = new_people.population_of(arrays(), 3, (16, 16, 1))
  split = new_people.hold_out(population, fraction, seed=3)
  assert split.individuals.tolist() == [5, 9]
  for index, person in enumerate([5, 9]):
    train, validation, test = split.parts(index)
    own = np.flatnonzero(population.individuals == person)
    assert not len(validation)
    assert len(test) == min(max(round(6 * fraction), 1), 5)
    np.testing.assert_array_equal(np.sort([*train, *test]), own)


def test_test_samples_of_their_own_are_all_held_out():
  population = new_people.population_of(arrays(), 3, (16, 16, 1))
  other = new_people.population_of(
    arrays(4, individuals=np.array([9, 5, 9, 9])), 3, (16, 16, 1)
  )
  both, split = new_people.join(population, other)
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
    (
      {"labels": np.full(12, 3)},
      "labels must be whole numbers of 0..2, but row 0 holds 3",
    ),
    ({"labels": np.full(12, -1)}, "row 0 holds -1"),
    ({"labels": np.zeros(11, int)}, r"labels .* of 12 .* has shape \(11,\)"),
    ({"labels": np.full(12, 0.5)}, "labels must be whole numbers"),
    ({"labels": np.array(["a"] * 12)}, "of 0..2, but row 0 holds a"),
    ({"images": np.zeros((12, 16, 16, 3), np.uint8)}, "images have 3 channels"),
    ({"images": np.zeros((12, 16, 8), np.uint8)}, "square"),
    ({"images": np.zeros((12, 16), np.uint8)}, "the model takes images"),
    ({"images": np.uint8(3)}, "must have shape"),
    ({"images": np.zeros((0, 16, 16), np.uint8)}, "no samples"),
    ({"images": np.full((12, 16, 16), 256)}, "must lie in 0..255"),
    ({"images": np.zeros((12, 16))}, r"\[16\], but the model takes images"),
    ({"originals": np.zeros(3, int)}, r"originals .* has shape \(3,\)"),
    ({"originals": np.full(12, np.nan)}, "originals must be whole numbers"),
    ({"individuals": np.full(12, np.nan)}, "whole .* row 0 holds nan"),
  ],
)
def test_faulty_arrays_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    new_people.population_of(arrays(**changes), 3, (16, 16, 1))


def test_what_can_not_be_held_out_is_named():
  ids = np.repeat([5, 9], [11, 1])
  population = new_people.population_of(arrays(individuals=ids), 3, (16, 16, 1))
  with pytest.raises(ValueError, match="individual 9 has one sample"):
    new_people.hold_out(population, 0.2)
  copies = np.repeat([0, 1, 2], [6, 5, 1])
  given = arrays(originals=np.where(copies == 1, 0, copies))
  population = new_people.population_of(given, 3, (16, 16, 1))
  with pytest.raises(ValueError, match="individual 5 has one sample in 6 cop"):
    new_people.hold_out(population, 0.2)
  population = new_people.population_of(arrays(individuals=ids), 3, (16, 16, 1))
  for fraction in (0.0, 1.0, float("nan")):
    with pytest.raises(ValueError, match=f"validation_fraction={fraction}"):
      new_people.hold_out(population, fraction)
  with pytest.raises(ValueError, match=r"one kind alone: 9 \(to train on\)"):
    new_people.join(population, population.take(np.arange(11)))
  floats = dataclasses.replace(
    population, images=population.images / np.float32(255)
  )
  with pytest.raises(ValueError, match="uint8 to train on, but float32"):
    new_people.join(population, floats)
