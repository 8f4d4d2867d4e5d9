"""Batch normalisation after ReLU, and max-pooling with it, in few passes (JAX).

What Flax's `BatchNorm` computes, with a derivative rule of its own that keeps
the input alone, and what pooling picked of it. Rows that are padding have
weight 0 instead of a mask of the full shape. Each platform has a formulation of
its own; see `platforms`.

Where a max-pooling follows, it comes first: normalisation rises or falls with
its input, by the sign of its scale, so the largest output is that of the
largest or of the smallest input. All but the statistics is then computed at the
pooled size, and the sums of the backward pass too.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from personalization_jax.networks.kernels import platforms
from personalization_jax.networks.kernels.normalised import Saved, normalise


class ReluBatchNorm(nn.Module):
  """relu(x + shift), normalised over a batch, scaled and biased by channel.

  Parameters and statistics have the names of `flax.linen.BatchNorm`.
  """

  channels: int
  momentum: float = 0.9
  window: int = 1  # of the max-pooling that follows; 1 for none
  dtype: Any = jnp.float32  # of the result; sums are float32

  def setup(self) -> None:
    """Names parameters and statistics."""
    of = (self.channels,), jnp.float32
    self.mean = self.variable("batch_stats", "mean", jnp.zeros, *of)
    self.var = self.variable("batch_stats", "var", jnp.ones, *of)
    self.scale = self.param("scale", nn.initializers.ones, *of)
    self.bias = self.param("bias", nn.initializers.zeros, *of)

  def kernel_sign(self) -> Array | None:
    """[C], what the convolution's kernel is to be multiplied by, if anything.

    An accelerator's pooling then has maxima alone to look for.
    """
    if self.window == 1:
      return None
    return platforms.call("kernel_sign", lax.stop_gradient(self.scale))

  def __call__(
    self,
    x: Array,
    shift: Array,
    weights: Array | None,
    *,
    use_running_average: bool,
  ) -> Array:
    """Normalises and pools x [B, H, W, C], H and W multiples of the window.

    x is the convolution with a kernel times `kernel_sign`, its bias the shift
    [C]. Weights float32 [B] are what each image counts in the batch's
    statistics; their sum is 1, or 0 if there is no image at all. None weighs
    all alike.
    """
    scale, bias, mean, var = self.scale, self.bias, self.mean, self.var
    if use_running_average:
      active = platforms.call("pool", x, shift, scale, window=self.window)
      out = normalise(active, scale, bias, mean.value, var.value)
      return out.astype(self.dtype)
    if weights is None:
      weights = jnp.full(len(x), 1 / len(x), jnp.float32)
    out, batch_mean, batch_variance = relu_batch_norm(
      x, shift, weights, scale, bias, self.window
    )
    if not self.is_initializing():
      keep = self.momentum
      mean.value = keep * mean.value + (1 - keep) * batch_mean
      var.value = keep * var.value + (1 - keep) * batch_variance
    return out.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def relu_batch_norm(
  x: Array, shift: Array, weights: Array, scale: Array, bias: Array, window: int
) -> tuple[Array, Array, Array]:
  """relu(x + shift) normalised, and its mean and (biased) variance [C].

  On an accelerator x is signed, as `ReluBatchNorm.kernel_sign` says.
  Of inputs that tie the first one gets a pooling's gradient on a TPU; elsewhere
  they share it evenly. None flows to the weights, or through mean and variance.
  """
  return _forward(x, shift, weights, scale, bias, window)[0]


def _forward(
  x: Array, shift: Array, weights: Array, scale: Array, bias: Array, window: int
) -> tuple[tuple[Array, Array, Array], Saved]:
  arrays = (x, shift, weights, scale, bias)
  return platforms.call("normalise", *arrays, window=window)


def _backward(
  window: int, saved: Saved, cotangents: tuple[Array, ...]
) -> tuple[Array | None, ...]:
  del window
  to_x, to_shift, to_scale, to_bias = platforms.call(
    "normalise_backward", saved, cotangents[0]
  )
  return to_x, to_shift, None, to_scale, to_bias


relu_batch_norm.defvjp(_forward, _backward)
