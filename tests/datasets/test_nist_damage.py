"""Files of NIST digits that are missing, damaged or not as published."""

import gzip
import hashlib

import pytest
from helpers.nist_files import (
  assert_one_sentence,
  cut,
  flip_content,
  flip_stored,
  idx_bytes,
  tiny_set,
  with_file,
  write,
)

from personalization_jax.datasets import nist_digits
from personalization_jax.datasets.nist_digits import files


def empty(path):
  path.write_bytes(b"")


@pytest.mark.parametrize("place", [0, 1])
def test_missing_file(tmp_path, place):
  digit_set, _, _ = tiny_set(tmp_path)
  file = digit_set.files[place]
  (tmp_path / file.name).unlink()
  with pytest.raises(files.MissingDataError) as caught:
    nist_digits.load(digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path)
  assert isinstance(caught.value, FileNotFoundError)
  assert isinstance(caught.value, ValueError)
  assert_one_sentence(
    str(caught.value), file.name, tmp_path, f"{file.mirrors[0]}{file.name}."
  )


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
  ("suffix", "damage", "complaint"),
  [
    (".gz", flip_content, "SHA-256"),
    (".gz", flip_stored, "decompressed|SHA-256"),
    (".gz", cut, "cut off"),
    (".gz", empty, "starts with nothing"),
    (".xz", flip_stored, "decompressed"),
    (".xz", cut, "cut off"),
    ("", flip_content, "SHA-256"),
    ("", cut, "ends early"),
  ],
)
def test_damaged_file(tmp_path, place, suffix, damage, complaint):
  digit_set, images, labels = tiny_set(tmp_path, suffix=suffix)
  array = (images, labels)[place]
  digit_set = with_file(
    digit_set,
    place,
    content_sha256=hashlib.sha256(idx_bytes(array)).hexdigest(),
  )
  assert len(files.read_digits(digit_set, tmp_path)["labels"]) == 40
  path = tmp_path / digit_set.files[place].name
  damage(path)
  with pytest.raises(files.DataError, match=complaint) as caught:
    files.read_digits(digit_set, tmp_path)
  assert_one_sentence(str(caught.value), path)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damage_is_noticed_even_without_a_digest(tmp_path, suffix):
  digit_set, _, _ = tiny_set(tmp_path, suffix=suffix)
  path = tmp_path / digit_set.files[0].name
  flip_stored(path)  # caught by the container's own check sum
  with pytest.raises(files.DataError, match="decompressed"):
    files.read_digits(digit_set, tmp_path)


@pytest.mark.parametrize(
  ("change", "complaint"),
  [
    (lambda content: b"\0\0\x0d" + content[3:], "starts with 00000d03"),
    (lambda content: content[:7] + b"\x29" + content[8:], r"\(41, 28, 28\)"),
    (lambda content: content + b"\0", "goes on after its end"),
    (lambda content: content[:10], "shape"),
  ],
)
def test_wrong_header_or_length(tmp_path, change, complaint):
  digit_set, images, _ = tiny_set(tmp_path)
  path = tmp_path / digit_set.files[0].name
  path.write_bytes(gzip.compress(change(idx_bytes(images))))
  with pytest.raises(files.DataError, match=complaint) as caught:
    files.read_digits(digit_set, tmp_path)
  assert_one_sentence(str(caught.value), path)


@pytest.mark.parametrize(
  ("column", "value", "complaint"),
  [
    (0, 10, r"row 6 holds \[10, 0, 3, 0, 36, 106, 0, 0\], where a class"),
    (0, -1, r"row 6 holds \[-1, "),
    (4, 30, r"row 6 holds \[6, 0, 3, 0, 30, "),
    (2, -7, r"row 6 holds \[6, 0, -7, "),
    (1, -1, r"row 6 holds \[6, -1, "),
    (5, -1, r"row 6 holds \[6, 0, 3, 0, 36, -1, "),
  ],
)
def test_wrong_labels(tmp_path, column, value, complaint):
  digit_set, _, labels = tiny_set(tmp_path)
  labels[6, column] = value
  path = write(tmp_path, digit_set.files[1], labels)
  with pytest.raises(files.DataError, match=complaint) as caught:
    nist_digits.load(digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path)
  assert_one_sentence(str(caught.value), path.name)
  assert not list((tmp_path / "tfds").rglob("*.array_record*"))


def test_archive_digest_where_the_contents_is_unknown(tmp_path):
  digit_set, images, _ = tiny_set(tmp_path)
  path = tmp_path / digit_set.files[0].name
  digit_set = with_file(
    digit_set,
    0,
    archive_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
  )
  assert len(files.read_digits(digit_set, tmp_path)["labels"]) == 40
  path.write_bytes(gzip.compress(idx_bytes(images), compresslevel=1))
  with pytest.raises(files.DataError, match="as published") as caught:
    files.read_digits(digit_set, tmp_path)
  assert_one_sentence(str(caught.value), path)
  path.unlink()
  write(tmp_path, digit_set.files[0], images, suffix="")
  assert len(files.read_digits(digit_set, tmp_path)["labels"]) == 40


def test_content_digest_lets_archives_be_compressed_anew(tmp_path):
  digit_set, images, _ = tiny_set(tmp_path)
  digit_set = with_file(
    digit_set,
    0,
    content_sha256=hashlib.sha256(idx_bytes(images)).hexdigest(),
    archive_sha256="0" * 64,
  )
  assert len(files.read_digits(digit_set, tmp_path)["labels"]) == 40
