"""What a run prints, on its first process."""

from __future__ import annotations

import re
import sys
from collections.abc import Container

import tqdm

from personalization_jax import checks, distributed


def say(text: str) -> None:
  """Prints on the first process alone."""
  if distributed.is_first():
    print(text, flush=True)


def as_flag(error: Exception, names: Container[str]) -> str:
  """What the library says of an argument, as said of the flag.

  Args:
    error: it may begin with an argument's name, as in `epochs=0 must be ...`.
    names: of the flags there are.

  Returns:
    Its text, with dashes in front if there is such a flag; of NumPy's words
    for too large an array, a sentence.
  """
  text = str(error)
  if isinstance(error, MemoryError):
    return f"this host's memory doesn't suffice ({checks.first_line(error)})."
  found = re.match(r"(\w+)(=| must )", text)
  return f"--{text}" if found and found[1] in names else text


def progress(total: int, description: str) -> tqdm.tqdm:
  """A bar with rate and time left."""
  return tqdm.tqdm(
    total=total,
    desc=description,
    unit="step",
    disable=not distributed.is_first(),
    # A log file gets a line now and then, a terminal a moving bar.
    mininterval=1.0 if sys.stderr.isatty() else 10.0,
  )
