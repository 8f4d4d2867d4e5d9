"""What may stand in one table, and what is averaged in a row of it."""

import csv
import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import personalization_jax as pj
from personalization_jax.analysis import markdown, tables
from personalization_jax.analysis.columns import TABLE_COLUMNS
from personalization_jax.analysis.result import Result
from personalization_jax.runs import table_files

LABELS = np.ones(40, np.int32)
POPULATION = types.SimpleNamespace(labels=LABELS)
P_VALUES = ("", "_holm", "_wilcoxon", "_wilcoxon_holm")


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
  for refuse in (
    lambda: tables.of_results(results, LABELS),
    lambda: tables.accuracies(results, LABELS),
    lambda: pj.compare(results, POPULATION),
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
  assert_frame_equal(tables.of_results([*BASE, *TL[::-1]], LABELS), expected)
  gone = (True, False, False)
  lost = dataclasses.replace(TL[1], diverged=np.array(gone))
  assert_frame_equal(
    tables.of_results([*BASE, TL[0], lost], LABELS),
    tables.of_results([*BASE, lost, TL[0]], LABELS),
  )


def test_variants_get_rows_of_their_own_names():
  shown = pj.compare(
    {"lr 1e-3": BASE, "lr 1e-2": TL, "baseline": SG}, POPULATION, "lr 1e-3"
  )
  methods = tables.of_results([*BASE, *TL, *SG], LABELS, None, "baseline")
  assert list(shown.table["method"]) == ["lr 1e-3", "lr 1e-2", "baseline"]
  assert_frame_equal(
    shown.table.drop(columns="method"), methods.drop(columns="method")
  )
  (alone,) = pj.compare({"mine": TL[0]}, POPULATION).records()
  assert (alone["method"], alone["seeds"]) == ("mine", 1)


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
    pj.compare(results, POPULATION)


def test_against_a_baseline_one_names_there_is_one_table_that_says_so():
  results = [*BASE, *SG, *TL]
  named = pj.compare(results, POPULATION, "tl:2")
  lines = str(named).splitlines()
  assert [line.split()[1] for line in lines if line[:1] == "|"][2:] == [
    "baseline", "sg:4", "tl:2",
  ]  # fmt: skip
  assert lines[0].startswith("| Method")
  assert "paired t-test against tl:2, Holm-corrected" in str(named)
  assert "half" not in str(named)
  assert "table1.csv" not in str(named)
  # By default each half has its own, and says so.
  halves = str(pj.compare(results, POPULATION))
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
  row = tables.of_results([*better, *same], LABELS).loc[1]
  assert [row[f"p_individual{test}"] for test in P_VALUES] == [1.0] * 4
  assert (row["individual_difference"], row["individual_pairs"]) == (0, 3)
  assert row["diverged"] == 2
  # Its mean is of the models that it has.
  assert row["individual_mean"] == pytest.approx((0.3 + 0.4 + 0.75) / 3)


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
  columns = TABLE_COLUMNS[-4:]
  assert [first[column] for column in columns] == [""] * 4
  assert [float(second[c]) for c in columns] == [0.0, 2, 0.0, 2]
  # The means of all that each has differ.
  assert float(second["individual_mean"]) != float(first["individual_mean"])
  text = (tmp_path / "table1.md").read_text()
  rows = [line.split("|")[1:-1] for line in text.splitlines() if "|" in line]
  header, _, *cells = [row[-1].strip() for row in rows]
  assert (header, cells) == ("pairs", ["-", "2"])
  assert "pairs: individuals whom p compares" in text
  record = pj.compare([*base, *lost], POPULATION)
  assert record.records()[1]["individual_pairs"] == 2
  assert np.isnan(record.records()[0]["individual_pairs"])


def test_where_nobody_diverged_all_are_pairs_and_need_no_column(tmp_path):
  table = table_files.write_tables(tmp_path, [*BASE, *TL], LABELS)
  for data in ("individual", "global"):
    first, second = table[f"{data}_mean"]
    assert table[f"{data}_difference"][1] == pytest.approx(second - first)
    assert list(table[f"{data}_pairs"]) == [None, 3]
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
  named = {"baseline": BASE[0], name: ONE, "tl:2": TL[0]}
  shown = pj.compare(named, POPULATION, "baseline")
  _, one, other = shown.records()
  # As without it: it isn't one of the tests corrected for either.
  without = pj.compare([BASE[0], TL[0]], POPULATION)
  alone = without.records()[1]
  for test in P_VALUES:
    assert other[f"p_global{test}"] == alone[f"p_global{test}"]
  assert other["p_global_holm"] == other["p_global"]
  assert other["p_individual"] == alone["p_individual"]
  # Its accuracy on D_G is one number, however many people share the model.
  assert one["global_min"] == one["global_max"]
  assert one["global_min"] == pytest.approx(one["global_mean"])
  assert np.isnan(one["global_sd"])
  assert np.isnan([one[f"p_global{test}"] for test in P_VALUES]).all()
  # On D_I people differ.
  assert one["individual_sd"] == pytest.approx(np.sqrt(0.03))
  assert one["p_individual_wilcoxon"] == 0.5
  line = cells(shown, name)
  assert (line[9], line[12]) == ("-", "-") != (line[3], line[6])
  assert f"{name}: one model for all individuals" in str(shown)
  assert "one model" not in str(without)


def test_nothing_is_tested_against_one_model():
  shown = pj.compare([BASE[0], ONE, TL[0]], POPULATION, "global")
  for row in (shown.records()[0], shown.records()[2]):
    assert np.isnan([row["p_global"], row["p_global_wilcoxon_holm"]]).all()
    assert 0 < row["p_individual_holm"] <= 1
    assert row["global_sd"] > 0
  assert "no test of it or against it" in str(shown)


def test_what_a_t_test_cannot_tell_is_a_dash_that_is_explained():
  same = make_result("mine", [4, 5, 7])  # one more for everybody, on D_G too
  shown = pj.compare([BASE[0], same, TL[0]], POPULATION)
  line = cells(shown, "mine")
  assert line[1] != cells(shown, "baseline")[1]
  assert (line[6], line[12]) == ("-", "-")
  assert "all individuals differ by the same" in str(shown)
  assert cells(shown, "tl:2")[6] != "-"
  assert "differ by the same" not in str(pj.compare([*BASE, *TL], POPULATION))


def test_people_who_coincide_are_counted_below_the_table():
  places = np.array([0.0, 1, 1])
  distances = np.abs(np.subtract.outer(places, places))
  shown = pj.compare([*BASE, *TL], POPULATION, distances=distances)
  assert "at distance 0, left out of fair max and fair mean: 1" in str(shown)
  assert np.isfinite([r["fairness_max_ratio"] for r in shown.records()]).all()
  assert [r["fairness_coincide"] for r in shown.records()] == [1, 1]
  apart = pj.compare([*BASE, *TL], POPULATION, distances=1 - np.eye(3))
  assert "at distance 0" not in str(apart)


def test_a_table_points_to_what_is_there():
  """In Python there is no table1.csv, in a run's table1.md no records()."""
  lost = dataclasses.replace(TL[0], diverged=np.array([True, False, False]))
  shown = pj.compare([BASE[0], lost], POPULATION)
  assert ".csv" not in str(shown)
  assert "are in the table's records()" in str(shown)
  assert "Result.diverged names them" in str(shown)
  text = markdown.markdown(shown.table, of_run=True)
  assert "are in table1.csv" in text
  assert "results.csv names them" in text
  assert "records()" not in text


def test_a_seed_that_somebody_lost_brings_no_difference_of_people():
  """Both seeds are the same for everybody; the worst is lost with one."""
  right = [1, 8, 9]
  first, second = (make_result("mine", right, seed) for seed in range(2))
  lost = dataclasses.replace(second, diverged=np.array([True, False, False]))
  nobody = dataclasses.replace(second, diverged=np.ones(3, bool))
  for other, sd in ((lost, 0), (nobody, np.nan)):
    table = tables.of_results([first, other], LABELS)
    found = table[["individual_seed_sd", "global_seed_sd"]].to_numpy(float)
    np.testing.assert_array_equal(found, [[sd, sd]])


def test_best_steps_are_told_of_methods_that_have_them():
  rows = pd.DataFrame(
    {
      "method": ["tl:9", "tl:9@best", "tl:9@best", "tl:9@best", "tl:9@best"],
      "best_steps": [None, 0, 9, 4, None],  # the last one diverged
    }
  )
  assert markdown.of_best_steps(rows) == [
    "tl:9@best: best on validation data after 0 to 9 batches of D_I, median 4."
  ]
