"""NIST digits as people: real data, and small files of the same format."""

import gzip

import numpy as np
import pytest
from helpers.nist_files import COMPRESS, idx_bytes, pair_of, tiny_set, write

from personalization_jax.datasets import nist_digits
from personalization_jax.datasets.nist_digits import files


@pytest.fixture(scope="module")
def real_population(shared_data, tmp_path_factory):
  return nist_digits.load(
    "mnist", data_dir=tmp_path_factory.mktemp("tfds"), manual_dir=shared_data
  )


def test_real_digits_have_the_known_counts(real_population):
  assert real_population.images.shape == (60_000, 28, 28, 1)
  assert real_population.images.dtype == np.uint8
  np.testing.assert_array_equal(
    np.bincount(real_population.labels),
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
  )
  writers, counts = np.unique(real_population.individuals, return_counts=True)
  assert len(writers) == 539
  assert (counts.min(), counts.max(), (counts >= 80).sum()) == (19, 131, 514)
  classes = np.zeros((writers.max() + 1, 10), bool)
  classes[real_population.individuals, real_population.labels] = True
  assert classes.all(axis=1).sum() == 536


def test_real_rows_are_those_of_the_files_sorted_by_writer(
  real_population, shared_data
):
  with gzip.open(
    shared_data / "mnist" / "train-images-idx3-ubyte.gz"
  ) as stream:
    images = np.frombuffer(stream.read(), np.uint8, offset=16)
  with gzip.open(
    shared_data / "qmnist" / "qmnist-train-labels-idx2-int.gz"
  ) as stream:
    labels = np.frombuffer(stream.read(), ">i4", offset=12).reshape(-1, 8)
  images = images.reshape(-1, 28, 28, 1)
  order = np.argsort(labels[:, 2], kind="stable")
  rows = np.random.default_rng(0).choice(60_000, 2_000, replace=False)
  np.testing.assert_array_equal(
    real_population.images[rows], images[order[rows]]
  )
  np.testing.assert_array_equal(real_population.labels, labels[order, 0])
  np.testing.assert_array_equal(real_population.individuals, labels[order, 2])
  np.testing.assert_array_equal(real_population.originals, labels[order, 5])
  assert len(np.unique(real_population.originals)) == 60_000


def test_published_sets():
  sets = files.DIGIT_SETS
  assert list(sets) == ["mnist", "qmnist", "xnist"]
  assert [s.num_digits for s in sets.values()] == [60_000, 120_000, 402_953]
  for file in (f for s in sets.values() for f in s.files):
    assert file.content_sha256 or file.archive_sha256, file.name
    for mirror in file.mirrors:
      assert mirror.startswith("https://") and mirror.endswith("/")


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("subfolder", files.SUBFOLDERS)
def test_files_are_found_and_read_in_any_container(tmp_path, subfolder, suffix):
  pair, images, labels = pair_of("train", 0, [1, 2] * 10)
  write(tmp_path / subfolder, pair[0], images, suffix=suffix)
  write(tmp_path / subfolder, pair[1], labels, suffix=suffix)
  digit_set = files.DigitSet("two", pair)
  digits = files.read_digits(digit_set, tmp_path)
  np.testing.assert_array_equal(digits["images"][..., 0], images)
  names = ("labels", "series", "writers", "digit_ids")
  columns = [digits[name] for name in names]
  np.testing.assert_array_equal(np.stack(columns, 1), labels[:, [0, 1, 2, 5]])
  assert all(column.dtype == np.int32 for column in columns)


def test_a_file_that_the_browser_decompressed_is_read(tmp_path):
  pair, images, _ = pair_of("train", 0, [1, 2] * 10)
  path = tmp_path / pair[0].name
  path.write_bytes(idx_bytes(images))  # named .gz, but plain
  np.testing.assert_array_equal(files.read_idx(path, pair[0]), images)


def test_pairs_are_merged_by_writer(tmp_path):
  # Like qmnist: writers 4 and 2 are in both pairs, 9 has a single digit.
  train, images, labels = pair_of("train", 1_000, [4, 2, 4, 2, 4] * 4)
  test, more_images, more_labels = pair_of("test", 50, [2, 9, 4], seed=1)
  for pair, arrays in (
    (train, (images, labels)),
    (test, (more_images, more_labels)),
  ):
    write(tmp_path / "mnist", pair[0], arrays[0])
    write(tmp_path / "qmnist", pair[1], arrays[1])
  digit_set = files.DigitSet("both", train + test)
  population = nist_digits.load(
    digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path
  )
  images = np.concatenate([images, more_images])
  labels = np.concatenate([labels, more_labels])
  order = np.argsort(labels[:, 2], kind="stable")
  order = order[labels[order, 2] != 9]
  assert len(population) == 22
  np.testing.assert_array_equal(population.images[..., 0], images[order])
  np.testing.assert_array_equal(population.labels, labels[order, 0])
  np.testing.assert_array_equal(population.individuals, labels[order, 2])
  np.testing.assert_array_equal(population.originals, labels[order, 5])


def digits_of(writers, digit_ids, duplicate_of):
  count = len(writers)
  return {
    "images": np.zeros((count, 28, 28, 1), np.uint8),
    "labels": np.arange(count, dtype=np.int32) % 10,
    "writers": np.array(writers, np.int32),
    "digit_ids": np.array(digit_ids, np.int32),
    "duplicate_of": np.array(duplicate_of, np.int32),
  }


def test_only_a_writers_own_duplicates_are_one_drawing():
  writers = [1] * 6 + [2] * 6
  ids = [30, 40, 50, 60, 70, 80, 35, 45, 55, 65, 75, 85]
  # 50 repeats its writer's 30, 45 another's 40, and 85 one that isn't here.
  repeats = [0, 0, 30, 0, 0, 0, 0, 40, 0, 0, 0, 20]
  population = nist_digits.population_of(digits_of(writers, ids, repeats))
  expected = np.array(ids)
  expected[2] = 30
  np.testing.assert_array_equal(population.originals, expected)


def test_a_writer_whose_digits_are_one_drawing_is_left_out():
  ids = range(100, 112)
  digits = digits_of([1] * 10 + [5, 5], ids, [0] * 11 + [110])
  population = nist_digits.population_of(digits)
  np.testing.assert_array_equal(population.individuals, [1] * 10)


def test_nobody_left():
  with pytest.raises(ValueError, match="nobody has two samples"):
    nist_digits.population_of(digits_of(range(10), range(10), [0] * 10))


def test_unknown_config():
  with pytest.raises(ValueError, match=r"no config 'emnist'.*mnist, qmnist"):
    nist_digits.load("emnist")


def test_published_names_are_taken(tmp_path):
  digit_set, _, _ = tiny_set(tmp_path, name="mnist")
  with pytest.raises(ValueError, match="the same as an available"):
    nist_digits.load(digit_set, data_dir=tmp_path, manual_dir=tmp_path)
