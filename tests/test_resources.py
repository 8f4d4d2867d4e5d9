"""What a run needs is known before it starts."""

import collections
import dataclasses
import re

import jax
import numpy as np
import pytest
from test_personalization import make_study
from tiny import TINY

from personalization_jax import progress, resources
from personalization_jax.methods import parse_methods

Usage = collections.namedtuple("Usage", "total used free")


def test_bytes_of_a_tree_are_those_of_its_arrays():
  tree = {
    "a": np.zeros((3, 5), np.float32),
    "key": jax.random.split(jax.random.key(0), 3),
  }
  assert resources.bytes_of(tree) == 60 + 24


def test_a_run_takes_no_more_disk_than_predicted(people, tmp_path):
  """With every checkpoint kept as long as it ever is."""
  largest = 0
  keeper = progress.Keeper(tmp_path / "checkpoints", seconds=0.0)
  study = make_study(people, keeper=keeper, models_dir=tmp_path / "models")
  study.trainer = dataclasses.replace(
    study.trainer, learner=TINY, block_steps=4
  )
  methods = parse_methods("sw:2,tl:3")

  def look(_):
    nonlocal largest
    keeper.wait()
    largest = max(largest, resources.disk_used(tmp_path))

  for method in methods:
    study.personalize(method, on_steps=look)
    look(0)
  need = resources.disk_need(study, methods, save_models=True)
  without = resources.disk_need(study, methods)
  assert largest <= need.total - need.other
  assert largest > 0.2 * (need.total - need.other)
  assert need.models > 0
  assert without.models == 0


def test_too_little_disk_is_refused(people, tmp_path, monkeypatch):
  need = resources.DiskNeed(10 * 2**20, 2**20, 0, other=0)
  free = Usage(10**9, 0, 5 * 2**20)
  monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: free)
  with pytest.raises(
    ValueError,
    match=re.escape("needs 11 MiB more, but its disk has 5 MiB free"),
  ):
    resources.check_disk(tmp_path / "a" / "run", need)
  # What is there already needn't be free.
  (tmp_path / "checkpoint").write_bytes(b"x" * (7 * 2**20))
  resources.check_disk(tmp_path, need)


def test_schedules_that_no_memory_holds_are_refused(people):
  study = make_study(people)
  methods = parse_methods("sw:2,tl:99999999999")
  with pytest.raises(ValueError, match=r"schedule of 'tl:99999999999'.*MiB"):
    resources.check_memory(study, methods)
  resources.check_memory(study, methods[:1])


def test_the_length_of_a_schedule_is_that_of_its_sources(people):
  study = make_study(people)
  for method in parse_methods("shaping,es:3+sw:1/2+tl:4"):
    assert study.batches.length(method) == len(study.batches.sources(method))


def test_memory_is_told_in_a_phrase():
  assert re.match(r"[\d,]+ MiB of the host", resources.peak_memory())
