"""Images of bars, and an auto-encoder that is small enough to learn them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from personalization_jax import randomness, schedules
from personalization_jax.networks.autoencoder import AutoEncoder
from personalization_jax.training import autoencoder, autoencoder_training
from personalization_jax.training import step as training_step

SHAPE = (8, 8, 1)
TRAIN, HELD_OUT = np.arange(400), np.arange(400, 500)
TRACES: list[str] = []


class Counted(AutoEncoder):
  """Notes each time it is traced."""

  def encode(self, *args, **kwargs):
    TRACES.append("encode")
    return super().encode(*args, **kwargs)


def make_images():
  """500 bars of 8x8: where, how long and how bright differ."""
  rng = np.random.default_rng(0)
  images = np.zeros((500, *SHAPE), np.uint8)
  for image in images:
    row, start, length = rng.integers([0, 0, 3], [6, 4, 6])
    image[row : row + 2, start : start + length] = rng.integers(120, 256)
  return images


IMAGES = make_images()
LEARNER = training_step.Learner(Counted(width=1 / 8), optax.adam(1e-2))


@functools.cache
def fresh():
  """Not to be consumed: `copy` it first."""
  return autoencoder.create(LEARNER, jax.random.key(0), SHAPE)


@functools.cache
def trained():
  """The state after twelve epochs, and its losses."""
  return autoencoder_training.train(LEARNER, copy(fresh()), IMAGES, batches(12))


def copy(state):
  return jax.tree.map(jnp.copy, state)


@functools.partial(jax.jit, static_argnums=0)
def forward(learner, state, batch, mask):
  return learner.model.apply(
    {"params": state.params, "batch_stats": state.batch_stats},
    batch,
    mask,
    train=True,
    mutable=["batch_stats"],
  )


def plain(state):
  return state.replace(key=jax.random.key_data(state.key))


def batches(epochs):
  return schedules.global_batches(
    TRAIN, 64, epochs, seed=0, individual=randomness.SHARED
  )


def batch_of(images, mask):
  return images[: len(mask)].astype(np.float32) / 255, np.array(mask, bool)
