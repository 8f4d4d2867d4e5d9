"""Work in processes of its own: other threads, other libraries, a time limit.

A worker is started afresh (not forked), prepares itself once and then waits for
calls, so that a process's start and a library's warming up are never timed.
Its environment is its parent's: both sides of a comparison have the same
settings of memory allocation.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self


class Worker:
  """A process that prepares something and then runs it on demand.

  Use it as a context manager; leaving it ends the process.
  """

  def __init__(
    self,
    setup: Callable[..., Callable[..., Any]],
    *arguments: Any,
    cores: Collection[int] = (),
    environment: Mapping[str, str] | None = None,
  ):
    """Starts the process; `wait` once for its preparation.

    Args:
      setup: a module's function, called in the process; what it returns is
        what `start` runs.
      *arguments: of setup.
      cores: the process is kept on these; on any by default.
      environment: variables set before setup is called.
    """
    context = multiprocessing.get_context("spawn")
    self._connection, other = context.Pipe()
    self._process = context.Process(
      target=_serve,
      args=(other, setup, arguments, tuple(cores), dict(environment or {})),
      daemon=True,
    )
    self._process.start()
    other.close()

  def start(self, *arguments: Any) -> None:
    """Begins a call and returns at once."""
    self._connection.send(arguments)

  def wait(self, limit: float | None = None) -> Any:
    """The result of the preparation, which is None, or of a call.

    Args:
      limit: seconds; None waits for ever.

    Returns:
      What the call returned.

    Raises:
      TimeoutError: after the limit; the worker can only be closed then.
      RuntimeError: if the process failed, with its message.
    """
    if not self._connection.poll(limit):
      raise TimeoutError(f"no result in {limit:.0f} s")
    try:
      worked, result = self._connection.recv()
    except EOFError:
      raise RuntimeError("the process ended without a result") from None
    if not worked:
      raise RuntimeError(result)
    return result

  def call(self, *arguments: Any, limit: float | None = None) -> Any:
    """`start` and `wait`."""
    self.start(*arguments)
    return self.wait(limit)

  def close(self) -> None:
    """Ends the process, whatever it is doing."""
    self._process.kill()
    self._process.join()
    self._connection.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _serve(
  connection: Any,
  setup: Callable[..., Callable[..., Any]],
  arguments: tuple[Any, ...],
  cores: tuple[int, ...],
  environment: dict[str, str],
) -> None:
  os.environ.update(environment)
  if cores and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, cores)
  try:
    run = setup(*arguments)
    connection.send((True, None))
    while True:
      connection.send((True, run(*connection.recv())))
  except EOFError:
    return  # The parent is gone.
  except Exception:
    connection.send((False, traceback.format_exc()))
