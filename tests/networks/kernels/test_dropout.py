"""Dropout against Flax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from personalization_jax.networks.kernels import dropout


class Twice(nn.Module):
  """Two layers, so that each has bits of its own."""

  make: object

  @nn.compact
  def __call__(self, x):
    return self.make(0.2)(self.make(0.35)(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_drops_what_flax_drops(dtype):
  x = jax.random.normal(jax.random.key(0), (16, 4, 4, 8), dtype)
  rngs = {"dropout": jax.random.key(1)}

  def flax(rate):
    return nn.Dropout(rate, deterministic=False)

  def ours(rate):
    layer = dropout.Dropout(rate)
    return lambda x: layer(x, drops=True)

  found, slow = (
    jax.jit(lambda x, make=make: Twice(make).apply({}, x, rngs=rngs))(x)
    for make in (ours, flax)
  )
  np.testing.assert_array_equal(found, slow)
  assert 0.3 < (found == 0).mean() < 0.7


def test_keeps_all_in_evaluation():
  x = jnp.ones((2, 3))
  found = dropout.Dropout(0.5).apply({}, x, drops=False)
  np.testing.assert_array_equal(found, x)
