"""Which formulation each platform gets: the one place that decides (JAX).

A program's platform is that of the mesh it is lowered for, whatever the default
backend is. Why each is taken stands in experiments/PERFORMANCE.md, "What is
used on which device": a column for each platform, of which GPUs are the
default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels import accelerator, cpu
from personalization_jax.networks.kernels.cpu import batch_norm as cpu_norm


class Formulation(NamedTuple):
  """A platform's functions."""

  convolve: Callable[..., Array]  # images and kernel
  gradients: Callable[..., tuple[Array, Array]]  # of both, by the cotangent too
  kernel_sign: Callable[[Array], Array]  # before a pooling, by the scale
  normalise: Callable[..., Any]  # `batch_norm.relu_batch_norm` and `Saved`
  normalise_backward: Callable[..., tuple[Array, ...]]
  pool: Callable[..., Array]  # what evaluation normalises, float32
  dropout_bits: Callable[[Array], Array] = lambda bits: bits


_GPU = Formulation(
  accelerator.convolve,
  accelerator.gradients_in_groups,
  accelerator.kernel_sign,
  accelerator.forward,
  accelerator.backward,
  accelerator.pool,
)
BY_PLATFORM = {
  "cpu": Formulation(
    cpu.convolve,
    cpu.gradients,
    jnp.ones_like,
    cpu_norm.forward,
    cpu_norm.backward,
    cpu_norm.pool,
  ),
  "tpu": _GPU._replace(
    gradients=accelerator.gradients,
    normalise=functools.partial(accelerator.forward, reduces=True),
    normalise_backward=functools.partial(accelerator.backward, scatters=True),
    # Or they are drawn anew in each of three passes, at their full cost.
    dropout_bits=lax.optimization_barrier,
  ),
  "default": _GPU,
}


def call(name: str, *arrays: Any, **static: Any) -> Any:
  """Calls one of the functions of the platform that is lowered for."""
  functions = {
    platform: functools.partial(getattr(formulation, name), **static)
    for platform, formulation in BY_PLATFORM.items()
  }
  return lax.platform_dependent(*arrays, **functions)
