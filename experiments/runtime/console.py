"""What scripts print, and how they begin."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Container, Sequence

import tqdm
from absl import flags, logging

from personalization_jax import checks, distributed
from personalization_jax.checkpoints import files

# Words joined by underscores, and single ones that a value or a rule follows;
# none that is in a path or has dashes already.
_ARGUMENT = re.compile(
  r"(?<![\w./-])([a-z]+(_[a-z]+)+(?![\w/])|[a-z]+(?==)|^[a-z]+(?= must ))"
)


of = checks.naming  # for a flag, or its file


def begin(argv: Sequence[str]) -> None:
  """Silences all but warnings; rejects words that are no flags in argv[1:]."""
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step it takes
  if len(argv) > 1:
    raise ValueError(f"unexpected argument {argv[1]!r}; flags begin with --.")


def say(text: str) -> None:
  """Prints on the first process alone."""
  if distributed.is_first():
    print(text, flush=True)


def as_flag(error: Exception, names: Container[str]) -> str:
  """The library's sentence, with dashes before arguments that are flags."""
  if isinstance(error, MemoryError):
    return f"this host's memory doesn't suffice ({checks.first_line(error)})."
  return _ARGUMENT.sub(
    lambda found: "--" * (found[0] in names) + found[0], str(error)
  )


def write_output(path: pathlib.Path, content: str | bytes) -> None:
  """Writes the file of --output."""
  try:
    files.write_atomically(path, content)
  except OSError as error:
    raise ValueError(
      f"--output={path} can't be written ({error.strerror}): take another file."
    ) from error


def progress(total: int, description: str) -> tqdm.tqdm:
  """A bar with rate and time left; none for no steps."""
  return tqdm.tqdm(
    total=total,
    desc=description,
    unit="step",
    disable=not (total and distributed.is_first()),
    # A log file gets a line now and then, a terminal a moving bar.
    mininterval=1.0 if sys.stderr.isatty() else 10.0,
  )
