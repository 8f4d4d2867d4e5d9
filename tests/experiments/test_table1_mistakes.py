"""What the script says to mistakes: a sentence, before anything is trained."""

import math
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from helpers.small_run import run

from experiments import table1
from personalization_jax.checkpoints.keeper import AnotherTrainingError
from personalization_jax.runs import directory


def bad_npz(folder, fault):
  path = folder / f"{fault}.npz"
  arrays = {
    "images": np.zeros((8, 16, 16, 1), np.uint8),
    "labels": np.arange(8) % 2,
    "individuals": np.arange(8) // 2,
  }
  if fault == "one_class":
    arrays["labels"] *= 0
  elif fault == "one_sample":
    arrays["individuals"][-1] = 9
  elif fault == "not_square":
    arrays["images"] = arrays["images"][:, :8]
  if fault == "corrupt":
    path.write_bytes(b"PK\x03\x04")
  elif fault != "missing":
    np.savez(path, **arrays)
  return str(path)


MISTAKES = [
  ({"methods": "baseline,xx:4"}, "unknown method 'xx:4'"),
  ({"memory_gib": 0.001}, "lower --batch_size, or take --store=host (and"),
  ({"memory_gib": float("nan")}, "--memory_gib=nan must be a number of 0 or"),
  ({"memory_gib": float("inf")}, "--memory_gib=inf must be a number of 0 or"),
  ({"batch_size": 10**9}, "--batch_size=1000000000) would take"),
  (
    {"methods": "sg:9", "autoencoder_epochs": 10**12},
    "--autoencoder_epochs=1000000000000) would take",
  ),
  ({"width": 1e308}, "error: --width=1e+308 must be below 8388608"),
  ({"width": float(2**40)}, "error: --width=1099511627776.0 must be below"),
  ({"seed": 2**63}, "--seed=9223372036854775808 must be below 2**32"),
  ({"seeds": ["0", str(2**32)]}, "--seeds=4294967296 must be below 2**32"),
  ({"methods": "es:many"}, "unknown method 'es:many'"),
  ({"methods": "sw:0.3"}, "n_I=3/10 is neither"),
  ({"methods": "tl:3:last=99"}, "last_layers=99 must lie in 1..3"),
  ({"methods": "sg:5000"}, "'sg:5000' asks for 5000 training samples of D_G"),
  ({"methods": "ig:4"}, "'ig:4' asks for 4 people, but there are 3"),
  ({"methods": "sg:9", "autoencoder_epochs": 0}, "autoencoder_epochs=0"),
  ({"num_individuals": 1}, "num_individuals must be at least 2"),
  ({"width": 0.01}, "width=0.01 gives the layer of 32 channels none"),
  ({"image_size": 20}, "image_size=20 must be one of 16, 32, 64"),
  ({"epochs": 0}, "error: --epochs=0 must be at least 1"),
  ({"batch_size": -3}, "batch_size=-3 must be at least 1"),
  ({"learning_rate": -1.0}, "learning_rate=-1.0 must be above 0"),
  (
    {"personal_learning_rate": 0.0},
    "--personal_learning_rate=0.0 must be above 0",
  ),
  (
    {"personal_weight_decay": math.nan},
    "--personal_weight_decay=nan must be above 0",
  ),
  (
    {"personal_optimizer": "sgd", "personal_fresh": True},
    "--personal_fresh=True can't act with --personal_optimizer=sgd",
  ),
  (
    {"personal_optimizer": "sgd", "methods": "local,es:4"},
    "--personal_optimizer=sgd can't act with methods that don't train on D_I",
  ),
  ({"train_fraction": 1.2}, "train_fraction=1.2 must lie between"),
  ({"num_processes": 2}, "--num_processes and --process_id go together"),
  (
    {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2},
    "--process_id=2 must lie in 0..1",
  ),
  (
    {"coordinator_address": "localhost", "num_processes": 2, "process_id": 0},
    "--coordinator_address=localhost must be HOST:PORT",
  ),
  ({"synthetic_samples": 10**9}, "--synthetic_samples=1000000000 digits would"),
  ({"epochs": 10**9}, "--epochs=1000000000, --batch_size=32) would take"),
  ({"seed": -1}, "seed=-1 must be 0 or more"),
  ({"class_concentration": 0.0}, "--class_concentration=0.0 must be"),
  ({"dataset": "npz"}, "--dataset=npz needs --npz_path"),
  (
    {"npz": "fine", "synthetic_samples": 80},
    "--synthetic_samples=80 can't act with --dataset=npz: leave it out, or"
    " behind a --flagfile that sets it add --synthetic_samples=100.",
  ),
  (
    {"npz_path": "a.npz"},
    "--npz_path=a.npz can't act with --dataset=synthetic: leave it out, or"
    " behind a --flagfile that sets it add --npz_path=.",
  ),
  ({"nist_config": "xnist"}, "--nist_config=xnist can't act with --dataset=sy"),
  ({"dataset": "npz", "data_dir": "a"}, "--data_dir=a can't act with --dat"),
  ({"manual_dir": "a"}, "--manual_dir=a can't act with --dataset=synthetic"),
  ({"individual_feature": "a"}, "--individual_feature=a can't act with --da"),
  (
    {"dataset": "nist_digits", "image_feature": "a", "label_feature": "b"},
    "--image_feature=a can't act with --dataset=nist_digits and"
    " --label_feature=b can't act with",
  ),
  ({"tfds_split": "train"}, "--tfds_split=train can't act with --dataset=syn"),
  ({"width": 0.5}, "--width=0.5 can't act with --model=mlp"),
  (
    {"initializer": "glorot_uniform"},
    "--initializer=glorot_uniform can't act with --model=mlp",
  ),
  ({"model": "cnn"}, "--model='cnn' must be 'auto', 'fig4', 'mlp' or 'module"),
  ({"model": "no_such:Net"}, "error: --model: no_such:Net: there is no module"),
  (
    {"model": "helpers.own_factories:Dropping", "precision": "bfloat16"},
    "--precision=bfloat16 can't act with --model=helpers.own_factories:Dropp",
  ),
  ({"train_fraction": math.nan}, "--train_fraction=nan must lie between 0 and"),
  ({"npz": "missing"}, "is no file"),
  ({"npz": "corrupt"}, "is no complete npz file"),
  (
    {
      "npz": "one_class",
      "num_individuals": 2,
      "num_global_individuals": 2,
      "flips": False,
    },
    "there must be at least two classes",
  ),
  ({"npz": "fine", "label_key": "y"}, "it has images, labels, individuals:"),
  ({"npz": "fine", "split_key": "y"}, "'y'; it has images, labels, indi"),
  ({"npz": "one_sample"}, "individual 3 has one sample"),
  ({"npz": "not_square"}, "must be square to be resized, but are 8x16: --pad"),
  ({"pad": True}, "--pad=True can't act with --dataset=synthetic"),
  ({"layout": "grey"}, "--layout=grey can't act with --dataset=synthetic"),
  ({"npz": "fine"}, "ask for 6 people, but the data has 4"),
  (
    {"dataset": "nist_digits", "manual_dir": "EMPTY"},
    "train-images-idx3-ubyte",
  ),
  ({"dataset": "npz", "npz_path": ""}, "--dataset=npz needs --npz_path"),
  ({"methods": "global,,tl:5"}, "error: --methods: a method is missing in"),
  ({"methods": ""}, "error: --methods: a method is missing in"),
  ({"checkpoint_minutes": float("nan")}, "--checkpoint_minutes=nan must be"),
  ({"workdir": "A FILE"}, "run is a file: name a folder"),
  ({"workdir": "TAKEN"}, "--epochs=1, but this one has --epochs=2"),
  ({"workdir": "FILE"}, "thesis.tex/run can't be written to (Not a directory)"),
  ({"workdir": "CLOSED"}, "checkpoints can't be written to (File exists)"),
]


@pytest.mark.parametrize(
  ("changes", "sentence"), MISTAKES, ids=lambda value: str(value)[:40]
)
def test_a_mistake_gets_one_sentence(
  changes, sentence, tmp_path, finished, monkeypatch
):
  def refuse(*_, **__):
    raise AssertionError("training began")

  monkeypatch.setattr(table1.Study, "personalize", refuse)
  changes = dict(changes)
  workdir = tmp_path / "run"
  if fault := changes.pop("npz", None):
    changes |= {"dataset": "npz", "npz_path": bad_npz(tmp_path, fault)}
  if changes.get("manual_dir") == "EMPTY":
    (tmp_path / "empty").mkdir()
    changes["manual_dir"] = str(tmp_path / "empty")
    changes["data_dir"] = str(tmp_path / "tfds")
  if (kind := changes.pop("workdir", None)) == "TAKEN":
    workdir = finished
    changes["epochs"] = 2
  elif kind == "FILE":
    (tmp_path / "thesis.tex").write_text("...")
    workdir = tmp_path / "thesis.tex" / "run"
  elif kind == "CLOSED":
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").write_text("...")
    (workdir / "results.csv").unlink()
  elif kind == "A FILE":
    workdir.write_text("...")
  with pytest.raises(SystemExit) as stopped:
    run(workdir, **changes)
  message = str(stopped.value.code)
  assert message.startswith("error: ")
  assert sentence in message
  assert "\n" not in message
  if workdir != finished:
    assert not (workdir / "results.csv").exists()


def test_a_directory_in_use_stays_as_it_is(finished, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)

  def state():
    return {
      path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
      for path in [workdir, *workdir.rglob("*")]
    }

  with directory.alone_in(workdir, "another's"):
    before = state()
    with pytest.raises(SystemExit, match="is in use by another process"):
      run(workdir, methods="tl:3", seeds=["0", "1"])
    assert state() == before


def test_memory_that_runs_out_ends_in_a_sentence(tmp_path, monkeypatch):
  def personalize(*_, **__):
    raise jax.errors.JaxRuntimeError(
      "RESOURCE_EXHAUSTED: Out of memory allocating 4711 bytes.\nBuffers: ..."
    )

  monkeypatch.setattr(table1.Study, "personalize", personalize)
  with pytest.raises(SystemExit) as stopped:
    run(tmp_path / "run")
  message = stopped.value.code
  assert message.startswith("error: out of memory (RESOURCE_EXHAUSTED: Out of")
  assert "4711 bytes): with a lower --individuals_per_device" in message
  assert "\n" not in message


def test_what_is_no_flag_is_refused(capsys):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  with pytest.raises(SystemExit, match="unexpected argument 'stray'"):
    table1.main(["table1", "stray"])


def test_mistakes_end_the_process_without_a_traceback(tmp_path):
  process = subprocess.run(
    [sys.executable, "-m", "experiments.table1", "--methods=xx:4",
     f"--workdir={tmp_path / 'run'}"],
    capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert process.returncode == 1
  assert process.stderr.startswith("error: --methods: ")
  assert "Traceback" not in process.stderr
  assert not (tmp_path / "run").exists()


def test_what_another_training_left_ends_the_run_in_a_sentence(
  tmp_path, monkeypatch
):
  def refuse(*_, **__):
    raise AnotherTrainingError(f"{tmp_path} keeps a training")

  monkeypatch.setattr(table1.Study, "personalize", refuse)
  with pytest.raises(SystemExit) as stopped:
    run(tmp_path / "run")
  assert stopped.value.code == f"error: {tmp_path} keeps a training"
