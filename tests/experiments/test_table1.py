"""The script: from flags to a run directory."""

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import unittest.mock
import zipfile

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from helpers.small_run import SMALL, read, run
from helpers.tiny import TINY_AUTOENCODER

import personalization_jax as pj
from experiments import table1
from experiments.flags import study_flags
from personalization_jax.runs import directory

FIGURES = {
  "trade_off.png",
  "distribution_individual.png",
  "distribution_global.png",
  "gains.png",
  "schedules.png",
  "handwriting.png",
  "training_curves.png",
}


def test_a_run_leaves_all_that_the_contract_names(finished):
  config = json.loads((finished / "config.json").read_text())
  assert config["settings"]["batch_size"] == SMALL["batch_size"]
  assert config["versions"]["jax"]
  rows = read(finished / "results.csv")
  assert len(rows) == 9
  assert {row["method"] for row in rows} == {"baseline", "sw:2", "tl:2"}
  assert len(read(finished / "table1.csv")) == 3
  assert "| tl:2" in (finished / "table1.md").read_text()
  assert (finished / "metrics.jsonl").stat().st_size
  figures = {path.name for path in (finished / "figures").iterdir()}
  assert figures == FIGURES


def test_every_row_can_be_computed_again_from_saved_predictions(finished):
  """With the data made anew from the flags in config.json."""
  settings = json.loads((finished / "config.json").read_text())["settings"]
  with flagsaver.flagsaver(**settings):
    population, _ = study_flags.load_population()
    population, *_ = study_flags.vary(population)
  for row in read(finished / "results.csv"):
    saved = directory.load_result(finished, row["method"], population)
    index = list(saved.individuals).index(int(row["individual"]))
    tested = saved.individual_rows[index]
    tested = tested[tested >= 0]
    owners = population.individuals[tested]
    assert (owners == int(row["individual"])).all()
    right = (
      saved.individual_predictions[index][: len(tested)]
      == population.labels[tested]
    )
    assert float(row["individual_accuracy"]) == right.sum() / len(tested)
    right = (
      saved.global_predictions[index] == population.labels[saved.global_rows]
    )
    assert float(row["global_accuracy"]) == right.sum() / len(right)


@pytest.fixture
def no_figures(monkeypatch):
  """They take seconds."""
  monkeypatch.setattr(table1.summary.pictures, "draw", lambda *_: [])


def test_the_same_command_trains_nothing_again(finished, monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("trained again")

  before = (finished / "results.csv").read_bytes()
  monkeypatch.setattr(table1.Study, "personalize", refuse)
  run(finished)
  assert (finished / "results.csv").read_bytes() == before


def test_a_run_cut_short_goes_on_to_the_same_bytes(
  finished, tmp_path, monkeypatch, no_figures
):
  personalize = table1.Study.personalize

  def cut(self, method, **arguments):
    if method.spec == "tl:2":
      raise KeyboardInterrupt
    return personalize(self, method, **arguments)

  with monkeypatch.context() as patched:
    patched.setattr(table1.Study, "personalize", cut)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "cut")
  assert not (tmp_path / "cut" / "results.csv").exists()
  run(tmp_path / "cut", individuals_per_device=2)
  for name in ("results.csv", "table1.csv", "metrics.jsonl"):
    assert (tmp_path / "cut" / name).read_bytes() == (
      finished / name
    ).read_bytes()


def answer_from(finished, monkeypatch, change=lambda result: result):
  """Instead of training, what the finished run gave."""
  monkeypatch.setattr(
    table1.Study,
    "personalize",
    lambda self, method, **_: change(
      directory.load_result(finished, method.spec, self.population)
    ),
  )


def test_damaged_predictions_are_trained_again_aloud(
  finished, tmp_path, monkeypatch, capsys, no_figures
):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  path = workdir / "predictions" / "sw-2.npz"
  content = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    losses = archive.getinfo("losses.npy")
  content[losses.header_offset + losses.compress_size // 2 + 60] ^= 8
  path.write_bytes(content)
  answer_from(finished, monkeypatch)
  run(workdir)
  assert "sw-2.npz can't be read" in capsys.readouterr().out
  assert (workdir / "results.csv").read_bytes() == (
    finished / "results.csv"
  ).read_bytes()
  assert directory.load_result(workdir, "sw:2")
  assert (workdir / "predictions" / "sw-2.npz.aside").exists()


def test_a_narrower_call_keeps_tables_and_figures_whole(
  finished, tmp_path, monkeypatch
):
  """And what isn't drawn any more isn't shown any more."""
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  of_before = ("choice.csv", "choice_by_person.csv")
  for name in ("figures/latent_map.png", "figures/mine.png", *of_before):
    (workdir / name).write_bytes(b"of before")
  answer_from(finished, monkeypatch)
  run(workdir, methods="tl:2")
  for name in ("results.csv", "table1.csv", "table1.md", "metrics.jsonl"):
    assert (workdir / name).read_bytes() == (finished / name).read_bytes()
  figures = {path.name for path in (workdir / "figures").iterdir()}
  assert figures == FIGURES | {"mine.png"}
  assert not any((workdir / name).exists() for name in of_before)
  config = json.loads((workdir / "config.json").read_text())
  assert config["methods"] == SMALL["methods"].split(",")


def test_figures_of_another_format_are_in_the_place_of_those_before(
  finished, tmp_path, monkeypatch
):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  answer_from(finished, monkeypatch)
  for form in ("svg", "pdf"):
    run(workdir, figure_format=form)
    drawn = {path.name for path in (workdir / "figures").iterdir()}
    assert drawn == {name.replace("png", form) for name in FIGURES}
  assert (workdir / "table1.csv").read_bytes() == (
    finished / "table1.csv"
  ).read_bytes()


@pytest.mark.slow
def test_methods_are_compared_with_the_one_that_is_asked_for(
  finished, tmp_path, monkeypatch, capsys
):
  """And with the paper's baseline again when nothing is asked for."""
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  answer_from(finished, monkeypatch)
  with monkeypatch.context() as patched:
    cut = unittest.mock.Mock(side_effect=KeyboardInterrupt)
    patched.setattr(table1.summary.table_files, "write_tables", cut)
    with pytest.raises(KeyboardInterrupt):
      run(workdir, compare_to="sw:02")
  # A table that comes later is never taken for another comparison's.
  assert '"compare_to": "sw:2"' in (workdir / "config.json").read_text()
  run(workdir, compare_to="sw:02")
  assert "paired t-test against sw:2, Holm" in capsys.readouterr().out
  assert "against sw:2" in (workdir / "table1.md").read_text()
  tested = {
    r["method"]: r["p_individual"] for r in read(workdir / "table1.csv")
  }
  assert not tested.pop("sw:2")
  assert all(tested.values())
  figures = {path.name for path in (workdir / "figures").iterdir()}
  assert figures == FIGURES - {"gains.png"} | {"gains_compared.png"}
  with pytest.raises(SystemExit, match="--compare_to=global must be a method"):
    run(workdir, compare_to="global")
  run(workdir)
  for name in ("config.json", "results.csv", "table1.csv", "table1.md"):
    assert (workdir / name).read_bytes() == (finished / name).read_bytes()
  assert {path.name for path in (workdir / "figures").iterdir()} == FIGURES


def test_measures_are_of_the_saved_predictions(finished):
  results = [
    directory.load_result(finished, method)
    for method in SMALL["methods"].split(",")
  ]
  expected = pj.measures(results).to_csv(index=False, lineterminator="\n")
  assert (finished / "measures.csv").read_text() == expected
  assert not pj.measures(results).isna().any(axis=None)
  assert all(one.individual_log_probabilities is None for one in results)


def test_probabilities_of_all_classes_are_saved_if_asked_for(
  tmp_path, no_figures
):
  run(tmp_path / "run", methods="tl:2", save_probabilities=True)
  result = directory.load_result(tmp_path / "run", "tl:2")
  shape = result.individual_predictions.shape
  assert result.individual_log_probabilities.shape == (*shape, 30)
  assert (
    "save_probabilities"
    in json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
  )


def test_another_version_relabels_nothing(
  finished, tmp_path, monkeypatch, no_figures
):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  (workdir / "predictions" / "tl-2.npz").unlink()
  answer_from(finished, monkeypatch)
  describe = table1.run_info.describe
  monkeypatch.setattr(
    table1.run_info, "describe", lambda: {**describe(), "python": "4.0.0"}
  )
  run(workdir)
  config = json.loads((workdir / "config.json").read_text())
  old = json.loads((finished / "config.json").read_text())["python"]
  assert config["python"] == old
  made = {one["python"]: one["results"] for one in config["made_with"]}
  assert made == {old: {"baseline": [0], "sw:2": [0]}, "4.0.0": {"tl:2": [0]}}


@pytest.mark.parametrize(
  "gone",
  [([0, 1, 0], [0, 1, 0]), ([1, 1, 1], [0, 1, 0]), ([1, 1, 1], [1, 1, 1])],
  ids=["one", "a method", "all"],
)
def test_who_diverged_is_in_the_table_and_in_no_figure(
  finished, tmp_path, monkeypatch, capsys, gone
):
  """A run fails if no model is left."""
  of_methods = dict(zip(("baseline", "sw:2"), np.array(gone, bool)))

  def diverge(result):
    return dataclasses.replace(result, diverged=of_methods[result.method])

  answer_from(finished, monkeypatch, diverge)
  none = pytest.raises(SystemExit, match="1")
  with none if np.all(gone) else contextlib.nullcontext():
    run(tmp_path / "run", methods="baseline,sw:2")
  rows = read(tmp_path / "run" / "results.csv")
  statuses = [row["status"] for row in rows]
  assert statuses == ["diverged" if one else "ok" for one in np.ravel(gone)]
  text = capsys.readouterr().out
  assert "diverged" in text
  drawn = (tmp_path / "run" / "figures" / "trade_off.png").exists()
  assert drawn == (not np.any(gone, axis=0).all())
  before = {
    (row["method"], row["individual"]): row
    for row in read(finished / "results.csv")
  }
  for row in rows:
    if row["status"] == "ok":
      assert row == before[row["method"], row["individual"]]


@pytest.mark.slow
def test_data_grouping_trains_one_auto_encoder_for_the_run(
  tmp_path, monkeypatch
):
  grouping = {
    "methods": "baseline,tl:2,random:40,ig:2,sg:40,sg:30:only+tl:2",
    "autoencoder_epochs": 2,
  }
  monkeypatch.setattr(
    table1.latent_space, "make_learner", lambda **_: TINY_AUTOENCODER
  )
  run(tmp_path / "run", **grouping)
  rows = read(tmp_path / "run" / "table1.csv")
  assert [row["method"] for row in rows] == grouping["methods"].split(",")
  # Each half has its own ranks and its own baseline.
  assert sorted(row["individual_rank"] for row in rows[:2])[0] == "1"
  assert sorted(row["individual_rank"] for row in rows[2:])[0] == "1"
  no_p = [row["method"] for row in rows if not row["p_individual"]]
  assert no_p == ["baseline", "random:40"]
  assert all(float(row["fairness_mean_ratio"]) >= 0 for row in rows)
  text = (tmp_path / "run" / "table1.md").read_text()
  assert text.index("Shaping") < text.index("Data grouping")
  figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
  assert figures == FIGURES | {
    "gains_grouping.png",
    "reconstructions.png",
    "latent_map.png",
    "neighbours.png",
    "chosen_samples.png",
    "group_agreement.png",
  }
  judged = read(tmp_path / "run" / "group_agreement.csv")
  assert {row["latent_space"] for row in judged} == {
    "auto-encoder",
    "raw pixels",
  }
  assert {row["group"] for row in judged} == {"ig", "ig:2", "sg:40", "sg:30"}
  for row in judged:
    assert row["individuals"] == "3"
    assert -1 <= float(row["mean"]) <= 1
    if row["group"] == "ig:2" and row["part"] in ("style", "forms", "all"):
      assert float(row["random"]) == pytest.approx(2 / 3)

  def refuse(*_, **__):
    raise AssertionError("trained again")

  def trained_already(self, states, rows, *, start, **_):
    assert start == rows.shape[1]
    return states, np.empty((len(rows), 0), np.float32)

  before = (tmp_path / "run" / "table1.csv").read_bytes()
  monkeypatch.setattr(table1.Study, "personalize", refuse)
  monkeypatch.setattr(
    table1.latent_space.PopulationTrainer, "train", trained_already
  )
  # With a method that needs no groups: the table still has those that do.
  run(tmp_path / "run", **{**grouping, "methods": "tl:2"})
  assert (tmp_path / "run" / "table1.csv").read_bytes() == before
  assert read(tmp_path / "run" / "group_agreement.csv") == judged
  again = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
  assert again == figures


def test_people_keep_the_ids_of_their_hidden_factors():
  """After flips, class counts and the choice of people."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  with flagsaver.flagsaver(
    **{**SMALL, "num_global_individuals": 2}, class_concentration=0.5
  ):
    drawn, factors = study_flags.load_population()
    varied, *chosen = study_flags.vary(drawn)
  assert len(factors.slant) == 5
  people = np.concatenate(chosen)
  assert sorted(people) == sorted(set(varied.individuals)) == [0, 1, 2, 3, 4]
  for person in people:
    own = {
      image.tobytes() for image in drawn.images[drawn.individuals == person]
    }
    mine = (varied.individuals == person) & (varied.labels < 10)
    assert mine.any()
    assert {image.tobytes() for image in varied.images[mine]} <= own
  # agreement.of_samples takes the digit from the class.
  digits = drawn.labels[varied.originals]
  np.testing.assert_array_equal(varied.labels % 10, digits)


def test_npz_with_varied_class_counts(tmp_path, people, no_figures):
  path = tmp_path / "people.npz"
  np.savez(
    path,
    images=people.images,
    labels=people.labels,
    individuals=people.individuals,
  )
  run(
    tmp_path / "run",
    dataset="npz",
    npz_path=str(path),
    class_concentration=0.5,
    methods="tl:2",
  )
  rows = read(tmp_path / "run" / "results.csv")
  assert len(rows) == 3
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  assert config["settings"]["class_concentration"] == 0.5


@pytest.mark.parametrize(
  "preset", ["quickstart", "nist_small", "nist_converged", "paper"]
)
def test_presets_name_flags_there_are(preset):
  path = f"{table1.__file__.rsplit('/', 1)[0]}/presets/{preset}.flags"
  values = flags.FLAGS.read_flags_from_files([f"--flagfile={path}"])
  names = {value.lstrip("-").split("=")[0] for value in values}
  assert names <= set(flags.FLAGS)
  assert "workdir" in names


@pytest.mark.slow
def test_processes_with_one_and_four_devices_write_the_same_bytes(tmp_path):
  written = []
  for devices in (1, 4):
    workdir = tmp_path / str(devices)
    command = [sys.executable, "-m", "experiments.table1"]
    settings = {**SMALL, "model": "fig4", "width": 1 / 32}
    command += [f"--{name}={value}" for name, value in settings.items()]
    command += [f"--cpu_devices={devices}", f"--workdir={workdir}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    written.append((workdir / "results.csv").read_bytes())
    config = json.loads((workdir / "config.json").read_text())
    assert config["num_devices"] == devices
  assert written[0] == written[1]
