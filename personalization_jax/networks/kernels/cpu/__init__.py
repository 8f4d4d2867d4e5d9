"""What only a CPU wants: `convolve` and its gradients (JAX).

On a CPU XLA's own weight gradient inside a loop (`lax.scan`, `lax.map`) leaves
the library kernel for a naive one, and costs more than all the rest together;
its convolutions of one or eight channels leave most of the machine idle. Each
module here computes the same function and its weight gradient, and this one
picks between them, by the measurements in experiments/PERFORMANCE.md ("What is
picked on a CPU"). None divides one long sum among threads.
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
  if inputs * outputs >= wide and tuple(kernel_shape[:2]) == (3, 3):
    return winograd
  return blocked
