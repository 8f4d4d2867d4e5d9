"""What a run prints, on its first process."""

from __future__ import annotations

import sys

import tqdm

from personalization_jax import hosts


def say(text: str) -> None:
  """Prints on the first process alone."""
  if hosts.is_first():
    print(text, flush=True)


def progress(total: int, description: str) -> tqdm.tqdm:
  """A bar with rate and time left."""
  return tqdm.tqdm(
    total=total,
    desc=description,
    unit="step",
    disable=not hosts.is_first(),
    # A log file gets a line now and then, a terminal a moving bar.
    mininterval=1.0 if sys.stderr.isatty() else 10.0,
  )
