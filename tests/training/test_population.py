import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small_study import SETTINGS, make_study, trainer_of
from helpers.tiny import FIG_4, TINY, Tiny, compiled

from personalization_jax.distributed import make_mesh
from personalization_jax.training import population
from personalization_jax.training import step as training_step
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
  individual_keys,
)
from personalization_jax.training.stores import HostStore

STEPS, BATCH = 9, 6
PEOPLE = 6


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
  """Several of them in each prediction, the last one ragged."""
  monkeypatch.setattr(population, "PREDICTED", 8)


@pytest.fixture(scope="module")
def schedule(people):
  """Rows [P, T, B] with ragged batches, and test rows [P, R]."""
  rng = np.random.default_rng(0)
  rows = rng.integers(0, len(people), (PEOPLE, STEPS, BATCH)).astype(np.int32)
  rows[0, 3, 2:] = -1
  rows[1, 5] = -1
  rows[2, 7:] = -1
  test = rng.integers(0, len(people), (PEOPLE, 21)).astype(np.int32)
  test[3, 10:] = -1
  return rows, test


@pytest.fixture(scope="module")
def new_trainer(people):
  """Trainers of blocks of four steps; of the same arguments the same one."""

  @functools.cache
  def make(devices=1, learner=TINY, **about):
    mesh = make_mesh(jax.devices()[:devices])
    store = people.images, people.labels
    return PopulationTrainer(learner, *store, mesh, block_steps=4, **about)

  return make


def run(trainer, schedule, which=None):
  """Losses and predictions of these individuals, trained in chunks."""
  rows, test = schedule
  which = np.arange(PEOPLE) if which is None else np.asarray(which)
  root = jax.random.key(5)
  losses, predictions = [], []
  for chunk in trainer.chunks(len(which)):
    ids = which[chunk]
    keys = individual_keys(root, ids)
    states, loss = trainer.train(trainer.create(keys), rows[ids])
    losses.append(loss)
    predictions.append(trainer.predict(states, test[ids]).predictions)
  return np.concatenate(losses), np.concatenate(predictions)


@pytest.fixture(scope="module")
def alone(new_trainer, schedule):
  """Everybody trained by themselves."""
  return run(new_trainer(), schedule)


def assert_same(one, other):
  chex.assert_trees_all_equal(one, other)


def test_a_population_is_so_many_single_runs(people, schedule, alone):
  """The oracle: a Python loop over people and steps."""
  rows, test = schedule
  store = jnp.asarray(people.images), jnp.asarray(people.labels)
  shape = people.images.shape[1:]
  create = compiled(training_step.create_state, TINY, image_shape=shape)
  step = compiled(training_step.train_step, TINY)
  predict = compiled(training_step.predict_rows, TINY)
  for person in (0, 1, 4):
    key = individual_key(jax.random.key(5), person)
    state = create(key)
    for index, batch in enumerate(rows[person]):
      state, loss = step(state, *training_step.gather(*store, batch))
      if (batch >= 0).any():
        np.testing.assert_allclose(alone[0][person, index], loss, rtol=2e-3)
      else:
        assert np.isnan(alone[0][person, index])
    predicted = predict(state, test[person][None], *store)
    np.testing.assert_array_equal(alone[1][person], predicted.predictions[0])


@pytest.mark.parametrize("which", [[2], [4, 2, 0], [5, 1, 2, 3, 0]])
def test_the_others_do_not_matter(new_trainer, schedule, alone, which):
  assert_same(
    run(new_trainer(), schedule, which), tuple(a[which] for a in alone)
  )


@pytest.mark.parametrize(
  "about",
  [
    {"individuals_per_device": 4},
    {"individuals_per_device": 9},
    {"devices": 2},
    {"devices": 4, "individuals_per_device": 2},
    {"store": "host", "individuals_per_device": 4},
    {"store": "host", "devices": 4},
    {"block_seconds": 0.0},
  ],
  ids=str,
)
def test_neither_chunks_nor_devices_store_or_blocks_matter(
  new_trainer, schedule, alone, about
):
  assert_same(run(new_trainer(**about), schedule), alone)


@pytest.mark.slow
def test_fig_4_s_network_gives_the_same_bits_everywhere(new_trainer, schedule):
  which = [3, 0, 1, 5, 2]
  alone = run(new_trainer(learner=FIG_4), schedule)
  several = new_trainer(learner=FIG_4, devices=2, individuals_per_device=2)
  spread = run(several, schedule, which)
  assert_same(spread, tuple(each[which] for each in alone))


def test_vmap_is_one_after_another_up_to_rounding(new_trainer, schedule, alone):
  """What an accelerator runs: float32 sums in another order, a few steps."""
  together = new_trainer(individuals_per_device=4, side_by_side=2)
  losses, predictions = run(together, schedule)
  np.testing.assert_allclose(losses[:, :4], alone[0][:, :4], rtol=1e-4)
  np.testing.assert_allclose(losses, alone[0], rtol=1e-2)
  assert (predictions == alone[1]).mean() > 0.95


def counting():
  """A learner, and a list that grows with each trace of its model."""
  traced = []

  class Counting(Tiny):
    hook = staticmethod(lambda: traced.append(None))

  return Learner(Counting(), optax.adam(1e-2)), traced


def test_one_compilation_for_each_shape(new_trainer, schedule):
  learner, traced = counting()
  trainer = new_trainer(devices=2, learner=learner)
  rows, test = schedule
  keys = jax.random.split(jax.random.key(0), 2)

  def once(steps, count):
    states, _ = trainer.train(
      trainer.create(keys[:count]), rows[:count, :steps]
    )
    trainer.predict(states, test[:count])

  once(STEPS, 2)
  first = len(traced)
  assert first > 0
  for steps, count in ((STEPS, 2), (3, 2), (1, 1), (8, 1)):
    once(steps, count)
  assert len(traced) == first


def test_the_phase_on_d_g_is_traced_once_for_all_seeds(people):
  """Studies of other seeds, where several models go on a device."""
  learner, traced = counting()
  trainer = dataclasses.replace(
    trainer_of(people, tiny=True, individuals_per_device=2), learner=learner
  )
  counts = []
  for seed in range(3):
    settings = dataclasses.replace(SETTINGS, epochs=1, seed=seed)
    study = make_study(people, settings=settings)
    study = dataclasses.replace(study, trainer=trainer)
    before = len(traced)  # a study looks at its model, too
    study.personalize("tl:1")
    counts.append(len(traced) - before)
  assert counts[0] > 0
  assert counts[1:] == [0, 0]


def test_nothing_goes_to_or_from_a_device_unasked(new_trainer, schedule):
  """On a CPU the guard sees what goes there; elsewhere what comes back too."""
  trainer = new_trainer(devices=2)
  rows, _ = schedule
  keys = jax.random.split(jax.random.key(0), 2)
  trainer.train(trainer.create(keys), rows[:2])  # compiles
  states = jax.block_until_ready(trainer.create(keys))
  with jax.transfer_guard("disallow"):
    trainer.train(states, rows[:2])
  with (
    pytest.raises(Exception, match="Disallowed host-to-device transfer"),
    jax.transfer_guard("disallow"),
  ):
    jax.jit(lambda x: x + 1)(np.float32(1))


def test_copies_of_one_model_start_alike_and_drop_out_differently(
  new_trainer, schedule
):
  trainer = new_trainer(devices=2, individuals_per_device=2)
  keys = jax.random.split(jax.random.key(0), 3)
  one = trainer.with_individuals_per_device(1)
  shared, _ = one.train(one.create(keys[:1]), schedule[0][:1])
  states = trainer.share(shared, keys)
  for leaf in jax.tree.leaves(states.params):
    assert len(leaf) == trainer.chunk_size == 4
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  assert len(np.unique(jax.random.key_data(states.key)[:3], axis=0)) == 3
  assert (np.asarray(states.step) == STEPS).all()


def test_blocks_end_where_they_must_and_tell_what_is_done(
  new_trainer, schedule, alone
):
  """At points and phases; all losses are there, and no step is told twice."""
  trainer = new_trainer()
  blocks, losses = [], []

  def on_block(block):
    blocks.append((block.step, block.finished))
    losses.append(block.losses())

  keys = individual_keys(jax.random.key(5), [0])
  rows = schedule[0][:1]
  states, whole = trainer.train(
    trainer.create(keys),
    rows,
    phases=[(6, None), (STEPS, None)],
    points=[2, 6],
    on_block=on_block,
  )
  np.testing.assert_array_equal(whole, alone[0][:1])
  assert [step for step, _ in blocks] == [2, 6, 9]
  assert [finished for _, finished in blocks] == [2, 4, 3]
  for (step, _), some in zip(blocks, losses):
    np.testing.assert_array_equal(some, whole[:, :step])
  # Behind its end nothing is left to do.
  again, rest = trainer.train(states, rows, start=STEPS)
  assert again is states
  assert rest.shape == (1, 0)


def test_progress_lags_a_block_behind(new_trainer, schedule):
  told = []
  keys = jax.random.split(jax.random.key(0), 1)
  trainer = new_trainer()
  trainer.train(
    trainer.create(keys),
    schedule[0][:1],
    on_block=lambda block: told.append(block.finished),
  )
  assert told == [0, 4, 5]


def test_one_individual_s_nan_stays_theirs(new_trainer, schedule, alone):
  trainer = new_trainer(devices=2, individuals_per_device=2)
  states = trainer.create(individual_keys(jax.random.key(5), range(4)))
  kernel = states.params["layer_0"]["kernel"].at[1].set(jnp.nan)
  params = {
    **states.params,
    "layer_0": {**states.params["layer_0"], "kernel": kernel},
  }
  states, losses = trainer.train(states.replace(params=params), schedule[0][:4])
  assert np.isnan(losses[1]).all()
  assert trainer.finite(states).tolist() == [True, False, True, True]
  others = [0, 2, 3]
  np.testing.assert_array_equal(losses[others], alone[0][others])


@pytest.mark.parametrize("store", ["device", "host"])
def test_nothing_to_predict_is_no_prediction(new_trainer, store):
  trainer = new_trainer(individuals_per_device=4, store=store)
  states = trainer.create(individual_keys(jax.random.key(5), range(2)))
  found = trainer.predict(states, np.empty((2, 0), np.int32))
  assert [array.shape for array in found] == 3 * [(2, 0)]
  assert [str(array.dtype) for array in found] == ["int32"] + 2 * ["float32"]
  assert trainer.log_probabilities(states, np.empty((2, 0), np.int32)).shape[
    :2
  ] == (2, 0)


def test_a_chunk_s_size_is_checked(people, new_trainer):
  with pytest.raises(ValueError, match="individuals_per_device=0"):
    PopulationTrainer(TINY, people.images, people.labels, make_mesh(), 0)
  with pytest.raises(ValueError, match="2 individuals don't fit a chunk of 1"):
    new_trainer().create(jax.random.split(jax.random.key(0), 2))


def test_a_device_gets_the_rows_of_its_own_individuals(people):
  """What a block sends of the store, against the store itself."""
  mesh = make_mesh(jax.devices()[:2])
  store = HostStore(mesh, people.images, people.labels)
  rows = np.random.default_rng(1).integers(-1, len(people), (4, 2, 3))
  local, images, labels = store.block(rows.astype(np.int32))
  assert len(images) == 2 * (4 * 2 * 3 // 2 + 1)
  np.testing.assert_array_equal(local == -1, rows == -1)
  for device in range(2):
    own = slice(2 * device, 2 * device + 2)
    there = rows[own] >= 0
    sent = images.addressable_data(device)
    np.testing.assert_array_equal(
      sent[local[own][there]], people.images[rows[own][there]]
    )
    np.testing.assert_array_equal(
      labels.addressable_data(device)[local[own][there]],
      people.labels[rows[own][there]],
    )


def test_an_unknown_store_is_refused(people):
  with pytest.raises(ValueError, match="store='disk' must be 'device' or"):
    PopulationTrainer(
      TINY, people.images, people.labels, make_mesh(), store="disk"
    )


class Clock:
  """A device that computes one block after another, behind or at once."""

  def __init__(self, monkeypatch, seconds_a_step, compilation, at_once):
    self.now = 100.0
    self.free = 0.0
    self.cost = seconds_a_step
    self.compilation = compilation
    self.at_once = at_once
    monkeypatch.setattr(population.time, "monotonic", lambda: self.now)

  def run(self, steps):
    self.now += self.compilation
    self.compilation = 0.0
    self.free = max(self.free, self.now) + steps * self.cost
    if self.at_once:
      self.now = self.free
    return self.free


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
  ("seconds_a_step", "expected"), [(0.001, 50), (0.3, 10), (0.5, 6), (9.0, 1)]
)
def test_blocks_take_about_so_many_seconds(
  monkeypatch, at_once, seconds_a_step, expected
):
  clock = Clock(monkeypatch, seconds_a_step, 30.0, at_once)
  under_test = population.Pace(50, 3.0)
  under_way, sizes = [], []
  for _ in range(40):
    steps = under_test.steps()
    under_way.append((clock.run(steps), steps))
    under_test.started()
    sizes.append(steps)
    if len(under_way) > 1:
      end, steps = under_way.pop(0)
      clock.now = max(clock.now, end)
      under_test.ended(steps)
  assert sizes[0] == 5
  assert max(sizes[:3]) <= 15
  assert sizes[-1] == pytest.approx(expected, rel=0.2)


def test_a_block_is_never_longer_than_its_program():
  assert population.Pace(4, 3.0).steps() == 4
