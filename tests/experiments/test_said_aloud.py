"""What the scripts say before training, keep in the run, and show."""

import json

import numpy as np
import pytest
from helpers import newcomers_served
from helpers.small_run import run

from experiments import personalize
from experiments.outputs.report import page, runs

PEOPLE = {
  "dataset": "npz",
  "num_individuals": 2,
  "num_global_individuals": 3,
  "image_size": 16,
  "batch_size": 8,
  "methods": "global,local:2",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """An npz file of uint8 images, of which the first ten are one."""
  path = tmp_path_factory.mktemp("data") / "people.npz"
  pixels = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1), np.uint8)
  individuals = np.repeat(np.arange(5), 10)
  pixels[individuals == individuals[0]] = pixels[0]
  np.savez(
    path,
    images=pixels,
    labels=np.arange(50) % 2,
    individuals=individuals,
    weights=np.ones(50),
  )
  return str(path)


def lines_of(workdir):
  return (workdir / "remarks.md").read_text().splitlines()


def config_of(workdir):
  return json.loads((workdir / "config.json").read_text())


def test_a_run_says_keeps_and_shows_it(images, tmp_path, capsys):
  run(tmp_path / "a", **PEOPLE, npz_path=images)
  said = capsys.readouterr().out
  first, *remarks = lines_of(tmp_path / "a")
  assert "\n".join([first, *remarks]) in said
  assert first.startswith("2 individuals, with 7 training, 0 validation")
  assert "3 others, with 7 training samples, 21 in all, are D_G" in first
  assert "; 2 classes;" in first
  text = "\n".join(remarks)
  assert "2 of 2 people" in text
  assert "have fewer than 10 test samples (the least: 3)" in text
  assert "people.npz: arrays that aren't read: weights." in text
  assert "aren't flipped unless you say --flips" in text
  shown = page.page([runs.Run(tmp_path / "a", "a")])
  for remark in remarks:
    assert remark.removeprefix("- ").replace("'", "&#39;") in shown
  assert config_of(tmp_path / "a")["settings"]["flips"] is False


@pytest.mark.slow
def test_flips_are_asked_for_and_older_runs_go_on(images, tmp_path, capsys):
  workdir = tmp_path / "a"
  run(workdir, **PEOPLE, npz_path=images, flips=True)
  assert "6 classes;" in lines_of(workdir)[0]
  assert "aren't flipped" not in capsys.readouterr().out
  with pytest.raises(SystemExit) as stopped:
    run(workdir, **PEOPLE, npz_path=images)
  assert "the same settings (--flips=True) to go on" in str(stopped.value.code)


def test_digits_are_flipped_and_nothing_is_said_of_it(finished):
  assert config_of(finished)["settings"]["flips"] is True
  first, *remarks = lines_of(finished)
  assert "; 30 classes;" in first
  assert "flip" not in "".join(remarks)
  assert "precise_batch_stats" not in config_of(finished)["settings"]


def test_statistics_of_a_model_that_has_none_are_refused(tmp_path):
  with pytest.raises(SystemExit) as stopped:
    run(tmp_path / "a", precise_batch_stats=True)
  assert "--precise_batch_stats=True can't act: MLP" in str(stopped.value.code)
  assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_personalize_says_what_concerns_its_people(images, tmp_path, capsys):
  base = newcomers_served.save_model(tmp_path / "base", hidden=(8, 8))
  flags_of = (
    f"--base={base}",
    f"--samples={images}",
    f"--output={tmp_path / 'new'}",
    "--steps=2",
  )
  newcomers_served.run(personalize, *flags_of)
  said = capsys.readouterr().out
  assert "- 2 of 10 test samples, of 1 of 5 people (0), equal a" in said
  assert "- 5 of 5 people (0, 1, 2, ...) have fewer than 10 test" in said
  assert "batch statistics" not in said  # an MLP has none
  assert "--precise_batch_stats=True can't act" in newcomers_served.sentence(
    personalize,
    *flags_of[:2],
    f"--output={tmp_path / 'x'}",
    "--precise_batch_stats",
  )
