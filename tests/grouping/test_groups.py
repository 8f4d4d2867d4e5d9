"""Groups of a split's individuals, and what is trained on them."""

import dataclasses

import numpy as np
import pytest
from helpers.slow_groups import slow_single_sample_group

from personalization_jax.datasets import Population, splits
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import Group, parse_method
from personalization_jax.networks import MLP
from personalization_jax.randomness import Stream, generator
from personalization_jax.settings import Settings
from personalization_jax.study import Study


@pytest.fixture(scope="module")
def split(people):
  chosen = splits.choose_people(people, 3, 5, seed=2)
  return splits.split(people, *chosen, seed=2)


@pytest.fixture(scope="module")
def latents(people):
  return np.random.default_rng(1).normal(size=(len(people), 4)).astype("f4")


@pytest.fixture(scope="module")
def groups(people, split, latents):
  return Groups(people, split, seed=2, latents=latents)


def in_turn(split, index, seed=2):
  """D_I in the order in which its samples choose."""
  own, _, _ = split.parts(index)
  person = int(split.individuals[index])
  rng = generator(seed, Stream.SAMPLE_ORDER, person)
  return rng.permutation(own)


@pytest.mark.parametrize("total", [4, 13, 25])
def test_sg_is_the_nearest_rows_of_d_g_that_nobody_took(
  split, latents, groups, total
):
  found = groups.rows(Group("sg", total))
  for index in range(3):
    samples, rows = latents[in_turn(split, index)], latents[split.global_train]
    expected = slow_single_sample_group(samples, rows, total)
    assert list(found[index]) == list(split.global_train[expected])
    assert len(set(expected)) == total


def test_sg_by_sample_says_who_chose_what(split, groups):
  group = Group("sg", 13)
  for index in range(3):
    own, chosen = groups.by_sample(group, index)
    np.testing.assert_array_equal(own, split.parts(index)[0])
    of_row = dict(zip(own, chosen))
    chosen = np.array([of_row[row] for row in in_turn(split, index)])
    np.testing.assert_array_equal(
      chosen[chosen >= 0], groups.rows(group)[index]
    )
    sizes = (chosen >= 0).sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(sizes) <= 0).all()


def test_sg_smaller_than_d_i_serves_all_classes_of_a_file_sorted_by_class():
  """In the file's order the first classes alone would have neighbours."""
  rng = np.random.default_rng(0)
  individuals = np.repeat(np.arange(6), 100)
  labels = np.tile(np.repeat(np.arange(10), 10), 6)
  people = Population.from_arrays(
    rng.normal(size=(600, 3)), labels, individuals
  )
  split = splits.split(people, [0, 1], [2, 3, 4, 5])
  orders = []
  for seed in (0, 1):
    groups = Groups(people, split, seed=seed, latents=people.images)
    for index in range(2):
      own, chosen = groups.by_sample(Group("sg", 35), index)
      assert len(own) > 35
      served = (chosen >= 0).any(axis=1)
      assert served.sum() == 35
      assert set(labels[own[served]]) == set(range(10))
      orders.append(tuple(served))
    # The same for whoever asks again, and whoever else is asked for.
    alone = dataclasses.replace(
      split,
      individuals=split.individuals[1:],
      train=split.train[1:],
      test=split.test[1:],
      validation=split.validation[1:],
    )
    again = Groups(people, alone, seed=seed, latents=people.images)
    np.testing.assert_array_equal(
      again.rows(Group("sg", 35))[0], groups.rows(Group("sg", 35))[1]
    )
  assert len(set(orders)) == 4  # each individual's own, by seed


def test_ig_is_all_of_the_nearest_people_s_training_rows(
  people, split, latents, groups
):
  for index in range(3):
    own, _, _ = split.parts(index)
    distances = []
    for person in split.global_people:
      mine = people.individuals[split.global_train] == person
      theirs = split.global_train[mine]
      common = [
        c
        for c in range(people.num_classes)
        if c in people.labels[own] and c in people.labels[theirs]
      ]
      gaps = [
        latents[own][people.labels[own] == c].astype(float).mean(axis=0)
        - latents[theirs][people.labels[theirs] == c].astype(float).mean(axis=0)
        for c in common
      ]
      total = sum((gap**2).sum() for gap in gaps)
      distances.append(total * people.num_classes / len(common))
    nearest = split.global_people[np.argsort(distances)[:2]]
    found = groups.rows(Group("ig", 2))[index]
    owners = people.individuals[found]
    assert list(dict.fromkeys(owners)) == list(nearest)
    everything = np.isin(people.individuals[split.global_train], nearest)
    assert set(found) == set(split.global_train[everything])


def test_ig_among_individuals_never_chooses_oneself(people, split, latents):
  groups = Groups(people, split, latents=latents, among_individuals=True)
  for index, rows in enumerate(groups.rows(Group("ig", 2))):
    owners = set(people.individuals[rows])
    assert owners == set(split.individuals) - {split.individuals[index]}
    trained = split.train[split.train >= 0]
    assert np.isin(rows, trained).all()
  with pytest.raises(ValueError, match="asks for 3 people, but there are 2"):
    groups.rows(Group("ig", 3))


def test_random_groups_differ_and_repeat(people, split, groups):
  found = groups.rows(Group("random", 9))
  again = Groups(people, split, seed=2).rows(Group("random", 9))
  for one, other in zip(found, again):
    np.testing.assert_array_equal(one, other)
    assert np.isin(one, split.global_train).all()
    assert len(set(one)) == 9
  other = Groups(people, split, seed=3).rows(Group("random", 9))
  assert len({tuple(rows) for rows in [*found, *other]}) == 6
  everything = Group("random", len(split.global_train))
  assert {*groups.rows(everything)[0]} == {*split.global_train}


def test_groups_too_large_or_without_latents_are_refused(people, split, groups):
  size = len(split.global_train)
  with pytest.raises(ValueError, match=f"but there are {size}"):
    groups.check(Group("sg", size + 1))
  with pytest.raises(ValueError, match="asks for 6 people, but there are 5"):
    groups.check(Group("ig", 6))
  with pytest.raises(ValueError, match=r"give Groups\(latents="):
    Groups(people, split).rows(Group("sg", 4))
  with pytest.raises(ValueError, match=r"latents has shape \[3, 4\]"):
    Groups(people, split, latents=np.zeros((3, 4)))


def test_distances_are_symmetric_and_zero_to_oneself(groups):
  distances = groups.distances()
  assert distances.shape == (3, 3)
  np.testing.assert_allclose(distances, distances.T)
  assert (np.diag(distances) == 0).all()
  assert (distances[~np.eye(3, dtype=bool)] > 0).all()


def test_people_of_the_same_means_coincide_though_somebody_is_far_away():
  """Whatever order their samples are in: float32's rounding is no distance."""
  rng = np.random.default_rng(0)
  own = rng.normal(size=(8, 3))
  samples = np.concatenate(
    [own, own[rng.permutation(8)], own + 1e-3, 1e6 + own]
  )
  people = Population.from_arrays(
    samples, np.zeros(32, int), np.repeat(np.arange(4), 8)
  )
  everything = splits.pad(np.split(np.arange(32), 4))
  nothing = np.empty(0, np.int32)
  split = splits.Split(
    np.arange(4), everything, everything[:, :0], everything,
    nothing, nothing, nothing, nothing,
  )  # fmt: skip
  groups = Groups(people, split, latents=people.images)
  distances = groups.distances()
  assert distances[0, 1] == distances[1, 0] == 0
  assert distances[0, 2] == pytest.approx(1e-3 * 3**0.5, rel=1e-3)
  assert distances[0, 3] > 1e6


def test_models_are_trained_on_d_i_enlarged_and_tested_on_d_i(
  people, split, groups
):
  study = Study(
    people,
    split,
    Settings(epochs=2, batch_size=16, width=1 / 32, seed=2),
    latents=groups.latents,
  )
  for spec in ("sg:13", "ig:2", "random:9", "sg:13:only", "ig:1+es:4"):
    method = parse_method(spec)
    for index in range(3):
      rows, sources = (
        study.batches.rows(method, index),
        study.batches.sources(method),
      )
      drawn = set(rows[sources == 1].ravel())
      expected = set(groups.rows(method.group)[index])
      if not method.group.only:
        expected |= set(split.parts(index)[0])
      assert drawn <= expected
      # Batches of 16 from at most 20 rows: all of them come up.
      if (sources == 1).sum() >= 3:
        assert drawn == expected
      tested = {*split.parts(index)[2], *split.global_test}
      assert not tested & set(rows.ravel())
  with pytest.raises(ValueError, match="'sg:5000' asks for 5000"):
    study.check(parse_method("sg:5000"))


def test_a_latent_space_keeps_what_the_study_s_groups_were_given():
  rng = np.random.default_rng(0)
  people = Population.from_arrays(
    rng.normal(size=(60, 3)), np.arange(60) % 3, np.arange(60) // 10
  )
  split = splits.split(people, [0, 1, 2], [3, 4, 5])
  study = Study(
    people,
    split,
    Settings(epochs=1, batch_size=8, seed=9),
    model=MLP(3),
    among_individuals=True,
  )
  latents = study.find_groups().latents
  expected = Groups(
    people, split, seed=9, latents=latents, among_individuals=True
  )
  for group in (Group("random", 7), Group("sg", 7), Group("ig", 2)):
    for found, wanted in zip(study.groups.rows(group), expected.rows(group)):
      np.testing.assert_array_equal(found, wanted)
