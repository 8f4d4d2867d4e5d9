"""What the tables of a directory are of that holds more than was asked for."""

import itertools

from experiments import table1_rows
from experiments.table1_rows import Rows


def choose(methods, seeds, finished, asked, asked_seeds):
  asked_pairs = set(itertools.product(asked, asked_seeds))
  return table1_rows.choose(
    methods, seeds, asked_pairs | set(finished), asked, asked_seeds
  )


def test_a_narrower_call_shows_all_that_is_finished_in_the_old_order():
  before = list(itertools.product(("baseline", "tl:2", "sw:2"), (0, 1)))
  rows = choose(["baseline", "tl:2", "sw:2"], [0, 1], before, ["sw:2"], [1])
  assert rows == Rows(("baseline", "tl:2", "sw:2"), (0, 1))


def test_methods_are_compared_with_the_seeds_that_all_have():
  before = [("baseline", 0), ("tl:2", 0)]
  rows = choose(["baseline", "tl:2"], [0, 3], before, ["tl:2"], [3, 0])
  assert (rows.methods, rows.seeds) == (("baseline", "tl:2"), (0,))
  assert rows.beside == (("tl:2", 3),)
  (note,) = rows.notes
  assert "in results.csv alone: tl:2 with seed 3." in note


def test_without_a_seed_in_common_what_was_asked_for_is_shown():
  rows = choose(["baseline", "tl:2"], [0, 1], [("baseline", 0)], ["tl:2"], [1])
  assert (rows.methods, rows.seeds) == (("tl:2",), (1,))
  assert rows.beside == (("baseline", 0),)
  assert "baseline with seed 0" in rows.notes[0]


def test_methods_of_another_version_are_left_out_aloud():
  rows = choose(["old~3", "tl:2"], [0], [("old~3", 0)], ["tl:2"], [0])
  assert (rows.methods, rows.beside) == (("tl:2",), ())
  assert "'old~3' is finished, but this version" in rows.notes[0]


def test_what_was_asked_for_before_and_is_not_finished_is_named():
  rows = choose(["es:4", "tl:2"], [0], [], ["tl:2"], [0])
  assert rows.methods == ("tl:2",)
  assert "not finished: es:4;" in rows.notes[0]


def test_all_processes_are_told_the_same():
  rows = choose(["es:4", "a", "tl:2"], [0, 1], [("es:4", 0)], ["tl:2"], [1])
  assert Rows.from_json(rows.to_json()) == rows
