"""Several processes on this machine, as on several hosts: the same results."""

import signal
import socket
import time

import pytest
import survival


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("compiled")


def free_port():
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def start_both(workdir, cache, **changes):
  address = f"127.0.0.1:{free_port()}"
  return [
    survival.start(
      workdir,
      cache,
      coordinator_address=address,
      num_processes=2,
      process_id=number,
      **changes,
    )
    for number in range(2)
  ]


def finish_both(workdir, cache, **changes):
  outputs = []
  processes = start_both(workdir, cache, **changes)
  for process in processes:
    output, _ = process.communicate(timeout=300)
    outputs.append(output)
  assert [process.returncode for process in processes] == [0, 0], outputs
  return outputs


def under_way(workdir):
  return list(workdir.glob("checkpoints/sw-2/*.sha256.json"))


def test_two_processes_write_what_one_writes(tmp_path, cache):
  """Three people on four devices of two processes: one is padding."""
  survival.finish(tmp_path / "one", cache)
  outputs = finish_both(tmp_path / "two", cache)
  whole = survival.content(tmp_path / "one")
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
  finish_both(tmp_path / "2x2", cache, **changes)
  whole = survival.content(tmp_path / "1")
  assert survival.content(tmp_path / "4") == whole
  assert survival.content(tmp_path / "2x2") == whole


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_one_process_ends_the_other_and_the_run_goes_on(
  tmp_path, cache, victim
):
  """Then one process with other devices takes it up."""
  survival.finish(tmp_path / "one", cache)
  workdir = tmp_path / "two"
  processes = start_both(workdir, cache)
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
  assert survival.content(workdir) == survival.content(tmp_path / "one")


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_of_them(tmp_path, cache):
  survival.finish(tmp_path / "one", cache)
  workdir = tmp_path / "two"
  processes = start_both(workdir, cache, checkpoint_minutes=60)
  survival.wait_until((workdir / "config.json").exists, processes[0])
  time.sleep(4)
  processes[1].send_signal(signal.SIGTERM)
  outputs = [process.communicate(timeout=20)[0] for process in processes]
  assert [process.returncode for process in processes] == [75, 75], outputs
  finish_both(workdir, cache)
  assert survival.content(workdir) == survival.content(tmp_path / "one")
