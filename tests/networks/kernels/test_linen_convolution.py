"""The convolution in the place of XLA's in a Flax layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from personalization_jax.networks.kernels import convolution, linen_convolution


@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 1)])
@pytest.mark.parametrize("padding", ["SAME", "pairs"])
def test_flax_convolution(kernel_size, padding):
  images = jax.random.normal(jax.random.key(1), (5, 4, 6, 3))
  if padding == "pairs":
    padding = [(k // 2, k // 2) for k in kernel_size]
  theirs = nn.Conv(4, kernel_size, padding=padding)
  ours = nn.Conv(
    4,
    kernel_size,
    padding=padding,
    conv_general_dilated_cls=lambda: linen_convolution.conv_general_dilated,
  )
  variables = theirs.init(jax.random.key(0), images)
  actual, expected = (c.apply(variables, images) for c in (ours, theirs))
  np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"strides": 2}, r"window_strides must be \(1, 1\) here, but is \(2, 2\)"),
    ({"padding": "VALID"}, "padding must be SAME here, but is VALID"),
    ({"padding": 2}, "padding must be SAME"),
    ({"padding": "CIRCULAR"}, "padding must be SAME here, but is VALID"),
    ({"input_dilation": 2}, "lhs_dilation"),
    ({"kernel_dilation": 2}, "rhs_dilation"),
    ({"feature_group_count": 2}, "feature_group_count must be 1"),
    ({"precision": "highest"}, "precision must be None"),
  ],
)
def test_flax_convolution_refuses(options, message):
  layer = nn.Conv(
    4,
    (3, 3),
    conv_general_dilated_cls=lambda: linen_convolution.conv_general_dilated,
    **options,
  )
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({}, "dimension_numbers"),
    ({"dimension_numbers": ("NCHW", "OIHW", "NCHW")}, "dimension_numbers"),
    (
      {
        "dimension_numbers": convolution.DIMENSION_NUMBERS,
        "batch_group_count": 2,
      },
      "batch_group_count",
    ),
    (
      {
        "dimension_numbers": convolution.DIMENSION_NUMBERS,
        "preferred_element_type": jnp.float32,
      },
      "preferred_element_type",
    ),
  ],
)
def test_wrapper_refuses_what_flax_never_passes(options, message):
  images, kernel = jnp.zeros((2, 4, 4, 4)), jnp.zeros((3, 3, 4, 4))
  with pytest.raises(ValueError, match=message):
    linen_convolution.conv_general_dilated(
      images, kernel, (1, 1), "SAME", **options
    )
