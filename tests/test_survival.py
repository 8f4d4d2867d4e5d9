"""Runs in processes of their own: killed, resumed, and two at a time."""

import random
import signal
import time

import pytest
import survival


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
  """What the run gives that nobody interrupts."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  survival.finish(workdir, cache)
  return survival.content(workdir)


def under_way(workdir):
  """Checkpoints of a method under way that count."""
  return list(workdir.glob("checkpoints/sw-2/*.sha256.json"))


def test_kills_change_nothing(tmp_path, cache, whole):
  """SIGKILL behind a checkpoint, SIGKILL in the next one, then SIGTERM."""
  workdir = tmp_path / "run"

  def cut(number, pattern):
    process = survival.start(workdir, cache)
    survival.wait_until(
      lambda: list(workdir.glob(f"checkpoints/{pattern}")), process
    )
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert not (workdir / "results.csv").exists()
    return process.returncode, output

  assert cut(signal.SIGKILL, "sw-2/*.sha256.json")[0] == -signal.SIGKILL
  assert cut(signal.SIGKILL, "*/*tmp*")[0] == -signal.SIGKILL
  code, output = cut(signal.SIGTERM, "global_phase/*.sha256.json")
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
  processes = survival.start_both(workdir, cache)
  survival.wait_until(lambda: under_way(workdir), processes[victim])
  processes[victim].kill()
  start = time.monotonic()
  output, _ = processes[1 - victim].communicate(timeout=60)
  print(f"ended after {time.monotonic() - start:.1f} s")
  assert processes[1 - victim].returncode not in (0, 75), output
  assert "lost another one" in output or "another task died" in output
  processes[victim].communicate()
  assert not (workdir / "results.csv").exists()
  survival.finish(workdir, cache)
  assert survival.content(workdir) == whole


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_of_them(tmp_path, cache, whole):
  workdir = tmp_path / "two"
  processes = survival.start_both(workdir, cache)
  # What it trains then is compiled: it stops at the next block, not when the
  # patience with a compilation ends.
  survival.wait_until(lambda: under_way(workdir), processes[0])
  processes[1].send_signal(signal.SIGTERM)
  outputs = [process.communicate(timeout=60)[0] for process in processes]
  assert [process.returncode for process in processes] == [75, 75], outputs
  survival.finish_both(workdir, cache)
  assert survival.content(workdir) == whole
