"""Batch statistics of trained models, computed anew; and off, as before."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small_study import make_study
from helpers.tiny import TINY, Tiny, compiled

from personalization_jax.checkpoints.keeper import Keeper, Stopped
from personalization_jax.distributed import make_mesh
from personalization_jax.methods.answers import LastLayers
from personalization_jax.networks import MLP, interface
from personalization_jax.networks.kernels.convolution import Convolution
from personalization_jax.training import step
from personalization_jax.training.evaluation import Validation
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_keys,
  without_fillers,
)

TINY_ONE = {"tiny": True}
PEOPLE, STEPS, BATCH = 3, 5, 6


class TwoMomenta(nn.Module):
  """Normalises before and after dropout, as far apart as models do."""

  @nn.compact
  def __call__(self, x, mask=None, *, train=False):
    x = x.reshape(len(x), -1)
    for layer, momentum in enumerate((0.5, 0.999)):
      x = nn.Dense(8, name=f"layer_{layer}")(x)
      x = nn.BatchNorm(
        use_running_average=not train, momentum=momentum, name=f"norm_{layer}"
      )(x, mask=None if mask is None else mask[:, None])
      x = nn.Dropout(0.3, deterministic=not train)(x)
    return nn.Dense(3, name="layer_2")(x)


@pytest.fixture(scope="module")
def store(people):
  return jnp.asarray(people.images), jnp.asarray(people.labels)


@pytest.fixture(scope="module")
def rows(people):
  """Rows [P, T, B]: a ragged batch, and padding before the first one."""
  rng = np.random.default_rng(0)
  rows = rng.integers(0, len(people), (PEOPLE, STEPS, BATCH)).astype(np.int32)
  rows[0, 3, 2:] = -1
  rows[1, 0] = -1
  return rows


def trained(learner, store):
  """A model after a few steps, so that no statistic is what it began with."""
  create = compiled(step.create_state, learner, image_shape=(16, 16, 1))
  state = create(jax.random.key(3))
  for start in range(0, 24, 6):
    batch = step.gather(*store, jnp.arange(start, start + 6))
    state, _ = compiled(step.train_step, learner)(state, *batch)
  return state


@pytest.mark.parametrize("person", range(PEOPLE))
def test_statistics_are_means_over_rows(store, rows, person):
  """The oracle: NumPy, batch by batch, of what Tiny normalises."""
  state = trained(TINY, store)
  means, variances, weights = [], [], []
  layer = {"params": state.params["layer_0"]}
  for batch in rows[person]:
    images, _, mask = step.gather(*store, batch)
    x, bias = Convolution(3).apply(layer, images)
    x = np.maximum(np.asarray(x + bias), 0)[np.asarray(mask)]
    if len(x):
      means.append(x.mean(axis=(0, 1, 2)))
      variances.append(x.var(axis=(0, 1, 2)))
      weights.append(len(x))
  found = compiled(step.precise_batch_stats, TINY)(state, rows[person], *store)
  expected = {
    "mean": np.average(means, axis=0, weights=weights),
    "var": np.average(variances, axis=0, weights=weights),
  }
  chex.assert_trees_all_close(found, {"norm_0": expected}, rtol=1e-4)


@pytest.mark.slow
def test_any_momentum_and_depth_is_found(store, rows):
  """The oracle: the same batch until its running statistics stay."""
  learner = Learner(TwoMomenta(), optax.adam(1e-2))
  state = trained(learner, store)

  @jax.jit
  def settled(batch, key):
    def again(_, stats):
      variables = {"params": state.params, "batch_stats": stats}
      return interface.apply_in_training(
        learner.model, variables, images, mask, key, 0
      )[1]

    images, _, mask = step.gather(*store, batch)
    return jax.lax.fori_loop(0, 9000, again, state.batch_stats)

  batches = rows[0]
  own_key, _ = jax.random.split(state.key)
  of_each = [
    settled(batch, jax.random.fold_in(own_key, STEPS - index))
    for index, batch in enumerate(batches)
  ]
  weights = (batches >= 0).sum(axis=1)
  expected = jax.tree.map(
    lambda *leaves: np.average(leaves, axis=0, weights=weights), *of_each
  )
  found = compiled(step.precise_batch_stats, learner)(state, batches, *store)
  chex.assert_trees_all_close(found, expected, rtol=2e-3, atol=1e-4)
  assert not np.allclose(
    found["norm_1"]["mean"], state.batch_stats["norm_1"]["mean"], atol=1e-2
  )


def test_layers_that_are_not_trained_keep_theirs(store, rows):
  learner = dataclasses.replace(TINY, trainable=LastLayers(1))
  state = trained(TINY, store)
  find = jax.jit(functools.partial(step.precise_batch_stats, learner))
  chex.assert_trees_all_equal(find(state, rows[0], *store), state.batch_stats)


@pytest.mark.parametrize(
  "about",
  [
    {"individuals_per_device": 3},
    {"individuals_per_device": 4, "side_by_side": 2},
    {"devices": 2},
    {"store": "host", "individuals_per_device": 2},
  ],
)
def test_a_population_is_so_many_single_ones(people, rows, about):
  def find(devices=1, **about):
    mesh = make_mesh(jax.devices()[:devices])
    images, labels = people.images, people.labels
    trainer = PopulationTrainer(TINY, images, labels, mesh, **about)
    found = []
    for chunk in trainer.chunks(PEOPLE):
      ids = np.arange(PEOPLE)[chunk]
      states = trainer.create(individual_keys(jax.random.key(5), ids))
      states = trainer.precise_batch_stats(states, rows[ids])
      found.append(without_fillers(states.batch_stats, len(ids)))
    return jax.tree.map(lambda *some: np.concatenate(some), *found)

  chex.assert_trees_all_close(find(**about), find(), rtol=1e-5, atol=1e-6)


def models_of(study, spec):
  return study.personalize(spec, keep_models=True)


@pytest.fixture(scope="module")
def pair(people):
  """The same study, without and with precise statistics."""
  return [
    make_study(people, how=TINY_ONE, precise_batch_stats=precise)
    for precise in (False, True)
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  "spec", ["global", "tl:3", "es:2", "local:4", "baseline"]
)
def test_they_change_statistics_and_nothing_of_the_training(pair, spec):
  plain, precise = (models_of(study, spec) for study in pair)
  for same in ("losses", "individual_rows", "diverged"):
    np.testing.assert_array_equal(getattr(precise, same), getattr(plain, same))
  one, other = precise.models, plain.models
  chex.assert_trees_all_equal(one["params"], other["params"])
  for leaf in ("mean", "var"):
    moved = one["batch_stats"]["norm_0"][leaf]
    assert not np.allclose(moved, other["batch_stats"]["norm_0"][leaf])
    shared = [np.array_equal(moved[0], each) for each in moved]
    assert all(shared) if spec == "global" else not all(shared[1:])


def test_answers_are_those_of_the_saved_models(pair, people):
  """Statistics come before tests: the very models that are kept answer."""
  _, study = pair
  result = models_of(study, "tl:3")
  variables = jax.tree.map(lambda leaf: leaf[1], result.models)
  rows = study.split.parts(1)[2]
  images = step.as_input(jnp.asarray(people.images[rows]))
  logits = interface.apply(Tiny(), variables, images, jax.random.key(0))
  answers = result.individual_predictions[1][: len(rows)]
  np.testing.assert_array_equal(answers, np.argmax(logits, axis=1))


@pytest.mark.parametrize("spec", ["global", "tl:3", "es:2"])
def test_curves_end_with_the_models_that_are_given(people, monkeypatch, spec):
  """A running mean stands for accuracy, so that no two models are alike."""

  def look(self, trainer, states):
    models, people, _ = self.own.shape
    mean = np.asarray(states.batch_stats["norm_0"]["mean"])[:models, 0]
    return np.repeat(mean[:, None], people, axis=1), mean

  monkeypatch.setattr(Validation, "accuracy", look)
  plain, precise = (
    make_study(
      people,
      how=TINY_ONE,
      validation_fraction=0.2,
      eval_every=4,
      precise_batch_stats=on,
    ).personalize(spec, keep_models=True)
    for on in (False, True)
  )
  # TL goes on with D_G's model as that was given.
  until = 1 if spec == "tl:3" else -1
  for name in ("individual_curve", "global_curve"):
    for each in (plain, precise):
      mean = each.models["batch_stats"]["norm_0"]["mean"][:, 0]
      np.testing.assert_array_equal(getattr(each, name)[:, -1], mean)
    same = getattr(precise, name) == getattr(plain, name)
    assert same[:, :until].all()
    assert not same[:, until:].any()


@pytest.mark.parametrize("spec", ["tl:3", "es:2"])
def test_resuming_is_going_on(people, tmp_path, pair, spec):
  """Stopped after every block, and gone on with by another process."""
  whole = pair[1].personalize(spec)
  asked = []

  def should_stop():
    asked.append(None)
    return len(asked) % 3 == 0

  def resumed():
    keeper = Keeper(tmp_path, should_stop=should_stop, seconds=0)
    return make_study(
      people, how=TINY_ONE, precise_batch_stats=True, keeper=keeper
    ).personalize(spec)

  for _ in range(40):
    try:
      found = resumed()
      break
    except Stopped:
      pass
  assert len(asked) > 3
  for name in ("losses", "individual_predictions", "global_predictions"):
    np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


def test_another_training_is_not_taken_for_it(people, tmp_path, pair):
  plain, precise = (study._identity for study in pair)
  assert plain != precise
  keeper = Keeper(tmp_path)
  make_study(people, how=TINY_ONE, keeper=keeper).personalize("tl:1")
  study = make_study(
    people, how=TINY_ONE, precise_batch_stats=True, keeper=Keeper(tmp_path)
  )
  with pytest.raises(ValueError, match="decided by something else"):
    study.personalize("tl:1")


def test_a_model_without_statistics_is_named(people):
  with pytest.raises(ValueError, match=r"precise_batch_stats=True.*MLP has no"):
    make_study(people, how={"model": MLP(3)}, precise_batch_stats=True)
