"""What a run needs is known before it starts."""

import collections
import contextlib
import dataclasses
import logging
import re
import types

import jax
import numpy as np
import pytest
from helpers.small_study import SETTINGS, make_study, trainer_of
from helpers.tiny import FIG_4, TINY, TINY_AUTOENCODER, Tiny

from experiments.runtime import disk, host_memory, resources, sizes
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints import keeper as progress
from personalization_jax.datasets import splits
from personalization_jax.methods import parse_methods
from personalization_jax.study import Study
from personalization_jax.training import latent_space, step
from personalization_jax.training.population import (
  PREDICTED,
  individual_keys,
  planned_bytes,
)

LATENTS = latent_space.LatentSettings()
Usage = collections.namedtuple("Usage", "total used free")


def test_bytes_of_a_tree_are_those_of_its_arrays():
  tree = {
    "a": np.zeros((3, 5), np.float32),
    "key": jax.random.split(jax.random.key(0), 3),
  }
  assert sizes.bytes_of(tree) == 60 + 24


def test_a_run_takes_no_more_disk_than_predicted(people, tmp_path):
  """With every checkpoint kept as long as it ever is."""
  largest = 0
  keeper = progress.Keeper(tmp_path / "checkpoints", seconds=0.0)
  study = make_study(
    people,
    how={"tiny": True},
    keeper=keeper,
    models_dir=tmp_path / "models",
  )
  methods = parse_methods("sw:2,tl:3")

  def look(_):
    nonlocal largest
    keeper.wait()
    largest = max(largest, disk.used(tmp_path))

  for method in methods:
    study.personalize(method, on_steps=look)
    look(0)
  need = disk.need(study, methods, save_models=True)
  without = disk.need(study, methods)
  assert largest <= need - disk.OTHER_FILES
  assert largest > 0.2 * (need - disk.OTHER_FILES)
  assert without < min(need, disk.need(study, methods, seeds=3))
  probabilities = disk.need(study, methods, save_probabilities=True)
  each = 4 * study.split.test.size * people.num_classes
  assert probabilities == without + 3 * each


@pytest.fixture(scope="module")
def tuned(people):
  """A study whose methods may look at validation data."""
  split = splits.split(
    people,
    *splits.choose_people(people, 3, 4, seed=2),
    validation_fraction=0.25,
    seed=2,
  )
  trainer = trainer_of(people, tiny=True)
  return lambda **how: Study(people, split, SETTINGS, trainer=trainer, **how)


@pytest.mark.slow
def test_methods_of_the_field_take_no_more_disk_than_predicted(tuned, tmp_path):
  largest = 0
  keeper = progress.Keeper(tmp_path / "checkpoints", seconds=0.0)
  study = tuned(keeper=keeper, models_dir=tmp_path / "models")
  methods = parse_methods("tl:5@best,head:4,knn:3,ifca:3+tl:4,reptile+tl:4")

  def look(_):
    nonlocal largest
    keeper.wait()
    largest = max(largest, disk.used(tmp_path))

  for method in methods:
    study.personalize(method, on_steps=look)
    look(0)
  need = disk.need(study, methods, save_models=True)
  assert largest <= need - disk.OTHER_FILES
  assert largest > 0.2 * (need - disk.OTHER_FILES)


@pytest.mark.parametrize("spec", ["ewc:4@1", "distil:4@1", "lora:4:9", "knn:5"])
def test_methods_of_the_field_take_no_more_memory_than_planned(tuned, spec):
  study, (method,) = tuned(), parse_methods(spec)
  trainer = study.trainer_of(method)
  programs = resources.lower(study, study.trainer)
  plan = resources.memory_plan(study, [method], study.trainer, programs, [])
  state, _ = study.global_phase()
  keys = individual_keys(jax.random.key(0), study.split.individuals[:2])
  states = trainer.share(state, keys)
  if method.fit is not None:
    own = study.split.train[:2]
    states = trainer.fit(states, own, own)
  batches = {"training": SETTINGS.batch_size, "evaluation": PREDICTED}
  for name, size in batches.items():
    length = trainer.block_steps if name == "training" else 1
    rows = np.zeros((2, length, size), np.int32)
    block, *store = trainer._block(rows, length)
    if name == "evaluation":
      predict = trainer._program(step.predict_rows, 2, trainer._layout)
      program = predict.lower(states, block, *store)
    elif method.late:
      steps = trainer._to_all(np.int32(1))
      program = trainer._train(None).lower(states, block, steps, *store)
    else:
      continue
    assert planned_bytes(program, on_cpu=True) <= plan.device[name], name


def test_too_little_disk_is_refused(people, tmp_path, monkeypatch):
  need = 11 * 2**20
  free = Usage(10**9, 0, 5 * 2**20)
  monkeypatch.setattr(files.shutil, "disk_usage", lambda path: free)
  with pytest.raises(
    ValueError,
    match=re.escape("needs 11 MiB more, but its disk has 5 MiB free"),
  ):
    disk.check(tmp_path / "a" / "run", need)
  # What is there already needn't be free.
  (tmp_path / "checkpoint").write_bytes(b"x" * (7 * 2**20))
  disk.check(tmp_path, need)


def test_schedules_that_no_memory_holds_are_refused(people):
  study = make_study(people)
  methods = parse_methods("sw:2,tl:99999999999")
  with pytest.raises(ValueError, match=r"schedule of 'tl:99999999999'.*MiB"):
    resources.fitting_trainer(study, methods, latents=LATENTS)


PLANNED = {}


@pytest.fixture
def study(people, monkeypatch):
  """Its programs are compiled once for all tests."""

  def planned(program, *, on_cpu):
    text = program.as_text()
    if text not in PLANNED:
      PLANNED[text] = planned_bytes(program, on_cpu=on_cpu)
    return PLANNED[text]

  monkeypatch.setattr(resources, "planned_bytes", planned)
  return make_study(people, how={"tiny": True, "individuals_per_device": 4})


@pytest.fixture
def trainer(study):
  return study.trainer


METHODS = parse_methods("sw:2,tl:3")


def fitting(study, **arguments):
  return resources.fitting_trainer(study, METHODS, latents=LATENTS, **arguments)


def device_need(study, count):
  """Bytes of each device with so many models there."""
  trainer = study.trainer.with_individuals_per_device(count)
  _, plan = fitting(dataclasses.replace(study, trainer=trainer))
  return max(plan.device.values())


@pytest.mark.slow
def test_as_many_models_go_at_once_as_memory_holds(study):
  needs = {count: device_need(study, count) for count in (1, 2, 4)}
  assert needs[1] < needs[2] < needs[4]

  def fit(need, **arguments):
    found, plan = fitting(study, memory_gib=need / 2**30, **arguments)
    planned = max(plan.device.values())
    assert planned == needs[found.individuals_per_device] <= need
    return found.individuals_per_device

  assert fit(2**1000 * 2**30) == fit(needs[4]) == 4
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


def test_a_program_that_the_compiler_has_no_room_for_is_made_smaller(
  study, monkeypatch
):
  """A TPU's compiler rejects it instead of telling its size."""
  planned = resources.memory_plan

  def refuse(study, methods, trainer, *programs):
    if trainer.individuals_per_device == 4:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of hbm.")
    return planned(study, methods, trainer, *programs)

  monkeypatch.setattr(resources, "memory_plan", refuse)
  found, _ = fitting(study)
  assert found.individuals_per_device == 2
  with pytest.raises(
    ValueError, match=r"=4 would take more .* \(RESOURCE.*hbm"
  ):
    fitting(study, fewer=False)

  def fail(*_):
    raise jax.errors.JaxRuntimeError("INTERNAL: a bug.")

  monkeypatch.setattr(resources, "memory_plan", fail)
  with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
    fitting(study)


@pytest.mark.parametrize("learner", [TINY, FIG_4], ids=["tiny", "fig. 4"])
def test_a_width_is_offered_where_the_model_has_one(
  study, monkeypatch, learner
):
  trainer = dataclasses.replace(study.trainer, learner=learner)
  lowered = types.SimpleNamespace(as_text=lambda: "")
  monkeypatch.setattr(type(trainer), "lower_train", lambda *_: lowered)
  monkeypatch.setattr(type(trainer), "lower_predict", lambda *_: lowered)
  monkeypatch.setattr(resources, "planned_bytes", lambda *_, **__: 2**40)
  remedies = ["--individuals_per_device", "--batch_size"]
  remedies += ["--width"] * (learner is FIG_4)
  kept = {**vars(study), "batches": study.batches, "trainer": trainer}
  study = types.SimpleNamespace(**kept)
  with pytest.raises(
    ValueError, match=f"lower {' or '.join(remedies)}, or take --store=host"
  ):
    fitting(study, memory_gib=1.0, fewer=False)


def test_evaluation_counts_where_it_takes_more_than_training(people):
  """It classifies 256 images at once, however small a batch is."""
  settings = dataclasses.replace(SETTINGS, batch_size=1)
  how = {"tiny": True, "individuals_per_device": 4}
  study = make_study(people, settings=settings, how=how)
  _, plan = fitting(study)
  training, evaluation = (
    plan.device[name] for name in ("training", "evaluation")
  )
  assert evaluation > training
  assert f"evaluation {sizes.megabytes(evaluation)}" in str(plan)
  with pytest.raises(ValueError, match="of each device for evaluation, but m"):
    fitting(study, memory_gib=(evaluation - 1) / 2**30, fewer=False)


def test_a_container_too_small_is_refused_before_compiling(study, monkeypatch):
  """Who compiles there is killed, and can't say a word."""
  small = host_memory.taken() + 2**20
  monkeypatch.setattr(host_memory, "limit", lambda: small)
  monkeypatch.setattr(resources, "planned_bytes", None)
  with pytest.raises(ValueError, match=r"^compiling would take .* MiB, all"):
    fitting(study)


def test_models_that_a_container_cannot_hold_are_refused(study, monkeypatch):
  """On a CPU every device takes from the host's memory."""
  _, plan = fitting(study)
  assert max(plan.host.values()) >= plan.process + study.trainer.mesh.size * (
    sizes.bytes_of(study.trainer.shapes) // study.trainer.mesh.size
  )
  monkeypatch.setattr(resources, "_check_compiling", lambda programs: None)
  monkeypatch.setattr(host_memory, "limit", lambda: plan.process // 2)
  with pytest.raises(
    ValueError, match=r"device=1 would take .* for \w+ on 2 devices .*container"
  ):
    fitting(study)


def test_memory_is_planned_for_all_that_a_block_holds(trainer):
  states = sizes.bytes_of(trainer.shapes) // trainer.mesh.size
  store = sizes.bytes_of((trainer.images, trainer.labels))
  rows = 4 * trainer.individuals_per_device * trainer.block_steps * 8
  small = planned_bytes(trainer.lower_train(8), on_cpu=True)
  assert small > 2 * states + store + rows
  # Activations grow with the batch, and models with the memory they take.
  assert planned_bytes(trainer.lower_train(64), on_cpu=True) > small + 7 * rows


def test_a_batch_that_no_memory_holds_is_planned_without_taking_any(trainer):
  lowered = trainer.lower_train(10**8)
  assert f"{trainer.block_steps}x{10**8}x" in lowered.as_text()


@contextlib.contextmanager
def compiled(caplog):
  """The names of the programs that are compiled meanwhile."""
  names = []
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    caplog.clear()
    yield names
  names += re.findall(r"Finished XLA compilation of (\S+)", caplog.text)


@pytest.mark.parametrize("store", ["device", "host"])
def test_the_programs_that_memory_is_planned_for_are_those_that_run(
  people, store, caplog
):
  traced = []

  class Counting(Tiny):
    hook = staticmethod(lambda: traced.append(None))

  learner = dataclasses.replace(TINY, model=Counting())
  trainer = dataclasses.replace(
    make_study(people).trainer,
    images=people.images,
    labels=people.labels,
    learner=learner,
    store=store,
  )
  keys = jax.random.split(jax.random.key(0), trainer.chunk_size)
  states = trainer.create(keys)
  rows = np.zeros((trainer.chunk_size, 2, 8), np.int32)
  with compiled(caplog) as planned:
    trainer.lower_train(8).compile()
    trainer.lower_predict(300).compile()
  before = len(traced)
  with compiled(caplog) as running:
    states, _ = trainer.train(states, rows)
    trainer.predict(states, np.zeros((trainer.chunk_size, 300), np.int32))
  assert len(planned) == 2
  assert not set(planned) & set(running)
  assert len(traced) == before > 0


def test_the_auto_encoder_is_planned_by_the_programs_that_run(
  people, caplog, monkeypatch
):
  monkeypatch.setattr(
    latent_space, "make_learner", lambda **_: TINY_AUTOENCODER
  )
  settings = latent_space.LatentSettings(epochs=1, batch_size=8)
  with compiled(caplog) as planned:
    for program in latent_space.lower(people, settings):
      program.compile()
  with compiled(caplog) as running:
    latent_space.fit(people, make_study(people).split, settings)
  programs = ["jit(_evaluate_batch)"] * 2 + ["jit(train_on_rows)"]
  assert sorted(name for name in planned if name in programs) == programs
  assert not set(programs) & set(running)


def test_methods_that_group_plan_for_their_latent_space(study, monkeypatch):
  monkeypatch.setattr(latent_space, "lower", lambda *_: [])
  _, plan = resources.fitting_trainer(
    study, parse_methods("sg:5,ig:2"), latents=LATENTS
  )
  store = sizes.bytes_of((study.trainer.images, study.trainer.labels))
  assert plan.device["grouping"] > store
  assert plan.device["the latent space"] >= store
  assert list(fitting(study)[1].device) == ["training", "evaluation"]


def test_the_length_of_a_schedule_is_that_of_its_sources(people):
  study = make_study(people)
  for method in parse_methods("shaping,es:3+sw:1/2+tl:4"):
    assert study.batches.length(method) == len(study.batches.sources(method))


def test_memory_is_told_in_a_phrase(monkeypatch):
  """No plan counts program files, and a peak says how many are in it."""
  monkeypatch.setattr(host_memory, "peak", lambda: 900 * 2**20)
  monkeypatch.setattr(host_memory, "program_files", lambda: 200 * 2**20)
  told = "900 MiB of the host (200 MiB of them program files)"
  assert resources.peak_memory() == told
  monkeypatch.undo()
  assert re.match(r"[\d,]+ MiB of the host", resources.peak_memory())
