"""What ids and labels may be, and what a population stores of them (host).

    ids                whole numbers of 0 .. 2**31 - 1 stay; all others, texts,
                       bytes and bool are numbered in sorted order
    labels             the same, and one-hot rows; 0 .. C-1 without gaps stay

`pixels` has those of samples, `GUIDE` the table of all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from personalization_jax import checks

Say = Callable[[str], None]

_PARTS = {
  **dict.fromkeys(("train", "training"), 0),
  **dict.fromkeys(("validation", "valid", "val", "dev"), 1),
  **dict.fromkeys(("test", "testing"), 2),
}


class Numbered(NamedTuple):
  """Numbers [N], and the name of each; None if they are their own names."""

  numbers: np.ndarray
  names: tuple[str, ...] | None
  # What whole numbers in the file stand for 0, 1, ...; None if these do.
  values: tuple[int, ...] | None = None


def individuals(values: Any, count: int, say: Say) -> Numbered:
  """Ids [count] of 0 or more."""
  values = _column("individuals", values, count)
  if _fits(values, 0):
    return Numbered(values.astype(np.int32), None)
  return _numbered("individuals", values, say, most_told=3)


def originals(values: Any, count: int) -> np.ndarray:
  """Ids [count] of drawings, which nobody names."""
  values = _column("originals", values, count)
  if not _fits(values, -(2**31)):
    values = np.unique(values, return_inverse=True)[1]
  return values.astype(np.int32)


def labels(
  values: Any, count: int, names: Sequence[str] | None, say: Say
) -> Numbered:
  """Classes [count] of 0 .. C-1, each with a sample.

  `names` [C] are those of the classes, if the data have any.
  """
  values = _label_column(values, count)
  if names is None:
    if _fits(values, 0):
      used = np.unique(values)
      if used[-1] == len(used) - 1:
        return Numbered(values.astype(np.int32), None)
    return _numbered("labels", values, say, most_told=12)
  names = class_names(names)
  numbers = places(values, count, names)
  used = np.unique(numbers)
  kept = tuple(names[place] for place in used)
  whole = None
  if len(used) < len(names):
    gone = np.delete(names, used).tolist()
    say(f"classes without a sample are left out: {listed(gone)}.")
    whole = tuple(used.tolist())
  numbers = np.searchsorted(used, numbers).astype(np.int32)
  return Numbered(numbers, kept, whole)


def class_names(values: Any) -> tuple[str, ...]:
  """Names of classes [C], each another one."""
  if np.ndim(values) != 1 or not len(values):
    raise ValueError(
      f"label_names must be a vector [C], but has shape {np.shape(values)}."
    )
  names = tuple(map(str, _column("label_names", values, np.size(values))))
  if len({*names}) < len(names):
    raise ValueError("label_names has a name twice: every class needs its own.")
  return names


def places(
  values: Any,
  count: int,
  names: Sequence[str],
  whole: Sequence[int] | None = None,
) -> np.ndarray:
  """The places of labels among the names of classes, int32 [count].

  Texts are names, and whole numbers are places, or those of `whole` in the same
  order (see `Numbered`). One never counts as the other: that would depend on
  which values a file happens to hold.
  """
  columns = np.shape(values)[1:]
  values = _label_column(values, count)
  if columns == (len(names),):  # one-hot, a column for each class
    whole = None
  keys: Sequence[Any] = names
  if values.dtype.kind != "U":
    keys = range(len(names)) if whole is None else whole
  place = {key: number for number, key in enumerate(keys)}
  known, which = np.unique(values, return_inverse=True)
  numbers = [place.get(value) for value in known.tolist()]
  if None not in numbers:
    return np.array(numbers, np.int32)[which]
  row = int(np.argmax(which == numbers.index(None)))
  raise ValueError(
    f"labels must be {_among(names, whole)}, but row {row} holds {values[row]}."
  )


def _among(names: Sequence[str], whole: Sequence[int] | None) -> str:
  """What labels of known classes may be."""
  numbers = f"whole numbers of 0..{len(names) - 1}"
  if whole is not None:
    numbers = f"whole numbers ({listed(whole)})"
  named = f"names of classes ({listed(names)}) or " * are_named(names)
  return named + numbers


def numbers_below(values: Any, count: int, num_classes: int) -> np.ndarray:
  """Labels [count] that are numbers of classes already."""
  values = _label_column(values, count)
  if values.dtype.kind not in "iu":
    raise ValueError(
      f"labels must be integers below num_classes, but are {values.dtype}."
    )
  checks.in_range("labels", values, num_classes)
  return values.astype(np.int32)


def parts(values: Any, count: int) -> np.ndarray:
  """Who trains (0), validates (1) and tests (2), int8 [count].

  Takes whether a row is a test sample, as bool or 0 and 1, or texts.
  """
  values = _column("is_test", values, count)
  is_text = values.dtype.kind == "U"
  known, which = np.unique(values, return_inverse=True)
  numbers = [
    _PARTS.get(value.lower()) if is_text else {0: 0, 1: 2}.get(int(value))
    for value in known.tolist()
  ]
  if None in numbers:
    row = int(np.argmax(which == numbers.index(None)))
    raise ValueError(
      "is_test must be 0 for training and 1 for test samples, or the texts"
      f" train, validation and test, but row {row} holds {values[row]}."
    )
  return np.array(numbers, np.int8)[which]


def are_named(names: Sequence[str]) -> bool:
  """Whether things are called otherwise than by their numbers."""
  return [*map(str, names)] != [*map(str, range(len(names)))]


def listed(names: Sequence[Any], most: int = 8) -> str:
  """Names in a sentence, not too many of them."""
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(map(str, names[:most])) + more


def _fits(values: np.ndarray, least: int) -> bool:
  """Whether these are integers that int32 holds, from the least on."""
  if values.dtype.kind not in "iu":
    return False
  return bool(values.min() >= least and values.max() < 2**31)


def _numbered(
  name: str, values: np.ndarray, say: Say, most_told: int
) -> Numbered:
  """Numbers in sorted order, with the texts of what they stand for."""
  known, numbers = np.unique(values, return_inverse=True)
  names = tuple(map(str, known.tolist()))
  whole = tuple(known.tolist()) if values.dtype.kind in "iu" else None
  numbers = numbers.astype(np.int32)
  if not are_named(names):
    return Numbered(numbers, None)
  told = [f"{number} is {text}" for number, text in enumerate(names)]
  if most_told < len(told):
    told[most_told:] = ["..."]
  say(
    f"the {len(names)} values of {name} are numbered in sorted order"
    f" ({', '.join(told)})."
  )
  return Numbered(numbers, names, whole)


def _label_column(values: Any, count: int) -> np.ndarray:
  """As `_column`; one-hot rows [count, C] are the places of their ones."""
  values = np.asarray(values)
  if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "biuf":
    return _column("labels", values, count)
  ones = values == 1
  wrong = (ones.sum(axis=1) != 1) | (ones != (values != 0)).any(axis=1)
  if wrong.any():
    raise ValueError(
      f"labels {shape_of(values)} must be one-hot, but row"
      f" {int(np.argmax(wrong))} isn't a single 1 among zeros."
    )
  return _column("labels", ones.argmax(axis=1), count)


def _column(name: str, values: Any, count: int) -> np.ndarray:
  """One value for each sample [count]: bool, integers or texts."""
  values = np.asarray(values)
  if values.shape == (count, 1):
    values = values[:, 0]
  if values.shape != (count,):
    raise ValueError(
      f"{name} must be a vector of {count} entries, as many as images has, but"
      f" has shape {values.shape}."
    )
  if values.dtype.kind in "OT":  # as pandas' columns of texts
    items = values.tolist()
    for row, item in enumerate(items):
      if not isinstance(item, str | bytes | int | np.integer | np.bool_):
        raise ValueError(
          f"{name} must be integers or texts, but row {row} holds {item!r}."
        )
    values = np.array(items)
  if values.dtype.kind == "S":
    values = np.char.decode(values, "utf-8", "backslashreplace")
  elif values.dtype.kind == "f":
    values = _whole(name, values)
  if values.dtype.kind not in "biuU":
    raise ValueError(
      f"{name} must be integers or texts, but are {values.dtype}."
    )
  if values.dtype.kind == "U":
    for row, text in enumerate(values.tolist()):
      if not text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{name} must be texts, but row {row} holds {text!r}.")
  return values


def _whole(name: str, values: np.ndarray) -> np.ndarray:
  """Floats that are whole numbers, as integers."""
  wrong = values != np.rint(values)  # NaN differs from itself
  if wrong.any():
    row = int(np.argmax(wrong))
    raise ValueError(
      f"{name} must be whole numbers or texts, but row {row} holds"
      f" {values[row]}."
    )
  most, bits = np.abs(values).max(), np.finfo(values.dtype).nmant + 1
  if most >= 2 ** min(bits, 63):
    raise ValueError(
      f"{name} are {values.dtype} and reach {most:.6g}, where neighbours can't"
      " be told apart: give integers or texts."
    )
  return values.astype(np.int64)


def shape_of(images: np.ndarray) -> str:
  """[N, H, W, C], as sentences have it."""
  return f"[{', '.join(map(str, images.shape))}]"
