"""What may stand in one table, and what is averaged in a row of it."""

import csv
import dataclasses
import types

import numpy as np
import pytest

import personalization_jax as pj
from personalization_jax.analysis import metrics, tables
from personalization_jax.analysis.result import Result
from personalization_jax.runs import table_files

LABELS = np.ones(40, np.int32)


def make_result(method, right, seed=0, diverged=(False,) * 3):
  """Three people with ten test samples each, of which so many are right."""
  rows = (np.arange(30) + seed).reshape(3, 10)
  answers = (np.arange(10) < np.array(right)[:, None]).astype(np.int32)
  return Result(
    method=method,
    seed=seed,
    individuals=np.array([3, 5, 8], np.int32),
    individual_rows=rows,
    individual_predictions=answers,
    global_rows=np.arange(30, 40),
    global_predictions=answers[::-1],
    losses=np.ones((3, 1), np.float32),
    diverged=np.array(diverged),
  )


BASE = [make_result("baseline", [3, 4, 6], k) for k in range(2)]
TL = [make_result("tl:2", [5, 5, 9], 0), make_result("tl:2", [8, 7, 9], 1)]
SG = [make_result("sg:4", [2, 5, 6], k) for k in range(2)]


@pytest.mark.parametrize(
  ("results", "sentence"),
  [
    ([], "results is empty"),
    (
      [BASE[0], TL[0], make_result("tl:2", [9, 9, 9])],
      "method 'tl:2' has two results with seed 0: give one for each seed, or a"
      " name to each variant",
    ),
    (
      [*BASE, TL[0]],
      "method 'tl:2' has seeds 0, but 'baseline' has 0, 1: give every method"
      " with the same seeds",
    ),
    (
      [BASE[0], TL[1]],
      "method 'tl:2' has seeds 1, but 'baseline' has 0",
    ),
    (
      [BASE[0], dataclasses.replace(TL[0], individuals=np.array([3, 5, 9]))],
      "method 'tl:2' with seed 0 was trained for other individuals than"
      " 'baseline' with seed 0: take the same people",
    ),
    (
      [
        BASE[0],
        dataclasses.replace(BASE[1], individuals=np.array([3, 5, 9])),
      ],
      "method 'baseline' with seed 1 was trained for other individuals",
    ),
    (
      [
        *BASE,
        TL[0],
        dataclasses.replace(TL[1], individual_rows=BASE[0].individual_rows),
      ],
      r"method 'tl:2' with seed 1 was tested on other samples of the"
      r" individuals than 'baseline' \(individual_rows differ\): make both from"
      " one split",
    ),
    (
      [BASE[0], dataclasses.replace(TL[0], global_rows=np.arange(29, 39))],
      r"other samples of D_G than 'baseline' \(global_rows differ\)",
    ),
  ],
)
def test_experiments_that_cannot_be_paired_are_refused(results, sentence):
  population = types.SimpleNamespace(labels=LABELS)
  for refuse in (
    lambda: tables.of_results(results, LABELS),
    lambda: tables.accuracies(results, LABELS),
    lambda: tables.over_seeds(results, LABELS),
    lambda: pj.compare(results, population),
  ):
    with pytest.raises(ValueError, match=sentence):
      refuse()


def test_a_table_that_is_refused_leaves_files_as_they_are(tmp_path):
  table_files.write_tables(tmp_path, [*BASE, *TL], LABELS)
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  with pytest.raises(ValueError, match="has seeds 0, but"):
    table_files.write_tables(tmp_path, [*BASE, TL[0]], LABELS)
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_seeds_are_paired_whatever_their_order():
  expected = tables.of_results([*BASE, *TL], LABELS)
  assert tables.of_results([*BASE, *TL[::-1]], LABELS) == expected
  gone = (True, False, False)
  lost = dataclasses.replace(TL[1], diverged=np.array(gone))
  rows = [
    tables.of_results([*BASE, *both], LABELS)[1]
    for both in ([TL[0], lost], [lost, TL[0]])
  ]
  assert rows[0] == rows[1]


def test_variants_get_rows_of_their_own_names():
  population = types.SimpleNamespace(labels=LABELS)
  shown = pj.compare(
    {"lr 1e-3": BASE, "lr 1e-2": TL, "baseline": SG}, population, "lr 1e-3"
  )
  methods = tables.of_results([*BASE, *TL, *SG], LABELS, None, "baseline")
  assert [row.method for row in shown.rows] == [
    "lr 1e-3", "lr 1e-2", "baseline",
  ]  # fmt: skip
  for row, expected in zip(shown.rows, methods):
    assert dataclasses.replace(row, method=expected.method) == expected
  (alone,) = pj.compare({"mine": TL[0]}, population).rows
  assert (alone.method, alone.seeds.count) == ("mine", 1)


@pytest.mark.parametrize(
  ("results", "sentence"),
  [
    ({}, "results is empty"),
    ({"a": BASE, "b": []}, r"results\['b'\] must be .* but is of none"),
    ({"a": [BASE[0], TL[1]]}, "one method, .* of 'baseline' and 'tl:2'"),
    ({"a": [BASE[0], BASE[0]]}, "'a' has two results with seed 0"),
    ({"a": BASE, "b": TL[0]}, "'b' has seeds 0, but 'a' has 0, 1"),
  ],
)
def test_names_with_other_than_one_method_are_refused(results, sentence):
  with pytest.raises(ValueError, match=sentence):
    pj.compare(results, types.SimpleNamespace(labels=LABELS))


def test_against_a_baseline_one_names_there_is_one_table_that_says_so():
  population = types.SimpleNamespace(labels=LABELS)
  results = [*BASE, *SG, *TL]
  named = pj.compare(results, population, "tl:2")
  lines = str(named).splitlines()
  assert [line.split()[1] for line in lines if line[:1] == "|"][2:] == [
    "baseline", "sg:4", "tl:2",
  ]  # fmt: skip
  assert lines[0].startswith("| Method")
  assert "paired t-test against tl:2, Holm-corrected" in str(named)
  assert "half" not in str(named)
  assert "table1.csv" not in str(named)
  # By default each half has its own, and says so.
  halves = str(pj.compare(results, population))
  assert halves.startswith("Shaping\n\n| Method")
  assert "\nData grouping\n\n| Method" in halves
  assert "paired t-test against the half's first row of its kind" in halves


def test_who_diverged_with_a_seed_brings_no_difference_of_seeds():
  """The second seed is better for everybody; one method lost it in part."""
  better = [
    make_result("baseline", [3, 4, 6], 0),
    make_result("baseline", [8, 8, 9], 1),
  ]
  same = [dataclasses.replace(one, method="mine") for one in better]
  same[1] = dataclasses.replace(same[1], diverged=np.array([1, 1, 0], bool))
  rows = tables.of_results([*better, *same], LABELS)
  assert rows[1].individual_p == metrics.Significance(
    t=1.0, wilcoxon=1.0, t_holm=1.0, wilcoxon_holm=1.0, difference=0.0, pairs=3
  )
  assert rows[1].diverged == 2
  # Its mean is of the models that it has.
  assert rows[1].individual.mean == pytest.approx((0.3 + 0.4 + 0.75) / 3)


def test_a_table_says_how_many_pairs_were_compared_and_by_how_much(tmp_path):
  """The better seed is lost by two people; the worst person is lost whole."""
  lost = [
    make_result("tl:2", [3, 4, 6], 0, (True, False, False)),
    make_result("tl:2", [8, 8, 9], 1, (True, True, False)),
  ]
  base = [
    make_result("baseline", [3, 4, 6], 0),
    make_result("baseline", [8, 8, 9], 1),
  ]
  table_files.write_tables(tmp_path, [*base, *lost], LABELS)
  with (tmp_path / "table1.csv").open() as file:
    first, second = csv.DictReader(file)
  columns = table_files.TABLE_COLUMNS[-4:]
  assert [first[column] for column in columns] == [""] * 4
  assert [float(second[c]) for c in columns] == [0.0, 2, 0.0, 2]
  # The means of all that each has differ.
  assert float(second["individual_mean"]) != float(first["individual_mean"])
  text = (tmp_path / "table1.md").read_text()
  rows = [line.split("|")[1:-1] for line in text.splitlines() if "|" in line]
  header, _, *cells = [row[-1].strip() for row in rows]
  assert (header, cells) == ("pairs", ["-", "2"])
  assert "pairs: individuals whom p compares" in text
  record = pj.compare([*base, *lost], types.SimpleNamespace(labels=LABELS))
  assert record.records()[1]["individual_pairs"] == 2
  assert np.isnan(record.records()[0]["individual_pairs"])


def test_where_nobody_diverged_all_are_pairs_and_need_no_column(tmp_path):
  rows = table_files.write_tables(tmp_path, [*BASE, *TL], LABELS)
  own, general = rows[1].individual_p, rows[1].global_p
  assert (own.pairs, general.pairs) == (3, 3)
  for test, mean, reference in (
    (own, rows[1].individual.mean, rows[0].individual.mean),
    (general, rows[1].global_.mean, rows[0].global_.mean),
  ):
    assert test.difference == pytest.approx(mean - reference)
  assert "pairs" not in (tmp_path / "table1.md").read_text()


# One model of D_G alone for everybody: people differ on D_I, not on D_G.
ONE = dataclasses.replace(
  make_result("global", [4, 4, 7]),
  global_predictions=np.repeat([[1] * 7 + [0] * 3], 3, axis=0),
  one_model=True,
)


def cells(table, method):
  """A line's texts: method, then D_I's and D_G's mean, rank, ..., max, p."""
  lines = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in str(table).splitlines()
    if line.startswith("|")
  ]
  (found,) = [line for line in lines if line[0] == method]
  return found


@pytest.mark.parametrize("name", ["global", "everybody"])
def test_one_model_is_not_tested_as_if_it_were_many(name):
  population = types.SimpleNamespace(labels=LABELS)
  named = {"baseline": BASE[0], name: ONE, "tl:2": TL[0]}
  shown = pj.compare(named, population, "baseline")
  _, one, other = shown.rows
  # As without it: it isn't one of the tests corrected for either.
  without = pj.compare([BASE[0], TL[0]], population)
  assert other.global_p == without.rows[1].global_p
  assert other.global_p.t_holm == other.global_p.t
  assert other.individual_p.t == without.rows[1].individual_p.t
  # Its accuracy on D_G is one number, however many people share the model.
  assert one.global_.min == one.global_.max == pytest.approx(one.global_.mean)
  assert np.isnan(one.global_.sd)
  p_values = ("t", "wilcoxon", "t_holm", "wilcoxon_holm")
  assert np.isnan([getattr(one.global_p, p) for p in p_values]).all()
  # On D_I people differ.
  assert one.individual.sd == pytest.approx(np.sqrt(0.03))
  assert one.individual_p.wilcoxon == 0.5
  line = cells(shown, name)
  assert (line[9], line[12]) == ("-", "-") != (line[3], line[6])
  assert f"{name}: one model for all individuals" in str(shown)
  assert "one model" not in str(without)
  record = shown.records()[1]
  assert np.isnan([record["global_sd"], record["p_global"]]).all()


def test_nothing_is_tested_against_one_model():
  population = types.SimpleNamespace(labels=LABELS)
  shown = pj.compare([BASE[0], ONE, TL[0]], population, "global")
  for row in (shown.rows[0], shown.rows[2]):
    assert np.isnan([row.global_p.t, row.global_p.wilcoxon_holm]).all()
    assert 0 < row.individual_p.t_holm <= 1
    assert row.global_.sd > 0
  assert "no test of it or against it" in str(shown)


def test_what_a_t_test_cannot_tell_is_a_dash_that_is_explained():
  population = types.SimpleNamespace(labels=LABELS)
  same = make_result("mine", [4, 5, 7])  # one more for everybody, on D_G too
  shown = pj.compare([BASE[0], same, TL[0]], population)
  line = cells(shown, "mine")
  assert line[1] != cells(shown, "baseline")[1]
  assert (line[6], line[12]) == ("-", "-")
  assert "all individuals differ by the same" in str(shown)
  assert cells(shown, "tl:2")[6] != "-"
  assert "differ by the same" not in str(pj.compare([*BASE, *TL], population))


def test_people_who_coincide_are_counted_below_the_table():
  population = types.SimpleNamespace(labels=LABELS)
  places = np.array([0.0, 1, 1])
  distances = np.abs(np.subtract.outer(places, places))
  shown = pj.compare([*BASE, *TL], population, distances=distances)
  assert "at distance 0, left out of fair max and fair mean: 1" in str(shown)
  assert np.isfinite([r["fairness_max_ratio"] for r in shown.records()]).all()
  assert [r["fairness_coincide"] for r in shown.records()] == [1, 1]
  apart = pj.compare([*BASE, *TL], population, distances=1 - np.eye(3))
  assert "at distance 0" not in str(apart)


def test_a_table_points_to_what_is_there():
  """In Python there is no table1.csv, in a run's table1.md no records()."""
  population = types.SimpleNamespace(labels=LABELS)
  lost = dataclasses.replace(TL[0], diverged=np.array([True, False, False]))
  shown = pj.compare([BASE[0], lost], population)
  assert ".csv" not in str(shown)
  assert "are in the table's records()" in str(shown)
  assert "Result.diverged names them" in str(shown)
  text = table_files.markdown(shown.rows, of_run=True)
  assert "are in table1.csv" in text
  assert "results.csv names them" in text
  assert "records()" not in text


def test_a_seed_that_somebody_lost_brings_no_difference_of_people():
  """Both seeds are the same for everybody; the worst is lost with one."""
  right = [1, 8, 9]
  first, second = (make_result("mine", right, seed) for seed in range(2))
  lost = dataclasses.replace(second, diverged=np.array([True, False, False]))
  found = tables.over_seeds([first, lost], LABELS)["mine"]
  assert (found.individual_sd, found.global_sd) == (0, 0)
  nobody = dataclasses.replace(second, diverged=np.ones(3, bool))
  gone = tables.over_seeds([first, nobody], LABELS)["mine"]
  assert np.isnan([gone.individual_sd, gone.global_sd]).all()
