"""Groups against the truth: slow oracles, and what perfect and random give."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from experiments.outputs import agreement, summary
from personalization_jax.analysis import group_agreement
from personalization_jax.datasets import Population, splits, synthetic
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import Group, parse_method

PARTS = ("style", "allographs", "forms", "all")
NUM_WRITERS, NUM_INDIVIDUALS = 16, 5


def make_factors(num_writers=NUM_WRITERS, seed=0):
  rng = np.random.default_rng(seed)
  scalars = rng.normal(size=(6, num_writers))
  shape = (num_writers, synthetic.NUM_DIGITS)
  return synthetic.WriterFactors(
    *scalars,
    allographs=rng.integers(0, synthetic.NUM_ALLOGRAPHS, shape),
    forms=rng.normal(size=(*shape, 2 * synthetic.NUM_MODES)),
  )


@pytest.fixture(scope="module")
def factors():
  return make_factors()


@pytest.fixture(scope="module")
def population():
  """Writers of 12 to 27 drawings of 30 classes; images don't matter."""
  rng = np.random.default_rng(1)
  owners = np.repeat(np.arange(NUM_WRITERS), np.arange(12, 12 + NUM_WRITERS))
  labels = rng.integers(0, 30, len(owners))
  labels[:30] = np.arange(30)
  images = rng.integers(0, 256, (len(owners), 4, 4, 1)).astype(np.uint8)
  return Population.from_arrays(images, labels, owners)


@pytest.fixture(scope="module")
def split(population):
  people = splits.choose_people(
    population, NUM_INDIVIDUALS, NUM_WRITERS - NUM_INDIVIDUALS, seed=3
  )
  return splits.split(population, *people, seed=3)


def squared(factors, part, a, b, digits):
  """Between writers a and b, from the fields, number after number."""
  if part == "style":
    return sum(
      ((getattr(factors, name)[a] - getattr(factors, name)[b]) / spread) ** 2
      for name, spread in (
        ("slant", 0.16),
        ("rotation", 0.06),
        ("aspect", 0.15),
        ("size", 0.06),
        ("stroke_width", 0.018),
        ("curvature", 0.25),
      )
    )
  if part == "allographs":
    return sum(
      2.0 * (factors.allographs[a, d] != factors.allographs[b, d])
      for d in digits
    )
  return sum(
    (x - y) ** 2
    for d in digits
    for x, y in zip(factors.forms[a, d], factors.forms[b, d])
  )


@pytest.mark.parametrize("digit", [None, 4])
def test_true_distances_are_of_the_fields(factors, digit):
  digits = range(10) if digit is None else [digit]
  people, writers = np.array([9, 2]), np.array([5, 9, 0, 14])
  found = group_agreement.true_distances(factors, people, writers, digit)
  assert tuple(found) == PARTS
  for i, person in enumerate(people):
    total = np.zeros(len(writers))
    for part in PARTS[:3]:
      squares = [squared(factors, part, person, w, digits) for w in writers]
      np.testing.assert_allclose(
        found[part][i], np.sqrt(squares), rtol=1e-5, atol=1e-6
      )
      # One's own distance, 0, is nobody's to be compared with.
      others = [s for s, w in zip(squares, writers) if w != person]
      total += np.array(squares) / np.std(others)
    np.testing.assert_allclose(found["all"][i], np.sqrt(total), rtol=1e-4)


def test_in_all_every_part_counts_whatever_its_size(factors):
  people, writers = np.arange(4), np.arange(4, NUM_WRITERS)
  before = group_agreement.true_distances(factors, people, writers)
  large = synthetic.WriterFactors(
    **{**vars(factors), "forms": 100 * factors.forms}
  )
  after = group_agreement.true_distances(large, people, writers)
  np.testing.assert_allclose(after["forms"], 100 * before["forms"], rtol=1e-5)
  np.testing.assert_allclose(after["all"], before["all"], rtol=1e-4)


def test_a_part_in_which_nobody_differs_decides_nothing(factors):
  same = synthetic.WriterFactors(
    **{**vars(factors), "allographs": np.zeros((NUM_WRITERS, 10), int)}
  )
  found = group_agreement.true_distances(same, np.arange(3), np.arange(3, 9))
  assert (found["allographs"] == 0).all()
  assert np.isfinite(found["all"]).all()
  assert (found["all"] > 0).all()


def test_strangers_are_named(factors):
  with pytest.raises(
    ValueError, match=r"known factors .* 0\.\.15, .* holds 16"
  ):
    group_agreement.true_distances(factors, np.array([1]), np.array([3, 16]))


# With ties inside the nearest, across the nth, and none.
ROWS = np.array([[3.0, 1, 2, 0, 5, 4], [1, 0, 1, 1, 0, 1], [2, 2, 2, 2, 2, 2]])


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_recall_counts_those_as_near_as_the_nth(n):
  values, random = group_agreement.recall(ROWS, n)
  for row, value, chance in zip(ROWS, values, random):
    threshold = sorted(row)[n - 1]
    assert value == sum(row[:n] <= threshold) / n
    shares = [
      sum(x <= threshold for x in chosen) / n
      for chosen in itertools.combinations(row, n)
    ]
    assert chance == pytest.approx(sum(shares) / len(shares))
  assert random[0] == n / 6
  assert (group_agreement.recall(np.sort(ROWS, axis=1), n)[0] == 1).all()


def test_recall_of_more_than_there_are_is_refused():
  for n in (0, 7):
    with pytest.raises(ValueError, match=rf"n={n} must lie in 1..6"):
      group_agreement.recall(ROWS, n)


def test_rank_correlation_is_that_of_middle_ranks():
  found = group_agreement.rank_correlation(ROWS)
  for row, value in zip(ROWS[:2], found):
    middle = [sum(row < x) + (sum(row == x) - 1) / 2 for x in row]
    assert value == pytest.approx(np.corrcoef(np.arange(6), middle)[0, 1])
  assert math.isnan(found[2])
  ordered = np.arange(12.0).reshape(2, 6)
  np.testing.assert_allclose(group_agreement.rank_correlation(ordered), 1)
  np.testing.assert_allclose(group_agreement.rank_correlation(-ordered), -1)


def farther(distance, rows):
  """Share of rows that are farther, equally far ones by half."""
  return sum((d > distance) + (d == distance) / 2 for d in rows) / len(rows)


def test_nearness_is_the_share_of_samples_that_are_farther():
  distances, counts = np.array([2.0, 0, 1, 2, 7]), np.array([3, 1, 5, 2, 4])
  rows = np.repeat(distances, counts)
  found = group_agreement.nearness(distances, counts)
  np.testing.assert_allclose(found, [farther(d, rows) for d in distances])
  assert np.average(found, weights=counts) == pytest.approx(0.5)


def test_random_order_comes_near_its_expectation():
  rng = np.random.default_rng(5)
  rows = rng.permuted(np.tile([0, 1, 2, 2, 2, 3, 4, 5], (4000, 1)), axis=1)
  values, random = group_agreement.recall(rows.astype(float), 3)
  assert abs(values.mean() - random.mean()) < 0.02
  assert abs(group_agreement.rank_correlation(rows[:500]).mean()) < 0.06


def latents_of(population, factors, part):
  """Every row at its writer's place in one part of the true factors."""
  values = factors.parts()[part]
  return values.reshape(len(values), -1)[population.individuals]


def of_classes(population, count):
  """With so few classes that nobody lacks one (or hardly anybody)."""
  return dataclasses.replace(
    population, labels=population.labels % count, num_classes=count
  )


@pytest.mark.parametrize("among_individuals", [False, True])
@pytest.mark.parametrize("part", ["style", "forms"])
def test_ig_by_the_truth_agrees_perfectly(
  population, split, factors, part, among_individuals
):
  groups = Groups(
    of_classes(population, 1),
    split,
    latents=latents_of(population, factors, part),
    among_individuals=among_individuals,
  )
  found = group_agreement.of_individuals(groups, factors, [1, 3])
  assert [one.group for one in found] == ["ig"] * 4 + ["ig:1"] * 4 + [
    "ig:3"
  ] * 4
  perfect = [one for one in found if one.part == part]
  assert [one.measure for one in perfect] == [
    "rank correlation", "recall", "recall"
  ]  # fmt: skip
  for one in perfect:
    np.testing.assert_allclose(one.values, 1)
  np.testing.assert_allclose(perfect[0].random, 0)
  np.testing.assert_allclose(perfect[2].random, 3 / groups.num_candidates)


def test_ig_is_judged_by_the_writers_it_found(population, split, factors):
  rng = np.random.default_rng(7)
  latents = rng.normal(size=(len(population), 3)).astype("f4")
  groups = Groups(population, split, latents=latents)
  found = group_agreement.of_individuals(groups, factors, [4])
  assert len(found) == 8
  for one in found[4:]:
    truth = group_agreement.true_distances(
      factors, split.individuals, split.global_people
    )[one.part]
    for index, row in enumerate(truth):
      chosen = set(
        population.individuals[groups.rows(Group("ig", 4))[index]].tolist()
      )
      near = set(split.global_people[row <= sorted(row)[3]].tolist())
      assert one.values[index] == len(chosen & near) / 4


@pytest.mark.parametrize("total", [3, 40])
def test_sg_is_judged_sample_by_sample(population, split, factors, total):
  rng = np.random.default_rng(11)
  latents = rng.normal(size=(len(population), 4)).astype("f4")
  groups = Groups(population, split, latents=latents)
  found = group_agreement.of_samples(groups, factors, total, count=3)
  assert [one.part for one in found] == ["own class", *PARTS]
  rows = split.global_train
  owners = population.individuals
  for index in range(3):
    own, chosen = groups.by_sample(Group("sg", total), index)
    expected = {one.part: [] for one in found}
    chance = []
    for row, group in zip(own, chosen):
      label = population.labels[row]
      truth = group_agreement.true_distances(
        factors, split.individuals, np.arange(NUM_WRITERS), label % 10
      )
      for choice in group[group >= 0]:
        expected["own class"].append(population.labels[choice] == label)
        chance.append(np.mean(population.labels[rows] == label))
        for part in PARTS[:3]:
          distance = truth[part][index]
          expected[part].append(
            farther(distance[owners[choice]], distance[owners[rows]])
          )
    assert len(chance) == total
    for one in found[:-1]:
      assert one.values[index] == pytest.approx(np.mean(expected[one.part]))
    assert found[0].random[index] == pytest.approx(np.mean(chance))
    assert all((one.random == 0.5).all() for one in found[1:])


def test_sg_by_the_truth_agrees_perfectly(population, split, factors):
  population = of_classes(population, 3)
  classes = 1000 * np.eye(3, dtype="f4")[population.labels]
  style = latents_of(population, factors, "style")
  groups = Groups(
    population, split, latents=np.concatenate([classes, style], axis=1)
  )
  own_class, near, *_ = group_agreement.of_samples(groups, factors, 1, 5)
  np.testing.assert_array_equal(own_class.values, 1)
  assert (abs(own_class.random - 1 / 3) < 0.1).all()
  truth = group_agreement.true_distances(
    factors, split.individuals, np.arange(16)
  )
  owners = population.individuals[split.global_train]
  for index, row in enumerate(truth["style"]):
    # One row is chosen: that of the nearest writer who has the class.
    asking = population.labels[split.parts(index)[0][0]]
    has = owners[population.labels[split.global_train] == asking]
    best = farther(row[has].min(), row[owners])
    assert near.values[index] == pytest.approx(best)
  assert near.values.mean() > 0.8


def test_sg_by_noise_comes_near_its_expectation(population, split, factors):
  rng = np.random.default_rng(13)
  latents = rng.normal(size=(len(population), 8)).astype("f4")
  groups = Groups(population, split, latents=latents)
  for one in group_agreement.of_samples(groups, factors, 60, NUM_INDIVIDUALS):
    assert abs(one.values.mean() - one.random.mean()) < 0.08


@pytest.mark.slow
def test_pixels_are_searched_for_as_many_as_is_affordable(
  population, split, factors, monkeypatch, tmp_path, capsys
):
  class Study:
    pass

  study = Study()
  study.population, study.split = population, split
  study.groups = Groups(
    population, split, latents=latents_of(population, factors, "style")
  )
  study.trainer = Study()
  study.trainer.mesh = None
  methods = [
    parse_method(spec) for spec in ("global", "ig:2", "sg:9", "sg:9:only")
  ]
  everything = agreement.compare(study, methods, factors)
  each = split.train.shape[1] * len(split.global_train) * 16
  monkeypatch.setattr(agreement, "_MULTIPLICATIONS", 2.5 * each)
  less = agreement.compare(study, methods, factors)
  for space in (agreement.AUTO_ENCODER, agreement.PIXELS):
    assert len(everything[space]) == len(less[space]) == 4 + 4 + 5
    for one, other in zip(everything[space], less[space]):
      count = 2 if one.group == "sg:9" else NUM_INDIVIDUALS
      assert len(one.values) == NUM_INDIVIDUALS
      np.testing.assert_array_equal(one.values[:count], other.values)
  summary.write_further(agreement, less, tmp_path)
  text = capsys.readouterr().out
  counts = [line.split("|")[-2].strip() for line in text.splitlines()[4:17]]
  assert counts == ["5"] * 8 + ["2"] * 5
  assert len({len(line) for line in text.split("\n\n")[1].splitlines()}) == 1
  monkeypatch.setattr(agreement, "_MULTIPLICATIONS", 1)
  assert agreement.affordable(split, 16) == 1
