"""What every method must keep, whatever it answers to the four questions.

A new set of `specs.SETS` comes here by itself; a method that no spec names
belongs into `OWN`.
"""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import Tiny, compiled

from personalization_jax.checkpoints.keeper import Keeper, Stopped
from personalization_jax.datasets import splits
from personalization_jax.distributed import make_mesh
from personalization_jax.methods import Method, parse_method
from personalization_jax.methods.answers import by_model, cross_entropy
from personalization_jax.methods.specs import SETS
from personalization_jax.randomness import SHARED
from personalization_jax.settings import Settings
from personalization_jax.study import Study
from personalization_jax.training import step
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
  individual_keys,
)

SETTINGS = Settings(epochs=2, batch_size=16, seed=4)
TOGETHER = {"devices": 2, "individuals_per_device": 2}
# What is small enough for nine people with a dozen samples each.
SMALL = {
  "es": "3", "sw": "2", "tl": "5", "random": "5", "sg": "5", "ig": "2",
}  # fmt: skip


def small(spec):
  kind = spec.split(":")[0]
  if kind in SMALL:
    return re.sub(r":\d+", f":{SMALL[kind]}", spec)
  return spec.replace("100,200", "2,3").replace("300", "5")


def pulled(strength):
  """Cross-entropy, and a pull to the model that training began with."""

  def loss(logits, labels, params, reference):
    away = jax.tree.map(lambda a, b: a - b, params, reference["params"])
    pull = strength / 2 * optax.tree.norm(away, squared=True)
    return cross_entropy(logits, labels, params, reference) + pull

  return loss


def biases(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == "bias", params
  )


def least_probable(model, state, samples):
  return -by_model(model, state, samples)


def near_the_start(model, state, samples):
  began = state.replace(**{**state.reference, "answer": None})
  return by_model(model, state, samples) + by_model(model, began, samples)


TOWARDS_THE_START = {
  "loss": pulled(0.1), "predict": near_the_start, "reference": True,
}  # fmt: skip
OWN = [
  Method("pulled", late=5, **TOWARDS_THE_START),
  Method("pulled from nothing", early=2, **TOWARDS_THE_START),
  Method("biases", late=5, trainable=biases),
  Method("least", late=5, predict=least_probable),
]
SPECS = [small(s) for names in SETS.values() for s in names]
EVERY = [
  *map(parse_method, dict.fromkeys(SPECS)),
  *map(
    parse_method,
    (
      "es:2+sw:3+tl:2:last=1",
      "tl:5:last=1",
      "local:3",
      "sg:5+tl:3",
      "baseline@steps=13",
    ),
  ),
  *OWN,
]
# Of one kind with another one here.
SLOW = (
  "ewc:5@100", "distil:5@1", "bias:5", "bn:5", "pulled from nothing", "biases",
  "pulled", "least", "lora:5:4", "mix:tl:5",
)  # fmt: skip
every_method = pytest.mark.parametrize(
  "method",
  [
    pytest.param(
      each,
      id=re.sub(r"\W", "-", each.spec),
      marks=[pytest.mark.slow] * (each.spec in SLOW),
    )
    for each in EVERY
  ],
)
TRACED = []


class Counting(Tiny):
  hook = staticmethod(lambda: TRACED.append(None))


LEARNER = Learner(Counting(), optax.adam(1e-2))


@pytest.fixture(scope="module")
def new_trainer(people):
  """Trainers of blocks of four steps; of the same arguments the same one."""

  @functools.cache
  def make(devices=1, individuals_per_device=1):
    mesh = make_mesh(jax.devices()[:devices])
    store = people.images, people.labels
    return PopulationTrainer(
      LEARNER, *store, mesh, individuals_per_device, block_steps=4
    )

  return make


@pytest.fixture(scope="module")
def new_study(people, new_trainer):
  latents = np.random.default_rng(5).normal(size=(len(people), 4))

  def make(keeper=None, **about):
    chosen = splits.choose_people(people, 3, 4, seed=2)
    split = splits.split(people, *chosen, validation_fraction=0.25, seed=2)
    return Study(
      people,
      split,
      SETTINGS,
      trainer=new_trainer(**about),
      latents=latents,
      keeper=keeper,
    )

  return make


@pytest.fixture(scope="module")
def whole(new_study):
  """The study, and each method's result without interruption, trained once.

  On two devices, as all that must have its bits: XLA compiles a program for one
  device otherwise than for several, and may round otherwise.
  """
  study = new_study(devices=2)
  return study, functools.cache(
    functools.partial(study.personalize, keep_models=True)
  )


def assert_same(one, other):
  for field in ("losses", "individual_predictions", "global_predictions"):
    np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def by_hand(study, method, index):
  """One person's losses and answers on D_I and D_G, by a loop over steps."""
  trainer = study.trainer_of(method)
  learner, base = trainer.learner, trainer.base
  store = jnp.asarray(study.population.images), study.population.labels
  store = store[0], jnp.asarray(store[1])
  root = jax.random.key(study.settings.seed)
  person = individual_key(root, int(study.split.individuals[index]))
  rows = study.batches.rows(method, index)
  shared = study.batches.num_shared_steps if method.shares_global_phase else 0
  first = study.trainer.learner if shared else learner
  predict = compiled(step.predict_rows, learner)
  create = compiled(
    step.create_state, first, image_shape=study.population.sample_shape
  )
  state = create(individual_key(root, SHARED) if shared else person)
  losses, best = [], (-1, None)
  if method.start is not None:
    start = study.start(method.start)
    begun = start.model(start.pick[index]).replace(key=None)
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), begun)
    losses = list(start.history(range(index, index + 1))["losses"][0])

  def look(best):
    own = study.split.validation[index]
    answers = predict(state, own[None], *store, base).predictions[0]
    right = (answers == study.population.labels[own])[own >= 0].sum()
    return (right, state) if right > best[0] else best

  for number in range(len(losses), len(rows)):
    if number == shared > 0:
      state = step.continue_as(learner, person, state)
      best = look(best) if method.best else None
    trainable = next(t for end, t in method.phases(len(rows)) if end > number)
    train = of_phase(first if number < shared else learner, trainable)
    batch = step.gather(*store, rows[number])
    state, loss = train(state, *batch, base)
    losses.append(loss)
    if method.best and number + 1 in study.batches.looks(method):
      best = look(best)
  if shared == len(rows):
    state = step.continue_as(learner, person, state)
  if method.best:
    state = best[1]
  if method.own_statistics:
    own = study.batches.own_rows(method, [index])[0]
    precise = compiled(step.precise_batch_stats, learner)
    found = precise(state, own, *store, base)
    state = state.replace(batch_stats=found)
  if method.fit is not None:
    sets = [
      step.gather(*store, rows)
      for rows in (study.split.train[index], study.split.validation[index])
    ]
    used = step.in_use(learner, state, base)
    answer = learner.fit(learner.model, used, *sets)
    state = step.AnsweringState(**{**vars(state), "answer": answer})
  own, general = study.split.test[index], study.split.global_test
  answers = predict(state, np.concatenate([own, general])[None], *store, base)
  tested = np.asarray(answers.predictions[0])
  return np.array(losses), *np.split(tested, [len(own)])


@functools.cache
def of_phase(learner, trainable):
  if not learner.lean:
    learner = dataclasses.replace(learner, trainable=trainable)
  return compiled(step.train_step, learner)


@every_method
def test_a_population_is_so_many_single_runs(whole, method):
  """The oracle: a Python loop over one person's steps."""
  study, results = whole
  losses, own, general = by_hand(study, method, 1)
  result = results(method)
  assert result.method == method.spec
  there = np.isfinite(result.losses[1])
  np.testing.assert_allclose(result.losses[1][there], losses[there], rtol=2e-3)
  np.testing.assert_array_equal(result.individual_predictions[1], own)
  assert (result.global_predictions[1] == general).mean() > 0.97


@every_method
def test_resuming_is_going_on(whole, new_study, method, tmp_path):
  """Several people at once, on two devices, stopped at the first block."""
  _, results = whole
  looks = []

  def should_stop():
    looks.append(None)
    return len(looks) == 2

  stopped = Keeper(tmp_path, seconds=1e9, should_stop=should_stop)
  with pytest.raises(Stopped):
    new_study(keeper=stopped, **TOGETHER).personalize(method)
  stopped.wait()
  resumed = new_study(keeper=Keeper(tmp_path), **TOGETHER)
  assert_same(resumed.personalize(method), results(method))


@every_method
def test_padding_changes_nothing_and_compiles_nothing(whole, method):
  """Steps of padding alone, behind the others, and another seed's keys."""
  study, results = whole
  results(method)
  trainer = study.trainer_of(method)
  rows = study.batches.rows(method, 0)[None]
  keys = individual_keys(jax.random.key(0), study.split.individuals[:1])

  def begin():
    if not trainer.learner.lean:
      return trainer.create(keys)
    state, _ = study.global_phase()
    return trainer.share(state, keys)

  if trainer.learner.lean:
    if not method.late:
      pytest.skip("nothing is trained")
    rows = rows[:, -method.late :]
  phases = method.phases(rows.shape[1])
  fresh = begin()
  traced = len(TRACED)
  states, losses = trainer.train(fresh, rows, phases=phases)
  more = np.pad(rows, ((0, 0), (0, 3), (0, 0)), constant_values=-1)
  padded, with_padding = trainer.train(
    begin(), more, phases=[*phases, (more.shape[1], None)]
  )
  np.testing.assert_array_equal(with_padding[:, : losses.shape[1]], losses)
  assert np.isnan(with_padding[:, losses.shape[1] :]).all()
  for name in ("params", "batch_stats", "opt_state"):
    chex.assert_trees_all_equal(getattr(padded, name), getattr(states, name))
  assert len(TRACED) == traced > 0


@pytest.mark.parametrize("spec", ["baseline", "sw:2"])
def test_more_steps_go_on_with_the_same_ones(whole, spec):
  """The control of a number of steps: a prefix, then further epochs."""
  study, _ = whole
  plain, more = (
    study.batches.rows(parse_method(each), 1)
    for each in (spec, f"{spec}@steps=20")
  )
  fewer = study.batches.rows(parse_method(f"{spec}@steps=3"), 1)
  count = (plain >= 0).any(axis=1).sum()
  assert len(more) == 20 > count > len(fewer) == 3
  np.testing.assert_array_equal(more[:count], plain[:count])
  np.testing.assert_array_equal(fewer, plain[:3])
  assert (more >= 0).any(axis=1).all()


def parameters(whole, *methods):
  _, results = whole
  return [results(method).models["params"] for method in methods]


def test_a_pull_of_nothing_is_transfer_learning(whole):
  none = Method("none", late=5, loss=pulled(0.0), reference=True)
  found = parameters(whole, none, parse_method("tl:5"))
  # Programs of their own: adding zeros may round otherwise.
  chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-7)


def test_a_pull_keeps_the_model_near_its_start(whole):
  methods = OWN[0], parse_method("tl:5"), parse_method("global")
  strong, free, start = (
    np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    for tree in parameters(whole, *methods)
  )
  assert 0 < np.abs(strong - start).sum() < np.abs(free - start).sum()


def test_a_mask_leaves_all_else_as_it_was(whole):
  own, start = parameters(whole, OWN[2], parse_method("global"))
  for name, layer in own.items():
    for leaf, values in layer.items():
      same = np.array_equal(values, start[name][leaf])
      assert same == (leaf != "bias"), (name, leaf)


def test_an_answer_is_the_method_s(whole):
  """The same models as tl:5, but other answers."""
  _, results = whole
  own, plain = (results(each) for each in (OWN[3], parse_method("tl:5")))
  np.testing.assert_array_equal(own.losses, plain.losses)
  there = plain.individual_predictions >= 0
  assert (own.individual_predictions != plain.individual_predictions)[
    there
  ].all()
