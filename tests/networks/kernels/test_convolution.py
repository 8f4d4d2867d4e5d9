"""Every formulation is the same function as `lax.conv_general_dilated`."""

import hashlib
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from personalization_jax.networks.kernels import accelerator, convolution, cpu
from personalization_jax.networks.kernels.cpu import (
  blocked,
  superpixels,
  winograd,
)

# [B, H, W, in channels], [kh, kw, in channels, out channels]
SHAPES = {
  "usual": ((8, 8, 8, 5), (3, 3, 5, 4)),
  "one channel, batch no multiple of the block": ((11, 6, 6, 1), (3, 3, 1, 7)),
  "one channel, more pixels than a group": ((2, 46, 40, 1), (3, 3, 1, 2)),
  "1x1": ((3, 4, 4, 6), (1, 1, 6, 5)),
  "two pixels": ((9, 2, 2, 5), (3, 3, 5, 6)),
  "not square, one image": ((1, 4, 10, 5), (3, 1, 5, 2)),
  "odd sides": ((5, 7, 3, 5), (3, 3, 5, 6)),
  "one channel, width no multiple of four": ((3, 4, 6, 1), (3, 3, 1, 5)),
  "one channel, groups not full": ((3, 5, 8, 1), (3, 3, 1, 5)),
  "three channels, a larger kernel": ((3, 6, 8, 3), (5, 5, 3, 4)),
  "more images than a block": ((21, 4, 4, 16), (3, 3, 16, 8)),
}


def value_and_gradients(function):
  """(images, kernel, cotangent) -> (value, image and kernel gradient)."""

  def run(images, kernel, cotangent):
    value, pull_back = jax.vjp(function, images, kernel)
    return value, *pull_back(cotangent)

  return run


def make_inputs(image_shape, kernel_shape, dtype, individuals=()):
  rng = np.random.default_rng(0)
  shapes = (image_shape, kernel_shape, (*image_shape[:3], kernel_shape[3]))
  return [
    jnp.asarray(rng.normal(size=(*individuals, *shape)), dtype)
    for shape in shapes
  ]


def expected_in_float64(images, kernel, cotangent):
  """Value, image and kernel gradient, tap by tap in NumPy."""
  images, kernel, cotangent = (
    np.asarray(x, np.float64) for x in (images, kernel, cotangent)
  )
  kh, kw = kernel.shape[:2]
  height, width = images.shape[1:3]
  border = ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0))
  padded = np.pad(images, border)
  padded_gradient = np.zeros_like(padded)
  kernel_gradient = np.zeros_like(kernel)
  value = np.zeros_like(cotangent)
  for i, j in np.ndindex(kh, kw):
    window = np.s_[:, i : i + height, j : j + width]
    value += padded[window] @ kernel[i, j]
    padded_gradient[window] += cotangent @ kernel[i, j].T
    kernel_gradient[i, j] = np.einsum(
      "bhwi,bhwo->io", padded[window], cotangent
    )
  inside = np.s_[:, kh // 2 : kh // 2 + height, kw // 2 : kw // 2 + width]
  return value, padded_gradient[inside], kernel_gradient


def assert_near(actual, expected, tolerance):
  """Relative to the largest entry of each array."""
  for have, want in zip(actual, expected):
    have = np.asarray(have, np.float64)
    assert have.shape == want.shape
    assert np.abs(have - want).max() <= tolerance * np.abs(want).max()


FITS = {
  blocked: lambda kernel_shape, image_shape: True,
  superpixels: superpixels.fits,
  # One channel is never its own.
  winograd: lambda kernel_shape, image_shape: (
    kernel_shape[:2] == (3, 3) and kernel_shape[2] > 1
  ),
}


def name_of(module):
  return module.__name__.rsplit(".", 1)[-1]


def by(module):
  """What `value_and_gradients` gives, all by one of the CPU's formulations."""

  def run(images, kernel, cotangent):
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    other = module if FITS[module](turned.shape, cotangent.shape) else blocked
    return (
      module.convolve(images, kernel),
      other.convolve(cotangent, turned),
      module.weight_gradient(images, kernel, cotangent),
    )

  return run


def check_against_float64(run, shapes, dtype=jnp.float32, tolerance=1e-5):
  inputs = make_inputs(*shapes, dtype)
  actual = jax.jit(run)(*inputs)
  assert all(x.dtype == dtype for x in actual)
  assert_near(actual, expected_in_float64(*inputs), tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("module", FITS, ids=name_of)
def test_a_cpu_s_formulations_equal_float64(module, shape):
  images, kernel = SHAPES[shape]
  if not FITS[module](kernel, images):
    pytest.skip("not made for this shape")
  check_against_float64(by(module), SHAPES[shape])


@pytest.mark.parametrize("shape", ["usual", "1x1", "not square, one image"])
def test_an_accelerator_s_equals_float64(shape):
  def run(images, kernel, cotangent):
    gradients = accelerator.gradients_in_groups(images, kernel, cotangent)
    return (accelerator.convolve(images, kernel), *gradients)

  check_against_float64(run, SHAPES[shape])


@pytest.mark.parametrize("module", FITS, ids=name_of)
def test_bfloat16_equals_float64(module):
  shapes = (9, 8, 8, 5), (3, 3, 5, 4)
  check_against_float64(by(module), shapes, jnp.bfloat16, 2e-2)


# [B, H, W, in channels], [kh, kw, in channels, out channels], and what is
# picked for the convolution, its image and its weight gradient.
CHOICES = [
  ((5, 8, 8, 1), (3, 3, 1, 8), (superpixels,) * 3),
  ((5, 8, 8, 8), (3, 3, 8, 16), (superpixels,) * 3),
  ((5, 8, 7, 8), (3, 3, 8, 16), (blocked,) * 3),
  ((5, 8, 8, 16), (3, 3, 16, 32), (blocked,) * 3),
  ((5, 8, 8, 32), (3, 3, 32, 64), (winograd, winograd, blocked)),
  ((5, 8, 8, 64), (3, 3, 64, 128), (winograd,) * 3),
  ((5, 8, 8, 64), (1, 1, 64, 128), (blocked,) * 3),
]


@pytest.mark.parametrize(("image_shape", "kernel_shape", "picked"), CHOICES)
def test_what_is_picked_on_a_cpu_equals_float64(
  image_shape, kernel_shape, picked
):
  turned = (*kernel_shape[:2], kernel_shape[3], kernel_shape[2])
  cotangent_shape = (*image_shape[:3], kernel_shape[3])
  assert picked == (
    cpu._choose(kernel_shape, image_shape, cpu._WIDE),
    cpu._choose(turned, cotangent_shape, cpu._WIDE),
    cpu._choose(kernel_shape, image_shape, cpu._WIDE_GRADIENT),
  )
  run = value_and_gradients(convolution.convolve)
  check_against_float64(run, (image_shape, kernel_shape))


def program(platform, shape):
  """What is lowered for a platform, whether it is here or not."""
  run = value_and_gradients(convolution.convolve)
  inputs = make_inputs(*shape, jnp.float32)
  traced = jax.jit(run).trace(*inputs)
  return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("image_shape", "kernel_shape", "picked"), CHOICES)
def test_the_platform_of_the_program_decides(
  monkeypatch, image_shape, kernel_shape, picked
):
  """A CPU's formulations on a CPU, XLA's elsewhere, whatever the default."""
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  loops = "stablehlo.while", "stablehlo.convolution"
  shape = image_shape, kernel_shape
  text = program("cpu", shape)
  assert any(word in text for word in loops)
  for platform in ("cuda", "tpu"):
    other = program(platform, shape)
    assert "stablehlo.while" not in other
    # A GPU's gradients name the value too, which the compiler leaves out.
    assert other.count("stablehlo.convolution") == 3 + (platform == "cuda")
    assert other != text
  if picked == (blocked,) * 3 and kernel_shape[0] == 3:
    # XLA's own weight gradient would be a third; see `cpu`.
    assert text.count("stablehlo.convolution") == 2


@pytest.mark.parametrize("over_individuals", ["vmap", "map"])
@pytest.mark.parametrize("module", FITS, ids=name_of)
def test_equals_float64_for_each_individual(module, over_individuals):
  shapes = (9, 4, 6, 6), (3, 3, 6, 2)
  inputs = make_inputs(*shapes, jnp.float32, individuals=(3,))
  one = by(module)
  if over_individuals == "vmap":
    everyone = jax.vmap(one)
  else:
    everyone = lambda *inputs: lax.map(lambda x: one(*x), inputs)  # noqa: E731
  actual = jax.jit(everyone)(*inputs)
  for i in range(3):
    expected = expected_in_float64(*(x[i] for x in inputs))
    assert_near([x[i] for x in actual], expected, 1e-5)


@pytest.mark.parametrize("channels", [(3, 2), (8, 16), (16, 32), (64, 128)])
@pytest.mark.parametrize("shared", ["nothing", "images", "kernel"])
def test_works_inside_shard_map(channels, shared):
  # check_vma is on by default: it checks types, which needs no running.
  images, kernel, cotangent = make_inputs(
    (9, 4, 4, channels[0]), (3, 3, *channels), jnp.float32
  )
  mesh = jax.make_mesh((1,), ("individual",), axis_types=(AxisType.Auto,))
  split, whole = PartitionSpec("individual"), PartitionSpec()
  specs = (
    whole if shared == "images" else split,
    whole if shared == "kernel" else split,
    split,
  )
  sharded = jax.shard_map(
    value_and_gradients(convolution.convolve),
    mesh=mesh,
    in_specs=specs,
    out_specs=(split, specs[0], specs[1]),
  )
  lowered = jax.jit(sharded).lower(images, kernel, cotangent)
  if channels == (3, 2):  # the quickest to compile
    expected = expected_in_float64(images, kernel, cotangent)
    assert_near(lowered.compile()(images, kernel, cotangent), expected, 1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_the_layer_is_flax_s(size):
  images = jax.random.normal(jax.random.key(1), (5, 4, 6, 3))
  theirs = nn.Conv(4, (size, size), bias_init=nn.initializers.ones)
  ours = convolution.Convolution(4, size, bias_init=nn.initializers.ones)
  variables = theirs.init(jax.random.key(0), images)
  same = ours.init(jax.random.key(0), images)
  jax.tree.map(np.testing.assert_array_equal, variables, same)
  product, bias = ours.apply(variables, images)
  expected = theirs.apply(variables, images)
  np.testing.assert_allclose(product + bias, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("image_shape", "kernel_shape", "dtype"),
  [
    ((2, 4, 4, 3), (2, 3, 3, 2), jnp.float32),
    ((2, 4, 4, 3), (3, 3, 5, 2), jnp.float32),
    ((4, 4, 3), (3, 3, 3, 2), jnp.float32),
    ((2, 4, 4, 3), (3, 3, 3, 2), jnp.bfloat16),
  ],
)
def test_shapes_and_dtypes_must_fit(image_shape, kernel_shape, dtype):
  with pytest.raises(AssertionError):
    convolution.convolve(jnp.zeros(image_shape), jnp.zeros(kernel_shape, dtype))


def gradients():
  """Digests of weight gradients by each formulation, of long sums."""
  rng = np.random.default_rng(0)
  digests = []
  for images_shape, kernel_shape in (
    ((64, 16, 16, 1), (3, 3, 1, 8)),
    ((9, 64, 48, 1), (3, 3, 1, 8)),
    ((64, 16, 16, 8), (3, 3, 8, 16)),
    ((64, 32, 32, 8), (3, 3, 8, 16)),
    ((64, 16, 16, 16), (3, 3, 16, 32)),
    ((64, 8, 8, 32), (1, 1, 32, 32)),
    ((64, 8, 8, 128), (3, 3, 128, 128)),
  ):
    images, kernel = (
      rng.normal(size=shape).astype(np.float32)
      for shape in (images_shape, kernel_shape)
    )

    def loss(kernel, images):
      return (convolution.convolve(images, kernel) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(kernel, images)
    digests.append(hashlib.sha256(np.asarray(gradient).tobytes()).hexdigest())
  return digests


@pytest.mark.slow
def test_the_number_of_threads_does_not_decide_bits():
  """Of this process, which has four at least, and of one with two."""
  code = "import test_convolution; print(*test_convolution.gradients())"
  path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
  other = subprocess.run(
    [sys.executable, "-c", code],
    cwd=pathlib.Path(__file__).parent,
    env={
      **os.environ,
      "NPROC": "2",
      "PYTHONPATH": path,
      "JAX_PLATFORMS": "cpu",
      "JAX_ENABLE_COMPILATION_CACHE": "false",  # programs of other threads
    },
    check=True,
    capture_output=True,
    text=True,
  )
  assert other.stdout.split() == gradients()


@pytest.mark.parametrize("shape", ["usual", "1x1", "odd sides"])
@pytest.mark.parametrize("shared", [None, 0, 1, 2])
def test_gradients_in_groups_are_those_of_each_individual(shape, shared):
  """What a GPU computes under `vmap`; one operand may be everybody's."""
  operands = make_inputs(*SHAPES[shape], jnp.float32, individuals=(3,))
  if shared is not None:
    operands[shared] = operands[shared][0]
  axes = [None if index == shared else 0 for index in range(3)]
  together = jax.jit(jax.vmap(accelerator.gradients_in_groups, axes))(*operands)
  for person in range(3):
    own = [
      array if axis is None else array[person]
      for array, axis in zip(operands, axes)
    ]
    alone = accelerator.gradients(*own)
    for found, expected in zip(together, alone):
      np.testing.assert_allclose(found[person], expected, 2e-4, 2e-4)


def test_second_derivatives_are_those_of_the_plain_convolution():
  """As before, though what a GPU's `vmap` calls has a rule of its own."""
  images, kernel, _ = make_inputs((2, 4, 4, 3), (3, 3, 3, 2), jnp.float32)

  def second(convolve):
    first = jax.grad(lambda kernel: (convolve(images, kernel) ** 3).sum())
    return jax.jit(jax.grad(lambda kernel: (first(kernel) ** 2).sum()))(kernel)

  found, expected = second(convolution.convolve), second(accelerator.convolve)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
