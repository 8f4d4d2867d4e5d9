"""What people begin with in place of D_G's model: Reptile, clusters."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import optax
import pytest
from helpers.small_study import make_study

from personalization_jax.checkpoints.keeper import Keeper, Stopped
from personalization_jax.datasets import Population, splits
from personalization_jax.distributed import make_mesh
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import clusters
from personalization_jax.methods.batches import Batches
from personalization_jax.methods.clusters import Clusters
from personalization_jax.methods.reptile import Reptile
from personalization_jax.networks import MLP
from personalization_jax.settings import Settings
from personalization_jax.training import starts
from personalization_jax.training.evaluation import Validation
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_keys,
  without_fillers,
)

PLANTED = Settings(epochs=6, batch_size=8, seed=3)
LEARNER = Learner(MLP(3, hidden=(8,)), optax.adam(3e-2))
PEOPLE, SAMPLES, INDIVIDUALS = 18, 20, 6
POINTS = [7, 40]


@functools.cache
def planted():
  """Three blobs; every other person calls them otherwise, nobody alike."""
  rng = np.random.default_rng(0)
  blobs = rng.integers(0, 3, (PEOPLE, SAMPLES))
  corners = np.array([[2, 0], [-1, 2], [-1, -2]])
  samples = corners[blobs] + rng.normal(scale=0.3, size=(*blobs.shape, 2))
  labels = np.where(np.arange(PEOPLE)[:, None] % 2, (blobs + 1) % 3, blobs)
  return Population.from_arrays(
    samples.reshape(-1, 2).astype(np.float32),
    labels.ravel(),
    np.repeat(np.arange(PEOPLE), SAMPLES),
  )


@functools.cache
def trainer_of(devices=1, individuals_per_device=1):
  population = planted()
  mesh = make_mesh(jax.devices()[:devices])
  store = population.images, population.labels
  return PopulationTrainer(
    LEARNER, *store, mesh, individuals_per_device, block_steps=4
  )


def batches_of(validation_fraction=0.3):
  population = planted()
  split = splits.split_people(
    population,
    individuals=range(INDIVIDUALS),
    num_global_individuals=12,
    train_fraction=0.5,
    validation_fraction=validation_fraction,
    seed=1,
  )
  return Batches(split, PLANTED, Groups(population, split, seed=PLANTED.seed))


def begin(start, batches=None, keeper=None, trainer=None, **about):
  """What everybody begins with, and the steps that were told."""
  batches = batches or batches_of()
  split = batches.split
  points = [*POINTS, batches.num_shared_steps]
  validation = Validation(
    points,
    planted().labels,
    split.validation[None],
    split.global_validation,
  )
  task = (keeper or Keeper()).task(start.name, "planted")
  (chunk,) = task.plan(start.count, start.count)
  told = []
  expected = starts.num_steps(chunk, batches)
  starts.check(start, batches)
  found = starts.begin(
    start,
    trainer or trainer_of(),
    task,
    chunk,
    batches,
    validation=validation,
    on_steps=told.append,
    **about,
  )
  task.keeper.wait()
  assert sum(told) == expected
  return found


@functools.cache
def planted_clusters(count):
  return begin(Clusters(count))


def accuracy(found, index):
  """Of everybody's pick at the last look, or of the one model's."""
  return found.history(range(INDIVIDUALS))["individual"][:, index, 0]


def test_two_clusters_are_found():
  """Who calls the blobs alike has one model, and one is no good for both."""
  found = planted_clusters(2)
  assert found.pick.dtype == np.int32
  even, odd = found.pick[0], found.pick[1]
  assert found.pick.tolist() == [even, odd] * 3
  assert even != odd
  assert accuracy(found, -1).mean() > 0.9
  assert accuracy(planted_clusters(1), -1).mean() < 0.7


def test_one_cluster_is_d_g_s_model():
  """Byte for byte, with its losses, its optimiser and its looks."""
  batches, found = batches_of(), planted_clusters(1)
  key = individual_keys(jax.random.key(PLANTED.seed), [2**32 - 1])
  states, losses = trainer_of().train(
    trainer_of().create(key), batches.shared_rows()[None]
  )
  chex.assert_trees_all_equal(found.states, without_fillers(states, 1))
  np.testing.assert_array_equal(found.record.losses, losses)
  assert found.record.individual.shape == (1, 3, INDIVIDUALS)


def test_a_record_has_the_steps_of_d_g_s_phase():
  found, steps = planted_clusters(2), batches_of().num_shared_steps
  assert found.record.losses.shape == (2, steps)
  assert found.record.general.shape == (2, 3)
  assert found.states.step.tolist() == [steps, steps]
  trained = np.isfinite(found.record.losses).reshape(2, PLANTED.epochs, -1)
  # An epoch in all, of batches that may be short.
  per_epoch = trained.shape[2]
  assert ((trained.sum(axis=(0, 2)) - per_epoch * PLANTED.epochs) <= 6).all()
  # Steps without data are each epoch's last.
  assert (np.diff(trained.astype(int), axis=2) <= 0).all()
  history = found.history(range(1, 4))
  taken = found.pick[1:4]
  np.testing.assert_array_equal(history["losses"], found.record.losses[taken])
  assert history["individual"].shape == (3, 3, 1)
  for place, person in enumerate(range(1, 4)):
    np.testing.assert_array_equal(
      history["individual"][place, :, 0],
      found.record.individual[found.pick[person], :, person],
    )


@pytest.mark.parametrize(
  "how", [{"devices": 2}, {"individuals_per_device": 4}], ids=str
)
def test_devices_do_not_matter(how):
  found = begin(Clusters(3), trainer=trainer_of(**how))
  chex.assert_trees_all_equal(found, planted_clusters(3))


def stopping(folder, looks):
  """Stops when it is asked so many times; saves nothing before."""

  def should_stop():
    nonlocal looks
    looks -= 1
    return looks == 0

  return Keeper(folder, seconds=1e9, should_stop=should_stop)


def planned(start, keeper):
  (chunk,) = keeper.task(start.name, "planted").plan(start.count, start.count)
  return chunk.step


@pytest.mark.parametrize(
  ("start", "looks", "steps"),
  [
    # In the first round, within the second, and after one more.
    (Clusters(2), (2, 7, 6), (0, 15, 30)),
    (Reptile(4), (2, 5, 3), (7, 27, 39)),
  ],
  ids=str,
)
def test_resuming_is_going_on(start, looks, steps, tmp_path):
  expected = (
    planted_clusters(2) if isinstance(start, Clusters) else planted_reptile()
  )
  kept = []
  for look in looks:
    with pytest.raises(Stopped):
      begin(start, keeper=stopping(tmp_path, look))
    kept.append(planned(start, Keeper(tmp_path)))
  assert tuple(kept) == steps
  chex.assert_trees_all_equal(begin(start, keeper=Keeper(tmp_path)), expected)
  assert planned(start, Keeper(tmp_path)) == batches_of().num_shared_steps
  chex.assert_trees_all_equal(begin(start, keeper=Keeper(tmp_path)), expected)


def test_saving_all_the_time_changes_nothing(tmp_path):
  found = begin(Clusters(2), keeper=Keeper(tmp_path, seconds=0))
  chex.assert_trees_all_equal(found, planted_clusters(2))


@functools.cache
def planted_reptile():
  return begin(Reptile(4))


def test_a_model_without_writers_stays_as_it_is(monkeypatch):
  """As one more than there are to choose from would be."""
  last = clusters.assign
  monkeypatch.setattr(
    clusters, "assign", lambda losses: np.minimum(last(losses), 1)
  )
  found = begin(Clusters(3), precise=5)
  first = batches_of().num_shared_steps // PLANTED.epochs
  losses = found.record.losses[2]
  assert np.isfinite(losses[0])
  assert np.isnan(losses[first:]).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.states))
  looks = found.record.general[2]
  assert looks[-1] == looks[-2]


def test_a_model_that_diverged_is_nobody_s():
  losses = np.array([[np.nan, 1, np.nan], [2, 1, np.inf]], np.float32)
  assert clusters.assign(losses).tolist() == [1, 0, 0]
  assert clusters.assign(losses[:1]).tolist() == [0, 0, 0]


def test_people_choose_by_accuracy_then_by_loss_then_the_first():
  correct = np.array([[3, 2, 2, 0], [2, 2, 2, 1], [3, 1, 2, 1]])
  losses = np.array(
    [[0.5, 0.5, 0.5, 0.1], [0.1, 0.4, 0.5, np.nan], [0.4, 0.1, 0.6, np.nan]],
    np.float32,
  )
  assert clusters.choose(correct, losses).tolist() == [2, 1, 0, 1]


def test_who_has_no_validation_rows_chooses_by_training_rows():
  batches = batches_of()
  validation = batches.split.validation.copy()
  validation[1] = -1
  split = dataclasses.replace(batches.split, validation=validation)
  found = begin(Clusters(2), dataclasses.replace(batches, split=split))
  np.testing.assert_array_equal(found.pick, planted_clusters(2).pick)


def test_clusters_divide_an_epoch_of_d_g():
  epoch = np.array([9, 4, 7, 1, 3, 8, 2])
  models = np.array([0, 2, 0, 0, 2, 0, 0])
  rows = Clusters(3).rows(epoch, models, 3)
  assert rows.tolist() == [
    [[9, 7, 1], [8, 2, -1], [-1] * 3],
    [[-1] * 3] * 3,
    [[4, 3, -1], [-1] * 3, [-1] * 3],
  ]


def test_the_first_round_gives_everybody_as_many_writers():
  first = Clusters(3).first(8, seed=0)
  assert np.sort(np.bincount(first)).tolist() == [2, 3, 3]
  assert first.tolist() != Clusters(3).first(8, seed=1).tolist()


@pytest.mark.parametrize(
  ("start", "batches", "message"),
  [
    (Clusters(13), {}, "13 clusters are more than the 12 writers"),
    (Clusters(2), {"validation_fraction": 0.0}, "by validation data"),
  ],
  ids=["writers", "validation"],
)
def test_what_there_is_no_data_for_is_refused(start, batches, message):
  with pytest.raises(ValueError, match=message):
    starts.check(start, batches_of(**batches))
  starts.check(Clusters(1), batches_of(**batches))
  starts.check(Reptile(), batches_of(**batches))


def test_a_start_needs_writers():
  batches = batches_of()
  split = dataclasses.replace(batches.split, global_train=np.empty(0, np.int32))
  for start in (Reptile(), Clusters(1)):
    with pytest.raises(ValueError, match="trained on D_G's writers"):
      starts.check(start, dataclasses.replace(batches, split=split))


def adapted(one):
  """Everybody's accuracy on what isn't trained on, three steps from a model."""
  batches, trainer = batches_of(), trainer_of()
  split, labels = batches.split, planted().labels
  keys = individual_keys(jax.random.key(0), split.individuals)
  right = []
  for index in range(INDIVIDUALS):
    states = trainer.share(one, keys[index : index + 1])
    rows = np.resize(split.train[index], (1, 3, 8)).astype(np.int32)
    states, _ = trainer.train(states, rows)
    _, *held_out = split.parts(index)
    test = np.concatenate(held_out)[None]
    found = trainer.predict(states, test).predictions
    right.append((found == labels[test]).mean())
  return np.mean(right)


def test_reptile_adapts_better_than_d_g_s_model():
  """Nobody's names of the blobs are right for all: a few steps have to tell."""
  reptile, plain = planted_reptile(), planted_clusters(1)
  assert reptile.pick.tolist() == [0] * INDIVIDUALS
  assert reptile.record.losses.shape == plain.record.losses.shape
  assert adapted(reptile.model(0)) > adapted(plain.model(0)) + 0.1
  chex.assert_trees_all_equal_shapes(reptile.states, plain.states)


@pytest.mark.parametrize("start", [Reptile(3), Clusters(2)], ids=str)
def test_batch_statistics_are_there_and_may_be_computed_anew(people, start):
  """A network with normalisation and dropout, on several devices."""
  study = make_study(people, how={"tiny": True})
  split = study.split
  end = study.batches.num_shared_steps
  validation = Validation(
    [end - 1, end], people.labels, split.test[None], split.global_test
  )
  batches = dataclasses.replace(
    study.batches, split=dataclasses.replace(split, validation=split.test)
  )
  found = []
  for precise in (0, 3):
    task = Keeper().task(start.name, "tiny")
    (chunk,) = task.plan(start.count, start.count)
    found.append(
      starts.begin(
        start,
        study.trainer,
        task,
        chunk,
        batches,
        validation=validation,
        precise=precise,
      )
    )
  running, anew = found
  assert np.isfinite(running.record.losses).any(axis=1).all()
  assert len(running.states.step) == start.count
  chex.assert_trees_all_equal(running.states.params, anew.states.params)
  for one, other in zip(
    *(jax.tree.leaves(each.states.batch_stats) for each in found)
  ):
    assert np.isfinite(other).all()
    assert not np.array_equal(one, other)
  assert end == running.record.losses.shape[1]
  for one in found:  # the last look is at the models that are given
    alike = validation._replace(
      own=np.repeat(validation.own, start.count, axis=0)
    )
    trainer = study.trainer.with_individuals_per_device(start.count)
    own, general = alike.accuracy(trainer, trainer.place(one.states))
    np.testing.assert_array_equal(one.record.individual[:, -1], np.float32(own))
    np.testing.assert_array_equal(
      one.record.general[:, -1], np.float32(general)
    )
