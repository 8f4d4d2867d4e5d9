"""New people by any method that needs no data of D_G, and by few samples."""

import csv
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from helpers.newcomers_served import run, sentence
from helpers.own_models import vectors

from experiments import personalize, predict
from personalization_jax import figures
from personalization_jax.datasets import new_people
from personalization_jax.datasets.splits import PADDING
from personalization_jax.methods import parse_method
from personalization_jax.networks import factories, interface
from personalization_jax.runs import saved_models
from personalization_jax.runs.saved_models import Description
from personalization_jax.settings import Settings
from personalization_jax.study import Study
from personalization_jax.training import evaluation
from personalization_jax.training.learner import make_learner

FACTORY = "helpers.own_factories:Normed"
BATCH = "--batch_size=4"
PEOPLE = vectors(num_people=3)
ADMITTED = (
  "tl:3@best", "tl:3@lr=0.01", "l2sp:3@0.1", "distil:3", "bias:3",
  "bn:3", "head:3", "lora:3:2", "lpft:2,1", "adabn", "knn:2", "mix:tl:3",
  "local:3", "global",
)  # fmt: skip


def write(path, rows=slice(None), people=PEOPLE):
  names = ("images", "labels", "individuals")
  np.savez(path, **{name: getattr(people, name)[rows] for name in names})
  return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  description = Description(3, (6,), factory=FACTORY)
  variables = interface.init(
    description.network(), jax.random.key(3), np.zeros((1, 6), np.float32)
  )
  folder = tmp_path_factory.mktemp("models") / "base"
  saved_models.save_one(folder, variables, description)
  return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  """Files of seven samples of everybody, of two more, and of person 1 alone."""
  folder = tmp_path_factory.mktemp("samples")
  first = np.arange(len(PEOPLE)) % 9 < 7
  one = PEOPLE.individuals == 1
  return {
    name: write(folder / f"{name}.npz", rows)
    for name, rows in (
      ("train", first), ("test", ~first),
      ("one_train", first & one), ("one_test", ~first & one),
    )
  }  # fmt: skip


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """XLA may compile a model of one's own otherwise for several."""
  make_mesh = personalize.distributed.make_mesh
  monkeypatch.setattr(
    personalize.distributed,
    "make_mesh",
    lambda devices=None: make_mesh((devices or jax.devices())[:1]),
  )


@pytest.fixture
def make(base, samples, tmp_path):
  def make(name, *flags, people=""):
    output = tmp_path / name
    run(
      personalize,
      f"--base={base}",
      f"--samples={samples[people + 'train']}",
      f"--test_samples={samples[people + 'test']}",
      f"--output={output}",
      BATCH,
      *flags,
    )
    return output

  return make


def report_of(folder):
  return json.loads((folder / "person.json").read_text())


def assert_same_models(one, other):
  jax.tree.map(
    np.testing.assert_array_equal,
    *(saved_models.load_whole(folder)[1] for folder in (one, other)),
  )


def table_of(path):
  with path.open() as file:
    return list(csv.DictReader(file))


@pytest.mark.parametrize(
  "spec",
  [
    pytest.param(spec, marks=[pytest.mark.slow] * (place % 3 > 0))
    for place, spec in enumerate(ADMITTED)
  ],
)
def test_every_method_gives_a_model_that_answers_as_it_was_tested(
  make, samples, base, tmp_path, spec
):
  """And as it is when it is made for one person alone."""
  output = make("all", f"--method={spec}")
  alone = make("alone", f"--method={spec}", people="one_") / "1"
  method, made = parse_method(spec), output / "1"
  description, found = saved_models.load_whole(made)
  its_base = saved_models.load_whole(base)[1]
  assert description.method == (spec if method.predict else None)
  assert (made / "answer.npz").exists() == bool(method.predict)
  of_alone = saved_models.load_whole(alone)[1]
  for name in ("params", "batch_stats"):
    jax.tree.map(np.testing.assert_array_equal, found[name], of_alone[name])
  if method.reference and method.predict:
    jax.tree.map(np.testing.assert_array_equal, found["reference"], its_base)
  one, other = report_of(made), report_of(alone)
  assert one["accuracy_after"] == other["accuracy_after"]
  assert one["train_size"] + one.get("choice_size", 0) == 7
  assert ("choice_size" in one) == bool(method.fit or method.best)
  assert ("best_steps" in one) == method.best
  file, test = tmp_path / "p.csv", samples["one_test"]
  run(predict, f"--model={made}", f"--samples={test}", f"--output={file}")
  correct = [int(row["correct"]) for row in table_of(file)]
  assert np.mean(correct) == one["accuracy_after"]
  if spec == "global":
    jax.tree.map(np.testing.assert_array_equal, found, its_base)
    assert one["accuracy_after"] == one["accuracy_before"]


@pytest.mark.parametrize("spec", ["knn:2", "mix:tl:3", "mix:knn:2"])
def test_a_saved_model_has_the_study_s_probabilities(base, tmp_path, spec):
  _, variables = saved_models.load_whole(base)
  method, folder = parse_method(spec), tmp_path / "models"
  split = new_people.hold_out(PEOPLE, 0.4)
  study = Study(
    PEOPLE,
    new_people.first_samples(PEOPLE, split, choosing=True),
    Settings(batch_size=4),
    model=factories.make(FACTORY, (6,), 3),
    base=variables,
    models_dir=folder,
    factory=FACTORY,
    keep_probabilities=True,
  )
  found = study.personalize(method)
  for place, name in enumerate("012"):
    path = folder / spec.replace(":", "-") / name
    with pytest.raises(ValueError, match=f"answers by method '{spec}', not"):
      saved_models.load(path)
    description, saved = saved_models.load_whole(path)
    learner = make_learner(Settings(), 3, description.network())
    test = split.parts(place)[2]
    classes, probabilities = evaluation.classify(
      learner.answering(parse_method(description.method)),
      saved,
      PEOPLE.images[test],
    )
    logs = found.individual_log_probabilities[place, : len(test)]
    np.testing.assert_array_equal(classes, logs.argmax(axis=1))
    expected = np.exp(logs.max(axis=1))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
    # What the run's models share is of methods that answer by the model.
    about = Description.from_json((folder / "model.json").read_text())
    assert about == dataclasses.replace(description, method=None)


def test_what_answers_need_is_guarded(make, base, samples, tmp_path):
  model = make("m", "--method=knn:2", people="one_") / "1"
  memory = saved_models.load_whole(model)[1]["answer"]
  assert not np.any(memory[0][~memory[2]])  # nobody else's samples as padding
  said = sentence(
    personalize,
    f"--base={model}",
    f"--samples={samples['train']}",
    f"--output={tmp_path / 'next'}",
  )
  assert f"--base={model} answers by method 'knn:2', not by its par" in said
  content = (model / "answer.npz").read_bytes()
  (model / "answer.npz").write_bytes(content[:-1] + b"?")
  with pytest.raises(ValueError, match=r"damaged: answer\.npz"):
    saved_models.load_whole(model)
  (model / "answer.npz").write_bytes(content)
  (model / "model.json").write_bytes((base / "model.json").read_bytes())
  with pytest.raises(ValueError, match="its method is 'knn:2', not None"):
    saved_models.load_whole(model)


REFUSED = {
  "baseline": "it trains on D_G and another person's data from the first step",
  "es:3": "it trains on D_G's batches among the person's own",
  "sw:2": "it trains on D_G's batches among the person's own",
  "es:3+tl:2": "it trains on D_G's batches among the person's own",
  "sg:5": "its group is chosen among D_G's samples",
  "ig:2+tl:3": "its group is chosen among D_G's samples",
  "random:5": "its group is chosen among D_G's samples",
  "ewc:3@1": "the Fisher information that it weighs by is of D_G's samples",
  "mix:ewc:3@1": "the Fisher information that it weighs by",
  "reptile+tl:3": "its start is trained on D_G's samples",
  "ifca:2+tl:3": "its start is trained on D_G's samples",
  "local": "it takes as many steps as D_G's epochs have: say how many",
  "fedavg": "unknown method 'fedavg'",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_what_needs_d_g_is_refused_before_anything(base, tmp_path, spec):
  said = sentence(
    personalize,
    f"--base={base}",
    "--samples=nowhere",
    f"--output={tmp_path / 'out'}",
    f"--method={spec}",
  )
  assert said.startswith("error: --method: ")
  assert REFUSED[spec] in said
  if spec == "es:3":
    study = Study(
      PEOPLE,
      new_people.hold_out(PEOPLE, 0.4),
      model=factories.make(FACTORY, (6,), 3),
      base=saved_models.load_whole(base)[1],
    )
    with pytest.raises(ValueError, match="begin with a saved model alone: it"):
      study.personalize(spec)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--method=tl:3", "--steps=9"], "--steps can't be set beside it"),
    (["--method=tl:3", "--last_layers=1"], "--last_layers can't be set"),
    (["--method=tl:3:last=1"], "needs a model that takes frozen_layers"),
    (["--shots=1,two"], "--shots='1,two' must be whole numbers"),
    (["--shots=0"], "--shots='0' must be whole numbers of 1 or more"),
    (["--shots=9"], "--shots=9: nobody has 9 samples to train on; 7 are"),
    (["--method=knn:2", "--shots=1,2"], "so 2 are the fewest"),
    (["--method=tl:1000000000000"], "in --steps=1000000000000"),
  ],
)
def test_mistakes_are_named(base, samples, tmp_path, flags, message):
  said = sentence(
    personalize,
    f"--base={base}",
    f"--samples={samples['train']}",
    f"--test_samples={samples['test']}",
    f"--output={tmp_path / 'out'}",
    *flags,
  )
  assert message in said
  assert not (tmp_path / "out").exists()


def test_who_has_one_sample_can_t_choose(base, tmp_path):
  few = write(tmp_path / "few.npz", [0, 1, 9, 10, 11, 12])
  said = sentence(
    personalize,
    f"--base={base}",
    f"--samples={few}",
    f"--output={tmp_path / 'out'}",
    "--method=knn:2",
  )
  assert "--method=knn:2: individual 0 has one sample to train on" in said


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
  lambda name, *_, **__: COMPILED.append(name)
)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["adabn", "knn:2", "tl:3@best"])
def test_few_samples_compile_nothing_more_and_all_are_the_plain_run(
  make, capsys, spec
):
  def compiled():
    return COMPILED.count("/jax/core/compile/backend_compile_duration")

  plain = make("plain", f"--method={spec}")
  before = compiled()
  make("one", f"--method={spec}", "--shots=4")
  by_one = compiled() - before
  shots = make("shots", f"--method={spec}", "--shots=all,2,3,5")
  assert compiled() - before == 2 * by_one > 0
  by_person = table_of(shots / "shots_by_person.csv")
  for name in "012":
    one, other = (report_of(each / name) for each in (plain, shots))
    assert one["accuracy_after"] == other["accuracy_after"]
    assert_same_models(plain / name, shots / name)
    own = [row for row in by_person if row["individual"] == name]
    assert [row["shots"] for row in own] == ["2", "3", "5", "all"]
    assert [row["samples"] for row in own] == ["2", "3", "5", "7"]
    assert float(own[-1]["accuracy"]) == one["accuracy_after"]
  table = table_of(shots / "shots.csv")
  assert [row["shots"] for row in table] == ["0", "2", "3", "5", "all"]
  assert [row["method"] for row in table] == ["global", *[spec] * 4]
  after = [report_of(shots / name)["accuracy_after"] for name in "012"]
  assert float(table[-1]["accuracy_mean"]) == pytest.approx(np.mean(after))
  assert (shots / "shots.png").stat().st_size > 10_000
  assert "shots" in capsys.readouterr().out
  assert not (plain / "shots.csv").exists()


def test_the_default_is_transfer_learning_as_before(make):
  plain, named = make("plain", "--steps=3"), make("named", "--method=tl:3")
  for name in "012":
    assert_same_models(plain / name, named / name)
  about = [(each / "0" / "model.json").read_text() for each in (plain, named)]
  assert about[0] == about[1]
  assert "method" not in about[0]
  settings = report_of(plain / "0")["settings"]
  assert not {"method", "shots"} & settings.keys()


def sets(rows):
  return [set(own[own != PADDING].tolist()) for own in rows]


@pytest.mark.parametrize("choosing", [False, True])
def test_fewer_samples_are_among_more(people, choosing):
  """Of nine people with 4 to 10 training samples; copies count once."""
  doubled = people.take(np.repeat(np.arange(len(people)), 2))
  split = new_people.hold_out(doubled, 0.3, seed=2)
  take = functools.partial(
    new_people.first_samples, doubled, split, choosing=choosing, seed=5
  )
  everything = take()
  if choosing:
    sizes = [len(own) for own in sets(everything.validation)]
    counts = [len(own) // 2 for own in sets(split.train)]
    assert sizes == [2 * max(1, round(n / 5)) for n in counts]
  else:
    np.testing.assert_array_equal(everything.train, split.train)
  before = {}
  for count in range(2, 11):
    some = take(count)
    for name in ("train", "validation"):
      widths = [getattr(each, name).shape[1] for each in (some, everything)]
      assert widths[0] == widths[1]
    now = {}
    for person, train, by in zip(
      some.individuals.tolist(), sets(some.train), sets(some.validation)
    ):
      assert not train & by
      assert bool(by) == choosing
      now[person] = train | by
      assert len(now[person]) == 2 * count
      assert len(set(doubled.originals[[*now[person]]])) == count
      assert now[person] >= before.get(person, set())
    assert now.keys() == {
      person
      for person, own in zip(split.individuals.tolist(), sets(split.train))
      if len(own) >= 2 * count
    }
    before = now
  one = split.take(slice(3, 4))
  alone = new_people.first_samples(doubled, one, 3, choosing=choosing, seed=5)
  assert sets(alone.train)[0] == sets(take(3).train)[3]


def test_the_figure_says_who_is_in(tmp_path):
  accuracies = {
    "1": np.array([0.2, 0.4, 0.3]),
    "all": np.array([0.6, np.nan, 0.8]),
  }
  axes = figures.shots(accuracies, np.array([0.3, 0.5, 0.4]), "tl:5")
  labels = [each.get_text() for each in axes.get_xticklabels()]
  assert labels == ["1", "all\n(2 people)"]
  *lines, base = [line.get_ydata() for line in axes.lines]
  assert [0.3, 0.7] in [np.round(own, 6).tolist() for own in lines]
  np.testing.assert_allclose(base, 0.4)
  figures.save(axes, tmp_path / "shots.png")
  with pytest.raises(ValueError, match="1 shots has shape"):
    figures.shots(accuracies, np.zeros(2), "tl:5")
