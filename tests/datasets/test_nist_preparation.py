"""NIST digits: downloads, records that are kept, and what is imported."""

import concurrent.futures
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers.nist_files import (
  assert_equal,
  assert_one_sentence,
  cut,
  flip_stored,
  tiny_set,
  with_file,
  write,
)

from personalization_jax.datasets import nist_digits
from personalization_jax.datasets.nist_digits import builder, files

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_records_are_kept_by_writer_and_need_no_files_again(tmp_path):
  digit_set, _, labels = tiny_set(tmp_path / "files", suffix=".xz")
  first = nist_digits.load(
    digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path / "files"
  )
  again = nist_digits.load(
    digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path / "nowhere"
  )
  assert_equal(first, again)
  prepared = builder.prepare(digit_set, data_dir=tmp_path / "tfds")
  records = list(prepared.as_data_source("writers"))
  assert sorted(record["writer"] for record in records) == [3, 7, 2101]
  for record in records:
    own = labels[labels[:, 2] == record["writer"]]
    assert record["series"] == own[0, 1]
    assert record["images"].shape == (len(own), 28, 28, 1)
    np.testing.assert_array_equal(record["labels"], own[:, 0])
    np.testing.assert_array_equal(record["digit_ids"], own[:, 5])


def test_mirrors_are_tried_in_turn_and_bad_copies_are_thrown_away(tmp_path):
  digit_set, images, labels = tiny_set(tmp_path / "good")
  pair = digit_set.files
  write(tmp_path / "bad", pair[0], images[:39])
  mirrors = tuple(
    f"{(tmp_path / place).as_uri()}/" for place in ("none", "bad", "good")
  )
  for place in (0, 1):
    digit_set = with_file(digit_set, place, mirrors=mirrors)
  data_dir = tmp_path / "tfds"
  population = nist_digits.load(digit_set, data_dir=data_dir)
  np.testing.assert_array_equal(
    population.individuals, np.sort(labels[:, 2], kind="stable")
  )
  downloaded = data_dir / "downloads" / "manual"
  assert sorted(os.listdir(downloaded)) == [pair[0].name, pair[1].name]
  for name in os.listdir(downloaded):
    good = tmp_path / "good" / name
    assert (downloaded / name).read_bytes() == good.read_bytes()


def test_a_failed_download_names_all_places_and_the_way_round(tmp_path):
  digit_set, images, _ = tiny_set(tmp_path / "good")
  pair = digit_set.files
  write(tmp_path / "bad", pair[0], images[:39])
  mirrors = [f"{(tmp_path / place).as_uri()}/" for place in ("none", "bad")]
  digit_set = with_file(digit_set, 0, mirrors=tuple(mirrors))
  with pytest.raises(files.DataError) as caught:
    nist_digits.load(digit_set, data_dir=tmp_path / "tfds")
  assert_one_sentence(
    str(caught.value),
    *(mirror + pair[0].name for mirror in mirrors),
    "manual_dir",
    "(39, 28, 28)",
  )
  assert not list((tmp_path / "tfds" / "downloads" / "manual").iterdir())


def test_an_interrupted_preparation_is_done_again(tmp_path):
  digit_set, _, _ = tiny_set(tmp_path)
  code = """
import os, pickle, sys
from personalization_jax.datasets import nist_digits
from personalization_jax.datasets.nist_digits import builder
whole = builder.NistDigits._generate_examples
def dies(self, digits):
  yield next(whole(self, digits))
  os._exit(9)
builder.NistDigits._generate_examples = dies
folder, digit_set = sys.argv[1], pickle.loads(bytes.fromhex(sys.argv[2]))
nist_digits.load(digit_set, data_dir=folder + "/tfds", manual_dir=folder)
"""
  result = subprocess.run(
    [sys.executable, "-c", code, tmp_path, pickle.dumps(digit_set).hex()],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 9, result.stderr
  left = list((tmp_path / "tfds" / "nist_digits" / "tiny").iterdir())
  assert [path.name.startswith("incomplete.") for path in left] == [True]
  resumed = nist_digits.load(
    digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path
  )
  fresh = nist_digits.load(
    digit_set, data_dir=tmp_path / "other", manual_dir=tmp_path
  )
  assert_equal(resumed, fresh)


def test_several_may_prepare_at_once(tmp_path):
  digit_set, _, _ = tiny_set(tmp_path)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    populations = list(
      pool.map(
        lambda _: nist_digits.load(
          digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path
        ),
        range(4),
      )
    )
  for population in populations[1:]:
    assert_equal(population, populations[0])


def delete(path):
  path.unlink()


@pytest.mark.parametrize(
  ("pattern", "damage"),
  [
    ("*.array_record*", cut),
    ("*.array_record*", flip_stored),
    ("*.array_record*", delete),
    ("dataset_info.json", cut),
    ("dataset_info.json", delete),
  ],
)
def test_damaged_records_say_what_to_delete(tmp_path, pattern, damage):
  digit_set, _, _ = tiny_set(tmp_path)
  data_dir = tmp_path / "tfds"
  nist_digits.load(digit_set, data_dir=data_dir, manual_dir=tmp_path)
  (path,) = data_dir.rglob(pattern)
  damage(path)
  with pytest.raises(files.DataError, match="delete that folder") as info:
    nist_digits.load(digit_set, data_dir=data_dir, manual_dir=tmp_path)
  assert_one_sentence(str(info.value), data_dir / "nist_digits" / "tiny")
