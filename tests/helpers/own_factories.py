"""Models that are asked for by name, `helpers.own_factories:...`."""

import functools

import flax.linen as nn
from flax import nnx

from personalization_jax.networks import Classifier

narrow = functools.partial(
  Classifier, width=1 / 32, momentum=0.99, initializer="glorot_uniform"
)


class Dropping(nn.Module):
  """For samples of any shape, with dropout."""

  num_classes: int
  hidden: int = 16

  @nn.compact
  def __call__(self, samples, *, train=False):
    x = nn.Dense(self.hidden)(samples.reshape(len(samples), -1))
    x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
    return nn.Dense(self.num_classes)(x)


class Nnx(nnx.Module):
  """For 6 features, with dropout and batch statistics."""

  def __init__(self, num_classes, *, rngs):
    self.first = nnx.Linear(6, 16, rngs=rngs)
    self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
    self.dropout = nnx.Dropout(0.2, rngs=rngs)
    self.last = nnx.Linear(16, num_classes, rngs=rngs)

  def __call__(self, samples):
    x = self.dropout(self.norm(nnx.relu(self.first(samples))))
    return self.last(x)


class NnxWithTrain(Nnx):
  def __call__(self, samples, train=False):
    return super().__call__(samples)


class NnxThatRemembers(Nnx):
  def __init__(self, num_classes, *, rngs):
    super().__init__(num_classes, rngs=rngs)
    self.memory = nnx.Cache(0.0)


def nnx_instance(num_classes):
  return Nnx(num_classes, rngs=nnx.Rngs(0))


def wide(num_classes):
  """A function that makes a model serves as well as a class."""
  return Dropping(num_classes, hidden=32)


def one_class_less(num_classes):
  return Dropping(num_classes - 1)


def needs_more(num_classes, depth):
  raise AssertionError


def no_model(num_classes):
  return [num_classes]


class Normed(nn.Module):
  """With batch statistics."""

  num_classes: int

  @nn.compact
  def __call__(self, samples, *, train=False):
    x = nn.relu(nn.Dense(8)(samples))
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return nn.Dense(self.num_classes)(x)
