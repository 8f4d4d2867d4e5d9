"""What the tables of a directory are of that holds more than was asked for."""

import itertools
import json

from experiments.outputs import summary
from experiments.outputs.summary import Rows


def choose(methods, seeds, finished, asked, asked_seeds, before=()):
  """`before` was asked for and isn't finished."""
  now = list(itertools.product(asked, asked_seeds))
  finished = list(finished)
  ever = {method: [] for method in methods}
  for method, seed in [*finished, *before, *now]:
    ever[method].append(seed)
  return summary.choose(ever, seeds, {*finished, *now}, asked)


def test_a_narrower_call_shows_all_that_is_finished_in_the_old_order():
  before = list(itertools.product(("baseline", "tl:2", "sw:2"), (0, 1)))
  rows = choose(["baseline", "tl:2", "sw:2"], [0, 1], before, ["sw:2"], [1])
  assert rows == Rows(["baseline", "tl:2", "sw:2"], [0, 1], [], [])


def test_the_seeds_asked_for_are_those_of_the_table():
  """A trial of before, with fewer, doesn't make it smaller."""
  methods, serious = ["sw:2", "global", "local:3"], ["global", "local:3"]
  rows = choose(methods, [0, 1], [("sw:2", 0)], serious, [0, 1])
  assert (rows.methods, rows.seeds) == (["global", "local:3"], [0, 1])
  assert rows.beside == [("sw:2", 0)]
  (note,) = rows.notes
  assert "(0, 1); in results.csv alone: sw:2 with seed 0." in note
  assert "--methods=sw:2,global,local:3 --seeds=0,1 would" in note
  # What the sentence says.
  rows = choose(methods, [0, 1], [], methods, [0, 1])
  assert rows == Rows(methods, [0, 1], [], [])


def test_what_is_asked_for_with_fewer_seeds_is_compared_with_all():
  before = itertools.product(["global", "local:3"], [0, 1])
  methods = ["global", "local:3", "sw:2"]
  rows = choose(methods, [0, 1], before, ["sw:2"], [0])
  assert (rows.methods, rows.seeds) == (methods, [0])
  assert rows.beside == [("global", 1), ("local:3", 1)]
  assert "--methods=global,local:3,sw:2 --seeds=0,1 would" in rows.notes[0]


def test_seeds_of_before_count_where_all_that_is_asked_for_has_them():
  before = list(itertools.product(("baseline", "tl:2"), (0, 1)))
  rows = choose(["baseline", "tl:2"], [0, 1], before, ["tl:2"], [1])
  assert rows == Rows(["baseline", "tl:2"], [0, 1], [], [])


def test_without_a_seed_in_common_what_was_asked_for_is_shown():
  rows = choose(["global", "tl:5"], [0, 1], [("global", 0)], ["tl:5"], [1])
  assert (rows.methods, rows.seeds) == (["tl:5"], [1])
  assert rows.beside == [("global", 0)]
  assert (
    "global with seed 0. --methods=global,tl:5 --seeds=0,1" in (rows.notes[0])
  )


def test_methods_of_another_version_are_left_out_aloud():
  rows = choose(["old~3", "tl:2"], [0], [("old~3", 0)], ["tl:2"], [0])
  assert (rows.methods, rows.beside) == (["tl:2"], [])
  assert "'old~3' is finished, but this version" in rows.notes[0]


def test_what_was_asked_for_before_and_is_not_finished_is_named():
  rows = choose(["es:4", "tl:2"], [0], [], ["tl:2"], [0])
  assert rows.methods == ["tl:2"]
  assert "not finished: es:4;" in rows.notes[0]


def test_of_a_method_with_some_seeds_finished_the_others_are_named():
  rows = choose(
    ["es:4", "sw:2", "tl:2"],
    [0, 1, 2],
    [("es:4", 0), ("sw:2", 0), ("sw:2", 1), ("sw:2", 2)],
    ["tl:2"],
    [0],
    before=[("es:4", 1), ("es:4", 2)],
  )
  assert rows.methods == ["es:4", "sw:2", "tl:2"]
  assert "not finished: es:4 with seed 1 and 2; --methods" in rows.notes[-1]


def test_all_processes_are_told_the_same():
  rows = choose(["es:4", "a", "tl:2"], [0, 1], [("es:4", 0)], ["tl:2"], [1])
  again = Rows(*json.loads(json.dumps(rows)))
  assert again._replace(beside=[*map(tuple, again.beside)]) == rows
