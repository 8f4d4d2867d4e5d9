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
  """What the run gives that nobody interrupts."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  survival.finish(workdir, cache)
  return survival.content(workdir)


def under_way(workdir):
  """Checkpoints of a method under way that count."""
  return list(workdir.glob("checkpoints/sw-2/*.sha256.json"))


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
  output = survival.finish(workdir, cache)
  assert survival.content(workdir) == whole, output


def test_sigterm_exits_with_its_code_and_goes_on(tmp_path, cache, whole):
  workdir = tmp_path / "run"
  process = survival.start(workdir, cache)
  survival.wait_until(lambda: under_way(workdir), process)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=20)
  assert process.returncode == 75, output
  assert "the same command goes on" in output
  assert list((workdir / "checkpoints" / "sw-2").iterdir())
  assert not (workdir / "results.csv").exists()
  survival.finish(workdir, cache)
  assert survival.content(workdir) == whole


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
