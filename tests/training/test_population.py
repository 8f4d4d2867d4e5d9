import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import FIG_4, TINY, Tiny, compiled
from jax.sharding import PartitionSpec as P

from personalization_jax.distributed import make_mesh
from personalization_jax.training import step as training_step
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
)
from personalization_jax.training.stores import HostStore

STEPS, BATCH = 9, 6
PEOPLE = 6


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


def run(people, schedule, which=None, devices=1, learner=TINY, **arguments):
  """Losses and predictions of these individuals, trained in chunks."""
  trainer = PopulationTrainer(
    learner,
    people.images,
    people.labels,
    make_mesh(jax.devices()[:devices]),
    block_steps=4,
    **arguments,
  )
  rows, test = schedule
  which = np.arange(PEOPLE) if which is None else np.asarray(which)
  root = jax.random.key(5)
  losses, predictions = [], []
  for part in trainer.chunks(len(which)):
    ids = which[part]
    keys = jnp.stack([individual_key(root, int(i)) for i in ids])
    states, loss = trainer.train(trainer.create(keys), rows[ids])
    losses.append(loss)
    predictions.append(trainer.predict(states, test[ids], batch_size=8))
  return np.concatenate(losses), np.concatenate(predictions)


@pytest.fixture(scope="module")
def alone(people, schedule):
  """Everybody trained by themselves."""
  return run(people, schedule)


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
    np.testing.assert_array_equal(alone[1][person], predicted[0])


@pytest.mark.parametrize("which", [[2], [0, 1, 2], [4, 2, 0], [5, 1, 2, 3, 0]])
def test_the_others_do_not_matter(people, schedule, alone, which):
  assert_same(run(people, schedule, which), tuple(a[which] for a in alone))


@pytest.mark.parametrize("individuals_per_device", [2, 4, 9])
def test_the_chunk_does_not_matter(
  people, schedule, alone, individuals_per_device
):
  chunked = run(people, schedule, individuals_per_device=individuals_per_device)
  assert_same(chunked, alone)


@pytest.mark.parametrize(
  ("devices", "individuals_per_device"), [(2, 1), (4, 1), (4, 2)]
)
def test_the_devices_do_not_matter(
  people, schedule, alone, devices, individuals_per_device
):
  spread = run(
    people,
    schedule,
    devices=devices,
    individuals_per_device=individuals_per_device,
  )
  assert_same(spread, alone)


def test_fig_4_s_network_gives_the_same_bits_everywhere(people, schedule):
  alone = run(people, schedule, learner=FIG_4)
  spread = run(
    people,
    schedule,
    [3, 0, 1, 5, 2],
    learner=FIG_4,
    devices=2,
    individuals_per_device=2,
  )
  assert_same(spread, tuple(a[[3, 0, 1, 5, 2]] for a in alone))


@pytest.mark.parametrize("side_by_side", [2, 4])
def test_vmap_is_one_after_another_up_to_rounding(
  people, schedule, alone, side_by_side
):
  """What an accelerator runs: float32 sums in another order, a few steps."""
  losses, predictions = run(
    people, schedule, individuals_per_device=4, side_by_side=side_by_side
  )
  np.testing.assert_allclose(losses[:, :4], alone[0][:, :4], rtol=1e-4)
  np.testing.assert_allclose(losses, alone[0], rtol=1e-2)
  assert (predictions == alone[1]).mean() > 0.95


def test_one_compilation_for_each_shape(people, schedule):
  traced = []

  class Counting(Tiny):
    hook = staticmethod(lambda: traced.append(None))

  trainer = PopulationTrainer(
    training_step.Learner(Counting(), optax.adam(1e-2)),
    people.images,
    people.labels,
    make_mesh(jax.devices()[:2]),
    block_steps=4,
  )
  rows, test = schedule
  keys = jax.random.split(jax.random.key(0), 2)

  def once(steps, count):
    states, _ = trainer.train(
      trainer.create(keys[:count]), rows[:count, :steps]
    )
    trainer.predict(states, test[:count], batch_size=8)

  once(STEPS, 2)
  first = len(traced)
  assert first > 0
  for steps, count in ((STEPS, 2), (3, 2), (1, 1), (8, 1)):
    once(steps, count)
  assert len(traced) == first


def test_nothing_goes_to_or_from_a_device_unasked(people, schedule):
  """On a CPU the guard sees what goes there; elsewhere what comes back too."""
  trainer = PopulationTrainer(
    TINY,
    people.images,
    people.labels,
    make_mesh(jax.devices()[:2]),
    block_steps=4,
  )
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
  people, schedule
):
  trainer = PopulationTrainer(
    TINY,
    people.images,
    people.labels,
    make_mesh(jax.devices()[:2]),
    individuals_per_device=2,
  )
  keys = jax.random.split(jax.random.key(0), 3)
  one = trainer.one_per_device()
  shared, _ = one.train(one.create(keys[:1]), schedule[0][:1])
  states = trainer.share(shared, keys)
  for leaf in jax.tree.leaves(states.params):
    assert len(leaf) == trainer.chunk == 4
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  assert len(np.unique(jax.random.key_data(states.key)[:3], axis=0)) == 3
  assert (np.asarray(states.step) == STEPS).all()


def test_progress_is_the_number_of_steps(people, schedule):
  trainer = PopulationTrainer(
    TINY, people.images, people.labels, make_mesh(jax.devices()[:1]),
    block_steps=4,
  )  # fmt: skip
  steps = []
  keys = jax.random.split(jax.random.key(0), 1)
  trainer.train(trainer.create(keys), schedule[0][:1], on_steps=steps.append)
  assert sum(steps) == STEPS
  assert len(steps) == 3


def test_one_individual_s_nan_stays_theirs(people, schedule, alone):
  trainer = PopulationTrainer(
    TINY, people.images, people.labels, make_mesh(jax.devices()[:2]),
    individuals_per_device=2, block_steps=4,
  )  # fmt: skip
  root = jax.random.key(5)
  keys = jnp.stack([individual_key(root, i) for i in range(4)])
  states = trainer.create(keys)
  kernel = states.params["layer_0"]["kernel"].at[1].set(jnp.nan)
  params = {
    **states.params,
    "layer_0": {**states.params["layer_0"], "kernel": kernel},
  }
  _, losses = trainer.train(states.replace(params=params), schedule[0][:4])
  assert np.isnan(losses[1]).all()
  others = [0, 2, 3]
  np.testing.assert_array_equal(losses[others], alone[0][others])


def test_a_chunk_s_size_is_checked(people):
  with pytest.raises(ValueError, match="individuals_per_device=0"):
    PopulationTrainer(TINY, people.images, people.labels, make_mesh(), 0)
  trainer = PopulationTrainer(
    TINY, people.images, people.labels, make_mesh(jax.devices()[:1])
  )
  with pytest.raises(ValueError, match="2 individuals don't fit a chunk of 1"):
    trainer.create(jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize(
  ("devices", "individuals_per_device"), [(1, 4), (4, 1)]
)
def test_a_store_on_the_host_gives_the_same_bits(
  people, schedule, alone, devices, individuals_per_device
):
  streamed = run(
    people,
    schedule,
    devices=devices,
    individuals_per_device=individuals_per_device,
    store="host",
  )
  assert_same(streamed, alone)


def test_a_device_gets_the_rows_of_its_own_individuals(people):
  """A block's part of the store, against the store itself."""
  mesh = make_mesh(jax.devices()[:2])
  store = HostStore(mesh, P("individual"), people.images, people.labels)
  rows = np.random.default_rng(1).integers(-1, len(people), (4, 2, 3))
  local, images, labels = store.block(rows.astype(np.int32))
  assert len(images) == 2 * (4 * 2 * 3 // 2 + 1)
  np.testing.assert_array_equal(local == -1, rows == -1)
  for device in range(2):
    own = slice(2 * device, 2 * device + 2)
    there = rows[own] >= 0
    part = images.addressable_data(device)
    np.testing.assert_array_equal(
      part[local[own][there]], people.images[rows[own][there]]
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


def test_slow_models_get_fewer_steps_at_once(people, schedule, alone):
  """Blocks of one step give the same bits: the program is the same."""
  hasty = run(people, schedule, block_seconds=0.0)
  assert_same(hasty, alone)
