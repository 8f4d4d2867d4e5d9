"""--standardise: from a run's samples to new people's, and what it decides."""

import json
import shutil

import numpy as np
import pytest
from helpers import newcomers_served
from helpers.newcomers_served import sentence
from helpers.small_run import read, run

import personalization_jax as pj
from experiments import personalize, predict
from experiments.runtime import resources
from personalization_jax.checkpoints.keeper import (
  AnotherTrainingError,
  Keeper,
  Stopped,
)
from personalization_jax.datasets import npz
from personalization_jax.networks import MLP
from personalization_jax.runs import directory, saved_models
from personalization_jax.training import population as training_population

SMALL = {
  "dataset": "npz",
  "model": "auto",
  "num_individuals": 4,
  "num_global_individuals": 8,
  "image_size": 32,
  "epochs": 4,
  "batch_size": 8,
  "learning_rate": 0.01,
  "methods": "global,local",
}


def arrays_of(seed=0):
  """Twelve people with 20 samples; the class is in the smallest feature."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, 240)
  features = rng.normal(size=(240, 4)) + np.eye(4)[0] * 8 * labels[:, None]
  features *= [1e-3, 1.0, 1e3, 1.0]
  features[:, 3] = 5
  individuals = np.repeat(np.arange(12), 20)
  return {"images": features, "labels": labels, "individuals": individuals}


def start(folder, arrays=None, **changes):
  if arrays is not None:
    np.savez(folder / "people.npz", **arrays)
  changes = {**SMALL, "npz_path": str(folder / "people.npz"), **changes}
  run(folder / "run", **changes)
  return folder / "run"


def settings_of(workdir):
  return json.loads((workdir / "config.json").read_text())["settings"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of two seeds that saves its models, and what it said first."""
  folder = tmp_path_factory.mktemp("scaled")
  workdir = start(folder, arrays_of(), seeds=["0", "1"], save_models=True)
  return workdir, (workdir / "remarks.md").read_text()


def test_vectors_are_standardised_and_the_run_says_so(finished):
  workdir, said = finished
  sentence = "- Features are standardised by D_G's training data; --standardise"
  assert said.count(sentence) == 1
  assert settings_of(workdir)["standardise"] == "features"
  accuracies = [
    float(row["individual_accuracy"]) for row in read(workdir / "results.csv")
  ]
  assert np.mean(accuracies) > 0.9


def study_of(workdir, seed):
  """The study that a seed's models are of, by the library alone."""
  population = npz.load(workdir.parent / "people.npz")
  people = pj.split(population, 4, 8)
  split = pj.datasets.splits.split(
    population, people.individuals, people.global_people, seed=seed
  )
  scaled = pj.standardise(population, split)
  settings = pj.Settings(epochs=4, batch_size=8, learning_rate=0.01, seed=seed)
  return pj.Study(scaled, split, settings, model=MLP(2))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_seed_has_a_scale_of_its_own(finished, seed):
  workdir, _ = finished
  home = workdir / "seeds" / "1" if seed else workdir
  study = study_of(workdir, seed)
  alone = study.personalize("global")
  loaded = directory.load_result(home, "global", study.population, seed)
  np.testing.assert_array_equal(loaded.losses, alone.losses)
  np.testing.assert_array_equal(
    loaded.individual_predictions, alone.individual_predictions
  )
  (model, *_) = (home / "models" / "global").iterdir()
  mean, spread = saved_models.load(model)[0].scaling
  assert (mean, spread) == study.population.scaling[:2]
  assert (mean[3], spread[3]) == (5, 1)


def test_a_further_seed_compiles_nothing(tmp_path, monkeypatch):
  found = set()
  make = training_population._program

  def recording(*function, **options):
    program = make(*function, **options)
    found.add(program)
    return program

  monkeypatch.setattr(training_population, "_program", recording)
  compiled = []
  for seeds in (["0"], ["0", "1", "2"]):
    (tmp_path / seeds[-1]).mkdir()
    start(tmp_path / seeds[-1], arrays_of(), seeds=seeds)
    compiled.append([program._cache_size() for program in found])
    found.clear()
  one, several = compiled
  assert sum(one) == sum(several) > 0


@pytest.mark.slow
def test_seeds_with_fewer_models_at_once_are_the_same(
  finished, tmp_path, monkeypatch
):
  """Memory for the store of each is planned."""
  fit, plans = resources.fitting_trainer, []

  def halved(study, methods, *, stores, **how):
    for several in (1, stores):
      plans.append(fit(study, methods, stores=several, **how)[1].device)
    trainer, plan = fit(study, methods, **how)
    return trainer.with_individuals_per_device(1), plan

  monkeypatch.setattr(resources, "fitting_trainer", halved)
  seeds = {"seeds": ["0", "1"], "individuals_per_device": 2}
  workdir = start(tmp_path, arrays_of(), **seeds)
  for name in ("results.csv", "table1.csv"):
    there = (finished[0] / name).read_bytes()
    assert (workdir / name).read_bytes() == there
  one, two = plans
  store = 240 * (4 + 1) * 4
  assert two == {name: size + store for name, size in one.items()}


@pytest.mark.slow
def test_none_leaves_samples_and_goes_on_with_a_run_of_before(tmp_path):
  """One without the flag, whose samples nobody scaled."""
  workdir = start(tmp_path, arrays_of(), standardise="none")
  assert "standardise" not in settings_of(workdir)
  raw, study = npz.load(tmp_path / "people.npz"), study_of(workdir, 0)
  loaded = directory.load_result(workdir, "local", raw, 0)
  unscaled = pj.Study(raw, study.split, study.settings, model=MLP(2))
  np.testing.assert_array_equal(
    loaded.losses, unscaled.personalize("local").losses
  )
  assert not np.array_equal(loaded.losses, study.personalize("local").losses)
  with pytest.raises(SystemExit) as stopped:
    start(tmp_path)
  assert "--standardise=features" in str(stopped.value.code)


def images_of(seed=0):
  """Dark images, uint8; the class is in the brightness."""
  arrays = arrays_of(seed)
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 20, (240, 16, 16, 1))
  images += 9 * arrays["labels"][:, None, None, None]
  return {**arrays, "images": images.astype(np.uint8)}


IMAGES = {"model": "mlp", "flips": False, "image_size": 16}


@pytest.mark.slow
def test_uint8_images_are_scaled_if_asked_as_models_see_them(tmp_path):
  workdir = start(
    tmp_path, images_of(), **IMAGES, standardise="images", save_models=True
  )
  assert settings_of(workdir)["standardise"] == "images"
  result = directory.load_result(workdir, "local")
  model = workdir / "models" / "local" / str(result.individuals[0])
  description, *_ = saved_models.load(model)
  assert description.dtype == "uint8"
  assert 14 / 255 < description.scaling[0][0] < 16 / 255
  rows, arrays = result.individual_rows[0], images_of()
  answers = predicted(model, tmp_path, arrays, rows)
  np.testing.assert_array_equal(answers, result.individual_predictions[0])
  # Floats in 0..1 are the same to it, others are refused as before.
  arrays["images"] = arrays["images"] / 255
  assert predicted(model, tmp_path, arrays, rows) == answers
  np.savez(tmp_path / "wrong.npz", images=arrays["images"] - 0.5)
  assert "trained on uint8 images" in said_to(model, tmp_path / "wrong.npz")


@pytest.mark.slow
def test_uint8_images_are_left_by_default(tmp_path):
  workdir = start(tmp_path, images_of(), **IMAGES, save_models=True)
  assert "standardise" not in settings_of(workdir)
  assert "scaling" not in (workdir / "models" / "model.json").read_text()
  start(tmp_path, **IMAGES, save_models=True, standardise="none")
  with pytest.raises(SystemExit) as stopped:
    start(tmp_path, **IMAGES, standardise="features")
  assert "--standardise='features' can't act" in str(stopped.value.code)


def test_a_group_of_standardised_images_is_refused_before_training(tmp_path):
  with pytest.raises(SystemExit) as stopped:
    start(tmp_path, images_of(), **IMAGES, standardise="images", methods="ig:1")
  assert "--standardise='none'" in str(stopped.value.code)
  assert not (tmp_path / "run" / "predictions").exists()


def said_to(model, samples):
  return sentence(
    predict,
    f"--model={model}",
    f"--samples={samples}",
    f"--output={samples.parent / 'p.csv'}",
  )


def test_a_model_of_floats_refuses_uint8_images(tmp_path):
  arrays = images_of()
  arrays["images"] = arrays["images"] - 20.0
  workdir = start(tmp_path, arrays, **IMAGES, save_models=True)
  assert settings_of(workdir)["standardise"] == "images"
  (model, *_) = (workdir / "models" / "local").iterdir()
  np.savez(tmp_path / "uint8.npz", images=images_of()["images"])
  assert "these images are uint8" in said_to(model, tmp_path / "uint8.npz")


def test_a_scale_that_fits_no_sample_describes_no_model(finished, tmp_path):
  workdir, _ = finished
  (model, *_) = (workdir / "models" / "local").iterdir()
  shutil.copytree(model, tmp_path / "model")
  content = json.loads((workdir / "models" / "model.json").read_text())
  content["scaling"]["spread"][1] = 0
  (tmp_path / "model" / "model.json").write_text(json.dumps(content))
  with pytest.raises(ValueError, match="a spread above 0 for each of 4"):
    saved_models.load(tmp_path / "model")


def test_training_goes_on_with_the_same_scale_alone(finished, tmp_path):
  study = study_of(finished[0], 0)
  expected = study.personalize("local")
  raw = npz.load(finished[0].parent / "people.npz")
  calls = []

  def should_stop():
    calls.append(None)
    return len(calls) > 2

  def keeping(population, **how):
    keeper = Keeper(tmp_path, seconds=0.0, **how)
    return pj.Study(
      population, study.split, study.settings, model=MLP(2), keeper=keeper
    )

  with pytest.raises(Stopped):
    keeping(study.population, should_stop=should_stop).personalize("local")
  with pytest.raises(AnotherTrainingError):
    keeping(raw).personalize("local")
  again = keeping(study.population).personalize("local")
  np.testing.assert_array_equal(again.losses, expected.losses)


def test_new_people_s_samples_get_the_scale_of_the_model(finished, tmp_path):
  """As raw as the run's file; the answers are those of the run."""
  workdir, _ = finished
  result = directory.load_result(workdir, "local")
  for place, person in enumerate(result.individuals):
    rows = result.individual_rows[place]
    answers = predicted(
      workdir / "models" / "local" / str(person), tmp_path, arrays_of(), rows
    )
    np.testing.assert_array_equal(answers, result.individual_predictions[place])


def predicted(model, folder, arrays, rows):
  """What `predict` answers for these rows of arrays."""
  np.savez(folder / "new.npz", images=arrays["images"][rows])
  newcomers_served.run(
    predict,
    f"--model={model}",
    f"--samples={folder / 'new.npz'}",
    f"--output={folder / 'p.csv'}",
  )
  return [int(row["predicted"]) for row in read(folder / "p.csv")]


def test_a_new_person_s_model_keeps_the_scale(finished, tmp_path):
  workdir, _ = finished
  (base, *_) = (workdir / "models" / "global").iterdir()
  arrays = arrays_of(seed=1)
  own = {name: array[:20] for name, array in arrays.items()}
  np.savez(tmp_path / "anna.npz", **own)
  newcomers_served.run(
    personalize,
    f"--base={base}",
    f"--samples={tmp_path / 'anna.npz'}",
    f"--output={tmp_path / 'anna'}",
    "--steps=5",
  )
  (model,) = (tmp_path / "anna").iterdir()
  assert saved_models.load(model)[0] == saved_models.load(base)[0]
  report = json.loads((model / "person.json").read_text())
  assert report["accuracy_before"] > 0.9
  right = predicted(model, tmp_path, arrays, np.arange(240)) == arrays["labels"]
  assert right.mean() > 0.9
