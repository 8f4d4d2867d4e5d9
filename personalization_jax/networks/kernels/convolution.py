"""Convolution for networks whose weights differ by individual (JAX).

A population trains under `vmap` on an accelerator, and on a CPU as one
individual after another (`lax.map`), a virtual device a core. `platforms` says
which formulation each of them gets.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from personalization_jax.networks.kernels import platforms


class Convolution(nn.Module):
  """`flax.linen.Conv`, its bias not yet added: the same parameters."""

  channels: int
  size: int = 3  # side of the kernel, odd
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.lecun_normal()
  bias_init: Any = nn.initializers.zeros

  @nn.compact
  def __call__(
    self, x: Array, sign: Array | None = None
  ) -> tuple[Array, Array]:
    """Convolves [B, H, W, C]; also gives the bias, float32 [channels].

    The kernel is multiplied by the sign [channels], if there is one.
    """
    shape = (self.size, self.size, x.shape[-1], self.channels)
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    bias = self.param("bias", self.bias_init, (self.channels,), jnp.float32)
    if sign is not None:
      kernel = kernel * sign
    return convolve(x, kernel.astype(self.dtype)), bias


def convolve(images: Array, kernel: Array) -> Array:
  """Convolves images [B, H, W, in channels]: stride 1, padded to the same size.

  The kernel [kh, kw, in channels, out channels] is of the same dtype, kh and kw
  odd. Equal to `lax.conv_general_dilated` in value and gradient, up to
  rounding.
  """
  chex.assert_rank([images, kernel], 4)
  chex.assert_type([images, kernel], float)
  chex.assert_equal(images.dtype, kernel.dtype)
  chex.assert_equal(images.shape[3], kernel.shape[2])
  chex.assert_equal((kernel.shape[0] % 2, kernel.shape[1] % 2), (1, 1))
  return _convolve(_varying_as(images, kernel), _varying_as(kernel, images))


def _varying_as(array: Array, other: Array) -> Array:
  """Makes an array vary over all axes of a mesh that another one varies over.

  A custom gradient must vary as its argument does. Inside `shard_map`, with
  kernels of their own and images of everybody (or the reverse), it would not,
  and JAX rejects it. A constant selection between the two marks the array,
  compiles to nothing, and its transpose sums over the mesh as it should.
  """
  return jnp.where(True, array, lax.stop_gradient(other).ravel()[0])


@jax.custom_vjp
def _convolve(images: Array, kernel: Array) -> Array:
  return platforms.call("convolve", images, kernel)


_convolve.defvjp(
  lambda *arguments: (_convolve(*arguments), arguments),
  lambda arguments, cotangent: platforms.call(
    "gradients", *arguments, cotangent
  ),
)
