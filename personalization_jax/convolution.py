"""Convolution and pooling for networks whose weights differ by individual.

A population trains under `vmap` on an accelerator, and on a CPU as one
individual after another (`lax.map`), a virtual device a core. XLA's own
convolution serves neither well:

* `vmap` over the kernel makes a grouped convolution, which is slow everywhere;
  as explicit patches and a matrix product it is a batched matrix product.
* On a CPU its weight gradient inside a loop (`lax.scan`, `lax.map`) leaves the
  library kernel for a naive one, and costs more than all the rest together.

Every formulation here computes the same function. `choose_formulation` is the
one place that picks between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

FORMULATIONS = ("xla", "patches", "blocked", "shifted")

_DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Images a step of "blocked" expands: few enough that their patches stay in a
# core's cache, enough to make the matrix product worth its start.
_BLOCK = 4
# Up to this many input channels "blocked" convolves by patches, which are small
# then and save calls. Measured for one channel only; the networks have no layer
# of two to seven.
_FEW_CHANNELS = 4
# Pixels that one of their matrix products sums over: so few that XLA leaves it
# to one thread.
_GROUP = 1024


def choose_formulation(
  platform: str, kernel_shape: Sequence[int], image_shape: Sequence[int]
) -> str:
  """Picks the formulation `convolve` uses where none is named.

  CPU, measured 2026-11-23 (two AMD EPYC cores, jax 0.10.2, float32): samples a
  second of whole training steps of the classifier, several in a `lax.scan`, one
  individual on one device, with patches for the one-channel layer throughout.
  Other work shared the cores: take differences below a tenth for noise.

  width  batch  size | patches  blocked  shifted  xla
  0.25      32    16 |   12551    12095    13054  640
  0.25      32    32 |    3135     3620     3734    -
  0.25     128    16 |   12279    13347    15054    -
  0.25     128    32 |    2149     3341     3275    -
  1         32    16 |    1745     1776     1829    -
  1         64    32 |     319      385      397    -

  That one-channel layer, 128 images of 32x32, gradients included: 1.5 ms by
  patches, 3.0 shifted, 3.6 by XLA.

  On other platforms patches are a reasoned choice, not yet a measured one:
  under `vmap` they are batched matrix products.

  On a CPU every layer is "blocked", one channel and 1x1 included: XLA divides
  one long sum among its threads, and their number would decide the last bits.

  Args:
    platform: as `jax.default_backend()` names it.
    kernel_shape: [kh, kw, in channels, out channels]; no part of the rule so
      far.
    image_shape: [B, H, W, in channels]; no part of the rule so far.

  Returns:
    One of `FORMULATIONS`.
  """
  del kernel_shape, image_shape
  return "blocked" if platform == "cpu" else "patches"


def convolve(
  images: Array, kernel: Array, *, formulation: str | None = None
) -> Array:
  """Convolves images with a kernel: stride 1, zero padding to the same size.

  Equal to `lax.conv_general_dilated` in value and gradient, up to rounding.

  Args:
    images: float [B, H, W, in channels].
    kernel: [kh, kw, in channels, out channels] of the same dtype, kh and kw
      odd.
    formulation: how it is computed, one of `FORMULATIONS`; None takes what
      `choose_formulation` says. A 1x1 kernel is always one matrix product, and
      by "blocked" its gradient is a sum over blocks.

  Returns:
    [B, H, W, out channels], of the dtype of images.

  Raises:
    ValueError: if shapes, dtypes or the formulation do not fit.
  """
  _check(images, kernel)
  if formulation is None:
    formulation = choose_formulation(
      jax.default_backend(), kernel.shape, images.shape
    )
  if formulation not in FORMULATIONS:
    raise ValueError(
      f"formulation must be one of {', '.join(FORMULATIONS)} or None, but"
      f" is {formulation!r}."
    )
  if formulation == "patches" or (
    kernel.shape[:2] == (1, 1) and formulation != "blocked"
  ):
    return _by_patches(images, kernel)
  if formulation == "xla":
    return _xla(images, kernel)
  images, kernel = _vary_together(images, kernel)
  return _WITH_WEIGHT_GRADIENT[formulation](images, kernel)


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
  """`convolve` in the signature of `lax.conv_general_dilated`, for Flax.

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
  nhwc = lax.conv_dimension_numbers(lhs.shape, rhs.shape, _DIMENSION_NUMBERS)
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
  return convolve(lhs, rhs)


def max_pool(images: Array, window: int = 2) -> Array:
  """Takes the maximum of each window x window square, without overlap.

  Maxima over rows first, then over columns: whole rows are contiguous, so the
  compiler makes one vectorised pass of each, and the gradient is elementwise.
  A step of the classifier (`choose_formulation`'s second row) runs at 3734
  samples a second so, 2012 by strided slices in both axes at once, 1517 by
  `lax.reduce_window`.

  Where entries tie, they share the gradient (evenly for window 2), so that
  what flows back always sums to what came in.

  Args:
    images: [B, H, W, C], H and W multiples of window.
    window: side of the square, in pixels.

  Returns:
    [B, H / window, W / window, C].

  Raises:
    ValueError: if window is below 1 or does not divide H and W.
  """
  if images.ndim != 4:
    raise ValueError(
      f"images must be [B, H, W, C], but have shape {images.shape}."
    )
  batch, height, width, channels = images.shape
  if window < 1 or height % window or width % window:
    raise ValueError(
      f"window must be at least 1 and divide {height} and {width}, the"
      f" height and width of the images, but is {window}."
    )
  rows = images.reshape(batch, height // window, window, width, channels)
  pooled = rows[:, :, 0]
  for i in range(1, window):
    pooled = _larger(pooled, rows[:, :, i])
  columns = pooled.reshape(
    batch, height // window, width // window, window, channels
  )
  pooled = columns[:, :, :, 0]
  for i in range(1, window):
    pooled = _larger(pooled, columns[:, :, :, i])
  return pooled


@jax.custom_vjp
def _larger(one: Array, other: Array) -> Array:
  """The larger of two, whose gradient is never lost.

  JAX's own compares each with the result. The compiler may compute the two
  again for that, fused with other operations and so rounded otherwise; then
  neither equals the result that was kept. Compared with each other, one of
  them always takes the gradient.
  """
  return jnp.maximum(one, other)


def _larger_forward(
  one: Array, other: Array
) -> tuple[Array, tuple[Array, Array]]:
  return jnp.maximum(one, other), (one, other)


def _larger_backward(
  saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
  one, other = saved
  half = jnp.where(one == other, cotangent / 2, jnp.zeros_like(cotangent))
  to_one = jnp.where(one > other, cotangent, half)
  return to_one, cotangent - to_one


_larger.defvjp(_larger_forward, _larger_backward)


def _check(images: Array, kernel: Array) -> None:
  if images.ndim != 4 or kernel.ndim != 4:
    raise ValueError(
      "images must be [B, H, W, C] and kernel [kh, kw, C, D], but have"
      f" shapes {images.shape} and {kernel.shape}."
    )
  if images.shape[3] != kernel.shape[2]:
    raise ValueError(
      f"kernel takes {kernel.shape[2]} input channels, but images have"
      f" {images.shape[3]}."
    )
  if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
    raise ValueError(f"kernel must have odd sides, but is {kernel.shape[:2]}.")
  floating = jnp.issubdtype(images.dtype, jnp.floating)
  if images.dtype != kernel.dtype or not floating:
    raise ValueError(
      "images and kernel must share one floating dtype, but are"
      f" {images.dtype} and {kernel.dtype}."
    )


def _xla(images: Array, kernel: Array) -> Array:
  return lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSION_NUMBERS
  )


def _by_patches(images: Array, kernel: Array) -> Array:
  # Summed in float32 whatever the dtype, and so are the gradients.
  product = jnp.matmul(
    _patches(images, kernel),
    kernel.reshape(-1, kernel.shape[-1]),
    preferred_element_type=jnp.promote_types(images.dtype, jnp.float32),
  )
  return product.astype(images.dtype)


def _by_shape(images: Array, kernel: Array) -> Array:
  """What convolves fastest on a CPU."""
  if kernel.shape[:2] == (1, 1) or kernel.shape[2] <= _FEW_CHANNELS:
    return _by_patches(images, kernel)
  return _xla(images, kernel)


def _windows(images: Array, kernel: Array) -> list[Array]:
  """Zero-padded images, shifted once for each tap of the kernel."""
  kh, kw = kernel.shape[:2]
  _, height, width, _ = images.shape
  rows, columns = (kh // 2, kh // 2), (kw // 2, kw // 2)
  padded = jnp.pad(images, ((0, 0), rows, columns, (0, 0)))
  return [
    padded[:, i : i + height, j : j + width]
    for i in range(kh)
    for j in range(kw)
  ]


def _patches(images: Array, kernel: Array) -> Array:
  """What the kernel sees at each pixel: [B, H, W, kh * kw * channels]."""
  if kernel.shape[:2] == (1, 1):
    return images
  return jnp.concatenate(_windows(images, kernel), axis=-1)


def _vary_together(images: Array, kernel: Array) -> tuple[Array, Array]:
  """Makes both vary over the same axes of a mesh, inside `shard_map`.

  A custom gradient must vary as its argument does. With kernels of their own
  and images of everybody (or the reverse) it would not, and JAX refuses. A
  constant selection between the two marks both, compiles to nothing, and its
  transpose sums over the mesh as it should.
  """

  def marked(array: Array, other: Array) -> Array:
    probe = lax.stop_gradient(other).ravel()[0]
    return jnp.where(True, array, probe)

  return marked(images, kernel), marked(kernel, images)


def _product(left: Array, right: Array) -> Array:
  """left^T right over all rows, summed in float32: [channels, channels]."""
  left = left.reshape(-1, left.shape[-1])
  right = right.reshape(-1, right.shape[-1])
  return jnp.matmul(
    left.T,
    right,
    preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
  )


def _shifted_weight_gradient(
  images: Array, kernel: Array, cotangent: Array
) -> Array:
  """One matrix product for each tap of the kernel."""
  taps = [_product(w, cotangent) for w in _windows(images, kernel)]
  return jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)


def _grouped_weight_gradient(
  images: Array, kernel: Array, cotangent: Array
) -> Array:
  """One matrix product for each group of pixels, all of them in a batch."""
  height, width = images.shape[1:3]
  rows = max(
    [
      n for n in range(2, height + 1) if height % n == 0 and n * width <= _GROUP
    ],
    default=1,
  )

  def groups(array: Array) -> Array:
    return array.reshape(-1, rows * width, array.shape[-1])

  products = jnp.einsum(
    "gpi,gpo->gio",
    groups(_patches(images, kernel)),
    groups(cotangent),
    preferred_element_type=jnp.promote_types(kernel.dtype, jnp.float32),
  )
  return products.sum(axis=0).reshape(kernel.shape).astype(kernel.dtype)


def _blocked_weight_gradient(
  images: Array, kernel: Array, cotangent: Array
) -> Array:
  """One matrix product for each block of images, over the block's patches."""
  if kernel.shape[2] <= _FEW_CHANNELS:
    return _grouped_weight_gradient(images, kernel, cotangent)

  def blocks(array: Array) -> Array:
    # Added images are zero, and so is what they add to the gradient.
    missing = -array.shape[0] % _BLOCK
    array = jnp.pad(array, ((0, missing), (0, 0), (0, 0), (0, 0)))
    return array.reshape(-1, _BLOCK, *array.shape[1:])

  def add_block(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
    some_images, some_cotangent = block
    # The smaller factor is turned in memory, not within the product, which
    # runs a third faster so. Without the barrier XLA would undo it.
    turned = lax.optimization_barrier(
      some_cotangent.reshape(-1, some_cotangent.shape[-1]).T
    )
    patches = _patches(some_images, kernel)
    product = jnp.matmul(
      turned,
      patches.reshape(-1, patches.shape[-1]),
      preferred_element_type=total.dtype,
    )
    return total + product, None

  flat = kernel.reshape(-1, kernel.shape[-1]).T
  start = jnp.zeros_like(
    flat, dtype=jnp.promote_types(kernel.dtype, jnp.float32)
  )
  total, _ = lax.scan(add_block, start, (blocks(images), blocks(cotangent)))
  return total.T.reshape(kernel.shape).astype(kernel.dtype)


def _with_weight_gradient(
  convolve_alone: Callable[[Array, Array], Array],
  weight_gradient: Callable[[Array, Array, Array], Array],
) -> Callable[[Array, Array], Array]:
  """A convolution and its image gradient, with another weight gradient."""
  convolution = jax.custom_vjp(convolve_alone)

  def forward(
    images: Array, kernel: Array
  ) -> tuple[Array, tuple[Array, Array]]:
    return convolve_alone(images, kernel), (images, kernel)

  def backward(
    saved: tuple[Array, Array], cotangent: Array
  ) -> tuple[Array, Array]:
    _, kernel = saved
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    images_gradient = convolve_alone(cotangent, turned)
    return images_gradient, weight_gradient(*saved, cotangent)

  convolution.defvjp(forward, backward)
  return convolution


_WITH_WEIGHT_GRADIENT = {
  "shifted": _with_weight_gradient(_xla, _shifted_weight_gradient),
  "blocked": _with_weight_gradient(_by_shape, _blocked_weight_gradient),
}
