"""The report: which runs are finished, and of several calls and seeds."""

import json

import numpy as np
import pytest
from helpers.report_runs import make_run, report

from experiments.outputs.report import runs
from personalization_jax.checkpoints import files


def test_an_unfinished_run_is_named_as_such(tmp_path):
  folder = tmp_path / "a"
  make_run(folder)
  for name in ("table1.csv", "table1.md", "results.csv"):
    (folder / name).unlink()
  predict(folder, 0, "tl:10")
  # As a full disk may leave it.
  (folder / "predictions" / "baseline.npz").touch()
  (folder / "checkpoints" / "global_phase").mkdir(parents=True)
  make_run(tmp_path / "b")
  found = report(tmp_path, folder, tmp_path / "b")
  assert (
    "Not finished: there is no table1.csv yet. Trained: tl:10." in found.text
  )
  assert "Checkpoints: global_phase." in found.text
  assert "Not trained yet: baseline, random:9, <b>&co." in found.text
  assert "No results.csv yet: a." in found.text
  assert len(found.tables["Shaping"]) == 1
  assert len(found.tables["Flags"]) == 2


def test_a_run_that_grows_is_not_finished(tmp_path):
  make_run(tmp_path / "a", methods=("baseline",))
  config = json.loads((tmp_path / "a" / "config.json").read_text())
  config["methods"].append("es:40")
  (tmp_path / "a" / "config.json").write_text(json.dumps(config))
  found = report(tmp_path, tmp_path / "a")
  assert "Not finished: the tables have no es:40 yet." in found.text
  assert "Shaping" in found.tables


def predict(home, seed, *methods):
  (home / "predictions").mkdir(parents=True, exist_ok=True)
  for method in methods:
    path = home / "predictions" / f"{files.safe_name(method)}.npz"
    np.savez(path, method=method, seed=seed)


def test_a_seed_that_was_added_is_not_finished_before_it_is_in_the_tables(
  tmp_path,
):
  folder, methods = tmp_path / "a", ("baseline", "tl:10")
  make_run(folder, methods=methods, seeds=(3,), settings={"seed": 3})
  path = folder / "config.json"
  config = json.loads(path.read_text())
  assert runs.Run(folder, "a").finished
  path.write_text(json.dumps(config | {"seeds": [3, 4]}))
  predict(folder, 3, *methods)
  predict(folder / "seeds" / "4", 4, "tl:10")
  (folder / "seeds" / "4" / "checkpoints" / "baseline").mkdir(parents=True)
  assert not runs.Run(folder, "a").finished
  assert (
    "Not finished: the tables have no baseline, tl:10 (seed 4) yet. Trained:"
    " baseline, tl:10 (seed 3); tl:10 (seed 4). Checkpoints: baseline (seed"
    " 4). Not trained yet: baseline (seed 4)."
  ) in report(tmp_path, folder).text
  predict(folder / "seeds" / "4", 4, "baseline")
  assert (
    "Not finished: the tables have no baseline, tl:10 (seed 4) yet. Trained:"
    " baseline, tl:10 (seed 3); baseline, tl:10 (seed 4). Checkpoints: baseline"
    " (seed 4). All is trained: the same command writes the tables."
  ) in report(tmp_path, folder).text
  # A run that was stopped between its two tables.
  make_run(tmp_path / "b", methods=methods, seeds=(3, 4), settings={"seed": 3})
  both = runs.Run(tmp_path / "b", "b")
  assert both.finished
  (tmp_path / "b" / "table1.csv").write_bytes(
    (folder / "table1.csv").read_bytes()
  )
  assert not runs.Run(tmp_path / "b", "b").finished
  # Before there were several seeds, config.json had no list of them.
  path.write_text(json.dumps({k: config[k] for k in config if k != "seeds"}))
  assert runs.Run(folder, "a").finished
  assert runs.Run(folder, "a").trained == [(one, "3") for one in methods]


ASKED = {"global": [0, 1], "local:3": [0, 1], "sw:2": [0]}


def make_asked(folder, table, asked=ASKED, **options):
  """A run of several calls, whose results.csv has what they asked for."""
  values = {
    method: {
      person: {seed: (0.1 * k + 0.2 * seed, 0.5) for seed in seeds}
      for person in ("8", "9")
    }
    for k, (method, seeds) in enumerate(asked.items(), 1)
  }
  options = {"asked": asked, "values": values, **options}
  make_run(folder, methods=list(asked), seeds=(0, 1), table=table, **options)
  return runs.Run(folder, folder.name)


@pytest.mark.parametrize(
  ("asked", "table", "state"),
  [
    (
      ASKED,
      (["global", "local:3"], [0, 1]),
      "Finished: 2 methods, 2 seeds. In results.csv alone: sw:2 (seed 0).",
    ),
    (
      {"sw:2": [0], "global": [0, 1], "local:3": [0, 1]},
      (["sw:2", "global", "local:3"], [0]),
      "Finished: 3 methods. In results.csv alone: global, local:3 (seed 1).",
    ),
    (
      {"tl:5": [1], "global": [0]},
      (["tl:5"], [1]),
      "Finished: 1 method. In results.csv alone: global (seed 0).",
    ),
  ],
)
def test_a_run_of_several_calls_is_finished_with_what_they_asked_for(
  tmp_path, asked, table, state
):
  run = make_asked(tmp_path / "a", table, asked)
  assert run.finished
  assert state in report(tmp_path, tmp_path / "a").text


@pytest.mark.parametrize(
  ("asked", "table"),
  [
    # Another seed of all, or of one; another method; another alone.
    ({"global": [0, 1], "tl:5": [0, 1]}, (["global", "tl:5"], [0])),
    ({"global": [0], "tl:5": [0]}, (["global"], [0])),
    ({"tl:5": [0, 1], "global": [0]}, (["global"], [0])),
    ({"tl:5": [1], "global": [0]}, (["global"], [0])),
  ],
)
def test_a_run_killed_between_its_two_tables_is_not_finished(
  tmp_path, asked, table
):
  assert not make_asked(tmp_path / "a", table, asked).finished
  predict(tmp_path / "a", 0, *asked)
  predict(tmp_path / "a" / "seeds" / "1", 1, *asked)
  text = report(tmp_path, tmp_path / "a").text
  assert "Not finished:" in text
  assert "All is trained: the same command writes the tables." in text


def test_pairs_are_finished_once_they_are_in_results(tmp_path):
  """Of an older run, which lists no pairs, every method with every seed."""
  table = (["global", "local:3"], [0, 1])
  more = {**ASKED, "sw:2": [0, 1]}
  run = make_asked(tmp_path / "a", table)
  assert not run.unfinished
  path = tmp_path / "a" / "config.json"
  config = json.loads(path.read_text())
  for other in ({**config, "asked": more}, {**config, "asked": None}):
    path.write_text(json.dumps(other))
    assert runs.Run(tmp_path / "a", "a").unfinished == [("sw:2", "1")]


def test_all_seeds_trained_without_tables_is_said_so(tmp_path):
  """None of them is that of the directory itself."""
  folder = tmp_path / "a"
  make_run(folder, methods=("tl:10",), seeds=(1, 2))
  for name in ("table1.csv", "table1.md", "results.csv"):
    (folder / name).unlink()
  for seed in "12":
    predict(folder / "seeds" / seed, seed, "tl:10")
  found = report(tmp_path, folder)
  assert (
    "Not finished: there is no table1.csv yet. Trained: tl:10 (seed 1); tl:10"
    " (seed 2). All is trained: the same command writes the tables."
  ) in found.text
