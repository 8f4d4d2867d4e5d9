"""What the script does about signals, and about processes that aren't there."""

import os
import signal
import subprocess
import sys
import time

import jax
import pytest
from helpers import survival

from experiments.runtime import processes

BUSY = """
import time
from experiments.runtime import interruption
interruption.PATIENCE = {patience}
asked = interruption.install(lambda *why: print(*why, flush=True))
print("ready", flush=True)
while not (asked() and {looks}):
  time.sleep(0.02)
"""


def start(**values):
  process = subprocess.Popen(
    [sys.executable, "-c", BUSY.format(**values)],
    cwd=survival.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "ready\n"
  return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_never_looks_is_ended_with_the_code_and_tells_why(number):
  process = start(patience=0.5, looks=False)
  process.send_signal(number)
  told, errors = process.communicate(timeout=20)
  assert process.returncode == 75
  assert told.startswith("Stopped between two moments")
  assert told.endswith(" 75\n")
  assert "Asked to stop" in errors
  assert "the last checkpoint counts" in errors


def test_who_never_looks_is_ended_even_if_nobody_reads_what_it_says():
  """The terminal is closed, and the pipe of standard error with it."""
  process = start(patience=0.5, looks=False)
  process.stderr.close()
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 75


def test_cores_are_counted_where_nobody_says_which(monkeypatch):
  """As on macOS."""
  there = processes.cores()
  assert there
  monkeypatch.delattr(processes.os, "sched_getaffinity", raising=False)
  assert len(processes.cores()) == os.cpu_count()


def test_who_looks_ends_by_themselves():
  process = start(patience=60, looks=True)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=20)
  assert process.returncode == 0


def test_a_second_ctrl_c_ends_at_once():
  process = start(patience=60, looks=False)
  process.send_signal(signal.SIGINT)
  time.sleep(0.3)
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=20)
  assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_first_process_that_does_not_answer_is_named(monkeypatch, host):
  monkeypatch.setattr(processes, "PATIENCE", 0.3)
  address = f"{host}:{survival.free_port()}"
  with pytest.raises(ValueError, match=f"--coordinator_address={address} does"):
    processes.join(address, 2, 1, detect=False)


def test_a_single_process_joins_nothing():
  processes.join(None, None, None, detect=False)


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_compiled_programs_are_kept_in_the_user_s_cache(
  monkeypatch, tmp_path, chosen
):
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  try:
    jax.config.update("jax_compilation_cache_dir", chosen)
    processes.use_compilation_cache()
    expected = chosen or str(tmp_path / "personalization_jax" / "compiled")
    assert jax.config.jax_compilation_cache_dir == expected
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


LOSSES = [
  "INTERNAL: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:3",
  "INTERNAL: Gloo AllGather failed: Timed out waiting 30000ms for recv",
  "DEADLINE_EXCEEDED: Barrier timed out. Id: prepared::0",
  "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats)",
  "INTERNAL: NCCL operation failed: remote process exited or a network error",
  "Barrier failed because a task is in error",
]
FAULTS = [
  "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4711 bytes.",
  "INVALID_ARGUMENT: Gloo all-reduce: shapes differ",
  "INTERNAL: cuSolver internal error",
  "FAILED_PRECONDITION: DNN library initialization failed.",
  "UNIMPLEMENTED: Multiprocess computations aren't implemented on CPU.",
]


@pytest.mark.parametrize("text", [*LOSSES, *FAULTS])
def test_only_what_says_that_a_process_is_gone_is_its_loss(monkeypatch, text):
  error = jax.errors.JaxRuntimeError(text)
  assert not processes.is_loss(error)  # of a single process nobody is lost
  monkeypatch.setattr(processes, "several", lambda: True)
  assert processes.is_loss(error) == (text in LOSSES)
  assert not processes.is_loss(BrokenPipeError("broken pipe"))


def test_a_single_process_ends_with_the_sentence_and_the_code(capsys):
  with pytest.raises(SystemExit) as stopped:
    processes.end("error: no.")
  assert stopped.value.code == "error: no."  # printed, with code 1
  with pytest.raises(SystemExit) as stopped:
    processes.end("lost.", 76)
  assert stopped.value.code == 76
  assert capsys.readouterr().err == "lost.\n"
