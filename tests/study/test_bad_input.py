"""Whatever stands in flags and files: one sentence, or a run; nothing else."""

import contextlib
import io
import pathlib
import pickle
import tempfile
import zipfile

import hypothesis
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from hypothesis import strategies as st

from experiments import table1
from experiments.runtime import resources
from personalization_jax.datasets import npz
from personalization_jax.datasets.nist_digits import files as idx


class TrainingBegan(Exception):
  """The input was good."""


SMALL = {
  "num_individuals": 2,
  "num_global_individuals": 2,
  "synthetic_samples": 6,
  "image_size": 16,
  "width": 1 / 32,
  "epochs": 1,
  "batch_size": 8,
  "methods": "tl:2",
}
ODD_NUMBERS = [
  "0", "-1", "1", "2", "3", "17", "100000000", str(2**31), str(2**63), "1e3",
  "1e308",
  "0.5", "nan", "inf", "-inf", "", " ", "x", "0x10", "1_0", "٣", "1/2",
]  # fmt: skip
NUMERIC = [
  "num_individuals", "num_global_individuals", "synthetic_samples",
  "image_size", "train_fraction", "epochs", "batch_size", "learning_rate",
  "width", "seed", "class_concentration", "individuals_per_device",
  "side_by_side",
  "cpu_devices", "autoencoder_epochs", "checkpoint_minutes", "num_processes",
  "process_id", "memory_gib", "eval_every", "seeds", "validation_fraction",
  "num_folds", "personal_learning_rate", "personal_weight_decay",
]  # fmt: skip
WORDS = {
  "dataset": ["synthetic", "npz", "mnist", "tfds:", "tfds:mnist", ""],
  "model": ["auto", "fig4", "mlp", "cnn"],
  "precision": ["float32", "bfloat16", "float64"],
  "initializer": ["lecun_normal", "pytorch", "he"],
  "npz_path": ["", "/", "/dev/null", "no\nfile", "~"],
  "coordinator_address": ["", "localhost", ":1", "host:port"],
  "group_candidates": ["global", "individuals", "x"],
  "store": ["device", "host", "disk"],
  "personal_optimizer": ["adam", "sgd", "lion"],
  "people": ["draw", "rotate", "all"],
  "split": ["random", "stratified", "x"],
  "standardise": ["auto", "features", "images", "none", "x"],
  "compare_to": ["global", "tl:2", "nobody", ""],
}
METHODS = st.one_of(
  st.text("estlwignradombaseline:+,/.=0123456789 ", max_size=24),
  st.lists(
    st.sampled_from(
      ["baseline", "es:1", "sw:2", "sw:1/3", "tl:2", "tl:2:last=9", "ig:1",
       "ig:9", "sg:4", "sg:9999999", "random:3:only", "sw:0", "es:-1", "+", "",
       "knn:5", "knn:0", "mix:tl:2", "mix:mix:tl:2", "l2sp:2@1", "ewc:2@-1",
       "distil:2@nan", "bias:2", "bn:0", "head:2", "lora:2:1", "lora:2:0",
       "lpft:1,1", "adabn", "reptile+tl:2", "ifca:2+tl:2", "ifca:0+tl:2",
       "tl:best", "tl:4@best", "tl:2@lr=0", "tl:2@lr=0.01", "baseline@steps=3",
       "sw:2@steps=0", "field"]
    ),
    max_size=4,
  ).map(",".join),
)  # fmt: skip
FLAGS = st.one_of(
  st.tuples(st.sampled_from(NUMERIC), st.sampled_from(ODD_NUMBERS)),
  st.sampled_from(sorted(WORDS)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(WORDS[name]))
  ),
  st.tuples(st.just("methods"), METHODS),
  st.tuples(st.just("no_such_flag"), st.just("1")),
)


def outcome(arguments, workdir):
  """What the script does with these flags, up to the first training step."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])

  def refuse(*_, **__):
    raise TrainingBegan

  with (
    pytest.MonkeyPatch.context() as patch,
    flagsaver.flagsaver(workdir=str(workdir), **SMALL),
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
  ):
    patch.setattr(table1.training, "find_groups", refuse)
    # Or every example would compile Fig. 4's network.
    patch.setattr(resources, "planned_bytes", lambda *_, **__: 2**20)
    patch.setattr(table1.processes.jax.distributed, "initialize", refuse)
    try:
      rest = flags.FLAGS(["table1", *arguments])
    except (flags.Error, UnicodeError) as error:
      return str(error)  # absl prints it with the usage and exits
    try:
      table1.main(rest)
    except TrainingBegan:
      return None
    except SystemExit as stopped:
      message = str(stopped.code)
      assert message.startswith("error: "), message
      assert "\n" not in message, message
      return message
  raise AssertionError("the run ended without training")


def check(arguments):
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / "run"
    message = outcome(arguments, workdir)
    # Nothing here trains, so nothing may claim to be complete.
    assert not list(workdir.rglob("results.csv"))
    assert not list(workdir.rglob("*.npz"))
    if message is not None:
      assert not (workdir / "config.json").exists()


def settings(count):
  return hypothesis.settings(
    max_examples=count,
    deadline=None,  # a busy machine is no defect
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )


# A short form for CI and a long one.
AMOUNTS = [
  pytest.param(18, id="short"),
  pytest.param(180, id="long", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_flags(amount):
  @settings(amount)
  @hypothesis.given(st.lists(FLAGS, min_size=1, max_size=3))
  def fuzz(chosen):
    check([f"--{name}={value}" for name, value in chosen])

  fuzz()


def good_arrays():
  return {
    "images": np.zeros((8, 16, 16, 1), np.uint8),
    "labels": np.arange(8) % 2,
    "individuals": np.arange(8) // 2,
  }


ARRAYS = st.builds(
  lambda shape, dtype, value: np.full(shape, value).astype(dtype),
  st.lists(st.integers(0, 9), max_size=5).map(tuple),
  st.sampled_from(["u1", "i4", "i8", "u8", "f4", "bool", "c8", "U3", "M8[s]"]),
  st.integers(0, 3),
)


@st.composite
def npz_files(draw):
  """Good files with a fault or none, and arbitrary bytes."""
  if draw(st.integers(0, 5)) == 0:
    return draw(st.binary(max_size=200))
  arrays = good_arrays()
  kind = draw(st.sampled_from(["array", "missing", "value", "bytes", "cut"]))
  name = draw(st.sampled_from(sorted(arrays)))
  if kind == "array":
    arrays[name] = draw(ARRAYS)
  elif kind == "missing":
    del arrays[name]
  elif kind == "value":
    place = draw(st.integers(0, arrays[name].size - 1))
    value = draw(st.integers(-(2**40), 2**40))
    changed = arrays[name].astype(np.int64)
    changed.flat[place] = value
    arrays[name] = changed
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  content = bytearray(buffer.getvalue())
  if kind == "bytes":
    for _ in range(draw(st.integers(1, 4))):
      content[draw(st.integers(0, len(content) - 1))] = draw(
        st.integers(0, 255)
      )
  elif kind == "cut":
    content = content[: draw(st.integers(0, len(content)))]
  return bytes(content)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_npz_files(amount):
  @settings(amount)
  @hypothesis.given(npz_files())
  def fuzz(content):
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
      pathlib.Path(file.name).write_bytes(content)
      check(["--dataset=npz", f"--npz_path={file.name}", "--noflips"])

  fuzz()


def no_archives():
  """What people take for an npz file."""
  buffer, array = io.BytesIO(), io.BytesIO()
  np.savez(buffer, **good_arrays())
  np.save(array, np.zeros(3))
  return {
    "text": b"images,labels\n1,2\n",
    "pickle": pickle.dumps(good_arrays()),
    "npy": array.getvalue(),
    "cut": buffer.getvalue()[:-40],
    "empty": b"",
  }


@pytest.mark.parametrize("kind", no_archives())
def test_what_is_no_npz_file_gets_the_remedy(kind, tmp_path):
  path = tmp_path / "people.npz"
  path.write_bytes(no_archives()[kind])
  with pytest.raises(ValueError, match="is no complete npz file") as refused:
    npz.load(path)
  assert str(refused.value).endswith("npz file: write it with np.savez(...).")


class Canary:
  """Shows whether a pickle was opened."""

  opened = False

  def __reduce__(self):
    return (setattr, (Canary, "opened", True))


def test_an_npz_file_with_pickled_objects_is_refused_unopened(tmp_path):
  path = tmp_path / "people.npz"
  objects = np.empty(8, object)
  objects[:] = [Canary() for _ in range(8)]
  np.savez(path, **{**good_arrays(), "labels": objects}, allow_pickle=True)
  with pytest.raises(ValueError, match=r"can't be read.*plain arrays"):
    npz.load(path)
  # An array by name, a pickle by content.
  with zipfile.ZipFile(path, "w") as archive:
    for name in good_arrays():
      archive.writestr(f"{name}.npy", pickle.dumps(Canary()))
  with pytest.raises(ValueError, match="images must be bool"):
    npz.load(path)
  assert not Canary.opened


IDX = idx.DigitFile("digits-idx3-ubyte.gz", (), (3, 4, 4), "uint8")


@st.composite
def idx_files(draw):
  """A good idx file with a few bytes changed, or anything."""
  header = b"\x00\x00\x08\x03" + b"".join(
    size.to_bytes(4, "big") for size in IDX.shape
  )
  content = bytearray(header + bytes(range(48)))
  for _ in range(draw(st.integers(0, 3))):
    content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
  content = bytes(content)
  kind = draw(st.sampled_from(["as it is", "cut", "more", "gzip", "any"]))
  if kind == "cut":
    content = content[: draw(st.integers(0, len(content)))]
  elif kind == "more":
    content += draw(st.binary(min_size=1, max_size=20))
  elif kind == "gzip":
    content = b"\x1f\x8b" + draw(st.binary(max_size=60))
  elif kind == "any":
    content = draw(st.binary(max_size=80))
  return content


@pytest.mark.parametrize(
  "amount", [AMOUNTS[0], pytest.param(200, id="long", marks=pytest.mark.slow)]
)
def test_idx_files(amount):
  @settings(amount)
  @hypothesis.given(idx_files())
  def fuzz(content):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / IDX.content_name
      path.write_bytes(content)
      try:
        array = idx.read_idx(path, IDX)
      except ValueError as error:
        assert str(path.name) in str(error)
        assert "\n" not in str(error)
      else:
        assert array.shape == IDX.shape
        assert array.dtype == np.uint8

  fuzz()
