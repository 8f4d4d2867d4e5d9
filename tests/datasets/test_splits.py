import dataclasses

import numpy as np
import pytest

import personalization_jax as pj
from personalization_jax.datasets import Population, splits, variations


def all_parts(split):
  for index in range(len(split.individuals)):
    yield from split.parts(index)
  yield from (split.global_train, split.global_validation, split.global_test)


@pytest.fixture(scope="module")
def flipped(people):
  return variations.flips(people)


@pytest.fixture(scope="module")
def split(flipped):
  chosen = splits.choose_people(flipped, 4, 5, seed=3)
  return splits.split(flipped, *chosen, validation_fraction=0.15, seed=3)


def test_no_row_is_in_two_parts_and_none_is_lost(flipped, split):
  rows = np.concatenate(list(all_parts(split)))
  np.testing.assert_array_equal(np.sort(rows), np.arange(len(flipped)))


def test_copies_of_a_drawing_stay_together(flipped, split):
  seen = {}
  for number, rows in enumerate(all_parts(split)):
    for original in flipped.originals[rows]:
      assert seen.setdefault(int(original), number) == number


def test_everyone_keeps_to_their_own(flipped, split):
  for index, person in enumerate(split.individuals):
    for rows in split.parts(index):
      assert (flipped.individuals[rows] == person).all()
  for rows in (split.global_train, split.global_test):
    assert np.isin(flipped.individuals[rows], split.global_people).all()
  assert not np.intersect1d(split.individuals, split.global_people).size


def test_fractions_of_drawings(people):
  chosen = splits.choose_people(people, 9 - 1, 1)
  split = splits.split(people, *chosen, train_fraction=0.7)
  for index, person in enumerate(split.individuals):
    train, validation, test = split.parts(index)
    count = (people.individuals == person).sum()
    assert len(train) == round(0.7 * count)
    assert len(validation) == 0
    assert len(train) + len(test) == count


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_everyone_trains_and_tests(people, fraction):
  chosen = splits.choose_people(people, 4, 5)
  split = splits.split(people, *chosen, train_fraction=fraction)
  assert all(
    len(split.parts(k)[0]) and len(split.parts(k)[2]) for k in range(4)
  )


def test_a_person_s_parts_depend_on_nobody_else(people):
  few = splits.split(people, *splits.choose_people(people, 2, 3))
  many = splits.split(people, *splits.choose_people(people, 5, 3))
  np.testing.assert_array_equal(few.individuals, many.individuals[:2])
  np.testing.assert_array_equal(few.global_train, many.global_train)
  for index in range(2):
    for one, other in zip(few.parts(index), many.parts(index)):
      np.testing.assert_array_equal(one, other)


def test_seed_decides(people):
  def signature(seed):
    chosen = splits.choose_people(people, 4, 5, seed)
    return str([*chosen, splits.split(people, *chosen, seed=seed).train])

  assert signature(1) == signature(1)
  assert len({signature(seed) for seed in range(5)}) == 5


def test_padding_is_last():
  padded = splits.pad([np.array([4, 2]), np.array([7]), np.array([], int)])
  np.testing.assert_array_equal(padded, [[4, 2], [7, -1], [-1, -1]])


@pytest.mark.parametrize(
  ("counts", "sentence"),
  [
    ((7, 3), "ask for 10 people, but the data has 9"),
    ((0, 3), "num_individuals=0"),
    ((3, 0), "num_global_individuals=0"),
  ],
)
def test_choose_people_refuses(people, counts, sentence):
  with pytest.raises(ValueError, match=sentence):
    splits.choose_people(people, *counts)


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    ({"train_fraction": 1.0}, "train_fraction=1.0"),
    ({"train_fraction": 0.0}, "train_fraction=0.0"),
    ({"validation_fraction": 0.3}, "validation_fraction=0.3"),
    ({"validation_fraction": -0.1}, "validation_fraction=-0.1"),
  ],
)
def test_split_refuses_fractions(people, arguments, sentence):
  with pytest.raises(ValueError, match=sentence):
    splits.split(people, [1], [4], **arguments)


def test_split_refuses_who_is_not_there(people):
  for chosen in (([1, 2], [4]), ([1], [4, 99])):
    with pytest.raises(ValueError, match=r"individual (2|99) has no sample"):
      splits.split(people, *chosen)


def test_split_refuses_who_has_one_drawing(people):
  """However many copies there are of it."""
  rows = np.flatnonzero(people.individuals != 4)
  one = np.flatnonzero(people.individuals == 4)[:1]
  few = people.take(np.append(rows, one))
  for population, named in (
    (few, ";"),
    (variations.flips(few), " in 3 copies"),
  ):
    for chosen in (([1, 4], [7]), ([1], [7, 4])):
      sentence = f"individual 4 has one sample{named}"
      with pytest.raises(ValueError, match=sentence):
        splits.split(population, *chosen)


def test_split_refuses_a_person_in_both_groups(people):
  with pytest.raises(ValueError, match="person 4 can't be"):
    splits.split(people, [1, 4], [4, 7])


def of_classes(counts, people=4, copies=1):
  """People with so many drawings of each class, each in so many copies."""
  labels = np.tile(np.repeat(np.arange(len(counts)), counts), people)
  individuals = np.repeat(np.arange(people), sum(counts))
  originals = np.arange(len(labels))
  labels, individuals, originals = (
    np.repeat(each, copies) for each in (labels, individuals, originals)
  )
  images = np.random.default_rng(0).random((len(labels), 3))
  return Population.from_arrays(
    images, labels, individuals, originals=originals
  )


def counts_of(population, rows):
  labels = population.labels[rows]
  return np.bincount(labels, minlength=population.num_classes)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("fractions", [(0.7, 0.0), (0.6, 0.2), (0.5, 0.0)])
@pytest.mark.parametrize("counts", [(2, 2, 3, 20), (9, 9, 9), (1, 4, 6, 3)])
def test_stratified_has_every_class_on_both_sides(counts, fractions, copies):
  population = of_classes(counts, copies=copies)
  train, validation = fractions
  chosen = splits.choose_people(population, 2, 2)
  how = {"train_fraction": train, "validation_fraction": validation}
  by_class, drawn = (
    splits.split(population, *chosen, **how, how=name, seed=1)
    for name in ("stratified", "random")
  )
  for index in range(2):
    rows = by_class.parts(index)
    # As many of each as a random split has.
    assert [*map(len, rows)] == [*map(len, drawn.parts(index))]
    seen = [counts_of(population, part) for part in rows]
    assert (seen[0] > 0).all()
    assert (seen[2] > 0)[np.array(counts) > 1].all()
    for original in population.originals[rows[0]]:
      assert original not in population.originals[rows[2]]


def test_stratified_keeps_the_proportions():
  split = splits.split(
    population := of_classes((10, 20, 30)),
    [0, 1],
    [2, 3],
    how="stratified",
    validation_fraction=0.1,
  )
  for index in range(2):
    train, validation, test = split.parts(index)
    for rows, share in ((train, 0.7), (validation, 0.1), (test, 0.2)):
      wanted = share * np.array([10, 20, 30])
      assert (np.abs(counts_of(population, rows) - wanted) <= 1).all()


def test_stratified_depends_on_the_seed_and_on_the_person_alone(people):
  of = {
    (seed, count): splits.split(
      people, [1, 4, 7][:count], [10], how="stratified", seed=seed
    )
    for seed in (0, 1)
    for count in (1, 3)
  }
  for seed in (0, 1):
    for few, many in zip(of[seed, 1].parts(0), of[seed, 3].parts(0)):
      np.testing.assert_array_equal(few, many)
  assert not np.array_equal(of[0, 3].train, of[1, 3].train)


def test_stratified_has_something_to_test_on_whatever_the_classes():
  """Where each class is there once, as letters of Omniglot may be."""
  population = of_classes((1,) * 6)
  split = splits.split(population, [0, 1], [2, 3], how="stratified")
  assert all(len(split.parts(k)[2]) == 2 for k in range(2))


def with_parts(population, *of_rows):
  """A split of its own: these parts for everyone's rows, in turn."""
  parts = np.resize(np.array(of_rows, np.int8), len(population))
  return dataclasses.replace(population, parts=parts)


def test_a_split_of_their_own_is_taken_for_everyone():
  population = with_parts(of_classes((6, 6)), 0, 2, 0, 1)
  for seed in (0, 1):
    split = splits.split(population, [0, 1], [2, 3], seed=seed)
    for part, rows in enumerate(zip(*(split.parts(k) for k in range(2)))):
      of_d_g = (split.global_train, split.global_validation, split.global_test)
      everyone = np.concatenate([*rows, of_d_g[part]])
      np.testing.assert_array_equal(
        np.sort(everyone), np.flatnonzero(population.parts == part)
      )


def test_validation_comes_out_of_what_their_own_split_trains_on():
  """If there is none, and if it is asked for."""
  population = with_parts(of_classes((6, 6), copies=2), 0, 0, 2, 2, 0, 0)
  kept = splits.split(population, [0, 1], [2, 3])
  split = splits.split(population, [0, 1], [2, 3], validation_fraction=0.25)
  assert not kept.validation.size
  np.testing.assert_array_equal(split.test, kept.test)
  for index in range(2):
    train, validation, _ = split.parts(index)
    assert len(validation) == 6
    np.testing.assert_array_equal(
      np.sort([*train, *validation]), kept.parts(index)[0]
    )
    of_both = (population.originals[rows] for rows in (train, validation))
    assert not np.intersect1d(*of_both).size
  its_own = with_parts(of_classes((6, 6)), 0, 1, 2)
  np.testing.assert_array_equal(
    splits.split(its_own, [0], [1], validation_fraction=0.25).validation,
    splits.split(its_own, [0], [1]).validation,
  )


@pytest.mark.parametrize(
  ("parts", "copies", "sentence"),
  [
    ((0,), 1, "individual 0 has nothing to test on by the data's own split"),
    ((2,), 1, "individual 0 has nothing to train on by the data's own split"),
    ((0, 2), 2, "original 0 of individual 0 lies on both sides"),
  ],
)
def test_their_own_split_must_be_one(parts, copies, sentence):
  population = with_parts(of_classes((6, 6), copies=copies), *parts)
  for chosen in (([0], [1]), ([1], [0])):
    with pytest.raises(ValueError, match=r"individual \d"):
      splits.split(population, *chosen)
  with pytest.raises(ValueError, match=sentence):
    splits.split(population, [0, 1], [2, 3])


def test_how_is_known_and_can_act(people):
  with pytest.raises(ValueError, match="how='by class' must be"):
    splits.split(people, [1], [4], how="by class")
  with pytest.raises(ValueError, match="how='stratified' can't act on people"):
    splits.split(with_parts(people, 0, 2), [1], [4], how="stratified")


def test_individuals_by_id_and_by_name(people):
  """D_G is drawn from the others, as if the individuals had been drawn."""
  drawn = pj.split(people, 3, 4, seed=5)
  given = pj.split(
    people,
    individuals=drawn.individuals.tolist(),
    num_global_individuals=4,
    seed=5,
  )
  for name, array in vars(drawn).items():
    np.testing.assert_array_equal(getattr(given, name), array)
  names = tuple(f"u{person:02}" for person in range(30))
  named = dataclasses.replace(people, individual_names=names)
  split = pj.split(named, individuals=["u07", "u01"], seed=5)
  np.testing.assert_array_equal(split.individuals, [7, 1])
  assert sorted(split.global_people) == [4, 10, 13, 16, 19, 22, 25]
  as_text = pj.split(people, individuals=["7", 1], seed=5)
  np.testing.assert_array_equal(as_text.train, split.train)


@pytest.mark.parametrize(
  ("how", "sentence"),
  [
    ({"individuals": [1, 2]}, "individuals=2 is nobody's name: the data has 9"),
    ({"individuals": ["x"]}, r"individuals=x is .* people \(1, 4, 7, 10, 13, "),
    ({"individuals": []}, "individuals names nobody: the data has 9 people"),
    ({"individuals": [4, "4"]}, "individuals=4,4 names a person twice"),
    ({"individuals": [4], "num_individuals": 2}, "num_individuals=2 can't act"),
    (
      {"individuals": [4], "num_global_individuals": 9},
      "1 individuals and num",
    ),
    ({"individuals": range(1, 28, 3)}, "ask for 10 people, but the data has 9"),
    ({}, "num_individuals=None must be a whole number"),
  ],
)
def test_individuals_must_be_there(people, how, sentence):
  with pytest.raises(ValueError, match=sentence):
    pj.split(people, **how)


def test_several_seeds_keep_the_same_people(people):
  first, second = (
    pj.split(people, 3, 4, seed=seed, people_seed=0) for seed in (0, 1)
  )
  np.testing.assert_array_equal(first.individuals, second.individuals)
  np.testing.assert_array_equal(first.global_people, second.global_people)
  assert not np.array_equal(first.train, second.train)
  np.testing.assert_array_equal(first.train, pj.split(people, 3, 4).train)


@pytest.mark.parametrize(
  ("num_folds", "sizes"), [(4, [3, 2, 2, 2]), (0, [1] * 9)]
)
def test_everyone_is_an_individual_of_one_fold(people, num_folds, sizes):
  found = splits.folds(people, num_folds, seed=3)
  assert [len(individuals) for individuals, _ in found] == sizes
  everyone = np.unique(people.individuals)
  together = np.concatenate([individuals for individuals, _ in found])
  np.testing.assert_array_equal(np.sort(together), everyone)
  for individuals, others in found:
    assert {*individuals} | {*others} == {*everyone}
    np.testing.assert_array_equal(
      splits.choose_people(people, seed=3, individuals=individuals)[1], others
    )
  other_seed = splits.folds(people, num_folds, seed=4)
  assert not np.array_equal(other_seed[0][1], found[0][1])


@pytest.mark.parametrize(
  ("num_folds", "sentence"),
  [(1, "at least 2"), (10, "at most 9"), (-1, "least")],
)
def test_folds_are_as_many_as_people_at_most(people, num_folds, sentence):
  with pytest.raises(
    ValueError, match=f"num_folds={num_folds} must be.*{sentence}"
  ):
    splits.folds(people, num_folds)


def test_d_g_may_include_what_individuals_train_on(flipped):
  how = {"validation_fraction": 0.15, "seed": 3}
  alone, split = (
    pj.split(flipped, 4, 5, global_includes_individuals=includes, **how)
    for includes in (False, True)
  )
  own = np.concatenate([split.parts(index)[0] for index in range(4)])
  np.testing.assert_array_equal(split.global_train, [*alone.global_train, *own])
  for name in ("train", "validation", "test", "global_test", "global_people"):
    np.testing.assert_array_equal(getattr(split, name), getattr(alone, name))
  assert split.global_includes_individuals
  assert not alone.global_includes_individuals
  splits.check(split, flipped)


@pytest.mark.parametrize("part", ["validation", "test", "global_test"])
def test_nothing_is_trained_on_and_held_out(flipped, split, part):
  row = getattr(split, part).ravel()[0]
  leaking = dataclasses.replace(
    split, global_train=np.append(split.global_train, row)
  )
  with pytest.raises(ValueError, match=f"trains on row {row} and holds it out"):
    splits.check(leaking, flipped)
