"""An `nnx.Module` as everybody's model, by Flax's own bridge (JAX)."""

from __future__ import annotations

import inspect
from typing import Any

from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict
from flax.nnx import bridge
from jax import Array

from personalization_jax.networks import interface


def linen_of(nnx_class: type[nnx.Module], **arguments: Any) -> nn.Module:
  """The Linen module of an nnx class.

  Args:
    nnx_class: its `__call__` takes samples float32 [B, ...] alone and gives
      logits [B, num_classes]. The module is switched by its own `train()` and
      `eval()`; dropout has a new key in each step.
    arguments: what the class is called with, beside `rngs`.

  Raises:
    ValueError: if `__call__` takes a training flag or a mask, which it wouldn't
      be given.
  """
  taken = inspect.signature(nnx_class.__call__).parameters
  for name in (*interface.OPTIONS, *interface.OTHER_NAMES):
    if name in taken:
      raise ValueError(
        f"model {nnx_class.__name__} takes {name!r}, but an nnx.Module is"
        " called with samples alone and switched by its train() and eval():"
        f" leave {name!r} out."
      )
  return Bridged(nnx_class, kwargs=FrozenDict(arguments), metadata_fn=None)


class Bridged(bridge.ToLinen):
  """An nnx module that takes `train`, as one with batch statistics has to."""

  def __call__(  # type: ignore[override]
    self, samples: Array, *, train: bool = False
  ) -> Any:
    """Logits [B, num_classes] of samples [B, ...]."""

    def switched(module: nnx.Module, samples: Array) -> Any:
      if train:
        module.train()
      else:
        module.eval()
      return module(samples)

    return super().__call__(samples, nnx_method=switched)
