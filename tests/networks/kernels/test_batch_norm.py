"""Batch normalisation after ReLU against Flax's own, in value and gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from personalization_jax.networks.kernels import accelerator, platforms
from personalization_jax.networks.kernels.batch_norm import ReluBatchNorm
from personalization_jax.networks.kernels.cpu import blocked, winograd

# Images, side, channels: some that fill whole rows of 256, some that don't.
_SHAPES = [(8, 4, 16), (5, 2, 3), (12, 2, 256), (3, 4, 300), (16, 8, 9)]
# So many numbers that they are gone through in blocks, the last one not full.
_LARGE = (130, 16, 32)


class _Slow(nn.Module):
  """The same layer of Flax's parts; a mask instead of weights."""

  window: int = 1

  @nn.compact
  def __call__(self, x, shift, mask, *, use_running_average):
    out = nn.BatchNorm(
      use_running_average=use_running_average, momentum=0.9, name="norm"
    )(nn.relu(x + shift), mask=mask[:, None, None, None])
    window = (self.window, self.window)
    return nn.max_pool(out, window, window)


def _inputs(shape, window=1):
  images, side, channels = shape
  rng = np.random.default_rng(images * channels)

  def draw(*sizes):
    return jnp.asarray(rng.normal(size=sizes), jnp.float32)

  mask = jnp.arange(images) < max(images - 2, 1)
  return (
    draw(images, side, side, channels) * 3 + 1,
    draw(channels),
    mask,
    {"scale": draw(channels), "bias": draw(channels)},
    draw(images, side // window, side // window, channels)
    * mask[:, None, None, None],
  )


def _weights(mask):
  return mask / jnp.maximum(mask.sum(), 1).astype(jnp.float32)


def _apply(x, shift, weights, params, stats, *, evaluates=False, **fields):
  """The layer's output for what a plain kernel gives, and its statistics."""
  layer = ReluBatchNorm(len(params["scale"]), **fields)
  variables = {"params": params, "batch_stats": stats}
  sign = layer.apply(variables, method="kernel_sign")
  out, updates = layer.apply(
    variables,
    x if sign is None else x * sign.astype(x.dtype),
    shift,
    weights,
    use_running_average=evaluates,
    mutable=["batch_stats"],
  )
  return out, updates["batch_stats"]


@pytest.fixture(params=["cpu", "cuda", "tpu"])
def platform(request, monkeypatch):
  """Each platform's own formulas, computed here."""
  table = platforms.BY_PLATFORM
  monkeypatch.setitem(table, "cpu", table.get(request.param, table["default"]))
  return request.param


@pytest.mark.parametrize(
  ("shape", "window"),
  [
    *((shape, 1) for shape in (*_SHAPES, _LARGE)),
    *((shape, 2) for shape in (*_SHAPES, _LARGE)),
    ((8, 4, 16), 4),
  ],
)
def test_equals_flax_in_value_statistics_and_gradient(shape, window, platform):
  # Scales of both signs: pooling takes the largest or the smallest.
  x, shift, mask, params, cotangent = _inputs(shape, window)
  start = {
    "mean": jnp.full(shape[2], 0.3),
    "var": jnp.full(shape[2], 0.6),
  }

  def ours(x, shift, params):
    out, after = _apply(x, shift, _weights(mask), params, start, window=window)
    return (out * cotangent).sum(), (out, after)

  def slow(x, shift, params):
    out, updates = _Slow(window).apply(
      {"params": {"norm": params}, "batch_stats": {"norm": start}},
      x,
      shift,
      mask,
      use_running_average=False,
      mutable=["batch_stats"],
    )
    return (out * cotangent).sum(), (out, updates["batch_stats"]["norm"])

  results = [
    jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True))(
      x, shift, params
    )
    for f in (ours, slow)
  ]
  # Flax subtracts first and multiplies then: rounding differs.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max() + 1)
    ),
    *results,
  )


@pytest.mark.parametrize("platform", ["cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("sign", [-1, 1])
def test_inputs_that_tie_share_the_gradient(sign, platform):
  x = jnp.array([[2.0, 2, 5, 1], [2, 2, 0, 5], [3, 1, 4, 9], [0, 1, 3, 9]])
  # Before ReLU all are above 0, for the smallest as for the largest.
  x = (sign * x + 20)[None, :, :, None]
  params = {"scale": jnp.full(1, sign, jnp.float32), "bias": jnp.zeros(1)}
  stats = {"mean": jnp.zeros(1), "var": jnp.ones(1)}

  def loss(x, by):
    out, _ = _apply(x, jnp.zeros(1), None, params, stats, window=2)
    return (out * by).sum()

  # What statistics add is the same for all pixels of a value; the difference
  # of windows is left: of the first, whose four tie, and the third, one peak.
  by = jnp.array([[1.0, 0], [-1, 0]])[None, :, :, None]
  gradient = jax.jit(jax.grad(loss))(x, by)[0, :, :, 0]
  slope = sign * jax.lax.rsqrt(x.var() + 1e-5)
  through = gradient[0, 2:]  # Pixels that no cotangent reaches.
  assert np.ptp(gradient[:2, :2]) == 0
  line = np.polyfit(np.asarray(x[0, 0, 2:, 0]), np.asarray(through), 1)
  np.testing.assert_allclose(
    gradient[:2, :2] - np.polyval(line, x[0, :2, :2, 0]),
    np.full((2, 2), slope / 4),
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    gradient[2, 0] - np.polyval(line, x[0, 2, 0, 0]), -slope, rtol=1e-4
  )


@pytest.mark.slow
@pytest.mark.parametrize("by", [blocked, winograd, accelerator])
def test_bfloat16_loses_no_gradient_of_peaks(by, platform):
  """Peaks are found by comparing, and products are rounded before that."""
  images, _, mask, _, _ = _inputs((6, 8, 5))
  _, shift, _, params, cotangent = _inputs((6, 8, 32), 2)
  stats = {"mean": jnp.zeros(32), "var": jnp.ones(32)}
  kernel = jax.random.normal(jax.random.key(0), (3, 3, 5, 32))

  def gradient(dtype):
    @jax.jit
    @jax.grad
    def of_loss(kernel, images):
      x = by.convolve(images, kernel)
      weights = _weights(mask)
      out, _ = _apply(x, shift, weights, params, stats, window=2, dtype=dtype)
      return (out.astype(jnp.float32) * cotangent).sum()

    found = of_loss(kernel.astype(dtype), images.astype(dtype))
    return np.asarray(found, np.float32)

  exact = gradient(jnp.float32)
  # Other inputs are the largest of some windows, once rounded.
  error = np.linalg.norm(gradient(jnp.bfloat16) - exact)
  assert error < 0.1 * np.linalg.norm(exact)


def test_the_platform_of_the_program_decides(monkeypatch):
  """Loops and branches are a CPU's alone, whatever the default backend."""
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  x, shift, mask, params, _ = _inputs(_LARGE)
  stats = {"mean": jnp.zeros(32), "var": jnp.ones(32)}

  def loss(x):
    return _apply(x, shift, _weights(mask), params, stats)[0].sum()

  traced = jax.jit(jax.grad(loss)).trace(x)
  for platform in ("cpu", "cuda", "tpu"):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) == (platform == "cpu")


def test_padding_changes_nothing(platform):
  x, shift, mask, params, _ = _inputs((8, 4, 16))
  stats = {"mean": jnp.zeros(16), "var": jnp.ones(16)}

  def apply(x, weights):
    return _apply(x, shift, weights, params, stats)

  kept, its_stats = apply(x, _weights(mask))
  other, other_stats = apply(
    jnp.where(mask[:, None, None, None], x, 1e3), _weights(mask)
  )
  alone, alone_stats = apply(x[:6], None)
  np.testing.assert_array_equal(kept[:6], other[:6])
  np.testing.assert_allclose(kept[:6], alone, rtol=1e-4, atol=1e-5)
  for stats in (other_stats, alone_stats):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
      its_stats,
      stats,
    )


def test_no_image_at_all_gives_finite_numbers(platform):
  x, shift, _, params, _ = _inputs((4, 4, 16))
  stats = {"mean": jnp.zeros(16), "var": jnp.ones(16)}

  def loss(x):
    out, _ = _apply(x, shift, jnp.zeros(4), params, stats)
    return out.sum()

  value, gradient = jax.jit(jax.value_and_grad(loss))(x)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("window", [1, 2])
def test_evaluation_uses_the_running_statistics(window, platform):
  x, shift, mask, params, _ = _inputs((5, 2, 3))
  stats = {"mean": jnp.array([0.1, 0.2, 0.3]), "var": jnp.array([1.0, 2, 3])}
  ours, after = _apply(
    x, shift, None, params, stats, window=window, evaluates=True
  )
  jax.tree.map(np.testing.assert_array_equal, after, stats)
  slow = _Slow(window).apply(
    {"params": {"norm": params}, "batch_stats": {"norm": stats}},
    x,
    shift,
    mask,
    use_running_average=True,
  )
  np.testing.assert_allclose(ours, slow, rtol=1e-5, atol=1e-5)


def test_vmap_is_the_same_as_one_by_one(platform):
  people = [_inputs((4, 4, 8)) for _ in range(3)]
  x = jnp.stack([p[0] * (i + 1) for i, p in enumerate(people)])
  _, shift, mask, params, cotangent = people[0]
  stats = {"mean": jnp.zeros(8), "var": jnp.ones(8)}

  def loss(x):
    out, _ = _apply(x, shift, _weights(mask), params, stats)
    return (out * cotangent).sum()

  gradient = jax.grad(loss)
  together = jax.jit(jax.vmap(gradient))(x)
  apart = jnp.stack([jax.jit(gradient)(one) for one in x])
  np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_bfloat16_sums_in_float32(platform):
  x, shift, mask, params, _ = _inputs((64, 8, 16))
  stats = {"mean": jnp.zeros(16), "var": jnp.ones(16)}

  def apply(x, dtype):
    how = {"momentum": 0.0, "dtype": dtype}
    return _apply(x, shift, _weights(mask), params, stats, **how)

  rounded = x.astype(jnp.bfloat16)
  out, updates = apply(rounded, jnp.bfloat16)
  exact, exactly = apply(rounded.astype(jnp.float32), jnp.float32)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    out.astype(jnp.float32), exact, rtol=0.01, atol=0.01
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    updates,
    exactly,
  )


def test_what_a_layer_holds_is_float32_whatever_jax_s_default():
  with jax.enable_x64(True):
    variables = jax.eval_shape(
      functools.partial(ReluBatchNorm(3).init, use_running_average=True),
      jax.random.key(0),
      *(jnp.zeros(shape, jnp.float32) for shape in ((1, 2, 2, 3), 3)),
      None,
    )
  found = {leaf.dtype for leaf in jax.tree.leaves(variables)}
  assert found == {jnp.dtype("float32")}
