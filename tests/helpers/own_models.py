"""Feature vectors of people, and models of one's own for them."""

import flax.linen as nn
import jax
import numpy as np

from personalization_jax.datasets import Population, splits
from personalization_jax.distributed import make_mesh
from personalization_jax.settings import Settings
from personalization_jax.study import Study, make_trainer

NUM_CLASSES = 3
SETTINGS = Settings(epochs=12, batch_size=16, learning_rate=2e-2)


def vectors(num_people=8, num_features=6, seed=0):
  """Three classes apart by two standard deviations; 9 samples a person."""
  rng = np.random.default_rng(seed)
  individuals = np.repeat(np.arange(num_people), 9)
  labels = rng.integers(0, NUM_CLASSES, len(individuals))
  samples = rng.normal(size=(len(labels), num_features))
  samples[np.arange(len(labels)), labels] += 4
  return Population.from_arrays(samples, labels, individuals)


def make_study(population, model, **about):
  chosen = splits.choose_people(population, 3, 5, seed=1)
  split = splits.split(population, *chosen, seed=1)
  trainer = make_trainer(
    population, SETTINGS, model=model, mesh=make_mesh(jax.devices()[:2])
  )
  return Study(population, split, SETTINGS, trainer=trainer, **about)


class Plain(nn.Module):
  """Takes no option."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(NUM_CLASSES)(x)


class Flat(nn.Module):
  """Convolution of images of any size."""

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.relu(nn.Conv(2, (3, 3))(x))
    return nn.Dense(NUM_CLASSES)(x.mean(axis=(1, 2)))
