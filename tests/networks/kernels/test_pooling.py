"""Pooling is `lax.reduce_window`, and loses no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from personalization_jax.networks.kernels import pooling


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool_equals_reduce_window(window, dtype):
  images = jnp.asarray(
    np.random.default_rng(0).normal(size=(3, 6, 12, 5)), dtype
  )

  @jax.jit
  def run(images, cotangent):
    pool = lambda x: pooling.max_pool(x, window)  # noqa: E731
    value, pull_back = jax.vjp(pool, images)
    return value, pull_back(cotangent)[0]

  rows, columns = 6 // window, 12 // window
  cotangent = jnp.asarray(np.arange(3 * rows * columns * 5) % 61, dtype)
  cotangent = cotangent.reshape(3, rows, columns, 5)
  value, gradient = run(images, cotangent)
  assert value.dtype == gradient.dtype == dtype

  size = (1, window, window, 1)
  expected = lax.reduce_window(
    images.astype(jnp.float32), -jnp.inf, lax.max, size, size, "VALID"
  )
  np.testing.assert_array_equal(value.astype(jnp.float32), expected)

  squares = (3, rows, window, columns, window, 5)
  gradient = np.asarray(gradient, np.float64).reshape(squares)
  want = np.asarray(cotangent, np.float64)
  np.testing.assert_allclose(gradient.sum((2, 4)), want, rtol=1e-2)
  highest = np.asarray(images, np.float64).reshape(squares)
  highest = highest == highest.max((2, 4), keepdims=True)
  assert not gradient[~highest].any()


def test_max_pool_shares_the_gradient_of_ties():
  square = jnp.array([[2.0, 2.0, 5.0, 1.0], [2.0, 2.0, 0.0, 5.0]])
  images = square[None, :, :, None]
  gradient = jax.jit(jax.grad(lambda x: pooling.max_pool(x).sum()))(images)
  np.testing.assert_array_equal(
    gradient[0, :, :, 0],
    [[0.25, 0.25, 0.5, 0.0], [0.25, 0.25, 0.0, 0.5]],
  )


@pytest.mark.parametrize(
  ("shape", "window"), [((1, 5, 4, 1), 2), ((1, 4, 6, 1), 4), ((4, 4, 1), 2)]
)
def test_windows_must_divide_images(shape, window):
  with pytest.raises(AssertionError):
    pooling.max_pool(jnp.zeros(shape), window)
