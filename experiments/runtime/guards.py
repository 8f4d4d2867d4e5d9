"""What all processes of a run share: its directory, its flags, its end."""

from __future__ import annotations

import contextlib
import errno
import json
import pathlib
import secrets
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from experiments.runtime import console, interruption, processes
from personalization_jax import checks, distributed
from personalization_jax.checkpoints.keeper import Stopped
from personalization_jax.runs import directory

FINGERPRINT = "dataset_fingerprint"
# Within so many seconds a shared disk shows what another host wrote.
_SHARED_WITHIN = 20.0


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the run directory for this run alone; all processes must share it."""
  token, first = secrets.token_hex(8), distributed.is_first()
  with (
    directory.alone_in(workdir, token) if first else contextlib.nullcontext()
  ):
    token = distributed.text_from_first(token)
    end = time.monotonic() + _SHARED_WITHIN
    while not (first or directory.holds_token(workdir, token)):
      if time.monotonic() > end:
        raise ValueError(
          f"--workdir={workdir} isn't the same directory for all processes: it"
          " must lie on a disk that they share."
        )
      time.sleep(0.2)
    yield


def check_alike(given: Mapping[str, Any]) -> None:
  """Rejects processes whose flags, or FINGERPRINT, aren't the first one's."""
  mine = {name: str(value) for name, value in given.items()}
  firsts = json.loads(distributed.text_from_first(json.dumps(mine)))
  for name in {**firsts, **mine}:
    if firsts.get(name) == mine.get(name):
      continue
    if name == FINGERPRINT:
      raise ValueError("the processes of this run read different data.")
    raise ValueError(
      f"--{name}={mine.get(name)} of one process is --{name}={firsts.get(name)}"
      " of the first: start all with the same flags."
    )


@contextlib.contextmanager
def told(workdir: pathlib.Path, *refusals: type[Exception]) -> Iterator[None]:
  """Ends the run in a sentence, on all processes, if it can't go on.

  `refusals` say themselves what is wrong; unknown errors are raised again.
  """
  again = f"the same command goes on (--workdir={workdir})"
  try:
    yield
  except Stopped:
    print(f"Stopped as asked to: {again}.", file=sys.stderr, flush=True)
    sys.exit(interruption.EXIT_CODE)
  except Exception as error:
    first_line, code = checks.first_line(error)[:200], 1
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
      why = (
        f"out of memory ({first_line}): with a lower --individuals_per_device"
        f" or --store=host {again}; a lower --batch_size, or --width of a"
        " network for images, takes another --workdir."
      )
    elif processes.is_loss(error):
      time.sleep(processes.LAST_WORDS)  # this one ends if there are any
      code = processes.EXIT_CODE
      why = (
        f"{processes.name()} lost another one ({first_line}); what is saved is"
        f" safe, and {again}."
      )
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      why = (
        f"--workdir={workdir} is on a full disk; what is finished is safe, and"
        " with more space the same command goes on."
      )
    elif isinstance(error, OSError) and error.filename and error.strerror:
      why = f"{error.filename}: {error.strerror}."
    elif isinstance(error, refusals):
      why = console.as_flag(error, list(flags.FLAGS))
    elif processes.several():
      traceback.print_exception(error)
      why = f"{processes.name()} failed ({type(error).__name__}: {first_line})."
    else:
      raise
    processes.end(f"error: {why}", code)
