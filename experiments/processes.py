"""Joining the processes of one run, on one host or on several."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time

import jax

# Seconds without a sign of life after which a process counts as lost; the
# others then end within a minute.
LOST_AFTER = 20
# Seconds in which all processes must have started.
PATIENCE = 300
# Another process was lost; all can be started again.
EXIT_CODE = 76


def join(
  coordinator_address: str | None,
  num_processes: int | None,
  process_id: int | None,
  detect: bool,
) -> None:
  """Makes this process one of a run's; does nothing if none is asked for.

  Args:
    coordinator_address: host:port of the first process.
    num_processes: how many there are.
    process_id: which this is, from 0.
    detect: have JAX find what isn't given, from SLURM, GKE, a TPU pod and
      others.

  Raises:
    ValueError: if flags are missing, contradict each other, or the processes
      don't find each other.
  """
  given = (coordinator_address, num_processes, process_id)
  if all(value is None for value in given) and not detect:
    return
  if not detect and any(value is None for value in given):
    raise ValueError(
      "--coordinator_address, --num_processes and --process_id go together;"
      " --distributed finds them by itself on SLURM, GKE and TPU pods."
    )
  if num_processes is not None and num_processes < 1:
    raise ValueError(f"--num_processes={num_processes} must be at least 1.")
  if (
    process_id is not None
    and num_processes is not None
    and not 0 <= process_id < num_processes
  ):
    raise ValueError(
      f"--process_id={process_id} must lie in 0..{num_processes - 1}"
      f" (--num_processes={num_processes})."
    )
  if coordinator_address is not None and not _has_port(coordinator_address):
    raise ValueError(
      f"--coordinator_address={coordinator_address} must be HOST:PORT."
    )
  if coordinator_address is not None and process_id:
    _wait_for(coordinator_address)
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


def end_if_lost(error: Exception, workdir: object) -> None:
  """Ends this process with a sentence if another one is gone.

  Args:
    error: what an exchange with the others raised.
    workdir: the run directory.
  """
  exchange = isinstance(error, jax.errors.JaxRuntimeError) or any(
    word in str(error) for word in ("coordination service", "Barrier", "Gloo")
  )
  if jax.process_count() == 1 or not exchange:
    return
  print(
    f"error: process {jax.process_index()} of {jax.process_count()} lost"
    f" another one ({str(error).splitlines()[0][:200]}); what is saved is safe,"
    f" and the same command goes on (--workdir={workdir}).",
    file=sys.stderr,
    flush=True,
  )
  # An ordinary exit would wait for the one that is gone.
  os._exit(EXIT_CODE)


def _wait_for(address: str) -> None:
  """Until the first process listens; JAX would end this one with a core dump.

  Args:
    address: host:port.

  Raises:
    ValueError: if it never does.
  """
  host, _, port = address.rpartition(":")
  end = time.monotonic() + PATIENCE
  while True:
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


def _has_port(address: str) -> bool:
  host, _, port = address.rpartition(":")
  return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def cores() -> list[int]:
  """The processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def use_cpu_cores(devices: int) -> None:
  """Makes each core a device: many CPU operations run on one thread only.

  XLA has as many threads as there are cores or devices, whichever is more. With
  a single one it adds up in another order than with several (whose number does
  not matter; see `convolution.choose_formulation`), so there are two at least.

  Args:
    devices: how many; 0 takes the cores there are.
  """
  there = len(cores())
  os.environ.setdefault("NPROC", str(max(there, 2)))
  # If JAX runs already, as in a notebook or a test, it keeps its devices.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", devices or there)


def use_compilation_cache() -> None:
  """Keeps compiled programs on disk, so that the next start is a fast one.

  They go to JAX_COMPILATION_CACHE_DIR, by default a folder in the user's cache;
  JAX_ENABLE_COMPILATION_CACHE=false keeps none.
  """
  if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    folder = os.path.join(home, "personalization_jax", "compiled")
    jax.config.update("jax_compilation_cache_dir", folder)
