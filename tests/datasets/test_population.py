import numpy as np
import pytest

from personalization_jax.datasets import Population, npz


def arrays(num_rows=6):
  return {
    "images": np.zeros((num_rows, 8, 8, 1), np.uint8),
    "labels": np.arange(num_rows) % 2,
    "individuals": np.arange(num_rows) // 2,
  }


def faulty(row, value):
  images = np.ones((6, 5))
  images[row, 1] = value
  return images


def test_from_arrays_takes_plain_arrays():
  population = Population.from_arrays(**arrays())
  assert len(population) == 6
  assert population.num_classes == 2
  assert population.labels.dtype == population.individuals.dtype == np.int32
  np.testing.assert_array_equal(population.originals, np.arange(6))


def test_from_arrays_adds_a_channel():
  given = arrays()
  given["images"] = given["images"][..., 0]
  assert Population.from_arrays(**given).images.shape == (6, 8, 8, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (8, 8, 3), (2, 3, 4, 5)])
def test_floats_of_any_shape_are_kept_as_they_are(dtype, shape):
  images = np.random.default_rng(0).normal(size=(6, *shape)).astype(dtype)
  population = Population.from_arrays(**{**arrays(), "images": images})
  assert population.images.dtype == np.float32
  np.testing.assert_array_equal(population.images, images.astype(np.float32))
  assert population.sample_shape == shape
  assert population.holds_images == (len(shape) == 3)


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"images": np.zeros((6, 8), complex)}, "images must be bool, integers or"),
    ({"images": np.array(["a"] * 6)}, "integers or floats, but are <U1"),
    ({"images": np.zeros(6)}, r"\[N, F\] for feature vectors"),
    ({"images": np.zeros((0, 8))}, "holds no samples"),
    ({"images": np.zeros((6, 0))}, "empty axis"),
    (
      {"images": faulty(4, np.nan)},
      "row 4 .* individual 2, holds NaN",
    ),
    ({"images": faulty(2, -np.inf)}, "row 2 .* holds NaN, infinity"),
    ({"images": faulty(3, 1e39)}, "row 3 .* infinity or a number too large"),
    ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, "holds no samples"),
    ({"images": np.zeros((6, 0, 8, 1), np.uint8)}, "empty axis"),
    ({"labels": np.zeros(5, int)}, r"labels .* of 6 entries, .* shape \(5,\)"),
    ({"labels": np.arange(6) / 2}, r"whole numbers or texts, .* 1 holds 0\.5"),
    (
      {"labels": np.array([0, 2, 0, 2, 0, 2]), "num_classes": 3},
      "class 1 of 0..2 has no",
    ),
    ({"labels": np.arange(6) % 2, "num_classes": 1}, "row 1 holds 1"),
    (
      {"num_classes": 2, "label_names": ["a", "b", "c"]},
      "label_names has 3 names for num_classes=2",
    ),
    ({"individuals": np.zeros(7, int)}, r"individuals .* has shape \(7,\)"),
    ({"individuals": np.array([*"aabbbz"])}, "individual z has one sample"),
    ({"individuals": np.array([0, 0, 1, 1, 1, 7])}, "individual 7 has one"),
    (
      {"labels": np.arange(6) % 2 - 1, "num_classes": 2},
      "in 0..1, but row 0 holds -1",
    ),
    ({"originals": np.array([0, 1, 2, 3, 4, 4])}, "individual 2 has one"),
    ({"originals": np.array([0, 1, 1, 3, 4, 5])}, "original 1 belongs to"),
  ],
)
def test_from_arrays_names_the_fault(change, sentence):
  with pytest.raises(ValueError, match=sentence) as error:
    Population.from_arrays(**{**arrays(), **change})
  assert str(error.value).count("\n") == 0


def test_take_keeps_the_classes(people):
  part = people.take(np.flatnonzero(people.individuals == 4))
  assert part.num_classes == people.num_classes
  assert set(part.individuals) == {4}


def test_fingerprint_sees_every_array(people):
  prints = {people.fingerprint()}
  for name in ("images", "labels", "individuals", "originals"):
    fields = {
      field: getattr(people, field).copy()
      for field in ("images", "labels", "individuals", "originals")
    }
    fields[name].flat[0] += 1
    changed = Population(**fields, num_classes=3)
    prints.add(changed.fingerprint())
  assert len(prints) == 5
  assert people.take(np.arange(len(people))).fingerprint() in prints


def test_the_fingerprint_of_images_is_that_of_earlier_runs():
  """A run directory is bound to it."""
  assert Population.from_arrays(**arrays()).fingerprint() == (
    "e86e9c02f961c1f6761c7e03ca2ab20cdc833b20ed53ce39c4894c20900a0110"
  )


def test_npz_takes_features_and_originals(tmp_path):
  path = tmp_path / "people.npz"
  given = {
    **arrays(),
    "images": np.arange(30.0).reshape(6, 5),
    "originals": np.array([4, 3, 2, 1, 9, 7]),
    "class_names": np.array(["a", "b"]),
  }
  np.savez(path, **given)
  population = npz.load(path)
  np.testing.assert_array_equal(population.images, given["images"])
  np.testing.assert_array_equal(population.originals, given["originals"])


def test_npz_round_trip(tmp_path):
  path = tmp_path / "people.npz"
  np.savez(path, **arrays())
  population = npz.load(path)
  np.testing.assert_array_equal(population.labels, arrays()["labels"])


@pytest.mark.parametrize("fault", ["missing", "garbage", "pickle", "no_array"])
def test_npz_faults_name_the_file(tmp_path, fault):
  path = tmp_path / "people.npz"
  if fault == "garbage":
    path.write_bytes(b"PK\x03\x04 this is no archive")
  elif fault == "pickle":
    np.savez(path, **{**arrays(), "labels": np.array([{}] * 6, object)})
  elif fault == "no_array":
    np.savez(path, images=arrays()["images"])
  with pytest.raises(ValueError, match=r"npz_path=.*people\.npz"):
    npz.load(path)
