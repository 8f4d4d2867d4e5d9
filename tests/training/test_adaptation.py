"""New people's models: what TL gives from a saved model with a fresh Adam."""

import dataclasses

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import FIG_4, TINY, Tiny, compiled

from personalization_jax import schedules
from personalization_jax.checkpoints.keeper import AnotherTrainingError, Keeper
from personalization_jax.datasets import new_people, splits
from personalization_jax.distributed import make_mesh
from personalization_jax.networks import MLP
from personalization_jax.settings import Settings
from personalization_jax.study import Study
from personalization_jax.training import evaluation, step
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
)

STEPS, BATCH, SEED = 5, 4, 6
SETTINGS = Settings(batch_size=BATCH, seed=SEED)


def base_of(learner, shape=(16, 16, 1)):
  create = compiled(step.create_state, learner, image_shape=shape)
  state = create(jax.random.key(9))
  return {"params": state.params, "batch_stats": state.batch_stats}


def trainer_for(people, learner=TINY, devices=1, together=1):
  mesh = make_mesh(jax.devices()[:devices])
  return PopulationTrainer(
    learner, people.images, people.labels, mesh, together
  )


def study_of(people, learner=TINY, base=None, **how):
  return Study(
    people,
    new_people.hold_out(people, 0.3, seed=2),
    SETTINGS,
    model=learner.model,
    trainer=trainer_for(people, learner, **how),
    base=base or base_of(learner),
  )


def adapt(people, *about, which=None, spec=f"tl:{STEPS}", on_steps=len, **how):
  """Some people's models, losses, accuracy before and after, and divergence."""
  if which is not None:
    people = people.take(np.flatnonzero(np.isin(people.individuals, which)))
  study = study_of(people, *about, **how)
  before, _ = study.personalize("global").individual_accuracy()
  found = study.personalize(
    spec, keep_models=True, on_steps=lambda steps: on_steps([steps])
  )
  after, _ = found.individual_accuracy()
  return {
    person: (
      jax.tree.map(lambda leaf, k=place: leaf[k], found.models),
      found.losses[place],
      before[place],
      after[place],
      bool(found.diverged[place]),
    )
    for place, person in enumerate(found.individuals.tolist())
  }


@pytest.fixture(scope="module")
def everybody(people):
  return adapt(people)


def test_the_oracle_is_a_loop_of_training_steps(people, everybody):
  """One person, one step after another, Adam from nothing."""
  split = new_people.hold_out(people, 0.3, seed=2)
  person = int(split.individuals[3])
  own = split.parts(3)[0]
  rows = schedules.individual_batches(
    own, BATCH, STEPS, seed=SEED, individual=person
  )
  base = base_of(TINY)
  key = individual_key(jax.random.key(SEED), person)
  create = compiled(step.create_state, TINY, image_shape=(16, 16, 1))
  state = create(key).replace(**base)
  train_step = compiled(step.train_step, TINY)
  store = jnp.asarray(people.images), jnp.asarray(people.labels)
  for index, batch in enumerate(rows):
    state, loss = train_step(state, *step.gather(*store, batch))
    np.testing.assert_allclose(everybody[person][1][index], loss, rtol=2e-3)
  variables, _, before, after, diverged = everybody[person]
  chex.assert_trees_all_close(variables["params"], state.params, atol=2e-3)
  assert not diverged
  test = split.parts(3)[2]
  for accuracy, trained in (
    (before, state.replace(**base)),
    (after, state),
  ):
    images, labels, _ = step.gather(*store, test)
    scores = jax.jit(TINY.model.apply)(trained.variables, images)
    right = scores.argmax(axis=1) == labels
    assert accuracy == pytest.approx(float(right.mean()))


def test_a_base_may_be_of_any_mappings(people):
  base = base_of(TINY)
  frozen = study_of(people, base=flax.core.freeze(base))
  found = frozen.global_phase()[0].variables
  one = jax.tree.map(lambda leaf: leaf[0], found)
  chex.assert_trees_all_equal(dict(one), base)


def test_the_moments_of_adam_are_fresh(people):
  """The first step of a fresh Adam moves every parameter by its rate."""
  adam, sgd = (
    Learner(MLP(3, (4,)), optimizer)
    for optimizer in (optax.adam(1e-2), optax.sgd(0.0))
  )
  base = base_of(adam)
  for learner, size in ((adam, 1e-2), (sgd, 0.0)):
    found = adapt(people, learner, base, which=[4], spec="tl:1")
    moved = found[4][0]["params"]["layer_1"]["bias"]
    change = np.abs(moved - base["params"]["layer_1"]["bias"])
    np.testing.assert_allclose(change, size, rtol=1e-3)


@pytest.mark.parametrize(
  "kind",
  [
    {"which": [7]},
    {"which": [25, 1, 4]},
    {"together": 4},
    {"devices": 4, "together": 2},
  ],
  ids=str,
)
def test_the_others_do_not_matter(people, everybody, kind):
  """One by one, in chunks, on several devices: the same bits for everyone."""
  done = []
  found = adapt(people, on_steps=done.extend, **kind)
  assert sum(done) == len(found) * STEPS
  assert len(found) == len(kind.get("which", everybody))
  for person, own in found.items():
    chex.assert_trees_all_equal(own, everybody[person])
  kernels = {
    own[0]["params"]["layer_0"]["kernel"].tobytes() for own in found.values()
  }
  assert len(kernels) == len(found)


def test_the_last_layers_alone_are_trained(people):
  base = base_of(TINY)
  found = adapt(people, TINY, base, which=[4], spec="tl:5:last=1")
  kept = jax.tree.map(np.array_equal, found[4][0], base)
  head = kept["params"].pop("layer_1")
  assert kept["batch_stats"]
  assert all(jax.tree.leaves(kept))
  assert not any(jax.tree.leaves(head))


def test_who_diverges_is_said_to(people):
  wild = Learner(TINY.model, optax.sgd(1e30))
  found = adapt(people, wild, which=[4])
  _, _, before, after, diverged = found[4]
  assert diverged
  assert 0 <= before <= 1
  assert np.isnan(after)


@pytest.mark.parametrize("count", [7, 21])
def test_classes_and_probabilities_are_the_model_s(people, count, monkeypatch):
  monkeypatch.setattr(evaluation, "_CLASSIFIED", 8)
  base = base_of(TINY)
  images = people.images[:count]
  classes, probabilities = evaluation.classify(TINY, base, images)
  logits = jax.jit(TINY.model.apply)(base, images / np.float32(255))
  expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_array_equal(classes, expected.argmax(axis=1))
  np.testing.assert_allclose(probabilities, expected.max(axis=1), rtol=1e-5)


def test_features_are_used_as_they_are(people):
  """Floats are no images to be divided by 255, here as in training."""
  learner = Learner(MLP(3, (8,)), optax.adam(1e-2))
  features = people.images[..., 0].reshape(len(people), -1) / np.float32(255)
  base = base_of(learner, features.shape[1:])
  classes, probabilities = evaluation.classify(learner, base, features)
  logits = learner.model.apply(base, features)
  expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_array_equal(classes, expected.argmax(axis=1))
  np.testing.assert_allclose(probabilities, expected.max(axis=1), rtol=1e-5)
  vectors = dataclasses.replace(people, images=features)
  found = adapt(vectors, learner, base, spec="tl:5:last=1")
  for variables, losses, *_ in found.values():
    same = jax.tree.map(np.array_equal, variables, base)
    assert all(jax.tree.leaves(same["params"]["layer_0"]))
    assert not any(jax.tree.leaves(same["params"]["layer_1"]))
    assert np.isfinite(losses).all()


def test_a_model_without_finite_numbers_has_no_answer(people):
  base = jax.tree.map(lambda leaf: leaf * np.nan, base_of(TINY))
  classes, _ = evaluation.classify(TINY, base, people.images[:3])
  assert classes.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
  ("base", "message"),
  [
    ((FIG_4,), "the base model doesn't suit the network"),
    ((TINY, (16, 16, 3)), "doesn't suit .*kernel"),
  ],
)
def test_a_base_that_does_not_fit_is_named(people, base, message):
  with pytest.raises(ValueError, match=message):
    study_of(people, TINY, base_of(*base))


def test_a_base_has_d_g_s_place(people):
  ids = np.unique(people.individuals)
  split = splits.split(people, ids[:2], ids[2:5])
  with pytest.raises(ValueError, match="split has data of D_G too"):
    Study(
      people,
      split,
      SETTINGS,
      trainer=trainer_for(people),
      base=base_of(TINY),
    )


def test_another_base_is_another_training(people, tmp_path):
  one = people.take(np.flatnonzero(people.individuals == 4))

  def train(base):
    keeper = Keeper(tmp_path)
    dataclasses.replace(study_of(one, TINY, base), keeper=keeper).personalize(
      "tl:1"
    )
    keeper.wait()

  base = base_of(TINY)
  train(base)
  train(base)
  with pytest.raises(AnotherTrainingError):
    train(jax.tree.map(lambda leaf: leaf + 1, base))


def test_a_second_call_compiles_nothing(people):
  """For other people, with another trainer of the same learner too."""
  traced = []

  class Counting(Tiny):
    hook = staticmethod(lambda: traced.append(None))

  learner = Learner(Counting(), optax.adam(1e-2))
  others = dataclasses.replace(people, images=people.images[::-1].copy())
  studies = [
    study_of(each, learner, base_of(TINY)) for each in (people, people, others)
  ]  # for which the model is traced, not compiled

  def adapt_and_classify(study):
    found = study.personalize("tl:2", keep_models=True)
    one = jax.tree.map(lambda leaf: leaf[0], found.models)
    evaluation.classify(learner, one, people.images)

  before = len(traced)
  adapt_and_classify(studies[0])
  first = len(traced)
  assert first > before
  for study in studies[1:]:
    adapt_and_classify(study)
  assert len(traced) == first
