"""The sentences that a report opens with: nothing that the run doesn't say."""

import json

import numpy as np
import pytest
from helpers.report_runs import PEOPLE, make_run, report

from experiments.outputs.report import headline, runs

# What people gain by a method: five of six, about .1, and all lose on D_G.
GAINS = np.array([0.1, 0.15, 0.05, 0.12, -0.02, 0.2])
LOSSES = np.array([0.05, 0.02, 0.08, 0.05, 0.03, 0.07])
LEVELS = np.array([0.5, 0.6, 0.55, 0.7, 0.45, 0.5])


def values_of(**methods):
  """Method -> person -> seed 0 -> accuracies, from (acc(D_I), acc(D_G)) [S]."""
  return {
    method.replace("_", ":"): {
      person: {0: None if np.isnan(own[k]) else [own[k], general[k]]}
      for k, person in enumerate(PEOPLE)
    }
    for method, (own, general) in methods.items()
  }


def told(folder, compare_to=None, **methods):
  """The headline; p in table1.csv is 0.0123 for D_I and 0.4 for D_G."""
  values = values_of(**methods)
  make_run(folder, methods=[*values], values=values, compare_to=compare_to)
  return headline.of_results(runs.Run(folder, "a"))


BASELINE = (LEVELS, np.full(6, 0.8))
BETTER = (LEVELS + GAINS, 0.8 - LOSSES)


def test_the_best_method_is_told_with_gain_cost_and_table_1_s_tests(tmp_path):
  said = told(tmp_path / "a", baseline=BASELINE, tl_10=BETTER)
  assert said == (
    f"tl:10 is the best for individuals: mean acc(D_I) {BETTER[0].mean():.4f},"
    " 10.0 points above baseline (p 0.0123). Of 6 individuals it helps 5"
    " and hurts 1. On D_G's test data it has acc(D_G)"
    f" {BETTER[1].mean():.4f}, 5.0 points below baseline, but can't be told"
    " apart from it (p 0.4000)."
  )
  found = report(tmp_path, tmp_path / "a")
  assert said in found.text
  assert found.text.index(said) < found.text.index("Table I")
  assert found.text.index("Table I") < found.text.index("--epochs")


def test_without_a_baseline_of_its_half_it_is_another_without_a_test(tmp_path):
  """Table I has no p then; with --compare_to it has."""
  one = (LEVELS, np.full(6, 0.8))
  said = told(tmp_path / "a", **{"global": one, "tl_10": BETTER})
  assert "10.0 points above global. Of 6" in said
  assert said.endswith("5.0 points below global.")
  said = told(
    tmp_path / "b", **{"global": one, "baseline": one, "sg_9": BETTER}
  )
  assert "10.0 points above baseline. Of 6" in said
  said = told(tmp_path / "c", "global", **{"global": one, "sg_9": BETTER})
  assert "10.0 points above global (p 0.0123)." in said
  (tmp_path / "c" / "table1.csv").write_text(
    (tmp_path / "c" / "table1.csv").read_text().replace("0.4", "nan")
  )
  said = headline.of_results(runs.Run(tmp_path / "c", "c"))
  assert said.endswith("5.0 points below global (no test: one model for all).")
  config = tmp_path / "c" / "config.json"
  settings = {"people": "rotate", "num_folds": 3}
  about = json.loads(config.read_text()) | {"settings": settings}
  config.write_text(json.dumps(about))
  said = headline.of_results(runs.Run(tmp_path / "c", "c"))
  assert said.endswith("(no test: one model for each fold).")


@pytest.mark.parametrize(
  ("methods", "sentence"),
  [
    (("tl_10",), "0.7000; there is no baseline or global to compare it with."),
    (("tl_10", "sw_2"), "there is no baseline or global to compare it with."),
    (
      ("baseline",),
      "baseline has the highest mean acc(D_I) 0.7000; there is nothing to comp",
    ),
  ],
)
def test_nothing_is_invented_without_a_reference(tmp_path, methods, sentence):
  same = (np.full(6, 0.7), np.full(6, 0.7))
  assert sentence in told(tmp_path / "a", **dict.fromkeys(methods, same))


def test_the_baseline_may_be_the_best(tmp_path):
  said = told(tmp_path / "a", tl_10=BASELINE, baseline=BETTER)
  assert said.endswith(": no other method has more.")
  assert said.startswith("baseline has the highest mean acc(D_I) 0.6500")


def test_who_diverged_is_counted_and_left_out(tmp_path):
  own = BETTER[0].copy()
  own[0] = np.nan
  said = told(tmp_path / "a", baseline=BASELINE, tl_10=(own, BETTER[1]))
  assert "(left out: 1 of its models that diverged)" in said
  assert "Of 5 individuals it helps 4 and hurts 1." in said
  nobody = (np.full(6, np.nan),) * 2
  said = told(tmp_path / "b", baseline=nobody, tl_10=nobody)
  assert said == "All models diverged."
  said = told(tmp_path / "c", baseline=nobody, tl_10=BETTER)
  assert "there is nothing to compare it with" in said


def test_the_data_are_told_as_far_as_the_files_say(tmp_path):
  make_run(tmp_path / "a")
  run = runs.Run(tmp_path / "a", "a")
  assert headline.of_data(run) == (
    "6 individuals, each tested on 20 samples of their own; data: npz."
  )
  path = tmp_path / "a" / "config.json"
  config = json.loads(path.read_text())
  config |= {"num_classes": 7, "npz_path": "people.npz"}
  config["settings"] |= {"num_global_individuals": 9}
  path.write_text(json.dumps(config))
  results = tmp_path / "a" / "results.csv"
  lines = results.read_text().replace(",20,", ",5,", 1).splitlines()
  lines = [
    line.replace(",20,", ",5,") if ",8,0" in line else line for line in lines
  ]
  results.write_text("\n".join(lines))
  assert headline.of_data(runs.Run(tmp_path / "a", "a")) == (
    "6 individuals, each tested on 5 / 20 / 20 (min / median / max) samples of"
    " their own; D_G of 9 other people, tested on 30 samples; 7 classes; data:"
    " people.npz. Fewer than 10 test samples, so accuracies of coarse steps: 8."
  )
  assert "data: people.npz." in report(tmp_path, tmp_path / "a").text
  config["settings"] |= {"global_includes_individuals": True}
  path.write_text(json.dumps(config))
  told = headline.of_data(runs.Run(tmp_path / "a", "a"))
  also = "and the individuals' training samples"
  assert f"; D_G of 9 other people {also}, tested on 30 samples; " in told
  config["settings"] |= {"people": "rotate", "num_folds": 3}
  path.write_text(json.dumps(config))
  text = report(tmp_path, tmp_path / "a").text
  assert f"; everyone is tested, in 3 folds: D_G is all others {also};" in text
  assert "All numbers are of 3 folds, each with a global model" in text
