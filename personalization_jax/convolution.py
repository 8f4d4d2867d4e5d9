"""Convolution for networks whose weights differ by individual (JAX).

A population trains under `vmap` on an accelerator, and on a CPU as one
individual after another (`lax.map`), a virtual device a core. XLA's own
convolution serves neither well:

* `vmap` over the kernel makes a grouped convolution, which is slow everywhere;
  as explicit patches and a matrix product it is a batched matrix product.
* On a CPU its weight gradient inside a loop (`lax.scan`, `lax.map`) leaves the
  library kernel for a naive one, and costs more than all the rest together;
  its convolutions of one or eight channels leave most of the machine idle.

Every formulation here computes the same function. `choose_formulation` and
`choose_weight_gradient` are the one place that picks between them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from personalization_jax import image_blocks, superpixels, winograd

FORMULATIONS = (
  "xla", "patches", "blocked", "shifted", "superpixels", "winograd",
)  # fmt: skip

_DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Images a step of "blocked" expands: few enough that their patches stay in a
# core's cache, enough to make the matrix product worth its start.
_BLOCK = 4
# Pixels that one product of "blocked" sums over where channels are few: so few
# that XLA leaves it to one thread.
_GROUP = 1024
# In channels times out channels: up to the first "superpixels" are faster than
# XLA on a CPU, from the second "winograd" is, from the third its gradient too.
_NARROW, _WIDE, _WIDE_GRADIENT = 8 * 16, 32 * 32, 64 * 128


def choose_formulation(
  platform: str, kernel_shape: Sequence[int], image_shape: Sequence[int]
) -> str:
  """Picks the formulation that `convolve` uses where none is named.

  The gradient by the images is a convolution too, with in and out channels
  exchanged, and is picked by its own shapes.

  CPU, measured 2026-11-25 (one AMD EPYC core, jax 0.10.2, float32, batch 128,
  inside a loop), ms:

  size  channels   | xla   superpixels  winograd
  32      1 to 8   |   7.4         0.8      -
  32      1 to 32  |   9.8         3.5      -
  32      8 to 16  |   7.7         4.5      9.3
  32     16 to 8   |  12.5         5.1     12.0
  16     16 to 32  |   3.3         4.3      4.7
  16     32 to 16  |   3.6         4.6      4.0
  16     32 to 32  |   6.9         8.5      5.7
  32     32 to 64  |  58          69       50
  32     64 to 32  |  82           -       46
  16     64 to 128 |  47          63       29
  16    128 to 128 | 100           -       57
  8     128 to 128 |  24           -       16

  On other platforms patches are a reasoned choice, not yet a measured one:
  under `vmap` they are batched matrix products.

  Args:
    platform: as `jax.default_backend()` names it.
    kernel_shape: [kh, kw, in channels, out channels].
    image_shape: [B, H, W, in channels].

  Returns:
    One of `FORMULATIONS`.
  """
  return _choose(platform, kernel_shape, image_shape, _WIDE)


def choose_weight_gradient(
  platform: str, kernel_shape: Sequence[int], image_shape: Sequence[int]
) -> str:
  """Picks whose weight gradient `convolve` uses where no formulation is named.

  CPU, measured as for `choose_formulation`, ms:

  size  channels   | blocked  superpixels  winograd
  32      1 to 8   |     7.2          1.0      -
  32      1 to 32  |     7.8          2.8      -
  32      8 to 16  |     9.7          7.9     20
  16     16 to 32  |     6.4          6.9     11
  16     32 to 32  |    12           12       11
  32     32 to 64  |    75           82       87
  16     64 to 128 |    63            -       55
  16    128 to 128 |   115            -       77
  8     128 to 128 |    28            -       21

  XLA's own and "shifted" are slower for all of them. None divides one long sum
  among threads, whose number would then decide the last bits.

  Args:
    platform: as `jax.default_backend()` names it.
    kernel_shape: [kh, kw, in channels, out channels].
    image_shape: [B, H, W, in channels].

  Returns:
    One of `FORMULATIONS`.
  """
  return _choose(platform, kernel_shape, image_shape, _WIDE_GRADIENT)


def convolve(
  images: Array, kernel: Array, *, formulation: str | None = None
) -> Array:
  """Convolves images with a kernel: stride 1, zero padding to the same size.

  Equal to `lax.conv_general_dilated` in value and gradient, up to rounding.

  Args:
    images: float [B, H, W, in channels].
    kernel: [kh, kw, in channels, out channels] of the same dtype, kh and kw
      odd.
    formulation: how it and its gradients are computed, one of `FORMULATIONS`;
      None takes what `choose_formulation` and `choose_weight_gradient` say.
      Shapes that "superpixels" and "winograd" are not made for are "blocked";
      a 1x1 kernel is always one matrix product, and by "blocked" its gradient
      is a sum over blocks.

  Returns:
    [B, H, W, out channels], of the dtype of images.

  Raises:
    ValueError: if shapes, dtypes or the formulation do not fit.
  """
  _check(images, kernel)
  if formulation not in (None, *FORMULATIONS):
    raise ValueError(
      f"formulation must be one of {', '.join(FORMULATIONS)} or None, but"
      f" is {formulation!r}."
    )
  chosen = formulation or choose_formulation(
    jax.default_backend(), kernel.shape, images.shape
  )
  if chosen == "patches" or (
    kernel.shape[:2] == (1, 1) and chosen in ("xla", "shifted")
  ):
    return _by_patches(images, kernel)
  if chosen == "xla":
    return _xla(images, kernel)
  images, kernel = _vary_together(images, kernel)
  return _with_own_gradients(images, kernel, formulation)


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


def _choose(
  platform: str,
  kernel_shape: Sequence[int],
  image_shape: Sequence[int],
  wide: int,
) -> str:
  """Both rules, which differ in when a layer is wide enough for Winograd."""
  if platform != "cpu":
    return "patches"
  inputs, outputs = kernel_shape[2:]
  narrow = inputs <= superpixels.FEW_CHANNELS or inputs * outputs <= _NARROW
  if narrow and superpixels.fits(kernel_shape, image_shape):
    return "superpixels"
  if inputs * outputs >= wide and winograd.fits(kernel_shape):
    return "winograd"
  return "blocked"


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
  if kernel.shape[2] <= superpixels.FEW_CHANNELS:
    return _grouped_weight_gradient(images, kernel, cotangent)

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
  # Images that the last block lacks are zero, and so is what they add.
  blocks = (
    image_blocks.split(images, _BLOCK),
    image_blocks.split(cotangent, _BLOCK),
  )
  total, _ = lax.scan(add_block, start, blocks)
  return total.T.reshape(kernel.shape).astype(kernel.dtype)


def _convolve_by(formulation: str, images: Array, kernel: Array) -> Array:
  if formulation == "superpixels" and superpixels.fits(
    kernel.shape, images.shape
  ):
    return superpixels.convolve(images, kernel)
  if formulation == "winograd" and winograd.fits(kernel.shape):
    return winograd.convolve(images, kernel)
  if kernel.shape[:2] == (1, 1) or (
    formulation == "blocked" and kernel.shape[2] <= superpixels.FEW_CHANNELS
  ):
    return _by_patches(images, kernel)
  return _xla(images, kernel)


def _weight_gradient_by(
  formulation: str, images: Array, kernel: Array, cotangent: Array
) -> Array:
  by: Callable[[Array, Array, Array], Array] = _blocked_weight_gradient
  if formulation == "shifted":
    by = _shifted_weight_gradient
  elif formulation == "superpixels" and superpixels.fits(
    kernel.shape, images.shape
  ):
    by = superpixels.weight_gradient
  elif formulation == "winograd" and winograd.fits(kernel.shape):
    by = winograd.weight_gradient
  return by(images, kernel, cotangent)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_own_gradients(
  images: Array, kernel: Array, formulation: str | None
) -> Array:
  """A convolution whose three computations are picked one by one.

  Args:
    images: as for `convolve`.
    kernel: as for `convolve`.
    formulation: of all three; None picks each by its shapes.

  Returns:
    As `convolve`.
  """
  chosen = formulation or choose_formulation(
    jax.default_backend(), kernel.shape, images.shape
  )
  return _convolve_by(chosen, images, kernel)


def _forward(
  images: Array, kernel: Array, formulation: str | None
) -> tuple[Array, tuple[Array, Array]]:
  return _with_own_gradients(images, kernel, formulation), (images, kernel)


def _backward(
  formulation: str | None, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
  images, kernel = saved
  platform = jax.default_backend()
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  of_images = formulation or choose_formulation(
    platform, turned.shape, cotangent.shape
  )
  of_weights = formulation or choose_weight_gradient(
    platform, kernel.shape, images.shape
  )
  return (
    _convolve_by(of_images, cotangent, turned),
    _weight_gradient_by(of_weights, images, kernel, cotangent),
  )


_with_own_gradients.defvjp(_forward, _backward)
