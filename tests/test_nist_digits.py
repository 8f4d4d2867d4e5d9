"""NIST digits: real data, small files of the same format, and damaged ones."""

import concurrent.futures
import dataclasses
import gzip
import hashlib
import lzma
import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable

import numpy as np
import pytest

from personalization_jax.datasets import nist_digits
from personalization_jax.datasets.nist_digits import files, reader

pytest.importorskip("tensorflow_datasets")
builder = pytest.importorskip(
  "personalization_jax.datasets.nist_digits.builder"
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL_DATA = pathlib.Path(
  os.environ.get("PERSONALIZATION_DATA", ROOT.parent / "shared" / "data")
)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
  ".gz": gzip.compress,
  ".xz": lzma.compress,
  "": bytes,
}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
  ".gz": gzip.decompress,
  ".xz": lzma.decompress,
  "": bytes,
}


def idx_bytes(array, code=None):
  """An idx file's content, written independently of the reader's code."""
  code = {"uint8": 8, "int32": 12}[array.dtype.name] if code is None else code
  header = [bytes([0, 0, code, array.ndim])]
  header += [length.to_bytes(4, "big") for length in array.shape]
  return (
    b"".join(header) + array.astype(array.dtype.newbyteorder(">")).tobytes()
  )


def part_of(stem, first_id, writers, seed=0, suffix=".gz"):
  """A part's files, images [n, 28, 28] and labels [n, 8]."""
  rng = np.random.default_rng(seed)
  count = len(writers)
  images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
  labels = np.zeros((count, 8), np.int32)
  labels[:, 0] = np.arange(count) % 10
  labels[:, 1] = np.where(np.array(writers) >= 2100, 4, 0)
  labels[:, 2] = writers
  labels[:, 4] = labels[:, 0] + 30
  labels[:, 5] = first_id + np.arange(count)
  part = nist_digits.DigitPart(
    images=nist_digits.DigitFile(
      f"{stem}-images-idx3-ubyte{suffix}",
      (f"https://example.org/{stem}-images-idx3-ubyte{suffix}",),
      images.shape,
      "uint8",
    ),
    labels=nist_digits.DigitFile(
      f"{stem}-labels-idx2-int{suffix}",
      (f"https://example.org/{stem}-labels-idx2-int{suffix}",),
      labels.shape,
      "int32",
    ),
  )
  return part, images, labels


def write(folder, file, array, *, suffix=None):
  folder.mkdir(parents=True, exist_ok=True)
  suffix = pathlib.Path(file.name).suffix if suffix is None else suffix
  path = folder / f"{file.content_name}{suffix}"
  path.write_bytes(COMPRESS[suffix](idx_bytes(array)))
  return path


def tiny_set(folder, name="tiny", suffix=".gz"):
  """One part of 40 digits by writers 7, 2101 and 3, and its files."""
  writers = [7, 2101, 3, 7] * 10
  part, images, labels = part_of(name, 100, writers, suffix=suffix)
  write(folder, part.images, images)
  write(folder, part.labels, labels)
  digit_set = nist_digits.DigitSet(name, "A few digits.", (part,), 3)
  return digit_set, images, labels


def with_file(digit_set, kind, **changes):
  """The set, something else being known about its images or labels."""
  (part,) = digit_set.parts
  file = dataclasses.replace(getattr(part, kind), **changes)
  part = dataclasses.replace(part, **{kind: file})
  return dataclasses.replace(digit_set, parts=(part,))


def assert_equal(population, other):
  for field in ("images", "labels", "individuals", "originals"):
    np.testing.assert_array_equal(
      getattr(population, field), getattr(other, field)
    )


def assert_one_sentence(message, *parts):
  assert "\n" not in message and message.endswith(".")
  for part in parts:
    assert str(part) in message


# --- the real data -----------------------------------------------------------


@pytest.fixture(scope="module")
def real_population(tmp_path_factory):
  if not (REAL_DATA / "mnist" / "train-images-idx3-ubyte.gz").is_file():
    pytest.skip(f"no MNIST files in {REAL_DATA} (set PERSONALIZATION_DATA)")
  return nist_digits.load(
    "mnist", data_dir=tmp_path_factory.mktemp("tfds"), manual_dir=REAL_DATA
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


def test_real_rows_are_those_of_the_files_sorted_by_writer(real_population):
  with gzip.open(REAL_DATA / "mnist" / "train-images-idx3-ubyte.gz") as stream:
    images = np.frombuffer(stream.read(), np.uint8, offset=16)
  with gzip.open(
    REAL_DATA / "qmnist" / "qmnist-train-labels-idx2-int.gz"
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


# --- the readers, on small files ---------------------------------------------


def test_published_sets():
  sets = nist_digits.DIGIT_SETS
  assert list(sets) == ["mnist", "qmnist", "xnist"]
  assert [s.num_digits for s in sets.values()] == [60_000, 120_000, 402_953]
  assert [s.num_writers for s in sets.values()] == [539, None, 3_579]
  for file in (f for s in sets.values() for f in s.files):
    assert file.content_sha256 or file.archive_sha256, file.name
    assert all(url.endswith("/" + file.name) for url in file.urls)
    assert file.urls[0].startswith("https://")


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("subfolder", files.SUBFOLDERS)
def test_files_are_found_and_read_in_any_container(tmp_path, subfolder, suffix):
  part, images, labels = part_of("train", 0, [1, 2] * 10)
  write(tmp_path / subfolder, part.images, images, suffix=suffix)
  write(tmp_path / subfolder, part.labels, labels, suffix=suffix)
  digit_set = nist_digits.DigitSet("two", "Two writers.", (part,), 2)
  digits = reader.read_digits(digit_set, tmp_path)
  np.testing.assert_array_equal(digits.images[..., 0], images)
  columns = (digits.labels, digits.series, digits.writers, digits.digit_ids)
  np.testing.assert_array_equal(np.stack(columns, 1), labels[:, [0, 1, 2, 5]])
  assert all(column.dtype == np.int32 for column in columns)


def test_a_file_that_the_browser_decompressed_is_read(tmp_path):
  part, images, _ = part_of("train", 0, [1, 2] * 10)
  path = tmp_path / part.images.name
  path.write_bytes(idx_bytes(images))  # named .gz, but plain
  np.testing.assert_array_equal(files.read_idx(path, part.images), images)


def test_parts_are_merged_by_writer(tmp_path):
  # Like qmnist: writers 4 and 2 are in both parts, 9 has a single digit.
  train, images, labels = part_of("train", 1_000, [4, 2, 4, 2, 4] * 4)
  test, more_images, more_labels = part_of("test", 50, [2, 9, 4], seed=1)
  for part, arrays in (
    (train, (images, labels)),
    (test, (more_images, more_labels)),
  ):
    write(tmp_path / "mnist", part.images, arrays[0])
    write(tmp_path / "qmnist", part.labels, arrays[1])
  digit_set = nist_digits.DigitSet("both", "Both parts.", (train, test))
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


def digits_of(writers, digit_ids, duplicate_of):
  count = len(writers)
  return nist_digits.Digits(
    images=np.zeros((count, 28, 28, 1), np.uint8),
    labels=np.arange(count, dtype=np.int32) % 10,
    writers=np.array(writers, np.int32),
    series=np.zeros(count, np.int32),
    digit_ids=np.array(digit_ids, np.int32),
    duplicate_of=np.array(duplicate_of, np.int32),
  )


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
  with pytest.raises(ValueError, match="no samples"):
    nist_digits.population_of(digits_of(range(10), range(10), [0] * 10))


# --- faults ------------------------------------------------------------------


def test_unknown_config():
  with pytest.raises(ValueError, match=r"no config 'emnist'.*mnist, qmnist"):
    nist_digits.load("emnist")


def test_published_names_are_taken(tmp_path):
  digit_set, _, _ = tiny_set(tmp_path, name="mnist")
  with pytest.raises(ValueError, match="can't be named mnist"):
    nist_digits.load(digit_set, data_dir=tmp_path, manual_dir=tmp_path)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_missing_file(tmp_path, kind):
  digit_set, _, _ = tiny_set(tmp_path)
  file = getattr(digit_set.parts[0], kind)
  (tmp_path / file.name).unlink()
  with pytest.raises(nist_digits.MissingDataError) as caught:
    nist_digits.load(digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path)
  assert isinstance(caught.value, FileNotFoundError)
  assert isinstance(caught.value, ValueError)
  assert_one_sentence(str(caught.value), file.name, tmp_path, file.urls[0])


def flip_content(path):
  suffix = path.suffix if path.suffix in COMPRESS else ""
  content = bytearray(DECOMPRESS[suffix](path.read_bytes()))
  content[-1] ^= 1
  path.write_bytes(COMPRESS[suffix](bytes(content)))


def flip_stored(path):
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 16
  path.write_bytes(raw)


def cut(path):
  raw = path.read_bytes()
  path.write_bytes(raw[: len(raw) - 20])


def empty(path):
  path.write_bytes(b"")


@pytest.mark.parametrize("kind", ["images", "labels"])
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
def test_damaged_file(tmp_path, kind, suffix, damage, complaint):
  digit_set, images, labels = tiny_set(tmp_path, suffix=suffix)
  array = {"images": images, "labels": labels}[kind]
  digit_set = with_file(
    digit_set,
    kind,
    content_sha256=hashlib.sha256(idx_bytes(array)).hexdigest(),
  )
  assert len(reader.read_digits(digit_set, tmp_path).labels) == 40
  path = tmp_path / getattr(digit_set.parts[0], kind).name
  damage(path)
  with pytest.raises(nist_digits.DataError, match=complaint) as caught:
    reader.read_digits(digit_set, tmp_path)
  assert_one_sentence(str(caught.value), path)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damage_is_noticed_even_without_a_digest(tmp_path, suffix):
  digit_set, _, _ = tiny_set(tmp_path, suffix=suffix)
  path = tmp_path / digit_set.parts[0].images.name
  flip_stored(path)  # caught by the container's own check sum
  with pytest.raises(nist_digits.DataError, match="decompressed"):
    reader.read_digits(digit_set, tmp_path)


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
  path = tmp_path / digit_set.parts[0].images.name
  path.write_bytes(gzip.compress(change(idx_bytes(images))))
  with pytest.raises(nist_digits.DataError, match=complaint) as caught:
    reader.read_digits(digit_set, tmp_path)
  assert_one_sentence(str(caught.value), path)


@pytest.mark.parametrize(
  ("column", "value", "complaint"),
  [
    (0, 10, "row 6 holds 10 where class 0..9"),
    (0, -1, "row 6 holds -1 where class 0..9"),
    (4, 30, "row 6 holds 30 where NIST code"),
    (2, -7, "row 6 holds -7 where writer"),
    (1, 4, "writer 3 in more than one HSF series"),
    (2, 8, "name 4 writers, but tiny has 3"),
  ],
)
def test_wrong_labels(tmp_path, column, value, complaint):
  digit_set, _, labels = tiny_set(tmp_path)
  labels[6, column] = value
  path = write(tmp_path, digit_set.parts[0].labels, labels)
  with pytest.raises(nist_digits.DataError, match=complaint) as caught:
    nist_digits.load(digit_set, data_dir=tmp_path / "tfds", manual_dir=tmp_path)
  assert_one_sentence(str(caught.value), path.name)
  assert not list((tmp_path / "tfds").rglob("*.array_record*"))


def test_labels_must_be_as_many_as_images(tmp_path):
  digit_set, _, labels = tiny_set(tmp_path)
  digit_set = with_file(digit_set, "labels", shape=(39, 8))
  write(tmp_path, digit_set.parts[0].labels, labels[:39])
  with pytest.raises(nist_digits.DataError, match="labels 39 digits, but"):
    reader.read_digits(digit_set, tmp_path)


def test_archive_digest_where_the_contents_is_unknown(tmp_path):
  digit_set, images, _ = tiny_set(tmp_path)
  path = tmp_path / digit_set.parts[0].images.name
  digit_set = with_file(
    digit_set,
    "images",
    archive_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
  )
  assert len(reader.read_digits(digit_set, tmp_path).labels) == 40
  path.write_bytes(gzip.compress(idx_bytes(images), compresslevel=1))
  with pytest.raises(nist_digits.DataError, match="as published") as caught:
    reader.read_digits(digit_set, tmp_path)
  assert_one_sentence(str(caught.value), path)
  path.unlink()
  write(tmp_path, digit_set.parts[0].images, images, suffix="")
  assert len(reader.read_digits(digit_set, tmp_path).labels) == 40


def test_content_digest_lets_archives_be_compressed_anew(tmp_path):
  digit_set, images, _ = tiny_set(tmp_path)
  digit_set = with_file(
    digit_set,
    "images",
    content_sha256=hashlib.sha256(idx_bytes(images)).hexdigest(),
    archive_sha256="0" * 64,
  )
  assert len(reader.read_digits(digit_set, tmp_path).labels) == 40


# --- downloading -------------------------------------------------------------


def test_mirrors_are_tried_in_turn_and_bad_copies_are_thrown_away(tmp_path):
  digit_set, images, labels = tiny_set(tmp_path / "good")
  (part,) = digit_set.parts
  write(tmp_path / "bad", part.images, images[:39])
  for kind in ("images", "labels"):
    name = getattr(part, kind).name
    urls = tuple(
      (tmp_path / place / name).as_uri() for place in ("none", "bad", "good")
    )
    digit_set = with_file(digit_set, kind, urls=urls)
  data_dir = tmp_path / "tfds"
  population = nist_digits.load(digit_set, data_dir=data_dir)
  np.testing.assert_array_equal(
    population.individuals, np.sort(labels[:, 2], kind="stable")
  )
  downloaded = data_dir / "downloads" / "manual"
  assert sorted(os.listdir(downloaded)) == [part.images.name, part.labels.name]
  for name in os.listdir(downloaded):
    good = tmp_path / "good" / name
    assert (downloaded / name).read_bytes() == good.read_bytes()


def test_a_failed_download_names_all_places_and_the_way_round(tmp_path):
  digit_set, images, _ = tiny_set(tmp_path / "good")
  (part,) = digit_set.parts
  bad = write(tmp_path / "bad", part.images, images[:39])
  urls = ((tmp_path / "none" / part.images.name).as_uri(), bad.as_uri())
  digit_set = with_file(digit_set, "images", urls=urls)
  with pytest.raises(nist_digits.DataError) as caught:
    nist_digits.load(digit_set, data_dir=tmp_path / "tfds")
  assert_one_sentence(
    str(caught.value), part.images.name, *urls, "--manual_dir", "(39, 28, 28)"
  )
  assert not list((tmp_path / "tfds" / "downloads" / "manual").iterdir())


# --- preparation -------------------------------------------------------------


def run_python(code, *arguments, path=()):
  environment = dict(os.environ)
  environment["PYTHONPATH"] = os.pathsep.join(map(str, (*path, ROOT)))
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )


def test_an_interrupted_preparation_is_done_again(tmp_path):
  digit_set, _, _ = tiny_set(tmp_path)
  result = run_python(
    """
    import os, sys
    sys.path.insert(0, sys.argv[2])
    import pathlib
    import test_nist_digits as t
    digit_set, _, _ = t.tiny_set(pathlib.Path(sys.argv[1]))
    whole = t.builder.NistDigits._generate_examples
    def dies(self, digits):
      yield next(whole(self, digits))
      os._exit(9)
    t.builder.NistDigits._generate_examples = dies
    t.nist_digits.load(
        digit_set, data_dir=sys.argv[1] + "/tfds", manual_dir=sys.argv[1])
    """,
    tmp_path,
    pathlib.Path(__file__).parent,
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
  with pytest.raises(nist_digits.DataError, match="delete that folder") as info:
    nist_digits.load(digit_set, data_dir=data_dir, manual_dir=tmp_path)
  assert_one_sentence(str(info.value), data_dir / "nist_digits" / "tiny")


# --- what is imported --------------------------------------------------------


def test_tensorflow_is_never_imported(tmp_path):
  tiny_set(tmp_path)
  (tmp_path / "tensorflow").mkdir()
  (tmp_path / "tensorflow" / "__init__.py").write_text(
    "raise SystemExit('TensorFlow was imported')\n"
  )
  result = run_python(
    """
    import pathlib, sys
    sys.path.insert(1, sys.argv[2])
    import test_nist_digits as t
    digit_set, _, _ = t.tiny_set(pathlib.Path(sys.argv[1]))
    for _ in range(2):
      t.nist_digits.load(
          digit_set, data_dir=sys.argv[1] + "/tfds", manual_dir=sys.argv[1])
    assert "tensorflow_datasets" in sys.modules
    assert "tensorflow" not in sys.modules
    """,
    tmp_path,
    pathlib.Path(__file__).parent,
    path=[tmp_path],
  )
  assert result.returncode == 0, result.stderr


def test_imports_without_tensorflow_datasets(tmp_path):
  (tmp_path / "tensorflow_datasets.py").write_text(
    "raise ImportError('not installed')\n"
  )
  result = run_python(
    """
    from personalization_jax.datasets import nist_digits
    try:
      nist_digits.load("mnist")
    except ImportError as error:
      print(error)
    """,
    path=[tmp_path],
  )
  assert result.returncode == 0, result.stderr
  assert "needs tensorflow-datasets" in result.stdout
