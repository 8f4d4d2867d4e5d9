"""Groups against the paper's algorithms written the slow way."""

import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.slow_groups import slow_single_sample_group
from jax.sharding import Mesh

from personalization_jax import grouping
from personalization_jax.grouping import individuals, search, single_sample


def slow_nearest_individuals(means, present, all_means, all_present, n):
  """Algorithm 1, lines 18-20, with classes missing."""
  distances = []
  for other, has in zip(all_means, all_present):
    total, compared = 0.0, 0
    for c in range(len(means)):
      if present[c] and has[c]:
        compared += 1
        for a, b in zip(means[c], other[c]):
          total += (float(a) - float(b)) ** 2
    distances.append(total * len(means) / compared if compared else math.inf)
  return sorted(range(len(distances)), key=lambda m: distances[m])[:n]


def normal(rng, *shape):
  return rng.standard_normal(shape).astype(np.float32)


def lattice(rng, *shape):
  """Few different points: most distances tie."""
  return rng.integers(0, 3, shape).astype(np.float32)


def far_from_zero(rng, *shape):
  """The expanded form of distances would lose all digits here."""
  return (1e4 + rng.standard_normal(shape)).astype(np.float32)


def huge(rng, *shape):
  """Squares overflow float32."""
  return (1e30 * rng.standard_normal(shape)).astype(np.float32)


def outlier(rng, *shape):
  latents = normal(rng, *shape)
  latents[-1] = 1e6
  return latents


def check_single_sample_group(make, num_samples, num_rows, width, total):
  rng = np.random.default_rng(num_rows)
  samples = make(rng, num_samples, width)
  rows = make(rng, num_rows, width)
  group = grouping.single_sample_group(samples, rows, total)
  assert group.dtype == np.int32
  assert group.tolist() == slow_single_sample_group(samples, rows, total)


@pytest.mark.parametrize(
  "num_samples,num_rows,width,total",
  [
    (7, 300, 3, 24),  # total isn't divisible by |D_I|
    (5, 64, 2, 64),  # all of D_G
    (3, 50, 40, 49),  # more coordinates than are added at once
    (4, 9, 1, 3),  # a sample that takes nothing
    (3, 1, 2, 1),
  ],
)
def test_single_sample_group_is_the_slow_one(
  num_samples, num_rows, width, total
):
  check_single_sample_group(normal, num_samples, num_rows, width, total)


@pytest.mark.parametrize("make", [lattice, far_from_zero, huge, outlier])
def test_single_sample_group_of_nasty_latents(make):
  check_single_sample_group(make, 10, 500, 16, 133)


def test_duplicates_are_taken_in_order():
  rows = np.repeat(np.float32([[5, 5], [1, 1]]), 30, axis=0)
  group = grouping.single_sample_group(np.ones((2, 2)), rows, 40)
  assert group.tolist() == [*range(30, 60), *range(10)]


def test_rows_that_float32_cannot_tell_apart_are_ordered():
  # Squares near 1e8 + i/1000: in float32 they are all the same.
  x = np.zeros((1, 2), np.float32)
  rows = np.zeros((40, 2), np.float32)
  rows[:, 0] = 1e4
  rows[:, 1] = np.sqrt(np.arange(40, 0, -1) / 1000)
  group = grouping.single_sample_group(x, rows, 40)
  assert group.tolist() == list(range(39, -1, -1))


def test_the_fast_search_claims_no_more_than_it_knows():
  """On tame data it proves everything; under ties it must decline."""
  rng = np.random.default_rng(0)
  mesh = Mesh(np.asarray(jax.devices()[:1]), "individual")
  for make, expected in ((normal, True), (lattice, False)):
    rows, samples = make(rng, 2000, 3), make(rng, 2, 5, 3)
    data = search.GlobalLatents.put(rows, 6, mesh)
    arguments = data, samples, np.full(2, 5, np.int32), 30, 6, mesh
    found, proven = search.take(*arguments, exactly=False)
    exact, all_proven = search.take(*arguments, exactly=True)
    assert all_proven.all()
    assert (proven == expected).all()
    np.testing.assert_array_equal(found[proven], exact[proven])


@pytest.fixture(scope="module")
def crowd():
  """Nine individuals with 1 to 12 samples, who mostly want the same rows."""
  rng = np.random.default_rng(1)
  counts = rng.permutation(np.r_[1, 12, rng.integers(2, 12, 7)])
  samples = 0.3 * normal(rng, 9, 12, 4)
  samples[3] = np.round(samples[3])  # ties for one of them alone
  rows = normal(rng, 700, 4)
  rows[::7] = np.round(rows[::7])
  return samples, counts, rows


@pytest.fixture(scope="module")
def groups(crowd):
  return grouping.single_sample_groups(*crowd, 50)


def test_groups_of_all_are_those_of_one(crowd, groups):
  samples, counts, rows = crowd
  for person in (int(np.argmin(counts)), int(np.argmax(counts)), 3):
    own = samples[person, : counts[person]]
    alone = grouping.single_sample_group(own, rows, 50)
    np.testing.assert_array_equal(groups[person], alone)
    assert alone.tolist() == slow_single_sample_group(own, rows, 50)


@pytest.mark.parametrize(
  "devices,together,rows", [(1, 9, 2**15), (4, 1, 64), (1, 2, 100)]
)
def test_groups_depend_on_no_block_and_no_device(
  monkeypatch, crowd, groups, devices, together, rows
):
  monkeypatch.setattr(search, "_ROWS_PER_BLOCK", rows)
  monkeypatch.setattr(
    single_sample, "_individuals_at_once", lambda *_: together
  )
  other = grouping.single_sample_groups(
    *crowd,
    50,
    mesh=Mesh(np.asarray(jax.devices()[:devices]), "individual"),
  )
  np.testing.assert_array_equal(groups, other)


def test_padding_is_no_sample(crowd, groups):
  samples, counts, rows = crowd
  padded = np.where(
    np.arange(12)[None, :, None] < counts[:, None, None], samples, 0.1
  )
  np.testing.assert_array_equal(
    groups, grouping.single_sample_groups(padded, counts, rows, 50)
  )


def test_a_second_call_compiles_nothing(crowd, caplog):
  samples, counts, rows = crowd

  def compilations(samples, rows):
    caplog.clear()
    with jax.log_compiles():
      grouping.single_sample_groups(samples, counts, rows, 60)
    return sum("Compiling" in line.getMessage() for line in caplog.records)

  jax.clear_caches()
  assert compilations(samples, rows) > 0
  assert compilations(samples[::-1] * 0.9, rows * 1.1) == 0


def test_an_empty_group():
  group = grouping.single_sample_group(np.ones((2, 3)), np.ones((4, 3)), 0)
  assert group.shape == (0,)


@pytest.mark.parametrize(
  "samples,rows,total,message",
  [
    (np.ones((2, 3)), np.ones((4, 3)), 5, "total=5 .* than the 4 of D_G"),
    (np.ones((2, 3)), np.ones((4, 3)), -1, "total=-1"),
    (np.ones((2, 3)), np.ones((4, 2)), 1, r"global_.*\[4, 2\], but D .* is 3"),
    (np.ones(3), np.ones((4, 3)), 1, r"individual_latents .* \[S, D\]"),
    (np.ones((2, 3)), np.ones(3), 1, r"global_latents .* \[N, D\]"),
    (np.ones((0, 3)), np.ones((4, 3)), 1, r"individual_latents .* \[0, 3\]"),
    (np.ones((2, 3)), np.full((4, 3), np.nan), 1, "global_latents .* finite"),
  ],
)
def test_wrong_input_of_single_sample_group(samples, rows, total, message):
  with pytest.raises(ValueError, match=message):
    grouping.single_sample_group(samples, rows, total)


def test_class_means():
  latents = np.float32([[1, 2], [3, 4], [10, 20], [5, 0]])
  means, present = grouping.class_means(latents, [0, 0, 2, 0], 4)
  np.testing.assert_array_equal(means, [[3, 2], [0, 0], [10, 20], [0, 0]])
  np.testing.assert_array_equal(present, [True, False, True, False])


def test_class_means_of_all_are_those_of_one():
  rng = np.random.default_rng(2)
  latents = normal(rng, 200, 5)
  labels, owners = rng.integers(0, 6, 200), rng.integers(0, 9, 200) * 3
  people = np.array([24, 0, 12, 99])  # the last has nothing
  means, present = individuals.class_means_of_all(
    latents, labels, owners, people, 6
  )
  for k, person in enumerate(people[:-1]):
    own = owners == person
    alone, has = grouping.class_means(latents[own], labels[own], 6)
    np.testing.assert_array_equal(means[k], alone)
    np.testing.assert_array_equal(present[k], has)
    for c in range(6):
      of_class = latents[own & (labels == c)].astype(np.float64)
      assert has[c] == (len(of_class) > 0)
      if has[c]:
        np.testing.assert_allclose(means[k, c], of_class.mean(0), rtol=1e-6)
  assert not present[-1].any()


@pytest.mark.parametrize("make", [normal, lattice])
def test_nearest_individuals_are_the_slow_ones(make):
  rng = np.random.default_rng(3)
  means, all_means = make(rng, 6, 5, 2), make(rng, 25, 5, 2)
  present = rng.random((6, 5)) < 0.6
  all_present = rng.random((25, 5)) < 0.5
  present[0], all_present[3] = False, False  # nothing in common
  order = individuals.nearest_individuals_of_all(
    means, present, all_means, all_present, 25
  )
  assert order.dtype == np.int32
  for k in range(6):
    expected = slow_nearest_individuals(
      means[k], present[k], all_means, all_present, 25
    )
    assert order[k].tolist() == expected
    for n in (0, 1, 7):
      alone = grouping.nearest_individuals(
        means[k], present[k], all_means, all_present, n
      )
      assert alone.tolist() == expected[:n]
  assert order[0].tolist() == list(range(25))
  assert (order[1:, -1] != 0).all()


def test_an_absent_class_counts_as_an_average_one():
  squares = individuals.squared_distances(
    np.zeros((1, 3, 1)),
    np.ones((1, 3), bool),
    np.float32([[[2], [2], [2]], [[2], [9], [9]], [[1], [1], [1]]]),
    np.array([[True] * 3, [True, False, False], [False] * 3]),
  )
  np.testing.assert_allclose(squares, [[12, 12, np.inf]])


def test_nobody_chooses_who_is_left_out():
  means = normal(np.random.default_rng(4), 8, 3, 2)
  present = np.ones((8, 3), bool)
  order = individuals.nearest_individuals_of_all(
    means, present, means, present, 7, among_themselves=True
  )
  for k in range(8):
    assert sorted(order[k]) == sorted(set(range(8)) - {k})
  nearest = grouping.nearest_individuals(
    means[5], present[5], means, present, 1
  )
  assert nearest.tolist() == [5]


@pytest.mark.parametrize(
  "call,message",
  [
    (lambda m, p: grouping.nearest_individuals(m[0], p[0], m, p, 5), "n=5 .*4"),
    (
      lambda m, p: individuals.nearest_individuals_of_all(
        m, p, m, p, 4, among_themselves=True
      ),
      r"n=4 must lie in 0\.\.3",
    ),
    (
      lambda m, p: grouping.nearest_individuals(m[0, 1:], p[0, 1:], m, p, 1),
      r"all_means has .*\[4, 3, 2\], but C of \[M, C, D\] is 2",
    ),
    (
      lambda m, p: grouping.nearest_individuals(m[0], p[0, 1:], m, p, 1),
      r"present has shape \[2\], but C of \[C\] is 3",
    ),
    (
      lambda m, p: grouping.nearest_individuals(m, p, m, p, 1),
      r"\[C, D\]",
    ),
    (lambda m, p: grouping.class_means(m[0], [0, 1], 3), r"labels .* is 3"),
    (lambda m, p: grouping.class_means(m[0], [0, 1, 3], 3), "row 2 holds 3"),
    (lambda m, p: grouping.class_means(m, [0, 1, 2, 0], 3), r"\[N, D\]"),
  ],
)
def test_wrong_input_of_individual_grouping(call, message):
  with pytest.raises(ValueError, match=message):
    call(np.ones((4, 3, 2), np.float32), np.ones((4, 3), bool))


_MILLION = """
import resource
import numpy as np
from personalization_jax import grouping
rng = np.random.default_rng(0)
groups = grouping.single_sample_groups(
  rng.standard_normal((100, 210, 16), np.float32), np.full(100, 210),
  rng.standard_normal((1_000_000, 16), np.float32), 1500)
assert groups.shape == (100, 1500)
assert all(len(set(group.tolist())) == 1500 for group in groups)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_million_rows_and_a_hundred_individuals_fit_in_4_gib():
  # A process of its own, whose largest memory is this call's.
  done = subprocess.run(
    [sys.executable, "-c", _MILLION],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=True,
  )
  kib = 1024 if sys.platform != "darwin" else 1
  assert int(done.stdout) * kib < 4 * 2**30


@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize(
  ("people", "samples", "rows", "width", "total"),
  [(5, 3, 500, 16, 400), (6, 17, 300, 40, 51)],
)
def test_the_search_takes_no_more_than_planned(
  monkeypatch, exactly, people, samples, rows, width, total
):
  """By XLA's own plan of its program."""
  taken = []
  made = search._program

  def spy(*of):
    def run(*arguments):
      plan = made(*of).lower(*arguments).compile().memory_analysis()
      taken.append(
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
      )
      return made(*of)(*arguments)

    return run

  monkeypatch.setattr(search, "_program", spy)
  make = huge if exactly else normal
  rng = np.random.default_rng(0)
  grouping.single_sample_groups(
    make(rng, people, samples, width),
    np.full(people, samples),
    make(rng, rows, width),
    total,
    mesh=Mesh(np.asarray(jax.devices()[:1]), "individual"),
  )
  bound = grouping.planned_bytes(people, samples, samples, rows, width, total)
  assert bound / 20 < max(taken) <= bound
