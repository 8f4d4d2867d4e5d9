"""People's own optimiser, after D_G."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small_study import trainer_of

from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.keeper import (
  AnotherTrainingError,
  Keeper,
  Stopped,
)
from personalization_jax.datasets import splits
from personalization_jax.methods import parse_method
from personalization_jax.networks import MLP
from personalization_jax.settings import Personal, Settings
from personalization_jax.study import Study
from personalization_jax.training import identities, step
from personalization_jax.training.population import individual_key

SETTINGS = Settings(epochs=1, batch_size=16, learning_rate=5e-3, seed=4)
MODEL = MLP(3, hidden=(5,))
STEPS = 4
PLAIN = Personal()
CASES = [
  Personal("sgd", learning_rate=0.05),
  Personal("sgd", weight_decay=0.5),
  Personal(learning_rate=2e-3),
  Personal(weight_decay=0.5),
  Personal(learning_rate=2e-3, weight_decay=0.5, fresh=True),
  Personal(fresh=True),
  PLAIN,
]


@pytest.fixture(scope="module")
def new_study(people):
  split = splits.split(
    people,
    *splits.choose_people(people, 3, 4, seed=2),
    validation_fraction=0.25,
    seed=2,
  )

  def make(personal=PLAIN, optimizer=None, **about):
    settings = dataclasses.replace(SETTINGS, personal=personal)
    # The same, whatever comes after D_G.
    trainer = trainer_of(
      people, settings=SETTINGS, model=MODEL, optimizer=optimizer
    )
    if trainer.block_steps != STEPS:
      trainer = dataclasses.replace(trainer, block_steps=STEPS)
    return Study(people, split, settings, trainer=trainer, **about)

  return make


def by_hand(study, personal, index):
  """One person's parameters after STEPS batches, by the book."""
  learner = study.trainer.learner
  state, _ = study.global_phase()
  state = jax.tree.map(
    lambda leaf: jnp.asarray(leaf[0]), state.replace(key=None)
  )
  adam, *_ = state.opt_state
  root = jax.random.key(study.settings.seed)
  person = individual_key(root, int(study.split.individuals[index]))
  _, key = jax.random.split(person)
  gradient = gradient_of(learner)
  rate = personal.learning_rate or study.settings.learning_rate
  rows = study.batches.rows(parse_method(f"tl:{STEPS}"), index)[-STEPS:]
  moments = [adam.mu, adam.nu]
  count = int(adam.count)
  if personal.fresh:
    moments = [jax.tree.map(jnp.zeros_like, each) for each in moments]
    count = 0
  params = state.params
  images, labels = study.population.images, study.population.labels
  for number, row in enumerate(rows):
    data = step.gather(jnp.asarray(images), jnp.asarray(labels), row)
    at = int(state.step) + number
    state = state.replace(params=params, key=key)
    found, batch_stats = gradient(state, *data, jax.random.fold_in(key, at))
    state = state.replace(batch_stats=batch_stats)
    count += 1
    moments = [
      jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], found),
      jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, moments[1], found),
    ]

    def moved(parameter, gradient, first, second, count=count):
      move = gradient
      if personal.optimizer == "adam":
        second = second / (1 - 0.999**count)
        move = first / (1 - 0.9**count) / (np.sqrt(second) + 1e-8)
      return parameter - rate * (move + personal.weight_decay * parameter)

    params = jax.tree.map(moved, params, found, *moments)
  return params


@functools.cache
def gradient_of(learner):
  def gradient(state, images, labels, mask, key):
    return jax.grad(step.loss_fn, has_aux=True)(
      state.params, learner, state, images, labels, mask, key, 0
    )

  return jax.jit(gradient)


@pytest.mark.parametrize("personal", CASES, ids=str)
def test_steps_on_d_i_are_those_of_its_own_optimiser(new_study, personal):
  study = new_study(personal)
  found = study.personalize(f"tl:{STEPS}", keep_models=True)
  for index in (0, 2):
    mine = jax.tree.map(lambda leaf, i=index: leaf[i], found.models["params"])
    wanted = by_hand(study, personal, index)
    chex.assert_trees_all_close(mine, wanted, rtol=2e-4, atol=2e-6)


def test_what_comes_before_d_i_does_not_change(new_study, tmp_path):
  """D_G's phase is the same to the byte, and trained once for both."""
  first = new_study(keeper=Keeper(tmp_path))
  plain = first.personalize("global")
  other = new_study(CASES[0], keeper=Keeper(tmp_path))
  methods = [parse_method(spec) for spec in ("global", "es:2")]
  assert other.num_steps(methods[:1]) == 0
  again = other.personalize("global")
  np.testing.assert_array_equal(again.losses, plain.losses)
  np.testing.assert_array_equal(
    again.global_log_probability, plain.global_log_probability
  )
  assert_same(*(study.personalize("es:2") for study in (first, other)))


def assert_same(one, other):
  for name in ("losses", "individual_predictions", "global_log_probability"):
    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_method_s_own_rate_counts_before_the_settings(new_study):
  found, wanted = (
    new_study(Personal("sgd", learning_rate=rate)).personalize(spec)
    for rate, spec in ((0.5, "tl:4@lr=0.03"), (0.03, "tl:4"))
  )
  assert_same(found, wanted)


def test_an_optimiser_of_ones_own_goes_on_unless_another_is_asked_for(
  new_study,
):
  own = optax.sgd(0.05, momentum=0.9)
  study = new_study(optimizer=own)
  study.personalize("tl:4")
  with pytest.raises(ValueError, match="whose learning rate isn't known"):
    new_study(Personal(weight_decay=0.1), optimizer=own).personalize("tl:4")
  other = new_study(Personal("sgd", learning_rate=0.05), optimizer=own)
  found = other.personalize("tl:4", keep_models=True).models["params"]
  state, _ = other.global_phase()
  chex.assert_trees_all_equal(
    state.variables, study.global_phase()[0].variables
  )
  start = jax.tree.map(lambda leaf: leaf[0], state.params)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, start)
  assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize("spec", ["es:2+tl:6", "es:2+head:6", "tl:6@best"])
@pytest.mark.parametrize("personal", [CASES[0], CASES[4]], ids=str)
def test_resuming_is_going_on(new_study, tmp_path, spec, personal):
  """Stopped in every phase and between them."""
  whole = new_study(personal).personalize(spec)
  for stop in range(2, 8):
    looks = []

    def should_stop(looks=looks, stop=stop):
      looks.append(None)
      return len(looks) == stop

    folder = tmp_path / str(stop)
    keeper = Keeper(folder, seconds=1e9, should_stop=should_stop)
    try:
      new_study(personal, keeper=keeper).personalize(spec)
    except Stopped:
      keeper.wait()
    resumed = new_study(personal, keeper=Keeper(folder))
    found = resumed.personalize(spec)
    assert_same(found, whole)
    np.testing.assert_array_equal(found.best_steps, whole.best_steps)


def test_another_one_is_another_training(new_study, tmp_path):
  new_study(keeper=Keeper(tmp_path)).personalize("tl:4")
  for personal in CASES[:-1]:
    other = new_study(personal, keeper=Keeper(tmp_path))
    with pytest.raises(AnotherTrainingError, match="tl-4"):
      other.personalize("tl:4")


def test_runs_of_before_go_on(new_study):
  """What kept a method then had these parts alone."""
  study = new_study()
  method = parse_method("tl:4")
  fields = dict.fromkeys(
    ("spec", "early", "period", "late", "last_layers", "baseline", "group"),
  )
  fields = {name: getattr(method, name) for name in (*fields, "local")}
  learner = study.trainer.learner
  assert identities.of_method("study", method, study.batches, learner) == (
    files.digest(["study", fields, study.batches.sources(method)])
  )


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("optimizer", "lion"),
    ("learning_rate", 0.0),
    ("learning_rate", float("inf")),
    ("weight_decay", -0.1),
    ("weight_decay", float("nan")),
  ],
)
def test_what_nothing_can_be_trained_with_is_refused(name, value):
  with pytest.raises(ValueError, match=f"{name}='?{value}"):
    Personal(**{name: value})
