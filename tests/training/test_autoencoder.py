"""The auto-encoder: the same trainer with another loss; latents of a row."""

import chex
import jax
import numpy as np
import pytest
from helpers.bars import (
  HELD_OUT,
  IMAGES,
  LEARNER,
  MODEL,
  TRAIN,
  batches,
  train,
  trained,
  untrained,
)

from personalization_jax import distributed
from personalization_jax.training import latent_space, step
from personalization_jax.training.latent_space import LatentSettings


@pytest.mark.slow
def test_training_beats_the_mean_image_on_held_out_rows():
  variables, losses = trained()
  error, of_mean = latent_space.reconstruction_errors(
    MODEL, variables, IMAGES, HELD_OUT, TRAIN
  )
  scaled = IMAGES / 255.0
  mean = np.square(scaled[HELD_OUT] - scaled[TRAIN].mean(axis=0)).mean()
  np.testing.assert_allclose(of_mean, mean, rtol=1e-4)
  reconstructed = latent_space.evaluate(
    "images", MODEL, variables, IMAGES, HELD_OUT
  )
  own = np.square(scaled[HELD_OUT] - reconstructed).mean()
  np.testing.assert_allclose(error, own, rtol=1e-4)
  assert error < 0.6 * of_mean
  assert losses[-7:].mean() < 0.3 * losses[0]


@pytest.mark.slow
def test_loss_is_the_mean_square_over_rows_and_pixels():
  """And padding counts neither in it nor in batch statistics."""
  batch = IMAGES[:5].astype(np.float32) / 255
  reconstructed, updates = jax.jit(
    lambda variables: MODEL.apply(
      variables, batch, train=True, mutable=["batch_stats"]
    )
  )(untrained())
  squares = np.square(batch - np.asarray(reconstructed))
  rows = np.full((1, 64), -1)
  rows[0, [3, 10, 11, 40, 63]] = np.arange(5)
  variables, losses = train(rows)
  np.testing.assert_allclose(losses, [squares.sum() / (5 * 64)], rtol=1e-5)
  chex.assert_trees_all_close(
    variables["batch_stats"], updates["batch_stats"], rtol=1e-4, atol=1e-6
  )


def test_what_stands_in_padding_does_not_matter():
  others = IMAGES.copy()
  others[0] = 255  # the image that stands where there is none
  rows = np.full((2, 64), -1)
  rows[:, 10:17] = np.arange(14).reshape(2, 7) + 1
  one, other = (train(rows, images=store)[0] for store in (IMAGES, others))
  chex.assert_trees_all_equal(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_no_output_is_dead(seed):
  """Every pixel passes gradient on at first, and ink is drawn after."""
  first = latent_space.evaluate(
    "images", MODEL, untrained(seed), IMAGES, np.arange(5)
  )
  assert (first > 0).all()
  variables, _ = train(batches(12), seed)
  drawn = latent_space.evaluate("images", MODEL, variables, IMAGES, HELD_OUT)
  brightest = drawn.max(axis=(1, 2, 3))
  assert brightest.min() > 0
  assert brightest.mean() > 0.3


def test_the_same_key_gives_the_same_bits():
  again, losses = train(batches(12))
  np.testing.assert_array_equal(losses, trained()[1])
  chex.assert_trees_all_equal(again, trained()[0])
  kernels = [
    untrained(seed)["params"]["encoder"]["layer_0"]["kernel"] for seed in (0, 1)
  ]
  assert not np.array_equal(*kernels)


def test_latents_are_of_the_row_alone():
  variables, _ = trained()
  everything = latent_space.evaluate(
    "latents", MODEL, variables, IMAGES, np.arange(500)
  )
  assert everything.shape == (500, 16)
  assert everything.dtype == np.float32
  assert everything.std(axis=0).min() > 0
  order = np.random.default_rng(0).permutation(500)[:300]
  some = latent_space.evaluate("latents", MODEL, variables, IMAGES, order)
  np.testing.assert_allclose(some, everything[order], rtol=1e-5, atol=1e-5)
  alone = latent_space.evaluate(
    "latents", MODEL, variables, IMAGES, np.array([7])
  )
  np.testing.assert_allclose(alone, everything[[7]], rtol=1e-5, atol=1e-5)
  none = latent_space.evaluate(
    "latents", MODEL, variables, IMAGES, np.array([], int)
  )
  assert none.shape == (0, 16)


def test_floats_in_0_to_1_are_as_uint8_images():
  stores = (IMAGES, (IMAGES / 255).astype(np.float32))
  found = []
  for images in stores:
    known = MODEL, trained()[0], images, np.arange(20)
    errors = latent_space.reconstruction_errors(*known, TRAIN)
    found.append([latent_space.evaluate("latents", *known), *errors])
  chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-5)


def test_one_compilation_whatever_the_number_of_rows():
  evaluated = latent_space._evaluate_batch
  latent_space.evaluate("latents", MODEL, trained()[0], IMAGES, np.arange(300))
  compiled = evaluated._cache_size()
  for variables, count in ((trained()[0], 5), (untrained(), 500)):
    latent_space.evaluate("latents", MODEL, variables, IMAGES, np.arange(count))
  assert evaluated._cache_size() == compiled


def test_the_store_may_lie_on_every_device():
  mesh = distributed.make_mesh()
  assert mesh.size > 1
  everywhere = jax.device_put(IMAGES, jax.NamedSharding(mesh, jax.P()))
  rows = np.arange(3)
  latents = latent_space.evaluate(
    "latents", MODEL, untrained(), everywhere, rows
  )
  np.testing.assert_array_equal(
    latents, latent_space.evaluate("latents", MODEL, untrained(), IMAGES, rows)
  )


@pytest.mark.parametrize(
  "shape", [(4, 4, 1), (28, 28, 1), (16, 8, 1), (16, 16, 2), (0, 0, 1)]
)
def test_other_images_are_rejected(shape):
  message = f"are {shape[0]}x{shape[1]} with {shape[2]} channels, but must"
  with pytest.raises(ValueError, match=message):
    step.create_state(LEARNER, jax.random.key(0), shape)


@pytest.mark.parametrize("row", [-1, 500])
def test_rows_that_are_none_are_rejected(row):
  for what in ("latents", "images"):
    with pytest.raises(
      ValueError, match=rf"in 0\.\.499, but row 1 holds {row}"
    ):
      latent_space.evaluate(
        what, MODEL, untrained(), IMAGES, np.array([3, row])
      )
  with pytest.raises(ValueError, match="there are 0 and 1"):
    latent_space.reconstruction_errors(MODEL, untrained(), IMAGES, [], [0])


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_no_width_is_rejected(width):
  with pytest.raises(ValueError, match=f"width={width} must be above 0"):
    LatentSettings(width=width)
