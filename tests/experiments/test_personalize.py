"""The scripts for new people: from a saved model to predictions in a file."""

import csv
import json
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint
import pytest
from helpers.newcomers_served import (
  NEW,
  run,
  save_model,
  sentence,
  write_npz,
)

from experiments import personalize, predict
from personalization_jax.datasets import synthetic
from personalization_jax.runs import saved_models

TRAIN = ("--steps=60", "--batch_size=16", "--learning_rate=5e-3")


@pytest.fixture(scope="module")
def writers():
  """Four of a run and three new ones."""
  return synthetic.make_population(
    NEW + 3, samples_per_writer=160, image_size=16
  )[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """What is quick to compile, and knows nothing."""
  return save_model(tmp_path_factory.mktemp("models") / "plain", hidden=(8, 8))


def read(path):
  with path.open() as file:
    return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_new_person_is_served_better_than_before(writers, tmp_path, capsys):
  """From a base that never saw this writer to a CSV file of predictions."""
  base, anna = tmp_path / "base", tmp_path / "models" / "anna"
  for start, output, people, count in (
    (save_model(tmp_path / "start"), base, range(NEW), 20),
    (base, anna, [NEW], 80),
  ):
    samples = write_npz(
      tmp_path / "samples.npz",
      writers,
      people,
      leave_out=["individuals"],
      count=count,
    )
    run(
      personalize,
      f"--base={start}",
      f"--samples={samples}",
      f"--output={output}",
      *TRAIN,
    )
  report = json.loads((anna / "person.json").read_text())
  assert (report["train_size"], report["held_out_size"]) == (64, 16)
  assert report["accuracy_after"] > report["accuracy_before"]
  assert report["settings"]["base"] == str(base)
  # The drawings that nobody saw: 80 more of the same writer.
  unseen = np.flatnonzero(writers.individuals == NEW)[80:]
  arrays = {
    "images": writers.images[unseen],
    "labels": writers.labels[unseen],
  }
  np.savez(tmp_path / "new.npz", **arrays)
  accuracies = []
  for model in (base, anna):
    output = tmp_path / "predictions.csv"
    run(
      predict,
      f"--model={model}",
      f"--samples={tmp_path / 'new.npz'}",
      f"--output={output}",
    )
    rows = read(output)
    assert [int(row["row"]) for row in rows] == list(range(80))
    assert [int(row["label"]) for row in rows] == arrays["labels"].tolist()
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)
    for row in rows:
      assert row["correct"] == str(int(row["label"] == row["predicted"]))
    accuracies.append(np.mean([int(row["correct"]) for row in rows]))
    assert f"Accuracy: {accuracies[-1]:.4f}" in capsys.readouterr().out
  assert accuracies[1] > accuracies[0] + 0.05


def test_the_model_says_what_it_is_and_orbax_reads_it(plain, writers, tmp_path):
  samples = write_npz(
    tmp_path / "a.npz", writers, [NEW], leave_out=["individuals"], count=5
  )
  model = tmp_path / "model"
  run(
    personalize,
    f"--base={plain}",
    f"--samples={samples}",
    f"--output={model}",
    "--steps=1",
  )
  description, params, batch_stats = saved_models.load(model)
  assert description == saved_models.load(plain)[0]
  read_alone = orbax.checkpoint.StandardCheckpointer().restore(model)
  jax.tree.map(
    np.testing.assert_array_equal,
    read_alone,
    {"params": params, "batch_stats": batch_stats},
  )


def test_several_people_get_the_models_that_each_gets_alone(
  plain, writers, tmp_path, capsys
):
  several = [NEW, NEW + 2]
  for name, people in (("both", several), ("one", several[1:])):
    samples = write_npz(tmp_path / f"{name}.npz", writers, people)
    run(
      personalize,
      f"--base={plain}",
      f"--samples={samples}",
      f"--output={tmp_path / name}",
      "--last_layers=2",
      *TRAIN,
    )
  text = capsys.readouterr().out
  assert "2 people: mean accuracy" in text
  together = saved_models.load(tmp_path / "both" / str(NEW + 2))
  alone = saved_models.load(tmp_path / "one" / str(NEW + 2))
  jax.tree.map(np.testing.assert_array_equal, together[1:], alone[1:])
  reports = [
    json.loads((tmp_path / name / str(NEW + 2) / "person.json").read_text())
    for name in ("both", "one")
  ]
  assert reports[0]["accuracy_after"] == reports[1]["accuracy_after"]
  first = saved_models.load(plain)[1]["layer_0"]["kernel"]
  np.testing.assert_array_equal(together[1]["layer_0"]["kernel"], first)


def test_test_samples_of_their_own_and_an_unlabelled_file(
  plain, writers, tmp_path, capsys
):
  """Two samples of one class are enough to train on."""
  both = write_npz(tmp_path / "two.npz", writers, [NEW], count=2)
  rest = write_npz(tmp_path / "rest.npz", writers, [NEW], count=30)
  run(
    personalize,
    f"--base={plain}",
    f"--samples={both}",
    f"--test_samples={rest}",
    f"--output={tmp_path / 'few'}",
    "--steps=1",
  )
  assert "2 samples trained, 30 held out" in capsys.readouterr().out
  unlabelled = write_npz(
    tmp_path / "x.npz", writers, [NEW], leave_out=["labels"], count=5
  )
  run(
    predict,
    f"--model={tmp_path / 'few' / str(NEW)}",
    f"--samples={unlabelled}",
    f"--output={tmp_path / 'new' / 'p.csv'}",
  )
  rows = read(tmp_path / "new" / "p.csv")
  assert list(rows[0]) == ["row", "predicted", "probability"]
  assert len(rows) == 5
  assert "Accuracy" not in capsys.readouterr().out


def test_predictions_are_named_if_classes_are(writers, tmp_path):
  names = [f"digit {digit}" for digit in range(10)]
  model = save_model(tmp_path / "m", hidden=(8,), label_names=names)
  samples = write_npz(tmp_path / "a.npz", writers, [NEW], count=5)
  output = tmp_path / "p.csv"
  run(predict, f"--model={model}", f"--samples={samples}", f"--output={output}")
  for row in read(output):
    assert row["predicted_name"] == names[int(row["predicted"])]


def named(path, population, people, **arrays):
  """A file as people have it: names of people and classes, other keys."""
  rows = np.flatnonzero(np.isin(population.individuals, list(people)))
  np.savez(
    path,
    photos=population.images[rows],
    digit=np.array([f"digit {k}" for k in population.labels[rows]]),
    who=np.array([people[k] for k in population.individuals[rows].tolist()]),
    **arrays,
  )
  return str(path)


KEYS = ("--image_key=photos", "--label_key=digit", "--individual_key=who")


def test_files_agree_by_the_names_of_people_and_classes(
  writers, tmp_path, capsys
):
  """However each of them would number its own."""
  names = [f"digit {digit}" for digit in range(10)]
  base = save_model(tmp_path / "base", hidden=(8,), label_names=names)
  first = named(tmp_path / "a.npz", writers, {NEW: "zoe", NEW + 1: "bob"})
  second = named(
    tmp_path / "b.npz", writers, {NEW: "zoe", NEW + 1: "bob"}, age=np.ones(3)
  )
  third = named(tmp_path / "c.npz", writers, {NEW: "zoe", NEW + 1: "ada"})
  arguments = (f"--base={base}", f"--samples={first}", "--steps=2", *KEYS)
  said = sentence(
    personalize, *arguments, f"--test_samples={third}", f"--output={tmp_path}/o"
  )
  assert "--samples and --test_samples: everyone needs" in said
  assert "bob (to train on), ada (to test on)" in said
  run(
    personalize,
    *arguments,
    f"--test_samples={second}",
    f"--output={tmp_path / 'out'}",
  )
  assert "arrays that aren't read: age" in capsys.readouterr().err
  for name in ("bob", "zoe"):
    report = json.loads((tmp_path / "out" / name / "person.json").read_text())
    assert report["individual"] == name
    assert (report["train_size"], report["held_out_size"]) == (160, 160)
  output = tmp_path / "p.csv"
  run(
    predict,
    f"--model={tmp_path / 'out' / 'zoe'}",
    f"--samples={first}",
    f"--output={output}",
    *KEYS,
  )
  for row in read(output):
    assert row["label"] in names
    assert row["correct"] == str(int(row["label"] == row["predicted_name"]))


@pytest.mark.parametrize(
  ("people", "message"),
  [
    (("ada", "Ada"), "share the folder 'Ada'"),
    (("a/b", "a_b"), "share the folder 'a_b'"),
    (("..", "b"), "'..' can't be a folder's name"),
    (("a" * 300, "b"), "is too long for a folder's name"),
  ],
)
def test_names_that_can_t_be_folders(plain, writers, tmp_path, people, message):
  path = tmp_path / "a.npz"
  np.savez(
    path,
    images=writers.images[:8],
    labels=writers.labels[:8],
    individuals=np.repeat(people, 4),
  )
  output = tmp_path / "out"
  said = sentence(
    personalize, f"--base={plain}", f"--samples={path}", f"--output={output}"
  )
  assert said.startswith("error: --output: ")
  assert message in said
  assert not output.exists()


@pytest.mark.slow
def test_a_process_of_its_own(plain, writers, tmp_path):
  """The flags are known there, and nothing else is said."""
  samples = write_npz(tmp_path / "a.npz", writers, [NEW], count=5)
  output = tmp_path / "p.csv"

  def process(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "experiments.predict", *arguments],
      capture_output=True, text=True, timeout=300,
    )  # fmt: skip

  done = process(
    f"--model={plain}", f"--samples={samples}", f"--output={output}"
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("5 predictions: ")
  assert len(read(output)) == 5
  failed = process("--model=/nowhere", "--samples=x", f"--output={output}")
  assert failed.returncode == 1
  assert failed.stderr.strip().splitlines()[-1].startswith("error: --model")
  assert "Traceback" not in failed.stderr
