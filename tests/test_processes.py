"""What the script does about signals, and about processes that aren't there."""

import os
import signal
import subprocess
import sys
import time

import jax
import pytest
import survival

from experiments import processes

BUSY = """
import time
from experiments import interruption
asked = interruption.install(patience={patience})
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
def test_who_never_looks_is_ended_with_the_code(number):
  process = start(patience=0.5, looks=False)
  process.send_signal(number)
  _, errors = process.communicate(timeout=20)
  assert process.returncode == 75
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
