"""`convolution.convolve` where Flax's layers want XLA's convolution (JAX)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import Array, lax

from personalization_jax.networks.kernels import convolution


def conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: Any = None,
) -> Array:
  """`convolution.convolve` in the signature of `lax.conv_general_dilated`.

  `flax.linen.Conv(..., conv_general_dilated_cls=lambda: conv_general_dilated)`
  uses it.

  Args:
    lhs: images, float [B, H, W, in channels].
    rhs: kernel, [kh, kw, in channels, out channels].
    window_strides: (1, 1).
    padding: "SAME", or the same in pairs.
    lhs_dilation: None or (1, 1).
    rhs_dilation: None or (1, 1).
    dimension_numbers: ("NHWC", "HWIO", "NHWC"), so or as Flax passes it.
    feature_group_count: 1.
    batch_group_count: 1.
    precision: None.
    preferred_element_type: None.

  Returns:
    [B, H, W, out channels].

  Raises:
    ValueError: naming the argument that asks for something else.
  """
  same = tuple((side // 2, side // 2) for side in rhs.shape[:2])
  if not isinstance(padding, str):
    padding = "SAME" if tuple(map(tuple, padding)) == same else tuple(padding)
  layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  nhwc = lax.conv_dimension_numbers(
    lhs.shape, rhs.shape, convolution.DIMENSION_NUMBERS
  )
  for name, value, supported in (
    ("window_strides", tuple(window_strides), (1, 1)),
    ("padding", padding, "SAME"),
    ("lhs_dilation", tuple(lhs_dilation or (1, 1)), (1, 1)),
    ("rhs_dilation", tuple(rhs_dilation or (1, 1)), (1, 1)),
    ("dimension_numbers", layout, nhwc),
    ("feature_group_count", feature_group_count, 1),
    ("batch_group_count", batch_group_count, 1),
    ("precision", precision, None),
    ("preferred_element_type", preferred_element_type, None),
  ):
    if value != supported:
      raise ValueError(f"{name} must be {supported} here, but is {value}.")
  return convolution.convolve(lhs, rhs)
