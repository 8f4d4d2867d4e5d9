"""What a study refuses before it trains."""

import dataclasses

import numpy as np
import optax
import pytest
from flax import linen as nn

import personalization_jax as pj
from personalization_jax.datasets import splits
from personalization_jax.methods import parse_method
from personalization_jax.networks import MLP
from personalization_jax.settings import Settings
from personalization_jax.study import Study, make_trainer
from personalization_jax.training import evaluation, step

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
  model = MLP(3, hidden=(4,))
  study = Study(people, split, SETTINGS, model=model)
  again = Study(people, split, SETTINGS, trainer=study.trainer)
  assert again.trainer.learner.model == model
  with pytest.raises(ValueError, match="but model is MLP"):
    Study(
      people,
      split,
      SETTINGS,
      model=MLP(3, hidden=(5,)),
      trainer=study.trainer,
    )

  def scaled(by):
    class Scaled(nn.Module):
      @nn.compact
      def __call__(self, samples):
        return nn.Dense(3)(by * samples.reshape(len(samples), -1))

    return Scaled()

  trainer = Study(people, split, SETTINGS, model=scaled(1.0)).trainer
  Study(people, split, SETTINGS, model=scaled(1.0), trainer=trainer)
  with pytest.raises(ValueError, match="which computes otherwise"):
    Study(people, split, SETTINGS, model=scaled(2.0), trainer=trainer)
  paper_s = Study(people, split, SETTINGS).trainer
  some = people.take(np.arange(len(people) - 1))
  with pytest.raises(ValueError, match="trainer is of a population of shape"):
    Study(
      some,
      splits.split(some, split.individuals, split.global_people),
      SETTINGS,
      trainer=paper_s,
    )


def test_a_trainer_serves_its_own_samples_alone(people, split):
  """Of the same shape, wherever the store is: those of others are seen."""
  model = MLP(3, hidden=(4,))
  for store in ("device", "host"):
    trainer = make_trainer(people, SETTINGS, model=model, store=store)
    Study(people, split, SETTINGS, trainer=trainer)
    for name, array in (
      ("images", people.images ^ 1),
      ("labels", (people.labels + 1) % 3),
    ):
      other = dataclasses.replace(people, **{name: array})
      with pytest.raises(ValueError, match="other samples or labels"):
        Study(other, split, SETTINGS, trainer=trainer)


def test_a_trainer_trains_as_the_settings_say(people, split):
  paper_s = Study(people, split, SETTINGS).trainer
  for changes, sentence in (
    ({"learning_rate": 0.5}, "learning_rate 0.001, but settings ask for 0.5"),
    ({"width": 1 / 16}, "width 0.03125, but settings ask for 0.0625"),
    ({"precision": "bfloat16"}, "precision float32, but .* for bfloat16"),
    ({"initializer": "lecun_normal"}, "pytorch, but settings ask for lecun"),
  ):
    other = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(ValueError, match=sentence):
      Study(people, split, other, trainer=paper_s)
  # An optimiser of one's own has no rate that settings could name.
  learner = dataclasses.replace(paper_s.learner, optimizer=optax.sgd(0.1))
  own = dataclasses.replace(paper_s, learner=learner)
  faster = dataclasses.replace(SETTINGS, learning_rate=0.5)
  assert Study(people, split, faster, trainer=own).trainer is own


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_samples_that_are_not_finite_are_refused(people, split, value):
  """Whoever made them: `Population.from_arrays` sees no replaced ones."""
  samples = people.images.reshape(len(people), -1).astype(np.float64)
  samples[40, 7] = value
  broken = dataclasses.replace(people, images=samples)
  person = people.individuals[40]
  with pytest.raises(ValueError, match=f"row 40 .* individual {person}, holds"):
    Study(broken, split, SETTINGS, model=MLP(3, hidden=(4,)))


def test_models_that_diverged_have_no_accuracy_on_the_way():
  class Trainer:
    def predict(self, states, rows):
      del states
      answers = np.where(rows < 0, -1, 0)
      answers[1, 2] = -1  # of a sample that there is
      return step.Answers(answers, answers, answers)

  validation = evaluation.Validation(
    steps=[],
    labels=np.asarray([0, 0, 1, 1]),
    own=np.asarray([[[0, -1]], [[1, -1]]]),
    general=np.asarray([2, 0]),
  )
  own, general = validation.accuracy(Trainer(), states=None)
  np.testing.assert_array_equal(own, [[1.0], [np.nan]])
  np.testing.assert_array_equal(general, [0.5, np.nan])


def test_a_d_g_with_the_individuals_serves_not_every_method(people):
  split = pj.split(people, 3, 4, global_includes_individuals=True)
  study = Study(people, split, SETTINGS, model=MLP(3))
  for spec in ("global", "local", "sw:2", "es:2+tl:2"):
    study.check(parse_method(spec))
  for spec in ("baseline", "random:5", "sg:5", "ig:2"):
    with pytest.raises(ValueError, match=f"'{spec}' .* D_G includes already"):
      study.check(parse_method(spec))
  among = dataclasses.replace(study, among_individuals=True)
  among.check(parse_method("ig:2"))
