"""What a model's last layer sees."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.own_models import Flat, Plain
from helpers.tiny import Tiny

from personalization_jax.networks import MLP, Classifier, interface


class Narrow(nn.Module):
  """As many hidden units as classes, called by keyword, and dropout."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(3, name="first")(inputs=x))
    x = nn.Dropout(0.5, deterministic=False)(x)
    return nn.Dense(3, name="last")(inputs=x)


class Nearest(nn.Module):
  """Logits without a last layer: a scale of distances to each class."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(5)(x)
    centers = self.param("centers", nn.initializers.normal(), (3, 5))
    return -((x[:, None] - centers) ** 2).sum(axis=-1)


def made(model, *shape, count=4):
  rng = np.random.default_rng(0)
  samples = jnp.asarray(rng.random((count, *shape)), jnp.float32)
  shapes = jax.eval_shape(
    functools.partial(interface.init, model), jax.random.key(1), samples
  )
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.random(leaf.shape), leaf.dtype), shapes
  ), samples


@pytest.mark.parametrize(
  ("model", "shape", "last", "width"),
  [
    (MLP(3, hidden=(7, 5)), (6,), "layer_2", 5),
    (MLP(3, hidden=()), (2, 3), "layer_0", 6),
    (MLP(3, hidden=(5,), dtype=jnp.bfloat16), (6,), "layer_1", 5),
    (Classifier(3, width=1 / 32), (16, 16, 1), "layer_7", 8),
    (Tiny(), (16, 16, 1), "layer_1", 3),
    (Flat(), (5, 5, 1), "Dense_0", 2),
    (Plain(), (6,), "Dense_0", 6),
    (Narrow(), (6,), "last", 3),
  ],
  ids=lambda value: type(value).__name__,
)
def test_the_last_layer_makes_logits_of_them(model, shape, last, width):
  variables, samples = made(model, *shape)
  key = jax.random.key(0)

  @jax.jit
  def both(variables, samples):
    logits, _ = interface.logits_and_features(model, variables, samples, key)
    plain = interface.apply(model, variables, samples, key)
    return interface.features(model, variables, samples), logits, plain

  found, logits, plain = both(variables, samples)
  assert found.shape == (4, width) and found.dtype == jnp.float32
  np.testing.assert_array_equal(logits, plain)
  layer = variables["params"][last]
  by_hand = found @ layer["kernel"] + layer["bias"]
  rtol = 2e-2 if getattr(model, "dtype", None) == jnp.bfloat16 else 1e-4
  np.testing.assert_allclose(by_hand, logits, rtol=rtol, atol=rtol)


def test_people_of_their_own_models_are_mapped():
  model = MLP(3, hidden=(5,))
  people = [made(model, 6), made(model, 6)]
  people[1] = jax.tree.map(lambda leaf: leaf + 0.1, people[1])
  together = jax.tree.map(lambda *some: jnp.stack(some), *people)
  found = jax.jit(jax.vmap(lambda *args: interface.features(model, *args)))(
    *together
  )
  for own, one in zip(found, people):
    np.testing.assert_allclose(own, interface.features(model, *one), rtol=1e-6)


def test_a_model_without_a_last_dense_layer_is_rejected():
  model = Nearest()
  with pytest.raises(ValueError, match=r"Nearest has no features.*Dense"):
    interface.features(model, *made(model, 6))
