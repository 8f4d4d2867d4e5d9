import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import TINY, compiled

from personalization_jax.methods.answers import LastLayers
from personalization_jax.networks import MLP
from personalization_jax.training import step
from personalization_jax.training.learner import Learner
from personalization_jax.training.step import gather

train_step = compiled(step.train_step, TINY)


@pytest.fixture(scope="module")
def store(people):
  return jnp.asarray(people.images), jnp.asarray(people.labels)


@pytest.fixture(scope="module")
def state():
  create = compiled(step.create_state, TINY, image_shape=(16, 16, 1))
  return create(jax.random.key(3))


def without_step(state):
  return state.replace(step=0, key=jax.random.key_data(state.key))


def test_gather_marks_padding(store, people):
  images, labels, mask = gather(*store, jnp.array([5, -1, 0]))
  assert images.dtype == jnp.float32
  np.testing.assert_array_equal(mask, [True, False, True])
  np.testing.assert_allclose(images[0], people.images[5] / 255.0, rtol=1e-6)
  assert labels[2] == people.labels[0]


def test_training_learns(store):
  learner = Learner(MLP(3, hidden=(8,)), optax.adam(1e-2))
  create = compiled(step.create_state, learner, image_shape=(16, 16, 1))
  state = create(jax.random.key(3))
  batch = gather(*store, jnp.arange(60))
  losses = []
  for _ in range(120):
    state, loss = compiled(step.train_step, learner)(state, *batch)
    losses.append(float(loss))
  assert losses[-1] < 0.5 * losses[0]
  answers = compiled(step.predict_rows, learner)(
    state, jnp.arange(60)[None], *store
  )
  assert (answers.predictions[0] == batch[1]).mean() > 0.8


@pytest.mark.slow
def test_padding_changes_nothing(store, state):
  rows = jnp.array([4, 8, 15, 16, 23])
  plain, plain_loss = train_step(state, *gather(*store, rows))
  rows = jnp.concatenate([rows, -jnp.ones(3, int)])
  padded, padded_loss = train_step(state, *gather(*store, rows))
  np.testing.assert_allclose(padded_loss, plain_loss, rtol=1e-5)
  # Adam makes whole steps of what is rounding alone in a gradient of about 0:
  # hence its moments, which are gradients, and not the parameters.
  one, other = (
    (state.opt_state, state.batch_stats) for state in (padded, plain)
  )
  chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_stands_in_padding_does_not_matter(store, state):
  images, labels, mask = gather(*store, jnp.array([4, 8, -1, -1]))
  one, _ = train_step(state, images, labels, mask)
  other, _ = train_step(
    state, images.at[2:].set(9.0), labels.at[2:].set(1), mask
  )
  chex.assert_trees_all_equal(without_step(one), without_step(other))


def test_a_step_of_padding_alone_leaves_the_model_alone(store, state):
  state, _ = train_step(state, *gather(*store, jnp.arange(8)))
  before = jax.tree.map(np.asarray, without_step(state))
  after, loss = train_step(state, *gather(*store, -jnp.ones(8, int)))
  chex.assert_trees_all_equal(without_step(after), before)
  assert after.step == state.step + 1
  assert loss == 0


def test_frozen_layers_stay_bit_for_bit(store, state):
  batch = gather(*store, jnp.arange(8))
  for _ in range(3):  # momentum that would carry frozen layers on
    state, _ = train_step(state, *batch)
  last = dataclasses.replace(TINY, trainable=LastLayers(1))
  after, _ = compiled(step.train_step, last)(state, *batch)
  kept = jax.tree.map(np.array_equal, state.variables, after.variables)
  head = kept["params"].pop("layer_1")
  assert kept["batch_stats"]
  assert all(jax.tree.leaves(kept))
  assert not any(jax.tree.leaves(head))


def test_dropout_depends_on_the_step_and_on_the_key(store, state):
  batch = gather(*store, jnp.arange(32))
  _, loss = train_step(state, *batch)
  _, again = train_step(state, *batch)
  _, later = train_step(state.replace(step=state.step + 1), *batch)
  _, other = train_step(state.replace(key=jax.random.key(9)), *batch)
  assert loss == again
  assert len({float(loss), float(later), float(other)}) == 3


def test_a_scan_is_a_loop_of_steps(store, state):
  rng = np.random.default_rng(0)
  rows = rng.integers(0, 60, (7, 8)).astype(np.int32)
  rows[2, 5:] = -1
  rows[4] = -1
  train = compiled(step.train_on_rows, TINY)
  scanned, losses = train(state, rows, jnp.int32(6), *store)
  looped, expected = state, []
  for batch in rows[:6]:
    looped, loss = train_step(looped, *gather(*store, batch))
    expected.append(float(loss) if (batch >= 0).any() else np.nan)
  np.testing.assert_allclose(losses[:6], expected, rtol=1e-4)
  assert np.isnan(losses[6])
  assert scanned.step == looped.step == 6
  chex.assert_trees_all_close(
    without_step(scanned), without_step(looped), rtol=1e-3, atol=1e-4
  )


def test_every_row_is_classified_by_itself(store, state):
  """And what is told of its probabilities is the softmax, row by row."""
  rows = np.array([[3, -1, 7], [60, 61, -1]], np.int32)
  found = jax.device_get(compiled(step.predict_rows, TINY)(state, rows, *store))
  every = compiled(step.log_probabilities, TINY)(state, rows, *store)
  apply = jax.jit(TINY.model.apply)
  for place, row in np.ndenumerate(rows):
    label, *logs = (array[place] for array in found)
    if row < 0:
      assert label == -1
      assert np.isnan([*logs, *every[place]]).all()
    else:
      images, labels, _ = gather(*store, jnp.array([row]))
      logits = np.asarray(apply(state.variables, images)[0], np.float64)
      assert label == logits.argmax()
      wanted = logits - np.log(np.exp(logits).sum())
      both = [wanted[labels[0]], wanted.max()]
      np.testing.assert_allclose(logs, both, rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(every[place], wanted, rtol=1e-4, atol=1e-5)
