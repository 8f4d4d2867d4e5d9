"""What the scripts for new people refuse, in a sentence."""

import pickle
import zipfile

import numpy as np
import pytest
from absl import flags
from helpers.newcomers_served import run, save_model, sentence

from experiments import personalize, predict


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return save_model(tmp_path_factory.mktemp("models") / "base")


def test_floats_below_0_are_refused(tmp_path):
  """A model of uint8 images saw 0..1."""
  np.savez(tmp_path / "a.npz", images=np.full((3, 16, 16), -0.5))
  said = sentence(
    predict,
    f"--model={save_model(tmp_path / 'model', dtype='uint8')}",
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


def test_a_model_that_diverges_is_not_saved(tmp_path, capsys):
  np.savez(tmp_path / "a.npz", **ARRAYS, individuals=np.full(6, 4))
  message = sentence(
    personalize,
    f"--base={save_model(tmp_path / 'base', hidden=(8, 8))}",
    f"--samples={tmp_path / 'a.npz'}",
    f"--output={tmp_path / 'out'}",
    "--learning_rate=1e30",
    "--steps=4",
  )
  assert "1 of 1 models diverged (individual 4 first)" in message
  assert "no model is saved" in capsys.readouterr().out
  assert not list((tmp_path / "out").iterdir())


def report_of(person, status, before, after):
  return {
    "individual": person,
    "status": status,
    "accuracy_before": before,
    "accuracy_after": after,
    "train_size": 8,
    "held_out_size": 2,
    "better_on_held_out": "personal",
  }


def test_means_are_of_those_whose_models_did_not_diverge(capsys):
  reports = [
    report_of(1, "ok", 0.5, 0.75),
    report_of(2, "diverged", 0.0, float("nan")),
    report_of(3, "ok", 0.25, 0.75),
  ]
  folders = ["a", "b", "c"]
  with pytest.raises(ValueError, match="1 of 3 models diverged"):
    personalize.tell(folders, reports, 1.0)
  said = capsys.readouterr().out
  assert "2 people of 3, whose models didn't diverge: mean accu" in said
  assert "0.3750 before, 0.7500 after; 0% worse" in said
  assert "nan" not in said
  with pytest.raises(ValueError, match="2 of 2 models diverged"):
    personalize.tell(folders, [reports[1]] * 2, 1.0)
  assert "mean" not in capsys.readouterr().out


ARRAYS = {
  "images": np.zeros((6, 16, 16), np.uint8),
  "labels": np.arange(6),
}
FAULTS = [
  (
    {"labels": np.full(6, 10)},
    "labels must be whole numbers of 0..9, but row 0 holds 10",
  ),
  ({"images": np.zeros((6, 16, 8), np.uint8)}, "square"),
  ({"images": np.zeros((6, 16, 16, 3), np.uint8)}, "3 channels"),
  ({"images": np.full((6, 16, 16), 256)}, "must lie in 0..255"),
  ({"labels": np.array([None] * 6)}, "can't be read"),
  ({name: values[:0] for name, values in ARRAYS.items()}, "holds no samples"),
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
    ({"base": "/nowhere"}, "--base: /nowhere is no folder of a saved model"),
    ({"steps": 0}, "steps=0 must be at least 1"),
    ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ({"learning_rate": -1}, "learning_rate=-1.0 must be above 0"),
    ({"last_layers": 9}, "last_layers=9 must lie in 1..8"),
    ({"batch_size": 10**9}, "--batch_size=1000000000 in --steps=300 for 1 p"),
    ({"steps": 10**12}, "in --steps=1000000000000 for 1 people at once "),
    ({"seed": 2**32}, "seed=4294967296 must be below 2**32"),
    ({"seed": -1}, "seed=-1 must be 0 or more"),
    ({"validation_fraction": 1}, "validation_fraction=1.0 must lie between"),
    ({"validation_fraction": 1e-300}, "validation_fraction=1e-300 must lie b"),
    ({"test_samples": "/nowhere"}, "--test_samples=/nowhere is no file"),
    ({"test_samples": "NONE"}, "none.npz: images holds no samples"),
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
  none = {name: values[:0] for name, values in ARRAYS.items()}
  np.savez(tmp_path / "none.npz", **none)
  (tmp_path / "thesis.tex").write_text("...")
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "photo").write_text("...")
  values = {
    "base": base,
    "samples": tmp_path / "a.npz",
    "output": tmp_path / "out",
    **changes,
  }
  if values.get("test_samples") == "NONE":
    values["test_samples"] = tmp_path / "none.npz"
  places = {"FILE": tmp_path / "thesis.tex", "FULL": tmp_path / "full"}
  if str(values["output"]).split("/")[0] in places:
    first, *rest = values["output"].split("/")
    values["output"] = places[first].joinpath(*rest)
  said = sentence(
    personalize,
    *(f"--{name}={value}" for name, value in values.items()),
  )
  assert message in said
  assert (tmp_path / "thesis.tex").read_text() == "..."
  assert (tmp_path / "full" / "photo").read_text() == "..."
  assert not (tmp_path / "out").exists()


def test_predictions_go_into_no_folder(tmp_path):
  np.savez(tmp_path / "a.npz", **ARRAYS)
  model = save_model(tmp_path / "model", hidden=(8,))
  arguments = f"--model={model}", f"--samples={tmp_path / 'a.npz'}"
  said = sentence(predict, *arguments, f"--output={tmp_path}")
  assert f"--output={tmp_path} is a folder" in said
  said = sentence(predict, *arguments, f"--output={tmp_path / 'a.npz' / 'p'}")
  assert "can't be written (" in said
  said = sentence(predict, *arguments, "--output=p", "stray")
  assert "unexpected argument 'stray'" in said


def test_flags_that_are_missing_are_named():
  for script, model in ((personalize, "base"), (predict, "model")):
    with pytest.raises(flags.IllegalFlagValueError) as missing:
      run(script, "--samples=a.npz")
    for name in (model, "output"):
      assert f"Flag --{name} must have a value" in str(missing.value)
