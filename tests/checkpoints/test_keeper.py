"""What is under way: saved, found again, and never wrong (in this process)."""

import dataclasses
import errno
import random

import jax
import numpy as np
import pytest
from helpers.small_study import make_study

from personalization_jax.checkpoints import trees
from personalization_jax.checkpoints.keeper import Keeper, Stopped
from personalization_jax.methods import parse_method
from personalization_jax.networks import autoencoder
from personalization_jax.training import latent_space
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
)

METHOD = parse_method("sw:2+tl:6:last=1")
TL = parse_method("tl:6:last=1")


def keeper(folder, stop_after=None, seconds=0.0, said=None):
  """Saves after each block; asks to stop at the n-th look."""
  looks = []

  def should_stop():
    looks.append(None)
    return stop_after is not None and len(looks) > stop_after

  say = (lambda text: None) if said is None else said.append
  return Keeper(folder, seconds=seconds, should_stop=should_stop, say=say)


@pytest.fixture(scope="module")
def new_study(people):
  """Makes studies that share their compiled programs, but nothing else."""

  def make(keeper=None, devices=2, individuals_per_device=1):
    how = {"tiny": True, "individuals_per_device": individuals_per_device}
    return make_study(people, 5, devices=devices, how=how, keeper=keeper)

  return make


@pytest.fixture(scope="module")
def whole(new_study):
  study = new_study()
  return {method: study.personalize(method) for method in (METHOD, TL)}


def assert_same(result, whole):
  """Losses and predictions of the same bits."""
  expected = whole[parse_method(result.method)]
  for field in dataclasses.fields(result):
    np.testing.assert_array_equal(
      getattr(result, field.name), getattr(expected, field.name), field.name
    )


def plan(study, count, size):
  """What is done of METHOD, and what is to do."""
  return study._task(METHOD).plan(count, size)


def stop(study, method):
  with pytest.raises(Stopped):
    study.personalize(method)
  study.keeper.wait()


@pytest.mark.parametrize("method", [METHOD, TL], ids=lambda m: m.spec)
@pytest.mark.parametrize("looks", [1, 2, 3, 5, 8])
def test_a_stop_anywhere_changes_nothing(
  new_study, whole, tmp_path, method, looks
):
  stop(new_study(keeper(tmp_path, looks, seconds=1e9)), method)
  study = new_study(keeper(tmp_path))
  steps, expected = [], study.num_steps([method])
  result = study.personalize(method, on_steps=steps.append)
  assert_same(result, whole)
  assert sum(steps) == expected
  study.forget(method)
  assert not (tmp_path / "tl-6-last=1").exists()


@pytest.mark.parametrize(
  ("devices", "individuals_per_device"),
  [
    (4, 1),
    pytest.param(1, 1, marks=pytest.mark.slow),
    pytest.param(1, 3, marks=pytest.mark.slow),
  ],
)
def test_other_devices_go_on(
  new_study, whole, tmp_path, devices, individuals_per_device
):
  """Chunks of two become chunks of one, three and four."""
  stop(new_study(keeper(tmp_path, 9)), METHOD)
  study = new_study(keeper(tmp_path), devices, individuals_per_device)
  begun = plan(study, 5, study.trainer.chunk_size)
  assert begun[0].step == -1  # finished
  assert begun[1].step > 0
  assert_same(study.personalize(METHOD), whole)


def test_what_is_saved_is_not_trained_again(new_study, tmp_path, monkeypatch):
  seen = []
  train = PopulationTrainer.train

  def counting(self, states, rows, *, start, **arguments):
    seen.append(rows.shape[0] * (rows.shape[1] - start))
    return train(self, states, rows, start=start, **arguments)

  stop(new_study(keeper(tmp_path, 9)), METHOD)
  study = new_study(keeper(tmp_path))
  found = plan(study, 5, 2)
  assert [chunk.is_finished for chunk in found] == [True, False, False]
  assert found[1].step > 0
  monkeypatch.setattr(PopulationTrainer, "train", counting)
  study.personalize(METHOD)
  length = len(study.batches.sources(METHOD))
  assert sum(seen) == 2 * (length - found[1].step) + length


def test_what_an_older_version_finished_lacks_later_arrays_alone(
  new_study, whole, tmp_path
):
  """It kept no probabilities of the individuals whom it had finished."""
  stop(new_study(keeper(tmp_path, 9)), METHOD)
  study = new_study(keeper(tmp_path))
  done, *_ = plan(study, 5, 2)
  path = study._task(METHOD).folder / done._replace(step=-1).name
  with np.load(path) as arrays:
    before = {name: arrays[name] for name in arrays if "_log_" not in name}
    assert len(before) == len(arrays) - 6
  np.savez_compressed(path, **before)
  lacking = {
    f"{data}_log_{name}": None
    for data in ("individual", "global", "validation")
    for name in ("probability", "confidence")
  }
  expected = dataclasses.replace(whole[METHOD], **lacking)
  assert_same(study.personalize(METHOD), {METHOD: expected})


def test_only_the_last_two_checkpoints_are_kept(new_study, tmp_path):
  stop(new_study(keeper(tmp_path, 9)), METHOD)
  folder = tmp_path / "sw-2+tl-6-last=1"
  names = sorted(path.name for path in folder.iterdir())
  assert sum(name.endswith(".sha256.json") for name in names) == 2
  assert len(names) == 5  # the two folders, and the first two individuals
  # What a kill leaves is gone once the next process has looked.
  newest = names[-1].removesuffix(".sha256.json")
  for left in (f".{names[0]}.4711.part", f".{newest}.sha256.json.12.part"):
    (folder / left).write_text("half")
  (folder / f"{newest}.orbax-checkpoint-tmp-7").mkdir()
  (folder / "00004-00005-step-0000004").mkdir()  # without its digests
  plan(new_study(keeper(tmp_path)), 5, 2)
  assert sorted(path.name for path in folder.iterdir()) == names


def damage_one(folder, generator):
  """One random fault in one random file; what was done."""
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  path = generator.choice(files)
  content = path.read_bytes()
  kind = generator.choice(["delete", "truncate", "flip", "empty", "swap"])
  if kind == "delete":
    path.unlink()
  elif kind == "truncate":
    path.write_bytes(content[: generator.randrange(max(1, len(content)))])
  elif kind == "empty":
    path.write_bytes(b"")
  elif kind == "swap":
    path.write_bytes(generator.choice(files).read_bytes())
  elif content:
    place = generator.randrange(len(content))
    flipped = content[place] ^ (1 << generator.randrange(8))
    path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
  return kind, path.relative_to(folder)


def survive_faults(new_study, whole, folder, seeds, method):
  for seed in seeds:
    generator = random.Random(seed)
    run = folder / str(seed)
    stop(new_study(keeper(run, generator.randint(4, 8))), method)
    done = [damage_one(run, generator) for _ in range(generator.randint(1, 3))]
    result = new_study(keeper(run)).personalize(method)
    try:
      assert_same(result, whole)
    except AssertionError as error:
      raise AssertionError(f"wrong after {done}") from error


@pytest.mark.parametrize("method", [METHOD, TL], ids=lambda m: m.spec)
def test_faults_never_give_a_wrong_result(new_study, whole, tmp_path, method):
  survive_faults(new_study, whole, tmp_path, range(5), method)


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHOD, TL], ids=lambda m: m.spec)
def test_fifty_faults_never_give_a_wrong_result(
  new_study, whole, tmp_path, method
):
  survive_faults(new_study, whole, tmp_path, range(100, 125), method)


def test_a_damaged_checkpoint_is_said_aloud_and_the_one_before_is_used(
  new_study, whole, tmp_path
):
  stop(new_study(keeper(tmp_path, 9)), METHOD)
  folder = tmp_path / "sw-2+tl-6-last=1"
  older, newer = sorted(p for p in folder.glob("*step-*") if p.is_dir())
  largest = max(newer.rglob("*"), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  said = []
  study = new_study(keeper(tmp_path, said=said))
  found = plan(study, 5, 2)
  assert found[1].step == int(older.name.split("-")[-1])
  assert len(said) == 1
  assert str(largest) in said[0]
  assert "isn't as it was written" in said[0]
  assert_same(study.personalize(METHOD), whole)


def test_a_full_disk_is_named_and_loses_nothing(
  new_study, whole, tmp_path, monkeypatch
):
  calls = []
  save = trees.save_async

  def full(*arguments):
    calls.append(None)
    if len(calls) == 2:
      raise ValueError("RESOURCE_EXHAUSTED: [OS error 28: No space left]")
    return save(*arguments)

  monkeypatch.setattr(trees, "save_async", full)
  with pytest.raises(OSError, match="the disk is full") as raised:
    new_study(keeper(tmp_path)).personalize(METHOD)
  assert raised.value.errno == errno.ENOSPC
  study = new_study(keeper(tmp_path))
  assert plan(study, 5, 2)[0].step != 0
  assert_same(study.personalize(METHOD), whole)


@pytest.mark.parametrize("value", [np.nan, 1e38])
@pytest.mark.parametrize("method", [METHOD, TL], ids=lambda m: m.spec)
def test_one_who_diverges_touches_nobody(
  new_study, whole, monkeypatch, method, value
):
  """The second individual begins with weights that can't be trained."""
  study = new_study()
  root = jax.random.key(study.settings.seed)
  victim = individual_key(root, int(study.split.individuals[1]))

  def poisoned(begin):
    def begin_poisoned(self, *arguments):
      states, keys = begin(self, *arguments), arguments[-1]
      scale = np.ones(self.chunk_size, np.float32)
      scale[: len(keys)][np.asarray(keys == victim)] = value
      return states.replace(
        params=jax.tree.map(
          lambda leaf: leaf * scale.reshape(-1, *[1] * (leaf.ndim - 1)),
          states.params,
        )
      )

    return begin_poisoned

  for name in ("create", "share"):
    begin = getattr(PopulationTrainer, name)
    monkeypatch.setattr(PopulationTrainer, name, poisoned(begin))
  result = study.personalize(method)
  assert result.diverged.tolist() == [False, True, False, False, False]
  others = [0, 2, 3, 4]
  for name in ("losses", "individual_predictions", "global_predictions"):
    np.testing.assert_array_equal(
      getattr(result, name)[others], getattr(whole[method], name)[others]
    )
  labels = study.population.labels
  own, _ = result.individual_accuracy(labels)
  general, _ = result.global_accuracy(labels)
  assert np.isnan([own[1], general[1]]).all()
  assert np.isfinite([own[others], general[others]]).all()


@pytest.mark.slow
def test_the_auto_encoder_goes_on_to_the_same_bits(
  people, tmp_path, monkeypatch
):
  """One of few layers, quick to compile, and of a width of its own.

  Programs are shared by networks of the same width.
  """
  monkeypatch.setattr(autoencoder, "ENCODER", autoencoder.ENCODER[:1])
  monkeypatch.setattr(autoencoder, "DECODER", autoencoder.DECODER[:1])
  split = make_study(people).split
  settings = latent_space.LatentSettings(epochs=5, batch_size=8, width=5 / 32)

  def fit(keeper=None, on_steps=lambda steps: None):
    space = latent_space.fit(
      people, split, settings, keeper=keeper, on_steps=on_steps
    )
    if keeper is not None:
      keeper.wait()  # as a process does before it ends
    return space

  whole = fit()
  with pytest.raises(Stopped):
    fit(keeper(tmp_path, stop_after=1, seconds=1e9))
  steps = []
  resumed = fit(keeper(tmp_path), steps.append)
  np.testing.assert_array_equal(resumed.latents, whole.latents)
  assert steps[0] > 0
  assert sum(steps) == latent_space.num_steps(split, settings)
  # A third process trains nothing.
  again = []
  finished = fit(keeper(tmp_path), again.append)
  assert again == [sum(steps)]
  np.testing.assert_array_equal(finished.latents, whole.latents)
