"""That they are written is in test_seeds and test_guide."""

import importlib.util
import types

import numpy as np
import pytest

from experiments.runtime import tensorboard
from personalization_jax.checkpoints import files


def test_what_is_missing_is_said_to_python_and_the_command_line(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  sentence = r"^event files \(--tensorboard\) need the extra `tensorboard`: pip"
  with pytest.raises(ValueError, match=sentence):
    tensorboard.check()


def curves(num_steps, num_points):
  rng = np.random.default_rng(0)
  return types.SimpleNamespace(
    method="tl:2",
    seed=0,
    losses=rng.random((3, num_steps)),
    curve_steps=np.arange(1, num_points + 1),
    individual_curve=rng.random((3, num_points)),
    global_curve=rng.random((3, num_points)),
  )


def test_a_full_disk_is_not_lost_in_the_writer_s_thread(monkeypatch, tmp_path):
  """What it asks for is as much as there comes, or a little more."""
  pytest.importorskip("tensorboardX")
  asked = []
  monkeypatch.setattr(files, "check_space", lambda _, size: asked.append(size))
  for result in (curves(200, 0), curves(20, 30)):
    tensorboard.write(tmp_path, [result])
    (file,) = tmp_path.rglob("events.*")
    assert file.stat().st_size <= asked[-1] < 10 * file.stat().st_size
  monkeypatch.undo()
  full = types.SimpleNamespace(free=100)
  monkeypatch.setattr(files.shutil, "disk_usage", lambda _: full)
  with pytest.raises(OSError, match="the disk is full"):
    tensorboard.write(tmp_path, [curves(200, 0)])
