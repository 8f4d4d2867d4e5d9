"""Images of bars, and an auto-encoder that is small enough to learn them."""

import functools

import jax
import numpy as np
import optax

from personalization_jax import distributed, randomness, schedules
from personalization_jax.networks.autoencoder import AutoEncoder
from personalization_jax.training import latent_space
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import PopulationTrainer

SHAPE = (8, 8, 1)
TRAIN, HELD_OUT = np.arange(400), np.arange(400, 500)
MODEL = AutoEncoder(width=1 / 8)


def make_images():
  """500 bars of 8x8: where, how long and how bright differ."""
  rng = np.random.default_rng(0)
  images = np.zeros((500, *SHAPE), np.uint8)
  for image in images:
    row, start, length = rng.integers([0, 0, 3], [6, 4, 6])
    image[row : row + 2, start : start + length] = rng.integers(120, 256)
  return images


IMAGES = make_images()
LEARNER = Learner(
  MODEL,
  optax.adam(1e-2),
  loss=latent_space.squared_error,
  empty_batches=False,
)


def trainer(images=IMAGES):
  mesh = distributed.make_mesh(jax.local_devices()[:1])
  return PopulationTrainer(LEARNER, images, None, mesh)


def only(states):
  """The variables of the one model."""
  return jax.tree.map(
    lambda leaf: leaf[0],
    {"params": states.params, "batch_stats": states.batch_stats},
  )


@functools.cache
def untrained(seed=0):
  return only(trainer().create(jax.random.key(seed)[None]))


def train(rows, seed=0, images=IMAGES):
  """Variables and losses after these rows."""
  one = trainer(images)
  rows = np.asarray(rows, np.int32)[None]
  states, losses = one.train(one.create(jax.random.key(seed)[None]), rows)
  return only(states), losses[0]


@functools.cache
def trained():
  """The variables after twelve epochs, and the losses."""
  return train(batches(12))


def batches(epochs):
  return schedules.global_batches(
    TRAIN, 64, epochs, seed=0, individual=randomness.SHARED
  )
