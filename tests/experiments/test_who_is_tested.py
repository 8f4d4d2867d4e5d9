"""Who is tested on what: everyone in turn, people named, their own splits."""

import dataclasses
import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from helpers.small_run import read, run

from experiments import plan, table1
from experiments.flags import study_flags
from personalization_jax.analysis.result import Result
from personalization_jax.datasets import npz, splits
from personalization_jax.runs import directory
from personalization_jax.study import make_trainer

FILES = ("results.csv", "table1.csv", "table1.md", "metrics.jsonl")
HOW = {
  "dataset": "npz",
  "image_size": 32,  # the default: they are no images
  "methods": "baseline,global,tl:2,ig:2",
  "validation_fraction": 0.2,
  "eval_every": 2,
  "batch_size": 16,
  "train_fraction": 0.6,
}
ROTATE = {
  "people": "rotate",
  "num_folds": 3,
  "num_individuals": 100,  # the defaults: it is of everyone
  "num_global_individuals": 100,
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
  """Seven people of 8 to 14 feature vectors, so that folds differ in length."""
  rng = np.random.default_rng(0)
  individuals = np.repeat(np.arange(7), np.arange(8, 15))
  labels = np.arange(len(individuals)) % 3
  features = rng.normal(size=(len(labels), 4)) + 2 * labels[:, None]
  path = tmp_path_factory.mktemp("data") / "people.npz"
  np.savez(path, images=features, labels=labels, individuals=individuals)
  return {**HOW, "npz_path": str(path)}


@pytest.fixture(scope="module")
def rotated(people, tmp_path_factory):
  """A run of three folds, to be left as it is."""
  workdir = tmp_path_factory.mktemp("runs") / "rotated"
  run(workdir, **people, **ROTATE)
  return workdir


@pytest.fixture
def no_figures(monkeypatch):
  monkeypatch.setattr(table1.summary.pictures, "draw", lambda *_: [])


def same(one, other):
  for name in FILES:
    assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_everyone_is_tested_as_by_hand(rotated, people, tmp_path, no_figures):
  """A run for each fold, of its people and all others as D_G."""
  population = npz.load(people["npz_path"])
  rows, results = [], {}
  for individuals, others in splits.folds(population, 3):
    workdir = tmp_path / str(individuals[0])
    run(
      workdir,
      **people,
      individuals=[str(person) for person in individuals],
      num_individuals=100,
      num_global_individuals=len(others),
    )
    rows += read(workdir / "results.csv")
    for spec, seed in directory.saved(workdir):
      one = directory.load_result(workdir, spec, seed=seed)
      results.setdefault(spec, []).append(one)
  key = list(rows[0])[:3]

  def in_order(rows):
    return sorted(rows, key=lambda row: [row[name] for name in key])

  assert in_order(read(rotated / "results.csv")) == in_order(rows)
  assert {row["individual"] for row in rows} == set("0123456")
  for spec, folds in results.items():
    joined = directory.load_result(rotated, spec)
    for field in dataclasses.fields(Result):
      np.testing.assert_array_equal(
        getattr(joined, field.name), getattr(Result.joined(folds), field.name)
      )
  table = read(rotated / "table1.csv")
  assert [row["individual_pairs"] for row in table[1:3]] == ["7", "7"]
  assert not any(row["fairness_mean_ratio"] for row in table)


def test_each_fold_has_a_folder_and_the_run_has_what_all_gave(rotated):
  names = {path.name for path in (rotated / "folds").iterdir()}
  assert names == {"1-of-3", "2-of-3", "3-of-3"}
  for home in (rotated, rotated / "folds" / "2-of-3"):
    assert (home / "predictions" / "tl-2.npz").exists()
  settings = json.loads((rotated / "config.json").read_text())["settings"]
  assert (settings["people"], settings["num_folds"]) == ("rotate", 3)
  unused = {"num_individuals", "num_global_individuals", "individuals", "split"}
  assert not unused & set(settings)


def test_a_model_of_d_g_is_of_a_fold(rotated):
  text = (rotated / "table1.md").read_text()
  assert "global: one model for each fold of individuals. Its" in text
  assert "one model for all" not in text


def test_remarks_are_of_everybody(rotated):
  text = (rotated / "remarks.md").read_text()
  assert "7 of 7 people (0, 1, 2, ...) have fewer than 10 test samples" in text


def test_a_rotation_cut_short_goes_on_to_the_same_bytes(
  rotated, people, tmp_path, monkeypatch, no_figures
):
  personalize, trained = table1.Study.personalize, []

  def cut(self, method, **arguments):
    if len(trained) == 6:  # in the second fold
      raise KeyboardInterrupt
    trained.append(method.spec)
    return personalize(self, method, **arguments)

  with monkeypatch.context() as patched:
    patched.setattr(table1.Study, "personalize", cut)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "run", **people, **ROTATE)
    assert directory.saved(tmp_path / "run") == []
    trained.clear()
    run(tmp_path / "run", **people, **ROTATE)
  assert len(trained) == 6  # all that were left
  same(tmp_path / "run", rotated)


def test_what_folds_gave_is_joined_again_without_training(
  rotated, people, tmp_path, monkeypatch, capsys, no_figures
):
  def refuse(*_, **__):
    raise AssertionError("trained again")

  monkeypatch.setattr(table1.Study, "personalize", refuse)
  for path in (rotated / "predictions").iterdir():
    content = path.read_bytes()
    path.unlink()
    run(rotated, **people, **ROTATE)
    assert path.read_bytes() == content
  assert "first fold alone" in capsys.readouterr().out


@pytest.mark.slow
def test_seeds_have_folds_of_the_same_people(people, tmp_path, no_figures):
  how = {**people, **ROTATE, "num_folds": 0, "methods": "global,tl:2"}
  run(tmp_path / "run", **how, seeds=["0", "5"])
  rows = read(tmp_path / "run" / "results.csv")
  assert len(rows) == 2 * 2 * 7
  assert (tmp_path / "run" / "seeds" / "5" / "folds" / "7-of-7").exists()
  run(tmp_path / "alone", **how)
  assert read(tmp_path / "alone" / "results.csv") == [
    row for row in rows if row["seed"] == "0"
  ]
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  assert config["settings"]["num_folds"] == 7


def test_a_fold_without_validation_data_has_no_choice_and_no_curve(
  people, tmp_path, no_figures
):
  """All others have."""
  seed = next(
    seed
    for seed in range(100)
    if 0 in splits.folds(npz.load(people["npz_path"]), 0, seed)[0][0]
  )
  how = {**people, **ROTATE, "num_folds": 0, "methods": "global,tl:2"}
  # The first has 8 samples, all others have more.
  how |= {"validation_fraction": 0.06, "seed": seed}
  run(tmp_path, **how)
  lines = read(tmp_path / "choice_by_person.csv")
  assert [
    line["individual"] for line in lines if line["validation_accuracy"] == "nan"
  ] == ["0"]
  assert (tmp_path / "choice.csv").exists()
  curve = directory.load_result(tmp_path, "tl:2", seed=seed).individual_curve
  assert np.isnan(curve[0]).all()
  assert not np.isnan(curve[1:, -1]).all()


MISTAKES = [
  (ROTATE | {"num_folds": 1}, "--num_folds=1 must be at least 2"),
  (ROTATE | {"num_folds": 8}, "--num_folds=8 must be at most 7"),
  (ROTATE | {"num_folds": 0}, "must be at least 2, in every fold of people"),
  (
    ROTATE | {"num_individuals": 3},
    "--num_individuals=3 can't act with --peop",
  ),
  (
    ROTATE | {"num_global_individuals": 3},
    "--num_global_individuals=3 can't act with --people=rotate, which is of ev",
  ),
  (
    ROTATE | {"individuals": ["1", "2"]},
    "--individuals=1,2 can't act with --people=rotate, which is of everyone:"
    " leave it out, or behind a --flagfile that sets it add --individuals=.",
  ),
  (
    ROTATE | {"class_concentration": 0.5},
    "--class_concentration=0.5 can't act",
  ),
  ({"num_folds": 3}, "--num_folds=3 can't act with --people=draw"),
  (
    {"individuals": ["1", "9"], "num_individuals": 100},
    "error: --individuals=9 is nobody's name: the data has 7 people (0, 1, 2,",
  ),
  (
    {"individuals": ["1", "1"], "num_individuals": 100},
    "error: --individuals=1,1 names a person twice.",
  ),
  ({"individuals": ["1"]}, "--num_individuals=3 can't act with --individuals"),
  (
    {"global_includes_individuals": True},
    "'baseline' adds another individual's data to D_G, which D_G includes"
    " already (--global_includes_individuals)",
  ),
]


@pytest.mark.parametrize(
  ("changes", "sentence"), MISTAKES, ids=lambda value: str(value)[-40:]
)
def test_a_mistake_gets_one_sentence(people, changes, sentence, tmp_path):
  with pytest.raises(SystemExit) as stopped:
    run(tmp_path / "run", **{**people, **changes})
  assert sentence in stopped.value.code
  assert "\n" not in stopped.value.code
  assert not (tmp_path / "run" / "predictions").exists()


def test_flags_that_change_nothing_are_no_settings(finished):
  """Runs of before they were there go on."""
  settings = json.loads((finished / "config.json").read_text())["settings"]
  later = {"people", "num_folds", "individuals", "split"}
  later |= {"global_includes_individuals"}
  assert not later & {*settings}


@pytest.mark.slow
def test_splits_by_class_and_a_d_g_with_the_individuals(
  people, tmp_path, no_figures
):
  how = {
    "methods": "global,tl:2",
    "split": "stratified",
    "global_includes_individuals": True,
  }
  run(tmp_path / "run", **{**people, **how})
  settings = json.loads((tmp_path / "run" / "config.json").read_text())
  assert settings["settings"]["split"] == "stratified"
  # D_G's own samples are counted apart from the individuals'.
  population = npz.load(people["npz_path"])
  chosen = splits.split_people(population, 3, 3, how="stratified", **{
    name: people[name] for name in ("train_fraction", "validation_fraction")
  })  # fmt: skip
  assert (
    f", {len(chosen.global_train)} in all, and the individuals' training"
    " samples are D_G;"
  ) in (tmp_path / "run" / "remarks.md").read_text()
  assert settings["settings"]["global_includes_individuals"] is True
  with pytest.raises(SystemExit, match="--split=stratified, but this one is w"):
    run(tmp_path / "run", **{**people, **how, "split": "random"})


def test_initial_weights_are_of_a_run_unless_they_are_flax_s(people):
  """Runs of before the flag go on."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  population = dataclasses.replace(
    npz.load(people["npz_path"]), images=np.zeros((1, 16, 16, 1), np.uint8)
  )
  for value, expected in (("lecun_normal", None), ("pytorch", "pytorch")):
    with flagsaver.flagsaver(dataset="npz", model="fig4", initializer=value):
      found = study_flags.determining(population).get("initializer")
      assert found == expected
      assert study_flags.training_settings(0).initializer == value


def test_the_papers_network_of_ones_own_has_its_own_width(people):
  """No flag can tell it: --width has no say in a model by name."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  population = npz.load(people["npz_path"])
  images = np.zeros((len(population), 16, 16, 1), np.uint8)
  population = dataclasses.replace(population, images=images)
  ids = np.unique(population.individuals)

  def trainer_of(population):
    settings = study_flags.training_settings(0)
    own = study_flags.model(population)
    return make_trainer(population, settings, model=own)

  with flagsaver.flagsaver(dataset="npz", model="helpers.own_factories:narrow"):
    study = study_flags.make_study(population, ids[:2], ids[2:], 0, trainer_of)
  assert study.trainer.learner.model.width == 1 / 32


def test_a_personal_optimiser_is_of_a_run_if_it_is_asked_for(tmp_path):
  """Runs of before the flags go on without them, and with no others."""
  workdir = tmp_path / "run"
  run(workdir, methods="global,tl:2")
  settings = json.loads((workdir / "config.json").read_text())["settings"]
  assert not [name for name in settings if name.startswith("personal")]
  before = (workdir / "predictions" / "global.npz").stat().st_mtime_ns
  sgd = {"personal_optimizer": "sgd", "personal_learning_rate": 0.1}
  with pytest.raises(SystemExit, match="holds a run without --personal_"):
    run(workdir, methods="global,tl:2", **sgd)
  path = workdir / "predictions" / "global.npz"
  assert path.stat().st_mtime_ns == before
  other = tmp_path / "other"
  run(other, methods="global,tl:2,tl:2@lr=0.003", **sgd)
  settings = json.loads((other / "config.json").read_text())["settings"]
  assert sgd.items() <= settings.items()
  both = [read(folder / "results.csv") for folder in (workdir, other)]
  assert both[0][:3] == both[1][:3]  # global's


def test_a_split_of_their_own_wins_and_is_told(people):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  population = npz.load(people["npz_path"])
  parts = np.where(np.arange(len(population)) % 4, 0, 2).astype(np.int8)
  population = dataclasses.replace(population, parts=parts)
  drawn = {"num_individuals": 3, "num_global_individuals": 4}
  with flagsaver.flagsaver(dataset="npz", split="random", **drawn):
    study_flags.refuse_inert(study_flags.inert(population))
    varied = study_flags.vary(population)
    settings = study_flags.determining(population)
    assert not {"train_fraction", "split"} & settings.keys()
    assert settings["validation_fraction"] == 0.0
    for seed in (0, 1):
      model = study_flags.model(population)
      study = study_flags.make_study(*varied, seed, model=model)
      tested = study.split.test[study.split.test >= 0]
      assert (varied[0].parts[tested] == 2).all()
    told = study_flags.remarks(study, [], varied)
    assert "Samples are divided by the data's own split, not at random." in told
    for flag, value in (("split", "stratified"), ("train_fraction", 0.5)):
      refused = pytest.raises(ValueError, match=f"--{flag}={value} can't act")
      with flagsaver.flagsaver(**{flag: value}), refused:
        study_flags.refuse_inert(study_flags.inert(population))


@pytest.mark.slow
def test_hours_are_those_of_all_folds(people, tmp_path, capsys):
  plan._OWN(["plan"])
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["plan"])
  steps = []
  for changes in (
    ROTATE,
    {
      "individuals": ["0", "1", "2"],
      "num_individuals": 100,
      "num_global_individuals": 4,
    },
  ):
    how = {**people, "methods": "local:7", "model": "mlp", **changes}
    with flagsaver.flagsaver(**how, json=str(tmp_path / "plan.json")):
      plan.main(["plan"])
    hours = json.loads((tmp_path / "plan.json").read_text())["hours"]
    steps.append(hours["local:7"]["steps"])
  assert steps[0] == 3 * steps[1]
  assert "Of the first of 3 folds" in capsys.readouterr().out
