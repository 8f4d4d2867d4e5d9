"""Several seeds in one run: for the same people, each as if alone."""

import collections
import csv
import fractions
import json
import pathlib
import shutil
import struct

import numpy as np
import pytest
from helpers.small_run import read, run

from experiments.outputs.report import runs
from personalization_jax.analysis import tables
from personalization_jax.analysis.result import Result
from personalization_jax.runs import directory
from personalization_jax.study import Study

SEEDS = {
  "methods": "baseline,global,local:4,tl:2",
  "seeds": ["0", "1"],
  "validation_fraction": 0.2,
  "eval_every": 2,
}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "several"
  run(workdir, tensorboard=True, **SEEDS)
  return workdir


def test_every_seed_has_the_same_people_and_its_own_split(several):
  first = directory.load_result(several, "global")
  second = directory.load_result(several / "seeds" / "1", "global")
  np.testing.assert_array_equal(first.individuals, second.individuals)
  assert (first.seed, second.seed) == (0, 1)
  assert not np.array_equal(first.individual_rows, second.individual_rows)
  assert not np.array_equal(first.losses, second.losses)
  rows = read(several / "results.csv")
  assert len(rows) == 4 * 2 * 3
  assert {row["seed"] for row in rows} == {"0", "1"}


def test_the_table_tells_means_and_spread_over_seeds(several):
  rows = read(several / "results.csv")
  for line in read(several / "table1.csv"):
    own = {
      seed: [
        float(row["individual_accuracy"])
        for row in rows
        if row["method"] == line["method"] and row["seed"] == seed
      ]
      for seed in "01"
    }
    people = np.mean([own["0"], own["1"]], axis=0)
    assert float(line["individual_mean"]) == pytest.approx(people.mean())
    assert float(line["individual_sd"]) == pytest.approx(people.std(ddof=1))
    means = [np.mean(own[seed]) for seed in "01"]
    assert float(line["individual_seed_sd"]) == pytest.approx(
      np.std(means, ddof=1)
    )
    assert line["seeds"] == "2"
    # One model for all has one accuracy on D_G.
    single = line["method"] == "global"
    assert (line["global_sd"] == line["p_global"] == "nan") == single
    assert line["individual_sd"] != "nan"
  assert "seed sd(D_I)" in (several / "table1.md").read_text()


@pytest.mark.slow
def test_one_seed_of_several_is_what_it_is_alone(several, tmp_path):
  alone = {name: value for name, value in SEEDS.items() if name != "seeds"}
  run(tmp_path / "alone", **alone)
  several_rows = [
    row for row in read(several / "results.csv") if row["seed"] == "0"
  ]
  assert read(tmp_path / "alone" / "results.csv") == several_rows
  # More seeds on the same directory: what is there stays, the same bytes.
  kept = (tmp_path / "alone" / "predictions" / "tl-2.npz").stat().st_mtime_ns
  run(tmp_path / "alone", **SEEDS)
  assert (tmp_path / "alone" / "results.csv").read_bytes() == (
    several / "results.csv"
  ).read_bytes()
  path = tmp_path / "alone" / "predictions" / "tl-2.npz"
  assert path.stat().st_mtime_ns == kept


def test_a_call_with_fewer_seeds_keeps_the_tables_whole(
  several, tmp_path, monkeypatch
):
  """Figures are then of a seed that wasn't asked for."""

  def refuse(*_, **__):
    raise AssertionError("trained again")

  workdir = tmp_path / "run"
  shutil.copytree(several, workdir)
  monkeypatch.setattr(Study, "personalize", refuse)
  run(workdir, **{**SEEDS, "methods": "tl:2", "seeds": ["1"]})
  for name in ("results.csv", "table1.csv", "metrics.jsonl", "choice.csv"):
    assert (workdir / name).read_bytes() == (several / name).read_bytes()
  figures = {path.name for path in (several / "figures").iterdir()}
  assert {path.name for path in (workdir / "figures").iterdir()} == figures


def test_another_seed_s_result_in_a_seed_s_folder_is_trained_again(
  several, tmp_path, monkeypatch, capsys
):
  workdir = tmp_path / "run"
  shutil.copytree(several, workdir)
  second = pathlib.Path("seeds", "1", "predictions", "tl-2.npz")
  shutil.copy(workdir / "predictions" / "tl-2.npz", workdir / second)
  trained = []

  def personalize(study, method, **_):
    trained.append((method.spec, study.settings.seed))
    return directory.load_result(
      several / "seeds" / "1", method.spec, study.population
    )

  monkeypatch.setattr(Study, "personalize", personalize)
  run(workdir, **SEEDS)
  assert trained == [("tl:2", 1)]
  assert "it holds seed 0" in capsys.readouterr().out
  for name in ("results.csv", "table1.csv"):
    assert (workdir / name).read_bytes() == (several / name).read_bytes()
  assert (workdir / second).read_bytes() == (several / second).read_bytes()


def test_every_call_on_a_directory_ends_finished(
  several, tmp_path, monkeypatch, capsys
):
  """One method has fewer seeds, since nobody asked for more."""

  def refuse(*_, **__):
    raise AssertionError("trained again")

  workdir = tmp_path / "run"
  shutil.copytree(several, workdir)
  (workdir / "seeds" / "1" / "predictions" / "tl-2.npz").unlink()
  config = json.loads((workdir / "config.json").read_text())
  methods = SEEDS["methods"].split(",")
  assert config["asked"] == {method: [0, 1] for method in methods}
  config["asked"]["tl:2"] = [0]
  (workdir / "config.json").write_text(json.dumps(config))
  monkeypatch.setattr(Study, "personalize", refuse)
  whole = ["baseline", "global", "local:4"]
  for methods, seeds, table in (
    (",".join(whole), ["0", "1"], whole),
    ("tl:2", ["0"], [*whole, "tl:2"]),
  ):
    run(workdir, **{**SEEDS, "methods": methods, "seeds": seeds})
    assert "--methods=baseline,global,local:4,tl:2 --seeds=0,1 would" in (
      capsys.readouterr().out
    )
    found = runs.Run(workdir, "run")
    assert found.finished
    assert list(found.table["method"]) == table
    assert list(found.table_seeds) == list(seeds)
  assert found.beside == [(method, "1") for method in whole]


def test_the_global_model_is_one_for_all_and_local_never_sees_d_g(several):
  together = directory.load_result(several, "global")
  for person in range(1, 3):
    np.testing.assert_array_equal(
      together.global_predictions[0], together.global_predictions[person]
    )
  alone = directory.load_result(several, "local:4")
  assert alone.losses.shape[1] == 4
  assert (alone.losses[0] != alone.losses[1]).any()


def test_curves_and_the_choice_are_written(several):
  lines = [
    json.loads(line)
    for line in (several / "metrics.jsonl").read_text().splitlines()
  ]
  curves = [line for line in lines if "global_validation_accuracy" in line]
  assert {line["seed"] for line in curves} == {0, 1}
  steps = [
    line["step"]
    for line in curves
    if line["method"] == "local:4"
    and line["seed"] == 0
    and line["individual"] == curves[0]["individual"]
  ]
  assert steps == [2, 4]
  with (several / "choice.csv").open() as file:
    chosen = {row["method"]: row for row in csv.DictReader(file)}
  assert set(chosen) == {"baseline", "local:4", "tl:2"}
  # Of three people, by each one's mean over seeds.
  own = collections.defaultdict(list)
  for row in read(several / "results.csv"):
    accuracy = fractions.Fraction(
      row["individual_accuracy"]
    ).limit_denominator()
    own[row["method"], row["individual"]].append(accuracy)
  people = {person for _, person in own}
  for method, row in chosen.items():
    hurt = [sum(own[method, p]) < sum(own["global", p]) for p in people]
    assert float(row["hurt"]) == sum(hurt) / 3
  for figure in ("validation_curves", "choice"):
    assert (several / "figures" / f"{figure}.png").stat().st_size


def test_event_files_are_whole_records(several):
  """TensorBoard's format: a length, its sum, the event, its sum."""
  files = sorted((several / "tensorboard").rglob("events.out.*"))
  assert len(files) == 4 * 2
  assert {path.parent.name for path in files} >= {"tl-2_seed_0", "tl-2_seed_1"}
  content = files[0].read_bytes()
  place, events = 0, 0
  while place < len(content):
    (length,) = struct.unpack("<Q", content[place : place + 8])
    place += 8 + 4 + length + 4
    events += 1
  assert place == len(content)
  assert events > 5
  assert b"individual_validation_accuracy/mean" in content


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"seeds": ["0", "x"]}, "--seeds=0,x must be whole numbers"),
    ({"seeds": ["1", "1"]}, "names a seed twice"),
    ({"eval_every": 2}, "validation_fraction"),
    ({"validation_fraction": 0.5}, "validation_fraction=0.5"),
  ],
)
def test_mistakes_are_named_before_training(tmp_path, changes, sentence):
  with pytest.raises(SystemExit) as stopped:
    run(tmp_path / "run", **changes)
  assert str(stopped.value.code).startswith("error: ")
  assert sentence in str(stopped.value.code)
  assert not (tmp_path / "run").exists()


def test_who_diverged_with_one_seed_counts_with_the_others():
  def result(seed, diverged, right):
    return Result(
      method="tl:2",
      seed=seed,
      individuals=np.array([3, 5], np.int32),
      individual_rows=np.array([[0, 1], [2, 3]]),
      individual_predictions=np.array([[right, 1], [1, 1]]),
      global_rows=np.array([0]),
      global_predictions=np.array([[1], [1]]),
      losses=np.ones((2, 1), np.float32),
      diverged=np.array(diverged),
    )

  labels = np.ones(4, np.int32)
  found = [result(0, [True, False], 1), result(1, [False, True], 0)]
  own, _ = tables.accuracies(found, labels)["tl:2"]
  np.testing.assert_array_equal(own, [0.5, 1.0])
  (row,) = tables.of_results(found, labels).to_dict("records")
  assert row["diverged"] == 2
  assert row["individual_mean"] == 0.75
  both = [result(0, [True, False], 1), result(1, [True, False], 0)]
  own, _ = tables.accuracies(both, labels)["tl:2"]
  np.testing.assert_array_equal(own, [np.nan, 1.0])
