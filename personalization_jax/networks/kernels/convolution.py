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
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels.cpu import (
  superpixels,
  weight_gradients,
  winograd,
)

FORMULATIONS = (
  "xla", "patches", "blocked", "shifted", "superpixels", "winograd",
)  # fmt: skip

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
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
    images, kernel, (1, 1), "SAME", dimension_numbers=DIMENSION_NUMBERS
  )


def _by_patches(images: Array, kernel: Array) -> Array:
  # Summed in float32 whatever the dtype, and so are the gradients.
  product = jnp.matmul(
    weight_gradients.patches(images, kernel.shape),
    kernel.reshape(-1, kernel.shape[-1]),
    preferred_element_type=jnp.promote_types(images.dtype, jnp.float32),
  )
  return product.astype(images.dtype)


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
  few = kernel.shape[2] <= superpixels.FEW_CHANNELS
  by = weight_gradients.grouped if few else weight_gradients.blocked
  if formulation == "shifted":
    by = weight_gradients.shifted
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
