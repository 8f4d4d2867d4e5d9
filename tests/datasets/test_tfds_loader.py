"""Any set of tensorflow-datasets with people in it, here a tiny one."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers.nist_files import tiny_set

from experiments import table1
from experiments.flags import study_flags
from experiments.runtime import guards
from personalization_jax.datasets import nist_digits, tfds_loader

tfds = pytest.importorskip("tensorflow_datasets")
from absl import flags  # noqa: E402
from absl.testing import flagsaver  # noqa: E402

BYTES = tfds.features.Encoding.BYTES
WRITERS = ["zoe", "ada", "zoe", "bob", "ada", "zoe", "ada", "eve"]


LETTERS = "qrsqtrst"


class TinyPeople(tfds.core.GeneratorBasedBuilder):
  """Eight drawings: three of zoe, three of ada, one each of bob and eve."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Tensor(
            shape=(16, 16, 1), dtype=np.uint8, encoding=BYTES
          ),
          "vector": tfds.features.Tensor(
            shape=(5,), dtype=np.float64, encoding=BYTES
          ),
          "ragged": tfds.features.Tensor(
            shape=(None,), dtype=np.float32, encoding=BYTES
          ),
          "label": tfds.features.ClassLabel(names=["a", "b"]),
          "gaps": tfds.features.Scalar(dtype=np.int64),
          "plain": tfds.features.ClassLabel(num_classes=2),
          "letter": tfds.features.Text(),
          "partly": tfds.features.Scalar(dtype=np.int64),
          "seldom": tfds.features.Scalar(dtype=np.int64),
          "writer": tfds.features.Text(),
          "number": tfds.features.Scalar(dtype=np.int32),
          "weight": tfds.features.Scalar(dtype=np.float32),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      "early": self._generate_examples(0, 5),
      "late": self._generate_examples(5, 8),
    }

  def _generate_examples(self, start, stop):
    for row in range(start, stop):
      yield (
        row,
        {
          "image": np.full((16, 16, 1), 30 * row, np.uint8),
          "vector": np.full(5, row / 8),
          "ragged": np.ones(1 + row % 2, np.float32),
          "label": row % 2,
          "gaps": 10 * (row % 2),
          "plain": row % 2,
          "letter": LETTERS[row],
          "partly": -1 if row >= 5 else row % 2,
          "seldom": -1 if row in (2, 7) else row % 2,
          "writer": WRITERS[row],
          "number": 100 + len(WRITERS[row]) + ord(WRITERS[row][0]),
          "weight": 0.5,
        },
      )


class ByHand(TinyPeople):
  """Files that nobody fetched."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = "Get drawings.zip from its authors."

  def _split_generators(self, dl_manager):
    return {"all": self._generate_examples(dl_manager.manual_dir, 8)}


class Fails(TinyPeople):
  """A server that is gone."""

  def _split_generators(self, dl_manager):
    raise ConnectionError("no route to host\nat all")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


def load(data_dir, name="tiny_people", said=None, **about):
  about = {"individual_feature": "writer", **about}
  say = (lambda text: None) if said is None else said.append
  return tfds_loader.load(name, data_dir=data_dir, say=say, **about)


def test_people_are_those_of_all_splits_with_two_samples(data_dir):
  said = []
  population = load(data_dir, said=said)
  # By the drawing: the order of records is tensorflow-datasets' own.
  rows = population.images[:, 0, 0, 0] // 30
  assert sorted(rows) == [0, 1, 2, 4, 5, 6]
  assert population.images.shape == (6, 16, 16, 1)
  # ada is 0 and zoe 1.
  expected = [int(WRITERS[row] == "zoe") for row in rows]
  np.testing.assert_array_equal(population.individuals, expected)
  np.testing.assert_array_equal(population.labels, rows % 2)
  assert "left out 2 of 4 people" in said[0]
  assert (
    "individuals are numbered in sorted order (0 is ada, 1 is zoe)." in said[1]
  )
  assert len(said) == 2


def test_integer_ids_stay_and_labels_with_gaps_are_numbered(data_dir):
  said = []
  population = load(
    data_dir, said=said, individual_feature="number", label_feature="gaps"
  )
  ids = {100 + 3 + ord("a"), 100 + 3 + ord("z")}
  assert set(population.individuals) == ids
  assert set(population.labels) == {0, 1}
  assert "labels are numbered in sorted order (0 is 0, 1 is 10)." in said[-1]
  assert population.label_names == ("0", "10")


def test_classes_have_their_names(data_dir):
  """The set's own, or the values that were numbered, all of them."""
  assert load(data_dir).label_names == ("a", "b")
  assert load(data_dir, label_feature="plain").label_names is None
  said = []
  letters = load(data_dir, label_feature="letter", said=said)
  assert letters.label_names == ("q", "r", "s", "t")
  assert "(0 is q, 1 is r, 2 is s, 3 is t)" in said[-1]
  for row, label in zip(letters.images[:, 0, 0, 0] // 30, letters.labels):
    assert letters.label_names[label] == LETTERS[row]


def test_feature_vectors_and_one_split(data_dir):
  population = load(data_dir, image_feature="vector", split="early")
  assert population.images.dtype == np.float32
  assert sorted(population.images[:, 0] * 8) == [0, 1, 2, 4]
  assert len(load(data_dir, split="early+late")) == 6


def test_the_flags_name_it(data_dir, capsys, tmp_path):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  with flagsaver.flagsaver(
    dataset="tfds:tiny_people",
    individual_feature="writer",
    image_feature="vector",
    data_dir=str(data_dir),
    num_individuals=1,
    num_global_individuals=1,
    epochs=1,
    methods="global",
    workdir=str(tmp_path / "run"),
  ):
    workdir = tmp_path / "run"
    with guards.alone(workdir):
      table1.prepare(*table1.check_flags(), workdir, lambda: False)
    population, factors = study_flags.load_population()
    varied, *_ = study_flags.vary(population)
    determining = study_flags.determining(varied)
    assert type(study_flags.model(varied)).__name__ == "MLP"
    with flagsaver.flagsaver(precision="bfloat16"):
      assert study_flags.model(varied).dtype == np.dtype("bfloat16")
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  assert config["label_names"] == ["a", "b"]
  assert factors is None
  assert len(varied) == 6
  assert determining["individual_feature"] == "writer"
  assert determining["image_feature"] == "vector"
  assert "left out 2 of 4 people" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("name", "about", "sentence"),
  [
    ("no_such_set", {}, "has no set 'no_such_set'"),
    ("", {}, "has no set ''"),
    ("tiny_people/other", {}, "has no set 'tiny_people/other'"),
    (
      "tiny_people",
      {"individual_feature": "person"},
      "no feature 'person'; it has image, .*, writer",
    ),
    ("tiny_people", {"image_feature": "x"}, "has no feature 'x'"),
    ("tiny_people", {"label_feature": "x"}, "has no feature 'x'"),
    ("tiny_people", {"split": "test"}, "no split 'test'.* it has early, late"),
    (
      "tiny_people",
      {"image_feature": "ragged"},
      r"different shapes, .* in row 0 and .* to one shape beforehand",
    ),
    ("tiny_people", {"label_feature": "image"}, "labels must be a vector"),
    (
      "tiny_people",
      {"label_feature": "partly"},
      r"'partly' is below 0 in 3 of 8 records \(of late\), .* by split='early'",
    ),
    (
      "tiny_people",
      {"label_feature": "seldom"},
      r"in 2 of 8 records \(of early, late\), .* into an npz file",
    ),
    (
      "tiny_people",
      {"individual_feature": "weight"},
      "individuals must be whole numbers or texts, but row 0 holds 0.5",
    ),
    ("tiny_people", {"image_feature": "number"}, "images must have shape"),
    ("tiny_people", {"split": "late"}, "nobody has two samples"),
    ("by_hand", {}, "fetched by hand .* name their folder by manual_dir"),
    ("fails", {}, r"can't be downloaded or prepared.* no route to host\)"),
  ],
)
def test_a_fault_is_named_in_one_sentence(data_dir, name, about, sentence):
  with pytest.raises(ValueError, match=sentence) as error:
    load(data_dir, name, **about)
  message = str(error.value)
  assert "\n" not in message
  assert message.startswith(("tfds:", "tensorflow-datasets has no set"))


@pytest.mark.parametrize(
  ("name", "load_data"),
  [
    ("tfds:tiny_people", lambda folder: load(folder)),
    ("nist_digits", lambda folder: nist_digits.load(data_dir=folder)),
  ],
)
@pytest.mark.parametrize("missing", ["array_record", "tensorflow_datasets"])
def test_what_cannot_be_imported_is_named(
  monkeypatch, tmp_path, missing, name, load_data
):
  """array_record has no wheels for some systems; all else works there."""
  for module in list(sys.modules):
    if module.split(".")[0] == missing:
      monkeypatch.delitem(sys.modules, module)
  monkeypatch.setitem(sys.modules, missing, None)
  with pytest.raises(ImportError) as error:
    load_data(tmp_path)
  message = str(error.value)
  if missing == "array_record":
    assert message.startswith(f"{name} needs array_record, ")
    assert "on Linux and on macOS with Apple silicon, pip install" in message
    assert "load the people from an npz file there." in message
  else:
    assert message.startswith(f"{name} needs tensorflow-datasets and ")
  assert "\n" not in message
  assert not list(tmp_path.iterdir())


def test_tensorflow_datasets_is_imported_when_needed_and_tensorflow_never(
  data_dir, tmp_path
):
  load(data_dir)  # prepared by now
  digit_set = pickle.dumps(tiny_set(tmp_path)[0]).hex()
  (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
  code = """
import pickle, sys
from personalization_jax.datasets import nist_digits, tfds_loader
assert not {"tensorflow_datasets", "array_record"} & set(sys.modules)
people, folder, digit_set = sys.argv[1], sys.argv[2], sys.argv[3]
population = tfds_loader.load(
  "tiny_people", individual_feature="writer", data_dir=people
)
assert len(population) == 6
digit_set = pickle.loads(bytes.fromhex(digit_set))
for _ in range(2):
  nist_digits.load(digit_set, data_dir=folder + "/tfds", manual_dir=folder)
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""
  root = pathlib.Path(__file__).parents[2]
  subprocess.run(
    [sys.executable, "-c", code, data_dir, tmp_path, digit_set],
    check=True,
    timeout=120,
    env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
  )
