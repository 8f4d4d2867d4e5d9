"""Models that can't be trained are refused in a sentence."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.own_factories import nnx_instance
from helpers.own_models import NUM_CLASSES, Flat, Plain, make_study, vectors

from personalization_jax.datasets import Population
from personalization_jax.methods import parse_method
from personalization_jax.networks import MLP


class Needs(nn.Module):
  @nn.compact
  def __call__(self, x, deterministic):
    return nn.Dense(NUM_CLASSES)(x)


class Optional(nn.Module):
  """What many models of Flax's examples look like."""

  @nn.compact
  def __call__(self, x, deterministic=True):
    x = nn.Dropout(0.5, deterministic=deterministic)(x)
    return nn.Dense(NUM_CLASSES)(x)


class Keras(nn.Module):
  @nn.compact
  def __call__(self, x, *, training=False):
    x = nn.BatchNorm(use_running_average=not training)(x)
    return nn.Dense(NUM_CLASSES)(x)


class Haiku(nn.Module):
  @nn.compact
  def __call__(self, x, is_training=False, **options):
    return nn.Dense(NUM_CLASSES)(x)


class Averages(nn.Module):
  @nn.compact
  def __call__(self, x, use_running_average=True):
    x = nn.BatchNorm(use_running_average=use_running_average)(x)
    return nn.Dense(NUM_CLASSES)(x)


class NeverUpdates(nn.Module):
  """It would test by the statistics that it began with."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(NUM_CLASSES)(nn.BatchNorm(use_running_average=True)(x))


class NeedsMore(nn.Module):
  @nn.compact
  def __call__(self, x, context):
    return nn.Dense(NUM_CLASSES)(x)


class SaysNothing(nn.Module):
  def __call__(self, x):
    raise RuntimeError


class Remembers(nn.Module):
  @nn.compact
  def __call__(self, x):
    self.variable("memory", "last", lambda: jnp.zeros(3))
    return nn.Dense(NUM_CLASSES)(x)


class Constant(nn.Module):
  def __call__(self, x):
    return jnp.zeros((len(x), NUM_CLASSES))


class Pair(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(NUM_CLASSES)(x), x


class Labels(nn.Module):
  @nn.compact
  def __call__(self, x):
    return jnp.round(nn.Dense(NUM_CLASSES)(x)).astype(jnp.int32)


class Squeezed(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(NUM_CLASSES)(x).sum(axis=0)


@pytest.mark.parametrize(
  ("model", "sentence"),
  [
    (MLP, r"must be a Flax Linen module.*make one: MLP\(5\)"),
    (lambda x: x, "must be a Flax Linen module"),
    (nnx_instance(3), "model Nnx is an nnx.Module, not a Linen one"),
    (Needs(), "Needs takes 'deterministic', .*: name it `train`"),
    (Optional(), "Optional takes 'deterministic', .*: name it `train`"),
    (Keras(), "Keras takes 'training', .*: name it `train`"),
    (Haiku(), "Haiku takes 'is_training', .*: name it `train`"),
    (Averages(), "Averages takes 'use_running_average', .* `train`"),
    (NeverUpdates(), "NeverUpdates has batch_stats but doesn't take `train`"),
    (NeedsMore(), "NeedsMore can't be called without 'context'"),
    (SaysNothing(), r"SaysNothing can't be called on .* \(RuntimeError: Runt"),
    (Remembers(), "Remembers keeps variables 'memory'"),
    (Constant(), "Constant has no parameters"),
    (Pair(), "Pair gives tuple"),
    (Labels(), "Labels gives int32"),
    (Squeezed(), r"Squeezed gives shape \[3\]"),
    (MLP(7), r"MLP gives shape \[3, 7\].*must give .* \[3, 3\]"),
    (Flat(), r"Flat can't be called on samples of shape \[3, 6\]"),
    (None, r"samples have shape \[6\]: give a model of your own"),
  ],
)
def test_a_model_that_can_t_be_trained_is_refused(model, sentence):
  with pytest.raises(ValueError, match=sentence) as error:
    make_study(vectors(), model)
  assert "\n" not in str(error.value)


def test_last_layers_need_a_model_that_knows_its_layers():
  class Unnumbered(nn.Module):
    @nn.compact
    def __call__(self, x, frozen_layers=0):
      return nn.Dense(NUM_CLASSES, name="out")(x)

  method = parse_method("tl:2:last=1")
  with pytest.raises(ValueError, match="frozen_layers, which Plain doesn't"):
    make_study(vectors(), Plain()).check(method)
  with pytest.raises(
    ValueError, match=r"named by layer, .* but there are 'out'"
  ):
    make_study(vectors(), Unnumbered()).check(method)


def test_the_paper_s_network_wants_squares():
  population = Population.from_arrays(
    np.zeros((16, 8, 16, 1), np.uint8), np.arange(16) % 2, np.arange(16) // 2
  )
  with pytest.raises(ValueError, match=r"square for the paper's .* are 8x16"):
    make_study(population, None)
