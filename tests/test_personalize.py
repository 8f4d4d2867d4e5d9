"""The scripts for new people: from a saved model to predictions in a file."""

import csv
import json
import pickle
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import orbax.checkpoint
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import personalize, predict, table1
from personalization_jax import saved_models
from personalization_jax.datasets import synthetic

NEW = 4  # no run has seen writers from this one on
TRAIN = ("--steps=60", "--batch_size=16", "--learning_rate=5e-3")


def run(script, *arguments):
  """The script in this process, with these flags and otherwise defaults."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["script"])
  script.FLAGS.unparse_flags()
  for name in script.FLAGS:
    script.FLAGS[name].unparse()
  script.main(script.FLAGS(["script", *arguments]))


def sentence(script, *arguments):
  """What the script says to a mistake."""
  with pytest.raises(SystemExit) as stopped:
    run(script, *arguments)
  message = str(stopped.value.code)
  assert message.startswith("error: ")
  assert "\n" not in message
  return message


@pytest.fixture(scope="module")
def writers():
  """Four of a run and three new ones."""
  return synthetic.make_population(
    NEW + 3, samples_per_writer=60, image_size=16
  )[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A model of writers 0 to 3, saved by the run that trained it."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  workdir = tmp_path_factory.mktemp("runs") / "base"
  with flagsaver.flagsaver(
    num_individuals=1, num_global_individuals=NEW - 1, synthetic_samples=60,
    image_size=16, width=1 / 16, epochs=12, batch_size=16, learning_rate=5e-3,
    flips=False, methods="global", save_models=True, workdir=str(workdir),
  ):  # fmt: skip
    table1.main(["table1"])
  (folder,) = (workdir / "models" / "global").iterdir()
  return folder


def write_npz(path, population, people, *, leave_out=(), count=None):
  rows = np.flatnonzero(np.isin(population.individuals, people))[:count]
  arrays = {
    name: getattr(population, name)[rows]
    for name in ("images", "labels", "individuals")
    if name not in leave_out
  }
  np.savez(path, **arrays)
  return str(path)


def read(path):
  with path.open() as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def anna(base, writers, tmp_path_factory):
  """The model of one new writer, made of the first 40 drawings."""
  folder = tmp_path_factory.mktemp("people")
  samples = write_npz(
    folder / "anna.npz", writers, [NEW], leave_out=["individuals"], count=40
  )
  output = folder / "models" / "anna"
  run(
    personalize,
    f"--base={base}",
    f"--samples={samples}",
    f"--output={output}",
    *TRAIN,
  )
  return output


def test_a_new_person_is_served_better_than_before(
  base, anna, writers, tmp_path, capsys
):
  """From a base that never saw this writer to a CSV file of predictions."""
  report = json.loads((anna / "person.json").read_text())
  assert (report["train_size"], report["held_out_size"]) == (32, 8)
  assert report["accuracy_after"] > report["accuracy_before"]
  assert report["settings"]["base"] == str(base)
  # The drawings that nobody saw: 20 more of the same writer.
  unseen = np.flatnonzero(writers.individuals == NEW)[40:]
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
    assert [int(row["row"]) for row in rows] == list(range(20))
    assert [int(row["label"]) for row in rows] == arrays["labels"].tolist()
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)
    for row in rows:
      assert row["correct"] == str(int(row["label"] == row["predicted"]))
    accuracies.append(np.mean([int(row["correct"]) for row in rows]))
    assert f"Accuracy: {accuracies[-1]:.4f}" in capsys.readouterr().out
  assert accuracies[1] > accuracies[0] + 0.05


def test_the_model_says_what_it_is_and_orbax_reads_it(base, anna):
  description, params, batch_stats = saved_models.load(anna)
  assert description == saved_models.load(base)[0]
  read_alone = orbax.checkpoint.StandardCheckpointer().restore(anna)
  jax.tree.map(
    np.testing.assert_array_equal,
    read_alone,
    {"params": params, "batch_stats": batch_stats},
  )


def test_several_people_get_the_models_that_each_gets_alone(
  base, writers, tmp_path, capsys
):
  several = [NEW, NEW + 2]
  for name, people in (("both", several), ("one", several[1:])):
    samples = write_npz(tmp_path / f"{name}.npz", writers, people)
    run(
      personalize,
      f"--base={base}",
      f"--samples={samples}",
      f"--output={tmp_path / name}",
      "--last_layers=3",
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
  first = saved_models.load(base)[1]["layer_0"]["kernel"]
  np.testing.assert_array_equal(together[1]["layer_0"]["kernel"], first)


def test_test_samples_of_their_own_and_an_unlabelled_file(
  base, writers, tmp_path, capsys
):
  """Two samples of one class are enough to train on."""
  both = write_npz(tmp_path / "two.npz", writers, [NEW], count=2)
  rest = write_npz(tmp_path / "rest.npz", writers, [NEW], count=30)
  run(
    personalize,
    f"--base={base}",
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


@pytest.fixture
def described(anna, tmp_path):
  """A copy whose model.json is changed."""

  def describe(**changes):
    folder = shutil.copytree(anna, tmp_path / "copy", dirs_exist_ok=True)
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, **changes}))
    return folder

  return describe


def test_predictions_are_named_if_classes_are(described, writers, tmp_path):
  names = [f"digit {digit}" for digit in range(10)]
  model = described(label_names=names)
  samples = write_npz(tmp_path / "a.npz", writers, [NEW], count=5)
  output = tmp_path / "p.csv"
  run(predict, f"--model={model}", f"--samples={samples}", f"--output={output}")
  for row in read(output):
    assert row["predicted_name"] == names[int(row["predicted"])]


def test_floats_that_are_too_bright_are_refused(described, tmp_path):
  """A model of uint8 images saw 0..1."""
  np.savez(tmp_path / "a.npz", images=np.full((3, 16, 16), 255.0))
  said = sentence(
    predict,
    f"--model={described(dtype='uint8')}",
    f"--samples={tmp_path / 'a.npz'}",
    f"--output={tmp_path / 'p.csv'}",
  )
  assert "the model was trained on uint8 images" in said


def test_copies_of_one_drawing_can_t_be_held_out(base, tmp_path):
  np.savez(tmp_path / "a.npz", **ARRAYS, originals=np.full(6, 3))
  said = sentence(
    personalize,
    f"--base={base}",
    f"--samples={tmp_path / 'a.npz'}",
    f"--output={tmp_path / 'out'}",
  )
  assert "a.npz holds one sample in 6 copies" in said


def test_a_model_that_diverges_is_not_saved(base, writers, tmp_path, capsys):
  samples = write_npz(tmp_path / "a.npz", writers, [NEW])
  message = sentence(
    personalize,
    f"--base={base}",
    f"--samples={samples}",
    f"--output={tmp_path / 'out'}",
    "--learning_rate=1e30",
    "--steps=4",
  )
  assert "1 of 1 models diverged (individual 4 first)" in message
  assert "no model is saved" in capsys.readouterr().out
  assert not list((tmp_path / "out").iterdir())


ARRAYS = {
  "images": np.zeros((6, 16, 16), np.uint8),
  "labels": np.arange(6),
}
FAULTS = [
  ({"labels": np.full(6, 10)}, "labels must lie in 0..9, but row 0 holds 10"),
  ({"images": np.zeros((6, 16, 8), np.uint8)}, "square"),
  ({"images": np.zeros((6, 16, 16, 3), np.uint8)}, "3 channels"),
  ({"images": np.zeros((0, 16, 16), np.uint8)}, "holds no samples"),
  ({"images": np.zeros((6, 16, 16), int)}, "must be uint8"),
  ({"labels": np.array([None] * 6)}, "can't be read"),
]


@pytest.mark.parametrize(
  ("changes", "message"), FAULTS, ids=[text[:20] for _, text in FAULTS]
)
def test_faulty_samples_are_named_by_both_scripts(
  base, tmp_path, changes, message
):
  path = tmp_path / "a.npz"
  np.savez(path, **{**ARRAYS, **changes})
  output = tmp_path / "out"
  for script, model in ((personalize, "base"), (predict, "model")):
    said = sentence(
      script, f"--{model}={base}", f"--samples={path}", f"--output={output}"
    )
    assert said.startswith(f"error: --samples={path}")
    assert message in said
  assert not output.exists()


class Canary:
  opened = False

  def __reduce__(self):
    return (setattr, (Canary, "opened", True))


def test_pickles_and_empty_files_are_refused_unopened(base, tmp_path):
  path = tmp_path / "a.npz"
  arguments = f"--base={base}", f"--samples={path}", f"--output={tmp_path}/out"
  assert "is no file" in sentence(personalize, *arguments)
  path.write_bytes(b"")
  assert "is no complete npz file" in sentence(personalize, *arguments)
  path.write_bytes(pickle.dumps(Canary()))
  assert "is no complete npz file" in sentence(personalize, *arguments)
  with zipfile.ZipFile(path, "w") as archive:
    for name in ARRAYS:
      archive.writestr(f"{name}.npy", pickle.dumps(Canary()))
  sentence(personalize, *arguments)
  np.savez(path, images=ARRAYS["images"])
  assert "has no array 'labels'" in sentence(personalize, *arguments)
  assert not Canary.opened


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"base": None}, "--base is missing"),
    ({"output": None}, "--output is missing"),
    ({"base": "/nowhere"}, "--base: /nowhere is no folder of a saved model"),
    ({"steps": 0}, "steps=0 must be at least 1"),
    ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ({"learning_rate": -1}, "learning_rate=-1.0 must be above 0"),
    ({"last_layers": 9}, "last_layers=9 must lie in 1..8"),
    ({"seed": -1}, "seed=-1 must be 0 or more"),
    ({"validation_fraction": 1}, "validation_fraction=1.0 must lie between"),
    ({"test_samples": "/nowhere"}, "--test_samples=/nowhere is no file"),
    ({"output": "FILE"}, "thesis.tex is there already"),
    ({"output": "FILE/x"}, "thesis.tex/x can't be written to (Not a dir"),
    ({"output": "FULL"}, "full is there already; choose another"),
  ],
  ids=str,
)
def test_mistakes_get_one_sentence_and_destroy_nothing(
  base, tmp_path, changes, message
):
  np.savez(tmp_path / "a.npz", **ARRAYS)
  (tmp_path / "thesis.tex").write_text("...")
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "photo").write_text("...")
  values = {
    "base": base,
    "samples": tmp_path / "a.npz",
    "output": tmp_path / "out",
    **changes,
  }
  places = {"FILE": tmp_path / "thesis.tex", "FULL": tmp_path / "full"}
  if str(values["output"]).split("/")[0] in places:
    first, *rest = values["output"].split("/")
    values["output"] = places[first].joinpath(*rest)
  said = sentence(
    personalize,
    *(f"--{name}={v}" for name, v in values.items() if v is not None),
  )
  assert message in said
  assert (tmp_path / "thesis.tex").read_text() == "..."
  assert (tmp_path / "full" / "photo").read_text() == "..."
  assert not (tmp_path / "out").exists()


def test_predictions_go_into_no_folder(anna, tmp_path):
  np.savez(tmp_path / "a.npz", **ARRAYS)
  arguments = f"--model={anna}", f"--samples={tmp_path / 'a.npz'}"
  said = sentence(predict, *arguments, f"--output={tmp_path}")
  assert f"--output={tmp_path} is a folder" in said
  said = sentence(predict, *arguments, f"--output={tmp_path / 'a.npz' / 'p'}")
  assert "can't be written (" in said
  assert "unexpected argument 'stray'" in sentence(predict, "stray")


def test_a_process_of_its_own(anna, writers, tmp_path):
  """The flags are known there, help too, and nothing else is said."""
  samples = write_npz(tmp_path / "a.npz", writers, [NEW], count=5)
  output = tmp_path / "p.csv"

  def process(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "experiments.predict", *arguments],
      capture_output=True, text=True, timeout=300,
    )  # fmt: skip

  done = process(
    f"--model={anna}", f"--samples={samples}", f"--output={output}"
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("5 predictions: ")
  assert len(read(output)) == 5
  failed = process("--model=/nowhere", "--samples=x", f"--output={output}")
  assert failed.returncode == 1
  assert failed.stderr.strip().splitlines()[-1].startswith("error: --model")
  assert "Traceback" not in failed.stderr
  assert "--samples:" in process("--helpshort").stdout
