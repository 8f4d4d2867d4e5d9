"""What saved models say of themselves, and that faults are noticed."""

import errno
import json
import shutil
import types

import flax.training.checkpoints
import jax
import numpy as np
import orbax.checkpoint
import pytest

from personalization_jax.checkpoints import files
from personalization_jax.networks import MLP, classifier
from personalization_jax.runs import saved_models
from personalization_jax.runs.saved_models import Description

SMALL = Description(num_classes=3, sample_shape=(16, 16, 1), width=1 / 32)


def make_variables(description=SMALL):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype),
    description.shapes(),
  )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  path = tmp_path_factory.mktemp("models") / "anna"
  saved_models.save_one(path, make_variables(), SMALL)
  return path


@pytest.fixture
def copied(saved, tmp_path):
  """A copy to be damaged, with no description two folders above."""
  return shutil.copytree(saved, tmp_path / "x" / "y" / "anna")


def test_a_model_comes_back_bit_for_bit_with_what_it_is(saved):
  description, params, batch_stats = saved_models.load(str(saved))
  assert description == SMALL
  found = {"params": params, "batch_stats": batch_stats}
  jax.tree.map(np.testing.assert_array_equal, found, make_variables())


def test_a_model_of_features_comes_back_too(tmp_path):
  """It has no batch statistics."""
  about = Description(num_classes=3, sample_shape=(7,), hidden=(5, 4))
  variables = {"batch_stats": {}, **make_variables(about)}
  saved_models.save_one(tmp_path / "bob", variables, about)
  description, params, batch_stats = saved_models.load(tmp_path / "bob")
  assert description == about
  found = {"params": params, "batch_stats": batch_stats}
  jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_orbax_and_flax_read_it_without_this_package(saved):
  for read in (
    orbax.checkpoint.StandardCheckpointer().restore(saved),
    flax.training.checkpoints.restore_checkpoint(saved, target=None),
  ):
    jax.tree.map(np.testing.assert_array_equal, read, make_variables())


def test_a_run_s_models_share_one_description(copied):
  """Beside the methods' folders; a model's own comes first."""
  there = copied.parent.parent / "model.json"
  (copied / "model.json").rename(there)
  assert saved_models.load(copied)[0] == SMALL
  other = Description(7, (16, 16, 1), 1 / 32)
  (copied / "model.json").write_text(other.to_json())
  with pytest.raises(ValueError, match=r"layer_7.* is float32\[3\] where .*7"):
    saved_models.load(copied)


def test_older_descriptions_are_read(copied):
  """From before momentum, dtype and label_names."""
  file = copied / "model.json"
  content = json.loads(file.read_text())
  for name in ("momentum", "dtype", "label_names"):
    del content[name]
  file.write_text(json.dumps(content))
  assert saved_models.load(copied)[0] == SMALL


def test_what_a_model_was_trained_on_comes_back(tmp_path):
  model = classifier.Classifier(3, width=1 / 32, momentum=0.5)
  about = Description.of(
    model, (16, 16, 1), dtype=np.uint8, label_names=["a", "b", "c"]
  )
  assert (about.dtype, about.label_names) == ("uint8", ("a", "b", "c"))
  saved_models.save_one(tmp_path / "bob", make_variables(about), about)
  description, *_ = saved_models.load(tmp_path / "bob")
  assert description == about
  assert description.network() == model


def test_only_initial_weights_that_are_not_flax_s_are_described():
  for name in classifier.INITIALIZERS:
    model = classifier.Classifier(3, width=1 / 32, initializer=name)
    text = Description.of(model, (16, 16, 1)).to_json()
    assert ("initializer" in text) == (name != "lecun_normal")
    assert Description.from_json(text).network() == model


class OtherMLP(MLP):
  def __call__(self, samples):
    return 2 * super().__call__(samples)


class OtherClassifier(classifier.Classifier):
  pass


@pytest.mark.parametrize("model", [OtherMLP(3), OtherClassifier(3)])
def test_a_subclass_is_another_model(model):
  assert Description.of(model, (16, 16, 1)) is None


def test_an_error_without_words_is_quoted(copied, monkeypatch):
  def fail(*_):
    raise RuntimeError

  monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "restore", fail)
  with pytest.raises(ValueError, match=r"can't be read .* \(RuntimeError\)"):
    saved_models.load(copied)


def test_every_fault_in_every_file_is_noticed(copied):
  damaged = 0
  for file in sorted(copied.rglob("*")):
    if not file.is_file():
      continue
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for fault in (None, b"", content[:-3], bytes(flipped)):
      file.unlink() if fault is None else file.write_bytes(fault)
      if file.name == "model.json" and fault == bytes(flipped):
        continue
      with pytest.raises(ValueError) as error:
        saved_models.load(copied)
      assert str(copied) in str(error.value)
      assert "\n" not in str(error.value)
      damaged += 1
    file.write_bytes(content)
  assert damaged > 20
  assert saved_models.load(copied)[0] == SMALL


def test_what_is_no_model_is_named(saved, tmp_path):
  with pytest.raises(ValueError, match="nobody is no folder"):
    saved_models.load(tmp_path / "nobody")
  with pytest.raises(ValueError, match=r"several models \(anna\): name the"):
    saved_models.load(saved.parent)
  with pytest.raises(ValueError, match=r"holds no saved model \(sha256.json"):
    saved_models.load(tmp_path)


def test_a_model_that_nobody_describes_is_refused(copied):
  (copied / "model.json").unlink()
  with pytest.raises(ValueError, match=r"model\.json is missing"):
    saved_models.load(copied)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"format": 2}, "format isn't 1"),
    ({"width": 0.001}, "width=0.001"),
    ({"width": "wide"}, "describes no saved model"),
    ({"precision": "int8"}, "precision='int8'"),
    ({"num_classes": 0}, "num_classes=0"),
    ({"num_classes": 2**63}, "num_classes=9223372036854775808"),
    ({"num_classes": True}, "num_classes=True"),
    ({"sample_shape": [16, 16]}, r"samples have shape \[16, 16\]"),
    ({"sample_shape": [16, 32, 1]}, "must be square"),
    ({"sample_shape": [20, 20, 1]}, "image_size=20"),
    ({"sample_shape": 16}, "describes no saved model"),
    ({"heads": 4}, "heads"),
    ({"momentum": 2}, "momentum=2 must lie in 0..1"),
    ({"momentum": "much"}, "describes no saved model"),
    ({"initializer": "he"}, "initializer='he' must be one of"),
    ({"dtype": "int8"}, "dtype='int8'"),
    ({"label_names": ["a", "b"]}, "2 names for 3 classes"),
    ({"width": 1 / 16}, r"mean is float32\[1\] where float32\[2\] is"),
    ({"sample_shape": [16, 16, 3]}, "layer_0/kernel is"),
  ],
  ids=str,
)
def test_other_descriptions_are_refused(copied, change, message):
  file = copied / "model.json"
  file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
  with pytest.raises(ValueError, match=message) as error:
    saved_models.load(copied)
  assert "model.json" in str(error.value)


def test_a_model_that_diverged_is_refused(tmp_path):
  variables = make_variables()
  variables["params"]["layer_7"]["bias"][1] = np.nan
  saved_models.save_one(tmp_path / "bob", variables, SMALL)
  with pytest.raises(ValueError, match="its training diverged"):
    saved_models.load(tmp_path / "bob")


@pytest.mark.parametrize(
  "words",
  [
    "RESOURCE_EXHAUSTED: Failed writing: [OS error 28: ENOSPC No space left]",
    "[Errno 122] Disk quota exceeded",
  ],
)
def test_a_disk_that_fills_meanwhile_is_called_full(
  monkeypatch, tmp_path, words
):
  """TensorStore's own errors are no OSError."""

  def fail(*_, **__):
    raise ValueError(words)

  monkeypatch.setattr(orbax.checkpoint.StandardCheckpointer, "save", fail)
  with pytest.raises(OSError, match="the disk is full") as error:
    saved_models.save_one(tmp_path / "bob", make_variables(), SMALL)
  assert error.value.errno == errno.ENOSPC


def test_nothing_is_begun_on_a_disk_without_room(monkeypatch, tmp_path):
  """Orbax's threads would print a traceback each."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(make_variables()))
  monkeypatch.setattr(
    files.shutil,
    "disk_usage",
    lambda _: types.SimpleNamespace(free=size + saved_models.OVERHEAD - 1),
  )
  with pytest.raises(OSError, match="the disk is full") as error:
    saved_models.save_one(tmp_path / "a" / "bob", make_variables(), SMALL)
  assert error.value.filename == str(tmp_path / "a" / "bob")
  assert not list(tmp_path.iterdir())
