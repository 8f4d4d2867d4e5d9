"""What a study refuses before it trains, and what its keeper won't mix up."""

import dataclasses
import json

import numpy as np
import pytest

from personalization_jax import evaluation, models, splits
from personalization_jax.methods import Method, parse_method
from personalization_jax.personalization import Study
from personalization_jax.progress import Keeper
from personalization_jax.settings import Settings

SETTINGS = Settings(epochs=1, batch_size=16, width=1 / 32)


@pytest.fixture(scope="module")
def split(people):
  return splits.split(people, *splits.choose_people(people, 3, 4, seed=2))


def test_a_split_of_other_samples_is_refused(people, split):
  with pytest.raises(ValueError, match=r"row \d+, but the population has 20"):
    Study(people.take(np.arange(20)), split, SETTINGS)
  moved = people.take(np.roll(np.arange(len(people)), 11))
  with pytest.raises(ValueError, match=r"individual \d+ samples that others"):
    Study(moved, split, SETTINGS)


def test_nobody_is_without_training_data(people, split):
  train = split.train.copy()
  train[1] = splits.PADDING
  nothing = dataclasses.replace(split, train=train)
  with pytest.raises(
    ValueError, match=f"individual {split.individuals[1]} has nothing"
  ):
    Study(people, nothing, SETTINGS)


def test_a_trainer_serves_its_own_models_alone(people, split):
  model = models.MLP(3, hidden=(4,))
  study = Study(people, split, SETTINGS, model=model)
  again = Study(people, split, SETTINGS, trainer=study.trainer)
  assert again.trainer.learner.model == model
  with pytest.raises(ValueError, match="but model is MLP"):
    Study(
      people,
      split,
      SETTINGS,
      model=models.MLP(3, hidden=(5,)),
      trainer=study.trainer,
    )
  paper_s = Study(people, split, SETTINGS).trainer
  wider = dataclasses.replace(SETTINGS, width=1 / 16)
  with pytest.raises(ValueError, match=r"width 0.03125, .* ask for 0.0625"):
    Study(people, split, wider, trainer=paper_s)
  some = people.take(np.arange(len(people) - 1))
  with pytest.raises(ValueError, match="trainer is of a population of shape"):
    Study(
      some,
      splits.split(some, split.individuals, split.global_people),
      SETTINGS,
      trainer=paper_s,
    )


@pytest.mark.parametrize("name", ["global_phase", "autoencoder"])
def test_names_of_shared_trainings_are_taken(people, split, name):
  method = Method(name, schedule=lambda individual, general: np.ones(2))
  with pytest.raises(ValueError, match=f"'{name}' needs another name"):
    Study(people, split, SETTINGS).check(method)


def test_a_keeper_gives_no_other_study_s_models(people, split, tmp_path):
  def personalize(spec="local:2", **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    keeper = Keeper(tmp_path)
    model = models.MLP(3, hidden=(4,))
    study = Study(people, split, settings, model=model, keeper=keeper)
    return study.personalize(parse_method(spec))

  first = personalize()
  np.testing.assert_array_equal(personalize().losses, first.losses)
  for changes in ({"seed": 1}, {"learning_rate": 0.5}, {"epochs": 2}):
    with pytest.raises(ValueError, match="keeps 'study' of other data, sett"):
      personalize(**changes)
  # What is damaged tells nothing, and nothing is lost by it.
  path = tmp_path / "identity.json"
  kept = path.read_text()
  assert list(json.loads(kept)["of"]) == ["study"]
  place = kept.index('"study": "') + len('"study": "')
  digit = "1" if kept[place] == "0" else "0"
  flipped = kept[:place] + digit + kept[place + 1 :]
  for damaged in ("{", "[]", '{"of": 3, "sha256": ""}', flipped):
    path.write_text(damaged)
    np.testing.assert_array_equal(personalize().losses, first.losses)
    assert path.read_text() == kept


def test_methods_of_one_s_own_keep_their_models_apart(people, split, tmp_path):
  study = Study(
    people,
    split,
    SETTINGS,
    model=models.MLP(3, hidden=(4,)),
    keeper=Keeper(tmp_path),
  )
  methods = {
    name: Method(
      name, early=early, schedule=lambda epochs, each: np.ones(2, int)
    )
    for name, early in (("my:a", 0), ("my/a", 0), ("my-a", 1))
  }
  first = study.personalize(methods["my:a"])
  again = study.personalize(methods["my:a"])
  np.testing.assert_array_equal(again.losses, first.losses)
  study.personalize(methods["my/a"])  # kept as my_a
  with pytest.raises(ValueError, match="keeps 'my-a' of other data, settings"):
    study.personalize(methods["my-a"])


def test_models_that_diverged_have_no_accuracy_on_the_way():
  class Trainer:
    def predict(self, states, rows):
      del states
      answers = np.where(rows < 0, -1, 0)
      answers[1, 2] = -1  # of a sample that there is
      return answers

  own, general = evaluation.validation_accuracy(
    Trainer(),
    labels=np.asarray([0, 0, 1, 1]),
    own=np.asarray([[[0, -1]], [[1, -1]]]),
    general=np.asarray([2, 0]),
    states=None,
  )
  np.testing.assert_array_equal(own, [[1.0], [np.nan]])
  np.testing.assert_array_equal(general, [0.5, np.nan])
