"""Joining the processes of one run, on one host or on several."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import distributed

# What JAX knows of its coordination service, which has no public name.
_STATE: Any = distributed.global_state
# Seconds without a sign of life after which a process counts as lost; the
# others then end within a minute.
LOST_AFTER = 20
# Seconds in which all processes must have started.
PATIENCE = 300
# Another process was lost; all can be started again.
EXIT_CODE = 76
# Under this name a process tells the others why the run ends; every so many
# seconds they look, and after so many all have looked. One that lost another
# waits so many for what that one may say.
_KEY = "personalization_jax/ending"
_LISTEN_EVERY, _LISTENED, LAST_WORDS = 0.5, 2.0, 4.0
_leaving = threading.Lock()
_LOSS_STATUSES = (
  "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE",
  "UNKNOWN",
)  # fmt: skip
_LOSS = re.compile(
  r"barrier|heartbeat|coordination.?service|connection (closed|reset|refused)"
  r"|broken pipe|gloo|remote process exited|nccl.*(remote|abort|timed? ?out)",
  re.IGNORECASE | re.DOTALL,
)


class Ending(NamedTuple):
  """Why a run of several processes ends, and which of them said so."""

  process: int
  sentence: str
  code: int


def join(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
  detect: bool,
) -> None:
  """Makes this process one of a run's, if asked."""
  given = [coordinator_address, num_processes, process_id]
  if not detect:
    if given == [None] * 3:
      return
    if None in given:
      raise ValueError(
        "--coordinator_address, --num_processes and --process_id go together;"
        " --distributed finds them by itself on SLURM, GKE and TPU pods."
      )
  if num_processes and process_id and process_id >= num_processes:
    raise ValueError(
      f"--process_id={process_id} must lie in 0..{num_processes - 1}"
      f" (--num_processes={num_processes})."
    )
  if coordinator_address is not None:
    _check_address(coordinator_address, wait=bool(process_id))
  # JAX would catch SIGTERM itself; `interruption` does.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      cluster_detection_method=None if detect else "deactivate",
      initialization_timeout=PATIENCE,
      heartbeat_timeout_seconds=LOST_AFTER,
      shutdown_timeout_seconds=LOST_AFTER,
    )
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      "--distributed: the processes of this run don't find each other"
      f" ({str(error).splitlines()[0]})."
    ) from error
  _listen()


def _check_address(address: str, *, wait: bool) -> None:
  """Rejects what is no host:port or doesn't answer: JAX would dump core."""
  host, _, port = address.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 65536):
    raise ValueError(f"--coordinator_address={address} must be HOST:PORT.")
  end = time.monotonic() + PATIENCE
  while wait:
    try:
      socket.create_connection((host.strip("[]"), int(port)), 5).close()
      return
    except OSError as error:
      if isinstance(error, socket.gaierror) or time.monotonic() > end:
        raise ValueError(
          f"--coordinator_address={address} doesn't answer ({error}): it must"
          " be the host and a free port of the process with --process_id=0."
        ) from error
    time.sleep(0.2)


def end(sentence: str, code: int = 1) -> NoReturn:
  """Ends all processes of the run in a sentence, with the same exit code.

  What another one said before counts: what fails here may follow from it.
  """
  if several():
    _leave(tell(sentence, code))
  if code == 1:
    sys.exit(sentence)
  print(sentence, file=sys.stderr, flush=True)
  sys.exit(code)


def tell(sentence: str, code: int) -> Ending:
  """Tells all other processes to end, and why; returns what was said first."""
  mine = Ending(_STATE.process_id, sentence, code)
  if not several():
    return mine
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was faster
    _STATE.client.key_value_set(_KEY, json.dumps(mine))
  if mine.process == 0:
    time.sleep(_LISTENED)  # what the others ask ends with this process
  return _told() or mine


def several() -> bool:
  """Whether this process is one of several, or could be."""
  return jax.distributed.is_initialized()


def name() -> str:
  """What this process is called: "process 1 of 2"."""
  return f"process {_STATE.process_id} of {_STATE.num_processes}"


def is_loss(error: BaseException) -> bool:
  """Whether an error of Gloo, NCCL or JAX says that another process is gone."""
  if isinstance(error, OSError) or not several():
    return False
  text = str(error)
  status = re.match(r"([A-Z_]+):", text)
  if status and status[1] not in _LOSS_STATUSES:
    return False
  return bool(_LOSS.search(text))


def _told() -> Ending | None:
  """Why the run ends, if a process has said so."""
  try:
    return Ending(*json.loads(_STATE.client.key_value_try_get(_KEY)))
  except (jax.errors.JaxRuntimeError, AttributeError):
    return None  # nobody has, or the service is gone


def _leave(ending: Ending) -> NoReturn:
  """Prints and exits; an ordinary exit would wait for the others."""
  _leaving.acquire()  # one thread does, and once
  here = _STATE.process_id
  said = "" if ending.process == here else f" (process {ending.process})"
  with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
    print(f"{ending.sentence}{said}", file=sys.stderr, flush=True)
    sys.stdout.flush()
  if here == 0 and ending.process != here:
    time.sleep(_LISTENED)  # what the others ask ends with this process
  os._exit(ending.code)


def _listen() -> None:
  """Has this process end as soon as another one says why the run ends."""
  finished = threading.Event()

  def listen() -> None:
    while not finished.wait(_LISTEN_EVERY):
      told = _told()
      if told and told.process != _STATE.process_id:
        _leave(told)

  thread = threading.Thread(target=listen, daemon=True)
  thread.start()
  # Before JAX lets go of the service; the last one registered goes first.
  atexit.register(thread.join)
  atexit.register(finished.set)


def cores() -> list[int]:
  """The processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def use_cpu_cores(devices: int) -> None:
  """Makes each core a device, or so many: CPU operations often use one thread.

  XLA has as many threads as there are cores or devices, whichever is more. With
  a single one it adds up in another order than with several (whose number does
  not matter; see `networks.kernels.cpu`), so there are two at least.
  """
  there = len(cores())
  os.environ.setdefault("NPROC", str(max(there, 2)))
  # If JAX runs already, as in a notebook or a test, it keeps its devices.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", devices or there)


def use_compilation_cache() -> None:
  """Keeps compiled programs for the next start, in the user's cache."""
  # JAX_COMPILATION_CACHE_DIR names another folder; none are kept with
  # JAX_ENABLE_COMPILATION_CACHE=false.
  if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    folder = os.path.join(home, "personalization_jax", "compiled")
    jax.config.update("jax_compilation_cache_dir", folder)
