"""The transformation `reptile` against a slow loop, and its numbers."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import compiled

from personalization_jax.methods.reptile import Reptile, reptile
from personalization_jax.networks import MLP
from personalization_jax.training import step
from personalization_jax.training.learner import Learner

MODEL = MLP(3, hidden=(8,))
INNER, EPISODES = 3, 4
INNER_OPTIMIZER = optax.adam(1e-2)
RATES = optax.linear_schedule(0.9, 0.1, EPISODES)


@pytest.fixture(scope="module")
def data():
  """Samples [N, F], labels [N] and rows [T, B]."""
  rng = np.random.default_rng(0)
  samples = rng.normal(size=(40, 5)).astype(np.float32)
  labels = rng.integers(0, 3, 40).astype(np.int32)
  rows = rng.integers(0, 40, (INNER * EPISODES, 6)).astype(np.int32)
  rows[1, 4:] = -1
  return jnp.asarray(samples), jnp.asarray(labels), rows


def train(learner, data, rows, state=None):
  samples, labels, _ = data
  if state is None:
    create = compiled(step.create_state, learner, image_shape=(5,))
    state = create(jax.random.key(0))
  train_step = compiled(step.train_step, learner)
  for batch in rows:
    state, _ = train_step(state, *step.gather(samples, labels, batch))
  return state


def learner_of(outer_rate, inner=INNER_OPTIMIZER):
  return Learner(MODEL, reptile(inner, INNER, outer_rate))


SCHEDULED = learner_of(RATES)
PLAIN = Learner(MODEL, INNER_OPTIMIZER)


def test_it_is_the_paper_s_loop(data):
  """Algorithm 1: adapt with a fresh optimiser, then go part of the way."""
  *_, rows = data
  state = compiled(step.create_state, PLAIN, image_shape=(5,))(
    jax.random.key(0)
  )
  slow = state.params
  for episode in range(EPISODES):
    adapted = state.replace(params=slow, opt_state=INNER_OPTIMIZER.init(slow))
    batches = rows[INNER * episode : INNER * (episode + 1)]
    adapted = train(PLAIN, data, batches, adapted)
    rate = 0.9 - 0.8 * episode / EPISODES
    slow = jax.tree.map(
      lambda slow, fast, rate=rate: slow + rate * (fast - slow),
      slow,
      adapted.params,
    )
  found = train(SCHEDULED, data, rows)
  chex.assert_trees_all_close(found.params, slow, rtol=1e-4, atol=1e-6)
  chex.assert_trees_all_close(found.opt_state.slow, slow, rtol=1e-4, atol=1e-6)
  fresh = INNER_OPTIMIZER.init(slow)
  chex.assert_trees_all_equal(found.opt_state.inner, fresh)


def test_within_an_episode_it_is_the_inner_optimiser(data):
  *_, rows = data
  found, plain = (
    train(learner, data, rows[: INNER - 1]) for learner in (SCHEDULED, PLAIN)
  )
  chex.assert_trees_all_close(found.params, plain.params, rtol=1e-6)
  chex.assert_trees_all_close(found.opt_state.inner, plain.opt_state, rtol=1e-5)


def test_all_the_way_of_sgd_is_sgd(data):
  """It has no state, and goes where it goes."""
  *_, rows = data
  sgd = optax.sgd(0.1)
  found = train(learner_of(1.0, sgd), data, rows)
  plain = train(Learner(MODEL, sgd), data, rows)
  chex.assert_trees_all_close(found.params, plain.params, rtol=1e-4, atol=1e-6)


def test_padding_leaves_it_alone(data):
  *_, rows = data
  spread = np.full((2 * len(rows), rows.shape[1]), -1, np.int32)
  spread[::2] = rows
  found, padded = (train(SCHEDULED, data, each) for each in (rows, spread))
  for name in ("params", "opt_state"):
    chex.assert_trees_all_equal(getattr(padded, name), getattr(found, name))


def test_updates_need_the_parameters():
  params = {"w": jnp.ones(2)}
  optimizer = reptile(optax.sgd(0.1), 2, 1.0)
  with pytest.raises(ValueError, match="reptile needs the parameters"):
    optimizer.update(params, optimizer.init(params))


@pytest.mark.parametrize(
  ("steps", "inner", "count"), [(23, 5, 4), (20, 5, 4), (3, 3, 1), (1, 1, 1)]
)
def test_it_takes_as_many_steps_as_it_is_given(steps, inner, count):
  """What makes no whole episode is padding; a short training is one episode."""
  rows = Reptile().rows(np.arange(12), np.arange(12) // 6, 4, steps, seed=0)
  assert rows.shape == (steps, 4)
  assert (rows >= 0).any(axis=1).tolist() == [
    number < inner * count for number in range(steps)
  ]


def test_the_rate_falls_to_0_at_the_end():
  """Moves of an optimiser that adds 1: of each episode's last step."""
  add = optax.GradientTransformation(
    lambda params: (), lambda updates, state, params=None: (updates, state)
  )
  optimizer = Reptile(inner_steps=2, rate=0.8).optimizer(add, 8)
  params = {"w": jnp.zeros(())}
  state = optimizer.init(params)
  ends = []
  for _ in range(8):
    updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
    params = optax.apply_updates(params, updates)
    ends.append(float(params["w"]))
  moved = np.diff([0.0, *ends[1::2]])
  np.testing.assert_allclose(moved, [1.6, 1.2, 0.8, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"inner_steps": 0}, "inner_steps=0 must be at least 1"),
    ({"inner_steps": 2.5}, "must be a whole number"),
    ({"rate": 0}, "rate=0 must be above 0"),
    ({"rate": 1.5}, r"rate=1\.5 must be at most 1"),
  ],
  ids=str,
)
def test_other_numbers_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Reptile(**fields)


def test_its_name_tells_it_from_others():
  starts = Reptile(), Reptile(6), Reptile(rate=0.5)
  assert len({start.name for start in starts}) == 3
  assert dataclasses.replace(starts[1], inner_steps=5) == starts[0]
  assert hash(Reptile(np.int64(5), 1)) == hash(starts[0])
