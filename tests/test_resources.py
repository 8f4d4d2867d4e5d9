"""What a run needs is known before it starts."""

import collections
import dataclasses
import re

import jax
import numpy as np
import pytest
from test_personalization import make_study
from tiny import TINY, Tiny

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


@pytest.fixture
def trainer(people):
  return dataclasses.replace(
    make_study(people).trainer, learner=TINY, individuals_per_device=4
  )


def test_as_many_models_go_at_once_as_memory_holds(trainer, monkeypatch):
  needs = {
    count: trainer.with_individuals_per_device(count).planned_bytes(8)
    for count in (1, 2, 4)
  }
  assert needs[1] < needs[2] < needs[4]

  def fit(need, **arguments):
    limit = dict(memory_gib=need / 2**30) | arguments
    fitting, planned = resources.fitting_trainer(trainer, 8, **limit)
    assert planned == needs[fitting.individuals_per_device] <= need
    return fitting.individuals_per_device

  assert fit(needs[4]) == 4
  assert fit(needs[4] - 1) == 2
  assert fit(needs[2] - 1) == 1
  with pytest.raises(
    ValueError, match=r"device=1 would take \d+ MiB .*--memory"
  ):
    fit(needs[1] - 1)
  with pytest.raises(
    ValueError, match=r"device=4 .*: lower --individuals_per_d"
  ):
    fit(needs[4] - 1, fewer=False)
  # Without a limit of the user's own it is the device's.
  monkeypatch.setattr(
    resources, "_host_memory", lambda: trainer.mesh.size * 2**20
  )
  with pytest.raises(ValueError, match="but may take 1 MiB, all it has"):
    resources.fitting_trainer(trainer, 4096)


def test_memory_is_planned_for_all_that_a_block_holds(trainer):
  states = resources.bytes_of(trainer.shapes) // trainer.mesh.size
  store = resources.bytes_of((trainer.images, trainer.labels))
  rows = 4 * trainer.individuals_per_device * trainer.block_steps * 8
  small = trainer.planned_bytes(8)
  assert small > 2 * states + store + rows
  # Activations grow with the batch, and models with the memory they take.
  assert trainer.planned_bytes(64) > small + 7 * rows


def test_the_program_that_memory_is_planned_for_is_the_one_that_trains(
  trainer,
):
  traced = []

  class Counting(Tiny):
    hook = staticmethod(lambda: traced.append(None))

  learner = dataclasses.replace(TINY, model=Counting())
  trainer = dataclasses.replace(trainer, learner=learner)
  keys = jax.random.split(jax.random.key(0), trainer.chunk)
  trainer.planned_bytes(8)
  states = trainer.create(keys)
  before = len(traced)
  assert before > 0
  trainer.train(states, np.zeros((trainer.chunk, 2, 8), np.int32))
  assert len(traced) == before


def test_the_length_of_a_schedule_is_that_of_its_sources(people):
  study = make_study(people)
  for method in parse_methods("shaping,es:3+sw:1/2+tl:4"):
    assert study.batches.length(method) == len(study.batches.sources(method))


def test_memory_is_told_in_a_phrase():
  assert re.match(r"[\d,]+ MiB of the host", resources.peak_memory())
