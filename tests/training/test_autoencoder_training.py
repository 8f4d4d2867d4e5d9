"""Training of the auto-encoder: loss, padding, blocks, and the same bits."""

import chex
import jax
import numpy as np
import optax
from helpers.bars import (
  HELD_OUT,
  IMAGES,
  LEARNER,
  SHAPE,
  TRACES,
  batch_of,
  batches,
  copy,
  forward,
  fresh,
  plain,
  trained,
)

from personalization_jax.training import autoencoder, autoencoder_training
from personalization_jax.training import step as training_step


def test_loss_is_the_mean_square_over_rows_and_pixels():
  """And padding counts neither in it nor in batch statistics."""
  batch, mask = batch_of(IMAGES, [1, 1, 1, 1, 1])
  reconstructed, updates = forward(LEARNER, fresh(), batch, mask)
  squares = np.square(batch - np.asarray(reconstructed))
  rows = np.full((1, 64), -1)
  rows[0, [3, 10, 11, 40, 63]] = np.arange(5)
  state, losses = autoencoder_training.train(
    LEARNER, copy(fresh()), IMAGES, rows
  )
  np.testing.assert_allclose(losses, [squares.sum() / (5 * 64)], rtol=1e-5)
  chex.assert_trees_all_close(
    state.batch_stats, updates["batch_stats"], rtol=1e-4, atol=1e-6
  )


def test_what_stands_in_padding_does_not_matter():
  others = IMAGES.copy()
  others[0] = 255  # the image that stands where there is none
  rows = np.full((2, 64), -1)
  rows[:, 10:17] = np.arange(14).reshape(2, 7) + 1
  one, other = (
    autoencoder_training.train(LEARNER, copy(fresh()), store, rows)[0]
    for store in (IMAGES, others)
  )
  chex.assert_trees_all_equal(plain(one), plain(other))


def test_steps_of_padding_alone_change_nothing():
  rows = np.full((3, 64), -1)
  rows[0], rows[2, :9] = np.arange(64), np.arange(64, 73)
  with_gap, losses = autoencoder_training.train(
    LEARNER, copy(fresh()), IMAGES, rows
  )
  without, _ = autoencoder_training.train(
    LEARNER, copy(fresh()), IMAGES, rows[[0, 2]]
  )
  np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
  chex.assert_trees_all_equal(plain(with_gap), plain(without))


def test_no_output_is_dead():
  """Every pixel passes gradient on at first, and ink is drawn after."""
  for seed in range(4):
    state = autoencoder.create(LEARNER, jax.random.key(seed), SHAPE)
    first, _ = forward(LEARNER, state, *batch_of(IMAGES, [1, 1, 1, 1, 1]))
    assert (first > 0).all()
    state, _ = autoencoder_training.train(LEARNER, state, IMAGES, batches(12))
    drawn = autoencoder.reconstruct(LEARNER, state, IMAGES, HELD_OUT)
    brightest = drawn.max(axis=(1, 2, 3))
    assert brightest.min() > 0
    assert brightest.mean() > 0.3


def test_the_same_key_gives_the_same_bits():
  again, losses = autoencoder_training.train(
    LEARNER, copy(fresh()), IMAGES, batches(12)
  )
  np.testing.assert_array_equal(losses, trained()[1])
  chex.assert_trees_all_equal(plain(again), plain(trained()[0]))
  other = autoencoder.create(LEARNER, jax.random.key(1), SHAPE)
  assert not np.array_equal(
    other.params["encoder"]["layer_0"]["kernel"],
    fresh().params["encoder"]["layer_0"]["kernel"],
  )


def test_progress_adds_up():
  steps = []
  autoencoder_training.train(
    LEARNER, copy(fresh()), IMAGES, batches(12), on_steps=steps.append
  )
  assert sum(steps) == 84
  assert max(steps) <= 50  # as many as a block has, or fewer if they are slow
  state, losses = autoencoder_training.train(
    LEARNER,
    copy(fresh()),
    IMAGES,
    np.empty((0, 64), int),
    on_steps=steps.append,
  )
  assert len(losses) == 0
  assert state.step == 0


def test_one_compilation_whatever_the_number_of_rows_and_steps():
  # A learner that no other test has had programs compiled for.
  learner = training_step.Learner(LEARNER.model, optax.adam(1e-2))
  before = autoencoder_training._train_block._cache_size()

  def run(num_rows, epochs):
    state, _ = autoencoder_training.train(
      learner, copy(fresh()), IMAGES, batches(epochs)
    )
    autoencoder.encode(learner, state, IMAGES, np.arange(num_rows))

  run(300, 1)
  traces = len(TRACES)
  # More than a block: its second begins with a state that was trained before.
  run(500, 9)
  run(5, 2)
  assert len(TRACES) == traces > 0
  assert autoencoder_training._train_block._cache_size() == before + 1
