"""Runs of the script in processes of their own, to be killed and resumed."""

import os
import pathlib
import socket
import subprocess
import sys
import time

from helpers.small_run import SMALL

ROOT = pathlib.Path(__file__).parents[2]
# Accuracies that differ between people, and losses in every digit.
TINY_RUN = {
  **SMALL,
  "epochs": 40,
  "batch_size": 16,
  "learning_rate": 0.02,
  "methods": "sw:2,tl:90",
  "checkpoint_minutes": 0,
  "noflips": True,
  "cpu_devices": 2,
}
COMPARED = ("results.csv", "metrics.jsonl", "table1.csv")


# The script, once other code was executed.
_SCRIPT = """
import runpy
runpy.run_module("experiments.table1", run_name="__main__")
"""


def command(workdir, fault="", **changes):
  """The script with the tiny run's flags; True gives a flag without value.

  `fault` is code that is executed before, to break something.
  """
  flags = {**TINY_RUN, **changes, "workdir": workdir}
  script = ["-c", fault + _SCRIPT] if fault else ["-m", "experiments.table1"]
  return [sys.executable, *script] + [
    f"--{name}" if value is True else f"--{name}={value}"
    for name, value in flags.items()
  ]


def environment(cache):
  """Programs are compiled once for all processes of a test."""
  return {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
  }


def start(workdir, cache, **changes):
  """A process, not waited for."""
  return subprocess.Popen(
    command(workdir, **changes),
    env=environment(cache),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(workdir, cache, **changes):
  """A run to its end; its output."""
  process = start(workdir, cache, **changes)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0, output
  return output


def content(workdir):
  """What must be the same, byte for byte."""
  return {name: (workdir / name).read_bytes() for name in COMPARED}


def wait_until(condition, process, seconds=300):
  """Polls; fails if the process ends before."""
  end = time.monotonic() + seconds
  while not condition():
    assert process is None or process.poll() is None, process.stdout.read()
    assert time.monotonic() < end, "nothing happened"
    time.sleep(0.02)


def free_port():
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def start_both(workdir, cache, only=None, **changes):
  """Two processes of one run.

  `only` has for each of them what it is started with beside `changes`.
  """
  address = f"127.0.0.1:{free_port()}"
  return [
    start(
      **{
        "workdir": workdir,
        "cache": cache,
        "coordinator_address": address,
        "num_processes": 2,
        "process_id": number,
        **changes,
        **(only or ({}, {}))[number],
      }
    )
    for number in range(2)
  ]


def ends(processes, seconds=300):
  """Exit codes and outputs."""
  try:
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [process.returncode for process in processes], outputs


def finish_both(workdir, cache, **changes):
  outputs = []
  processes = start_both(workdir, cache, **changes)
  for process in processes:
    output, _ = process.communicate(timeout=300)
    outputs.append(output)
  assert [process.returncode for process in processes] == [0, 0], outputs
  return outputs
