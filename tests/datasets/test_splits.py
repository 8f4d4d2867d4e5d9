import numpy as np
import pytest

from personalization_jax.datasets import splits, variations


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
