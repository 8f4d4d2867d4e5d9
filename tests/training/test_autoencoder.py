"""The auto-encoder on rows of the store: latents are of the row alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.bars import HELD_OUT, IMAGES, LEARNER, TRAIN, fresh, trained

from personalization_jax import distributed
from personalization_jax.training import autoencoder, autoencoder_training
from personalization_jax.training import step as training_step


def test_training_beats_the_mean_image_on_held_out_rows():
  state, losses = trained()
  error = autoencoder.reconstruction_error(
    LEARNER, state, IMAGES, HELD_OUT, TRAIN
  )
  scaled = IMAGES / 255.0
  mean = np.square(scaled[HELD_OUT] - scaled[TRAIN].mean(axis=0)).mean()
  np.testing.assert_allclose(error.mean_image, mean, rtol=1e-4)
  reconstructed = autoencoder.reconstruct(LEARNER, state, IMAGES, HELD_OUT)
  own = np.square(scaled[HELD_OUT] - reconstructed).mean()
  np.testing.assert_allclose(error.model, own, rtol=1e-4)
  assert error.model < 0.6 * error.mean_image
  assert losses[-7:].mean() < 0.3 * losses[0]


def test_latents_are_of_the_row_alone():
  state, _ = trained()
  everything = autoencoder.encode(LEARNER, state, IMAGES, np.arange(500))
  assert everything.shape == (500, 16)
  assert everything.dtype == np.float32
  assert everything.std(axis=0).min() > 0
  order = np.random.default_rng(0).permutation(500)[:300]
  some = autoencoder.encode(LEARNER, state, IMAGES, order)
  np.testing.assert_allclose(some, everything[order], rtol=1e-5, atol=1e-5)
  alone = autoencoder.encode(LEARNER, state, IMAGES, np.array([7]))
  np.testing.assert_allclose(alone, everything[[7]], rtol=1e-5, atol=1e-5)
  none = autoencoder.encode(LEARNER, state, IMAGES, np.array([], int))
  assert none.shape == (0, 16)


def test_the_store_may_lie_on_every_device():
  mesh = distributed.make_mesh()
  assert mesh.size > 1
  everywhere = jax.device_put(IMAGES, jax.NamedSharding(mesh, jax.P()))
  latents = autoencoder.encode(LEARNER, fresh(), everywhere, np.arange(3))
  np.testing.assert_array_equal(
    latents, autoencoder.encode(LEARNER, fresh(), IMAGES, np.arange(3))
  )


@pytest.mark.parametrize(
  "shape", [(4, 4, 1), (28, 28, 1), (16, 8, 1), (16, 16, 2), (0, 0, 1)]
)
def test_other_images_are_refused(shape):
  message = f"are {shape[0]}x{shape[1]} with {shape[2]} channels, but must"
  with pytest.raises(ValueError, match=message):
    autoencoder.create(LEARNER, jax.random.key(0), shape)


@pytest.mark.parametrize("row", [-1, 500])
def test_rows_that_are_none_are_refused(row):
  for evaluate in (autoencoder.encode, autoencoder.reconstruct):
    with pytest.raises(ValueError, match=rf"in 0\.\.499, but hold {row}"):
      evaluate(LEARNER, fresh(), IMAGES, np.array([3, row]))
  with pytest.raises(ValueError, match=r"in -1\.\.499, but hold 500"):
    autoencoder_training.train(LEARNER, fresh(), IMAGES, np.array([[3, 500]]))
  with pytest.raises(ValueError, match="there are 0 and 1"):
    autoencoder.reconstruction_error(LEARNER, fresh(), IMAGES, [], [0])


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_no_width_is_refused(width):
  with pytest.raises(ValueError, match=f"width={width} must be above 0"):
    autoencoder.make_learner(width=width)


def test_bfloat16_gives_float32_latents_near_those_of_float32():
  half = training_step.Learner(
    LEARNER.model.clone(dtype=jnp.bfloat16), optax.identity()
  )
  rows = np.arange(20)
  low, full = (
    autoencoder.encode(one, trained()[0], IMAGES, rows)
    for one in (half, LEARNER)
  )
  assert low.dtype == np.float32
  np.testing.assert_allclose(low, full, atol=0.05 * np.abs(full).max())
