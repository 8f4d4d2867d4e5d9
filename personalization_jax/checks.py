"""Checks of arguments, and how errors are quoted."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np


def whole_number(name: str, value: Any, at_least: int) -> None:
  """Rejects all but whole numbers, Python's or NumPy's, of at least this."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise ValueError(f"{name}={value!r} must be a whole number.")
  if value < at_least:
    wanted = "0 or more" if at_least == 0 else f"at least {at_least}"
    raise ValueError(f"{name}={value} must be {wanted}.")


def seed(value: Any, name: str = "seed") -> None:
  """Rejects all but whole numbers of 0 .. 2**32 - 1."""
  whole_number(name, value, 0)
  # JAX's keys hold 32 bits: larger seeds would repeat weights, but not batches.
  if value >= 2**32:
    raise ValueError(f"{name}={value} must be below 2**32.")


def positive(name: str, value: Any) -> None:
  """Rejects what isn't a finite number above 0, naming the argument."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise ValueError(f"{name}={value!r} must be a number.")
  if not value > 0.0:  # type: ignore[operator]
    raise ValueError(f"{name}={value} must be above 0.")
  if value == math.inf:
    raise ValueError(f"{name}={value} must be finite.")


def in_range(name: str, values: np.ndarray, end: int | None = None) -> None:
  """Rejects integers [N] below 0, or from `end` on, naming a row of them."""
  wrong = (values < 0) | (values >= (math.inf if end is None else end))
  if wrong.any():
    row = int(np.argmax(wrong))
    wanted = "be 0 or more" if end is None else f"lie in 0..{end - 1}"
    raise ValueError(
      f"{name} must {wanted}, but row {row} holds {values[row]}."
    )


def fractions(name: str, values: np.ndarray, *, nan: bool = False) -> None:
  """Rejects numbers outside 0..1, and NaN where it stands for nothing."""
  wrong = ~((values >= 0) & (values <= 1)) & ~(nan & np.isnan(values))
  if wrong.any():
    raise ValueError(f"{name} must lie in 0..1, but one is {values[wrong][0]}.")


def shapes(*arrays: tuple[str, Any, str], empty: bool = False) -> None:
  """Rejects arrays that disagree: each has a name, and a letter for each axis.

  An axis has one size wherever its letter stands, 0 only if it may be `empty`.
  """
  sizes: dict[str, int] = {}
  for name, array, axes in arrays:
    shape, wanted = list(np.shape(array)), f"[{', '.join(axes)}]"
    if len(shape) != len(axes) or (0 in shape and not empty):
      not_0 = "" if empty else ", none of them 0"
      raise ValueError(f"{name} must be {wanted}{not_0}, but is {shape}.")
    for axis, size in zip(axes, shape):
      if sizes.setdefault(axis, size) != size:
        raise ValueError(
          f"{name} has shape {shape}, but {axis} of {wanted} is"
          f" {sizes[axis]} in other arrays."
        )


def training(settings: Any) -> None:
  """Rejects epochs, batch_size, learning_rate, width or seed out of range."""
  for name in ("epochs", "batch_size"):
    whole_number(name, getattr(settings, name), 1)
  for name in ("learning_rate", "width"):
    positive(name, getattr(settings, name))
  seed(settings.seed)


def plain_numbers(fields: Any) -> None:
  """Makes a dataclass's numbers Python's, so that equal ones print alike."""
  kinds = {
    "int": int, "int | None": int, "float": float, "float | None": float,
  }  # fmt: skip
  for field in dataclasses.fields(fields):
    kind, value = kinds.get(str(field.type)), getattr(fields, field.name)
    if kind is not None and value is not None:
      object.__setattr__(fields, field.name, kind(value))


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
  """Puts what an error is about before its sentence: an argument, a file."""
  try:
    yield
  except (ValueError, OSError) as error:
    raise ValueError(f"{what}: {error}") from error


def first_line(error: BaseException) -> str:
  """An error's first line without its full stop, or its type if it has none."""
  line, *_ = str(error).strip().strip("'\"").strip().splitlines() or [""]
  return line.strip().rstrip(".") or type(error).__name__
