"""New people's models: what TL gives from a saved model with a fresh Adam."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small_study import trainer_of
from helpers.tiny import FIG_4, TINY, Tiny, compiled

from personalization_jax import schedules
from personalization_jax.datasets import new_people
from personalization_jax.datasets.splits import split as split_people
from personalization_jax.distributed import make_mesh
from personalization_jax.methods import parse_method
from personalization_jax.methods.answers import LastLayers
from personalization_jax.networks import MLP
from personalization_jax.study import Settings, Study
from personalization_jax.training import adaptation, step
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
)

STEPS, BATCH, SEED = 5, 4, 6


def base_of(learner, shape=(16, 16, 1)):
  create = compiled(step.create_state, learner, image_shape=shape)
  state = create(jax.random.key(9))
  return {"params": state.params, "batch_stats": state.batch_stats}


def trainer_for(people, learner=TINY, devices=1, together=1):
  mesh = make_mesh(jax.devices()[:devices])
  return PopulationTrainer(
    learner, people.images, people.labels, mesh, together
  )


def adapt(
  people,
  learner=TINY,
  *,
  which=None,
  base=None,
  devices=1,
  together=1,
  **kw,
):
  """Some people's models, joined over chunks."""
  people = (
    people
    if which is None
    else people.take(np.flatnonzero(np.isin(people.individuals, which)))
  )
  split = new_people.hold_out(people, 0.3, seed=2)
  chunks = adaptation.adapt(
    trainer_for(people, learner, devices, together),
    base or base_of(learner),
    split,
    STEPS,
    batch_size=BATCH,
    seed=SEED,
    **kw,
  )
  return {
    person: (
      some.variables_of(place),
      some.losses[place],
      accuracies[0][place],
      accuracies[1][place],
      bool(some.diverged[place]),
    )
    for some in chunks
    for accuracies in [some.accuracies(people.labels)]
    for place, person in enumerate(some.individuals.tolist())
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


def test_it_is_tl_with_a_fresh_adam(people):
  """The same bits as `Study` gives from the same model of D_G."""
  settings = Settings(epochs=1, batch_size=BATCH, width=1 / 32, seed=SEED)
  ids = np.unique(people.individuals)
  split = split_people(people, ids[:2], ids[2:5], seed=2)
  # The same bits, and compiled in a fraction of Fig. 4's time.
  trainer = trainer_of(people, settings=settings, tiny=True)
  study = Study(people, split, settings, trainer=trainer)
  method = parse_method("tl:5")
  shared, record = study.global_phase()
  one = jax.tree.map(lambda leaf: leaf[0], shared)
  fresh = trainer.learner.optimizer.init(one.params)
  study._global_phase = (
    shared.replace(
      opt_state=jax.tree.map(lambda leaf: leaf[None], fresh),
      step=np.zeros(1, np.int32),
    ),
    record,
  )
  expected = study.personalize(method)
  (found,) = adaptation.adapt(
    trainer,
    {"params": one.params, "batch_stats": one.batch_stats},
    split,
    method.late,
    batch_size=BATCH,
    seed=SEED,
  )
  np.testing.assert_array_equal(
    found.losses, expected.losses[:, -method.late :]
  )
  np.testing.assert_array_equal(found.after, expected.individual_predictions)
  np.testing.assert_array_equal(found.individuals, split.individuals)


def test_the_moments_of_adam_are_fresh(people):
  """The first step of a fresh Adam moves every parameter by its rate."""
  adam, sgd = (
    Learner(MLP(3, (4,)), optimizer)
    for optimizer in (optax.adam(1e-2), optax.sgd(0.0))
  )
  base = base_of(adam)
  (own,) = new_people.hold_out(people, 0.3).individuals[:1]
  split = new_people.hold_out(
    people.take(np.flatnonzero(people.individuals == own)), 0.3
  )
  one = people.take(np.flatnonzero(people.individuals == own))
  for learner, size in ((adam, 1e-2), (sgd, 0.0)):
    (found,) = adaptation.adapt(trainer_for(one, learner), base, split, 1)
    moved = found.variables_of(0)["params"]["layer_1"]["bias"]
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
  found = adapt(people, on_steps=done.append, **kind)
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
  found = adapt(people, which=[4], last_layers=1, base=base)
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
def test_classes_and_probabilities_are_the_model_s(people, count):
  base = base_of(TINY)
  images = people.images[:count]
  classes, probabilities = adaptation.classify(TINY, base, images, batch_size=8)
  logits = jax.jit(TINY.model.apply)(base, images / np.float32(255))
  expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_array_equal(classes, expected.argmax(axis=1))
  np.testing.assert_allclose(probabilities, expected.max(axis=1), rtol=1e-5)


def test_nothing_to_classify_is_said(people):
  with pytest.raises(ValueError, match="images holds no samples"):
    adaptation.classify(TINY, base_of(TINY), people.images[:0])
  with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
    adaptation.classify(TINY, base_of(TINY), people.images, batch_size=0)


def test_features_are_used_as_they_are(people):
  """Floats are no images to be divided by 255, here as in training."""
  learner = Learner(MLP(3, (8,)), optax.adam(1e-2))
  features = people.images[..., 0].reshape(len(people), -1) / np.float32(255)
  base = base_of(learner, features.shape[1:])
  classes, probabilities = adaptation.classify(learner, base, features)
  logits = learner.model.apply(base, features)
  expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_array_equal(classes, expected.argmax(axis=1))
  np.testing.assert_allclose(probabilities, expected.max(axis=1), rtol=1e-5)
  found = adapt(
    dataclasses.replace(people, images=features), learner, last_layers=1
  )
  for variables, losses, *_ in found.values():
    same = jax.tree.map(np.array_equal, variables, base)
    assert all(jax.tree.leaves(same["params"]["layer_0"]))
    assert not any(jax.tree.leaves(same["params"]["layer_1"]))
    assert np.isfinite(losses).all()


def test_a_model_without_finite_numbers_has_no_answer(people):
  base = jax.tree.map(lambda leaf: leaf * np.nan, base_of(TINY))
  classes, _ = adaptation.classify(TINY, base, people.images[:3])
  assert classes.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"last_layers": 0}, "last_layers=0 must lie in 1..2"),
    ({"last_layers": 9}, "last_layers=9 must lie in 1..2"),
    ({"base": (FIG_4,)}, "the base model doesn't suit the network"),
    ({"base": (TINY, (16, 16, 3))}, "doesn't suit .*kernel"),
  ],
)
def test_what_does_not_fit_is_named(people, changes, message):
  if "base" in changes:
    changes = {"base": base_of(*changes["base"])}
  with pytest.raises(ValueError, match=message):
    adapt(people, which=[4], **changes)


def test_numbers_out_of_range_are_named():
  base = base_of(TINY)

  def check(steps, batch_size, last_layers=None):
    return adaptation.check(TINY.model, base, steps, batch_size, last_layers)

  with pytest.raises(ValueError, match="steps=0 must be at least 1"):
    check(0, 1)
  with pytest.raises(ValueError, match=r"steps=2.5 must be a whole number"):
    check(2.5, 1)
  with pytest.raises(ValueError, match="batch_size=-1 must be at least 1"):
    check(1, -1)
  assert check(1, 1) is None
  assert check(1, 1, 1) == LastLayers(1)


def test_a_second_call_compiles_nothing(people):
  """For other people, with another trainer of the same learner too."""
  traced = []

  class Counting(Tiny):
    hook = staticmethod(lambda: traced.append(None))

  learner = Learner(Counting(), optax.adam(1e-2))
  base = base_of(TINY)
  split = new_people.hold_out(people, 0.3, seed=2)

  def adapt_and_classify(trainer):
    some = list(adaptation.adapt(trainer, base, split, 2, batch_size=BATCH))
    adaptation.classify(learner, some[0].variables_of(0), people.images)

  others = dataclasses.replace(people, images=people.images[::-1].copy())
  trainers = [trainer_for(each, learner) for each in (people, people, others)]
  for trainer in trainers:
    assert trainer.shapes  # for which the model is traced, not compiled
  before = len(traced)
  adapt_and_classify(trainers[0])
  first = len(traced)
  assert first > before
  for trainer in trainers:
    adapt_and_classify(trainer)
  assert len(traced) == first
