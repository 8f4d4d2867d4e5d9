"""Models of one's own by their names, `module:Class`."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from flax import linen as nn

from personalization_jax import checks
from personalization_jax.networks import interface


def make(
  factory: str, sample_shape: tuple[int, ...], num_classes: int
) -> nn.Module:
  """The model that a class or function gives when called with `num_classes`.

  An `nnx.Module`'s class is bridged (`networks.bridge`). A ValueError says why
  there is none, or what is wrong with it for samples of this shape.
  """
  module_name, _, name = str(factory).partition(":")
  if not (module_name and name):
    raise ValueError(
      f"{factory!r} must be module:Class, as my_models:Dropping for the class"
      " Dropping in my_models.py."
    )
  try:
    found: Any = importlib.import_module(module_name)
  except Exception as error:  # whatever the module's own code raises
    if isinstance(error, ModuleNotFoundError) and (
      f"{module_name}.".startswith(f"{error.name}.")
    ):
      raise ValueError(
        f"{factory}: there is no module {error.name!r} here or in the"
        " environment: run from the folder that holds"
        f" {module_name.replace('.', '/')}.py, or install it."
      ) from error
    raise ValueError(
      f"{factory}: module {module_name!r} can't be imported ({_told(error)})."
    ) from error
  called = getattr(found, name, None)
  if not callable(called):
    raise ValueError(
      f"{factory}: module {module_name!r} has no class or function {name!r}."
    )
  try:
    if isinstance(called, type) and interface.is_of_nnx(called):
      # Only whoever uses nnx waits for it.
      from personalization_jax.networks import bridge

      called = functools.partial(bridge.linen_of, called)
    model: nn.Module = called(num_classes=num_classes)
  except Exception as error:  # whatever the model's own code raises
    raise ValueError(
      f"{factory} can't be called as {name}(num_classes={num_classes})"
      f" ({_told(error)})."
    ) from error
  interface.check(model, sample_shape, num_classes)
  return model


def _told(error: Exception) -> str:
  return f"{type(error).__name__}: {checks.first_line(error)}"
