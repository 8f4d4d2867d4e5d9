"""What only a CPU wants: `convolve` and its gradients (JAX).

On a CPU XLA's own weight gradient inside a loop (`lax.scan`, `lax.map`) leaves
the library kernel for a naive one, and costs more than all the rest together;
its convolutions of one or eight channels leave most of the machine idle. Each
module here computes the same function and its weight gradient, and this one
picks between them. None divides one long sum among threads.

Milliseconds of the convolution, and of its weight gradient, measured on
2026-11-25 (one AMD EPYC core, jax 0.10.2, float32, batch 128, in a loop; XLA's
own weight gradient is slower throughout):

  size  channels   |  xla  superpixels  winograd | blocked  superp.  winograd
  32      1 to 8   |  7.4          0.8       -   |    7.2     1.0       -
  32      1 to 32  |  9.8          3.5       -   |    7.8     2.8       -
  32      8 to 16  |  7.7          4.5      9.3  |    9.7     7.9      20
  32     16 to 8   | 12.5          5.1     12.0  |
  16     16 to 32  |  3.3          4.3      4.7  |    6.4     6.9      11
  16     32 to 16  |  3.6          4.6      4.0  |
  16     32 to 32  |  6.9          8.5      5.7  |   12      12        11
  32     32 to 64  | 58           69       50    |   75      82        87
  32     64 to 32  | 82            -       46    |
  16     64 to 128 | 47           63       29    |   63       -        55
  16    128 to 128 | 100           -       57    |  115       -        77
  8     128 to 128 | 24            -       16    |   28       -        21
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import jax.numpy as jnp
from jax import Array

from personalization_jax.networks.kernels.cpu import (
  blocked,
  superpixels,
  winograd,
)

# In channels times out channels: up to the first superpixels are the fastest,
# from the second Winograd's filters are, from the third their gradient too.
_NARROW, _WIDE, _WIDE_GRADIENT = 8 * 16, 32 * 32, 64 * 128


def convolve(images: Array, kernel: Array) -> Array:
  """[B, H, W, out channels] by the fastest formulation of these shapes."""
  return _choose(kernel.shape, images.shape, _WIDE).convolve(images, kernel)


def gradients(
  images: Array, kernel: Array, cotangent: Array
) -> tuple[Array, Array]:
  """Of `convolve`, by images and kernel, each by its own shapes' fastest."""
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  chosen = _choose(kernel.shape, images.shape, _WIDE_GRADIENT)
  return (
    convolve(cotangent, turned),
    chosen.weight_gradient(images, kernel, cotangent),
  )


def _choose(
  kernel_shape: Sequence[int], image_shape: Sequence[int], wide: int
) -> ModuleType:
  inputs, outputs = kernel_shape[2:]
  narrow = inputs <= blocked.FEW_CHANNELS or inputs * outputs <= _NARROW
  if narrow and superpixels.fits(kernel_shape, image_shape):
    return superpixels
  if inputs * outputs >= wide and winograd.fits(kernel_shape):
    return winograd
  return blocked
