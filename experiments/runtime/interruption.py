"""Ending a run when a scheduler or a person asks for it.

SIGTERM and SIGINT (Ctrl-C) have the run save what is under way and exit with
the code `EXIT_CODE`; the same command goes on from there. The handler sets a
flag and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

# "Temporary failure" in sysexits.h: try again.
EXIT_CODE = 75
# Schedulers kill for good after 30 s or more.
PATIENCE = 15.0


def install(tell: Callable[[str, int], object]) -> Callable[[], bool]:
  """Catches SIGTERM and SIGINT; returns whether one has come.

  After `PATIENCE` seconds the process ends whatever it is doing (compiling,
  say), with the same code: what is on disk is complete at any moment. `tell` is
  given sentence and code before. A second Ctrl-C ends it at once.
  """
  asked = threading.Event()
  # The interpreter writes a byte here at once, even while the main thread is
  # in compiled code and the handler has to wait.
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

  def handle(number: int, frame: FrameType | None) -> None:
    asked.set()
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, signal.SIG_DFL)

  def watch() -> None:
    while os.read(reading, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
      pass
    say("Asked to stop: saving first.")
    time.sleep(PATIENCE)
    why = "Stopped between two moments to save: the last checkpoint counts."
    say(why)
    tell(why, EXIT_CODE)
    os._exit(EXIT_CODE)

  def say(text: str) -> None:
    # A closed terminal or pipe must not keep the process from its end.
    with contextlib.suppress(OSError, ValueError, AttributeError):
      print(text, file=sys.stderr, flush=True)

  signal.signal(signal.SIGTERM, handle)
  signal.signal(signal.SIGINT, handle)
  threading.Thread(target=watch, daemon=True).start()
  return asked.is_set
