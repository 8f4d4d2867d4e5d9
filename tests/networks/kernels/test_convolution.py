"""Every formulation is the same function as `lax.conv_general_dilated`."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from personalization_jax.networks.kernels import convolution

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
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


@pytest.mark.parametrize("formulation", convolution.FORMULATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_float64(formulation, shape):
  check_against_float64(formulation, SHAPES[shape], jnp.float32, 1e-5)


@pytest.mark.parametrize("formulation", convolution.FORMULATIONS)
def test_bfloat16_equals_float64(formulation):
  shapes = (9, 8, 8, 5), (3, 3, 5, 4)
  check_against_float64(formulation, shapes, jnp.bfloat16, 2e-2)


def check_against_float64(formulation, shapes, dtype, tolerance):
  inputs = make_inputs(*shapes, dtype)

  def run(images, kernel):
    return convolution.convolve(images, kernel, formulation=formulation)

  actual = jax.jit(value_and_gradients(run))(*inputs)
  assert all(x.dtype == dtype for x in actual)
  expected = expected_in_float64(*inputs)
  assert_near(actual, expected, tolerance)


@pytest.mark.parametrize("formulation", convolution.FORMULATIONS)
@pytest.mark.parametrize("over_individuals", ["vmap", "map"])
def test_equals_float64_for_each_individual(formulation, over_individuals):
  shapes = (9, 4, 6, 3), (3, 3, 3, 2)
  inputs = make_inputs(*shapes, jnp.float32, individuals=(3,))

  def run(images, kernel):
    return convolution.convolve(images, kernel, formulation=formulation)

  one = value_and_gradients(run)
  if over_individuals == "vmap":
    everyone = jax.vmap(one)
  else:
    everyone = lambda *inputs: lax.map(lambda x: one(*x), inputs)  # noqa: E731
  actual = jax.jit(everyone)(*inputs)
  for i in range(3):
    expected = expected_in_float64(*(x[i] for x in inputs))
    assert_near([x[i] for x in actual], expected, 1e-5)


@pytest.mark.parametrize("formulation", convolution.FORMULATIONS)
@pytest.mark.parametrize("shared", ["nothing", "images", "kernel"])
def test_works_inside_shard_map(formulation, shared):
  # check_vma is on by default; one device is enough for it to check types.
  images, kernel, cotangent = make_inputs(
    (9, 4, 4, 3), (3, 3, 3, 2), jnp.float32
  )
  mesh = jax.make_mesh((1,), ("individual",), axis_types=(AxisType.Auto,))
  split, whole = PartitionSpec("individual"), PartitionSpec()
  specs = (
    whole if shared == "images" else split,
    whole if shared == "kernel" else split,
    split,
  )

  def run(images, kernel):
    return convolution.convolve(images, kernel, formulation=formulation)

  sharded = jax.shard_map(
    value_and_gradients(run),
    mesh=mesh,
    in_specs=specs,
    out_specs=(split, specs[0], specs[1]),
  )
  actual = jax.jit(sharded)(images, kernel, cotangent)
  expected = expected_in_float64(images, kernel, cotangent)
  assert_near(actual, expected, 1e-5)


def test_loops_hold_no_weight_gradient_convolution_of_xla():
  # What makes XLA slow on a CPU; see the module's docstring.
  images, kernel, cotangent = make_inputs(
    (9, 4, 4, 5), (3, 3, 5, 6), jnp.float32
  )

  def count(formulation):
    def run(images, kernel):
      return convolution.convolve(images, kernel, formulation=formulation)

    jaxpr = jax.make_jaxpr(value_and_gradients(run))(images, kernel, cotangent)
    return str(jaxpr).count("conv_general_dilated[")

  assert {f: count(f) for f in convolution.FORMULATIONS} == {
    "xla": 3,
    "patches": 0,
    "blocked": 2,
    "shifted": 2,
    "superpixels": 2,
    "winograd": 0,
  }


@pytest.mark.parametrize("platform", ["cpu", "gpu", "cuda", "tpu", "METAL"])
@pytest.mark.parametrize("in_channels", [1, 4, 5, 8, 32, 256])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("width", [7, 8])
def test_rules_name_formulations(platform, in_channels, size, width):
  shapes = (size, size, in_channels, 32), (4, 8, width, in_channels)
  for rule in (
    convolution.choose_formulation,
    convolution.choose_weight_gradient,
  ):
    assert rule(platform, *shapes) in convolution.FORMULATIONS


# [B, H, W, in channels], [kh, kw, in channels, out channels], and what the rule
# says on a CPU of the convolution, its image and its weight gradient.
CHOICES = [
  ((5, 8, 8, 1), (3, 3, 1, 8), ("superpixels",) * 3),
  ((5, 8, 8, 8), (3, 3, 8, 16), ("superpixels",) * 3),
  ((5, 8, 7, 8), (3, 3, 8, 16), ("blocked",) * 3),
  ((5, 8, 8, 16), (3, 3, 16, 32), ("blocked",) * 3),
  ((5, 8, 8, 32), (3, 3, 32, 64), ("winograd", "winograd", "blocked")),
  ((5, 8, 8, 64), (3, 3, 64, 128), ("winograd",) * 3),
  ((5, 8, 8, 64), (1, 1, 64, 128), ("blocked",) * 3),
]


@pytest.mark.parametrize(("image_shape", "kernel_shape", "names"), CHOICES)
def test_what_is_picked_on_a_cpu_equals_float64(
  monkeypatch, image_shape, kernel_shape, names
):
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  turned = (*kernel_shape[:2], kernel_shape[3], kernel_shape[2])
  cotangent_shape = (*image_shape[:3], kernel_shape[3])
  assert names == (
    convolution.choose_formulation("cpu", kernel_shape, image_shape),
    convolution.choose_formulation("cpu", turned, cotangent_shape),
    convolution.choose_weight_gradient("cpu", kernel_shape, image_shape),
  )
  check_against_float64(None, (image_shape, kernel_shape), jnp.float32, 1e-5)


def test_rule_is_used(monkeypatch):
  asked = []

  def rule(*arguments):
    asked.append(arguments)
    return "patches"

  monkeypatch.setattr(convolution, "choose_formulation", rule)
  images, kernel, _ = make_inputs((2, 4, 4, 5), (3, 3, 5, 2), jnp.float32)
  jaxpr = jax.make_jaxpr(convolution.convolve)(images, kernel)
  assert asked == [(jax.default_backend(), (3, 3, 5, 2), (2, 4, 4, 5))]
  assert "conv_general_dilated" not in str(jaxpr)


@pytest.mark.parametrize(
  ("image_shape", "kernel_shape", "formulation", "message"),
  [
    ((2, 4, 4, 3), (3, 3, 3, 2), "fourier", "'fourier'"),
    ((2, 4, 4, 3), (2, 3, 3, 2), None, r"odd sides, but is \(2, 3\)"),
    ((2, 4, 4, 3), (3, 3, 5, 2), None, "takes 5 input channels"),
    ((4, 4, 3), (3, 3, 3, 2), None, r"shapes \(4, 4, 3\)"),
  ],
)
def test_bad_arguments(image_shape, kernel_shape, formulation, message):
  with pytest.raises(ValueError, match=message):
    convolution.convolve(
      jnp.zeros(image_shape), jnp.zeros(kernel_shape), formulation=formulation
    )


def test_dtypes_must_agree():
  images, kernel = jnp.zeros((2, 4, 4, 3)), jnp.zeros((3, 3, 3, 2))
  with pytest.raises(ValueError, match="float32 and bfloat16"):
    convolution.convolve(images, kernel.astype(jnp.bfloat16))
  with pytest.raises(ValueError, match="int32 and int32"):
    convolution.convolve(images.astype(int), kernel.astype(int))


GRADIENTS = """
import hashlib, jax, numpy
from personalization_jax import convolution
rng = numpy.random.default_rng(0)
for rows, kernel in (
  ((64, 16, 16, 1), (3, 3, 1, 8)),
  ((9, 64, 48, 1), (3, 3, 1, 8)),
  ((64, 16, 16, 8), (3, 3, 8, 16)),
  ((64, 32, 32, 8), (3, 3, 8, 16)),
  ((64, 16, 16, 16), (3, 3, 16, 32)),
  ((64, 8, 8, 32), (1, 1, 32, 32)),
  ((64, 8, 8, 128), (3, 3, 128, 128)),
):
  images, kernel = (
    rng.normal(size=shape).astype("float32") for shape in (rows, kernel)
  )
  def loss(kernel):
    return (convolution.convolve(images, kernel) ** 2).sum()
  gradient = jax.jit(jax.grad(loss))(kernel)
  print(hashlib.sha256(numpy.asarray(gradient).tobytes()).hexdigest())
"""


def test_the_number_of_threads_does_not_decide_bits():
  # Only a process of its own can have another number of XLA's threads.
  digests = {
    subprocess.run(
      [sys.executable, "-c", GRADIENTS],
      env={**os.environ, "NPROC": threads, "JAX_PLATFORMS": "cpu"},
      check=True,
      capture_output=True,
      text=True,
    ).stdout
    for threads in ("2", "3", "8")
  }
  assert len(digests) == 1
