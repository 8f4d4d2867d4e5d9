"""Runs in processes of their own: killed, resumed, and two at a time."""

import json
import random
import signal
import time

import pytest
from helpers import survival

from personalization_jax.checkpoints import trees
from personalization_jax.runs import directory


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
  """What the run gives that nobody interrupts."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  survival.finish(workdir, cache)
  return survival.content(workdir)


# Broken in one of two processes, while the other has nothing to exchange.
MEMORY = """
import jax
from personalization_jax.study import Study
def personalize(*_, **__):
  raise jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 4711 bytes.")
Study.personalize = personalize
"""
SLEEP = """
import time
from personalization_jax.study import Study
Study.personalize = lambda *_, **__: time.sleep(300)
"""
REFUSAL = """
from experiments.flags import study_flags
def load_population(say):
  raise ValueError("npz_path=people.npz is no file.")
study_flags.load_population = load_population
"""
DISK = """
import errno
from personalization_jax.study import Study
def personalize(*_, **__):
  raise OSError(errno.ENOSPC, "the disk is full", "x")
Study.personalize = personalize
"""
BUG = """
from personalization_jax.study import Study
def personalize(*_, **__):
  raise TypeError("4711 is no array")
Study.personalize = personalize
"""
CHECKPOINTS = """
from personalization_jax.checkpoints import files
def check_writable(folder):
  raise OSError(f"{folder} can't be written to (Permission denied).")
files.check_writable = check_writable
"""

# Each checkpoint stays incomplete for a while, and then complete, so that
# whoever looks for either finds it.
SLOW = """
import time
from personalization_jax.checkpoints import trees
def save_async(*args, save=trees.save_async):
  finish = save(*args)
  def slowly():
    time.sleep(0.5)
    finish()
    time.sleep(0.5)
  return slowly
trees.save_async = save_async
"""


def complete(workdir, task="sw-2"):
  """Checkpoints that count."""
  return list(workdir.glob(f"checkpoints/{task}/*.sha256.json"))


def incomplete(workdir):
  """Checkpoints that are being written."""
  found = (path for path in workdir.glob("checkpoints/*/*") if path.is_dir())
  return [path for path in found if not trees.exists(path)]


@pytest.mark.slow
def test_kills_change_nothing(tmp_path, cache, whole):
  """SIGKILL behind a checkpoint, SIGKILL in the next one, then SIGTERM."""
  workdir = tmp_path / "run"

  def cut(number, found):
    process = survival.start(workdir, cache, fault=SLOW)
    survival.wait_until(lambda: found(workdir), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert not (workdir / "results.csv").exists()
    return process.returncode, output

  assert cut(signal.SIGKILL, complete)[0] == -signal.SIGKILL
  assert cut(signal.SIGKILL, incomplete)[0] == -signal.SIGKILL
  code, output = cut(
    signal.SIGTERM, lambda workdir: complete(workdir, "global_phase")
  )
  assert code == 75, output
  assert "the same command goes on" in output
  output = survival.finish(workdir, cache)
  assert survival.content(workdir) == whole, output


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path, cache, whole):
  """Each run is killed four times, at moments spread over its whole length."""
  start = time.monotonic()
  survival.finish(tmp_path / "timed", cache)
  seconds = time.monotonic() - start
  for seed in range(5):
    generator = random.Random(seed)
    workdir, moments = tmp_path / str(seed), []
    for _ in range(4):
      process = survival.start(workdir, cache)
      moment = generator.uniform(0.3, 0.95) * seconds
      time.sleep(moment)
      process.kill()
      process.communicate()
      moments.append((round(moment, 2), len(list(workdir.rglob("*")))))
    survival.finish(workdir, cache)
    assert survival.content(workdir) == whole, moments
    print(moments)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path, cache, whole):
  """Three people on four devices of two processes: one is padding."""
  outputs = survival.finish_both(tmp_path / "two", cache)
  assert survival.content(tmp_path / "two") == whole
  assert "4 devices" in outputs[0]
  assert "Tables" not in outputs[1]


@pytest.mark.slow
def test_one_device_four_devices_and_two_processes_agree(tmp_path, cache):
  changes = {
    "methods": "baseline,tl:20,sg:30,ig:2",
    "autoencoder_epochs": 2,
    "num_individuals": 5,
  }
  survival.finish(tmp_path / "1", cache, **changes | {"cpu_devices": 1})
  survival.finish(tmp_path / "4", cache, **changes | {"cpu_devices": 4})
  survival.finish_both(tmp_path / "2x2", cache, **changes)
  whole = survival.content(tmp_path / "1")
  assert survival.content(tmp_path / "4") == whole
  assert survival.content(tmp_path / "2x2") == whole


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_one_process_ends_the_other_and_the_run_goes_on(
  tmp_path, cache, whole, victim
):
  """Then one process with other devices takes it up."""
  workdir = tmp_path / "two"
  processes = survival.start_both(workdir, cache, fault=SLOW)
  survival.wait_until(lambda: complete(workdir), processes[victim])
  processes[victim].kill()
  start = time.monotonic()
  output, _ = processes[1 - victim].communicate(timeout=60)
  print(f"ended after {time.monotonic() - start:.1f} s")
  code = processes[1 - victim].returncode
  assert code in (76, -signal.SIGABRT), output
  said = "lost another one" if code == 76 else "another task died"
  assert said in output
  processes[victim].communicate()
  assert not (workdir / "results.csv").exists()
  survival.finish(workdir, cache)
  assert survival.content(workdir) == whole


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_of_them(tmp_path, cache, whole):
  workdir = tmp_path / "two"
  processes = survival.start_both(workdir, cache, fault=SLOW)
  # What it trains then is compiled: it stops at the next block, not when the
  # patience with a compilation ends.
  survival.wait_until(lambda: complete(workdir), processes[0])
  processes[1].send_signal(signal.SIGTERM)
  outputs = [process.communicate(timeout=60)[0] for process in processes]
  assert [process.returncode for process in processes] == [75, 75], outputs
  survival.finish_both(workdir, cache)
  assert survival.content(workdir) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
  ("victim", "fault", "sentence"),
  [
    (0, MEMORY, "error: out of memory (RESOURCE_EXHAUSTED"),
    (1, MEMORY, "error: out of memory (RESOURCE_EXHAUSTED"),
    (1, REFUSAL, "error: --npz_path=people.npz is no file."),
    (0, DISK, "is on a full disk"),
    (1, BUG, "failed (TypeError: 4711 is no array)"),
    (1, CHECKPOINTS, "checkpoints can't be written to (Permission denied)"),
  ],
  ids=["memory 0", "memory 1", "refusal", "disk", "bug", "checkpoints"],
)
def test_what_one_process_fails_by_is_said_by_all(
  tmp_path, cache, victim, fault, sentence
):
  """With code 1, while the other is busy."""
  only = [{"fault": SLEEP}, {"fault": SLEEP}]
  only[victim] = {"fault": fault}
  both = survival.start_both(tmp_path / "run", cache, only)
  codes, outputs = survival.ends(both)
  assert codes == [1, 1], outputs
  for output in outputs:
    assert sentence in output
    assert "lost another one" not in output
    assert "Check failure stack trace" not in output  # JAX's own end
  assert ("Traceback" in outputs[victim]) == (fault == BUG)
  assert "Traceback" not in outputs[1 - victim]
  assert f"(process {victim})" in outputs[1 - victim]


@pytest.mark.slow
def test_processes_with_other_directories_or_flags_are_refused(tmp_path, cache):
  for only, sentence in (
    (
      [{"workdir": tmp_path / "a"}, {"workdir": tmp_path / "b"}],
      "/b isn't the same directory for all processes",
    ),
    (
      [{"learning_rate": 0.02}, {"learning_rate": 0.01}],
      "--learning_rate=0.01 of one process is --learning_rate=0.02 of the",
    ),
  ):
    both = survival.start_both(tmp_path / "run", cache, only)
    codes, outputs = survival.ends(both)
    assert codes == [1, 1], outputs
    assert all(sentence in output for output in outputs), outputs
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.slow
def test_a_directory_in_use_is_refused_by_all_processes(tmp_path, cache):
  workdir = tmp_path / "run"
  with directory.alone_in(workdir):
    codes, outputs = survival.ends(survival.start_both(workdir, cache))
    assert [path.name for path in workdir.iterdir()] == [".lock"]
  assert codes == [1, 1], outputs
  assert all("is in use by another process" in text for text in outputs)


@pytest.mark.slow
def test_of_two_commands_at_once_one_has_the_directory(tmp_path, cache):
  """And its configuration is that one's, in each of several tries."""
  for number in range(4):
    workdir = tmp_path / str(number)
    both = [
      survival.start(workdir, cache, fault=SLEEP, epochs=epochs)
      for epochs in (1, 2)
    ]
    survival.wait_until(
      lambda both=both: any(process.poll() is not None for process in both),
      None,
    )
    refused = next(process for process in both if process.poll() is not None)
    (running,) = (process for process in both if process is not refused)
    assert refused.returncode == 1
    assert "is in use by another process" in refused.communicate()[0]
    survival.wait_until((workdir / "config.json").exists, running)
    config = json.loads((workdir / "config.json").read_text())
    assert f"--epochs={config['settings']['epochs']}" in running.args
    running.kill()
    running.communicate()
