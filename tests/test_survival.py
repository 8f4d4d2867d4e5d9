"""Kills and resumes: the same bytes, wherever a run was cut."""

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
  """The run that nobody interrupts, and how long it takes when compiled."""
  folder = tmp_path_factory.mktemp("whole")
  survival.finish(folder / "first", cache)
  start = time.monotonic()
  survival.finish(folder / "second", cache)
  seconds = time.monotonic() - start
  assert survival.content(folder / "first") == survival.content(
    folder / "second"
  )
  return survival.content(folder / "first"), seconds


def under_way(workdir):
  """Checkpoints of a method under way that count."""
  return list(workdir.glob("checkpoints/sw-2/*.sha256.json"))


def kill_and_resume(workdir, cache, whole, kills, seed):
  """Kills at random moments, then lets the run end."""
  generator = random.Random(seed)
  moments = []
  for _ in range(kills):
    process = survival.start(workdir, cache)
    moment = generator.uniform(0.3, 0.9) * whole[1]
    time.sleep(moment)
    process.kill()
    process.communicate()
    moments.append((round(moment, 2), len(list(workdir.rglob("*")))))
  survival.finish(workdir, cache, checkpoint_minutes=10)
  assert survival.content(workdir) == whole[0], moments
  print(moments)


def test_kills_change_nothing(tmp_path, cache, whole):
  """SIGKILL as soon as a checkpoint counts, then in the next one's writing."""
  workdir = tmp_path / "run"
  process = survival.start(workdir, cache)
  survival.wait_until(lambda: under_way(workdir), process)
  process.kill()
  process.communicate()
  process = survival.start(workdir, cache)
  survival.wait_until(
    lambda: list(workdir.glob("checkpoints/*/*tmp*")), process
  )
  process.kill()
  process.communicate()
  output = survival.finish(workdir, cache, individuals_per_device=2)
  assert survival.content(workdir) == whole[0], output


def test_sigterm_saves_and_exits_with_its_code(tmp_path, cache, whole):
  workdir = tmp_path / "run"
  process = survival.start(workdir, cache, checkpoint_minutes=60)
  survival.wait_until((workdir / "config.json").exists, process)
  time.sleep(0.3 * whole[1])
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=20)
  assert process.returncode == 75, output
  assert "the same command goes on" in output
  assert under_way(workdir)
  assert not (workdir / "results.csv").exists()
  survival.finish(workdir, cache)
  assert survival.content(workdir) == whole[0]


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path, cache, whole):
  for run in range(5):
    kill_and_resume(tmp_path / str(run), cache, whole, 4, seed=run)
