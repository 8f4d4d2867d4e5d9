"""The report of several runs: who is paired, and what is compared."""

import dataclasses

import numpy as np
import pytest
from report_runs import METHODS, PEOPLE, SETTINGS, make_run, report
from scipy import stats

from experiments.reports import comparison, page, runs
from personalization_jax import figures, metrics


@pytest.mark.parametrize("of", ["individual", "global"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_same_people_are_paired(tmp_path, of, seeds):
  column = ("individual", "global").index(of)
  here = make_run(tmp_path / "a", seeds=seeds)
  # The same people in another order: they are paired by their ids.
  there = make_run(tmp_path / "b", people=PEOPLE[::-1], shift=0.1)
  caption = f"acc(D_{of[0].upper()}) of each run, and its difference to a"
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = found.cells(caption)
  p = {"t": [], "w": []}
  for method in METHODS:
    a = np.array(
      [
        np.mean([pair[column] for pair in here[method][person].values()])
        for person in PEOPLE
      ]
    )
    b = np.array([there[method][person][0][column] for person in PEOPLE])
    cells = rows[method]
    assert cells[0] == f"{a.mean():.4f} ({a.std(ddof=1):.4f})"
    assert cells[1] == f"{b.mean():.4f} ({b.std(ddof=1):.4f})"
    assert float(cells[2].replace("−", "-")) == pytest.approx(
      (b - a).mean(), abs=6e-5
    )
    p["t"].append(stats.ttest_rel(b, a).pvalue)
    p["w"].append(stats.wilcoxon(np.round(b - a, 12)).pvalue)
    assert float(cells[3]) == pytest.approx(p["t"][-1], abs=6e-5)
    assert float(cells[5]) == pytest.approx(p["w"][-1], abs=6e-5)
  for place, test in ((4, "t"), (6, "w")):
    shown = [float(rows[method][place].strip("*")) for method in METHODS]
    assert shown == pytest.approx(metrics.holm(p[test]), abs=6e-5)
    assert shown != pytest.approx(p[test], abs=6e-5)
  assert "Wilcoxon's signed-rank test are paired over individuals" in found.text
  assert ("3 seeds" in found.text) == (len(seeds) == 3)


@pytest.mark.parametrize(
  "other",
  [{"people": PEOPLE[:-1]}, {"dataset_fingerprint": "beef"}],
  ids=["other people", "other data"],
)
def test_other_people_are_not_paired(tmp_path, other):
  here = make_run(tmp_path / "a", methods=METHODS[:2])
  there = make_run(tmp_path / "b", methods=METHODS[:2], shift=0.1, **other)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = found.cells("acc(D_I) of each run, and its difference to a")
  p = []
  for method in METHODS[:2]:
    a, b = (
      [by_seed[0][0] for by_seed in run[method].values()]
      for run in (here, there)
    )
    p.append(stats.ttest_ind(b, a, equal_var=False).pvalue)
    assert len(rows[method]) == 5
    assert float(rows[method][3]) == pytest.approx(p[-1], abs=6e-5)
  shown = [float(rows[m][4].strip("*")) for m in METHODS[:2]]
  assert shown == pytest.approx(metrics.holm(p), abs=6e-5)
  assert "so it is Welch's t-test" in found.text
  assert "Wilcoxon" not in found.text.replace("Wilcoxon's test are in", "")


def test_who_diverged_in_all_seeds_is_left_out_of_the_test(tmp_path):
  make_run(tmp_path / "a", methods=("tl:10",))
  make_run(tmp_path / "b", methods=("tl:10",), shift=0.1)
  a, b = runs.read_all([str(tmp_path / "a"), str(tmp_path / "b")])
  values = comparison.accuracies(a, "individual")["tl:10"]
  path = tmp_path / "a" / "results.csv"
  lines = path.read_text().splitlines()
  cells = lines[3].split(",")
  lines[3] = ",".join([*cells[:3], "", "", *cells[5:7], "diverged"])
  path.write_text("\n".join(lines) + "\n")
  gone = runs.read(tmp_path / "a", "a")
  place = sorted(PEOPLE).index(cells[1])
  kept = np.arange(len(PEOPLE)) != place
  now = comparison.accuracies(gone, "individual")["tl:10"]
  assert np.isnan(now[place])
  np.testing.assert_array_equal(now[kept], values[kept])
  found = comparison.compare(gone, b, ["tl:10"], "individual")["tl:10"]
  other = comparison.accuracies(b, "individual")["tl:10"]
  expected = stats.ttest_rel(other[kept], values[kept]).pvalue
  assert found.t == pytest.approx(expected)


def test_methods_are_compared_where_two_have_them(tmp_path):
  make_run(tmp_path / "a", methods=("baseline", "tl:10", "sw:2"))
  make_run(tmp_path / "b", methods=("baseline", "es:40"))
  make_run(tmp_path / "c", methods=("tl:10",))
  found = report(tmp_path, *(tmp_path / name for name in "abc"))
  rows = found.cells("acc(D_I) of each run, and its difference to a")
  assert list(rows)[2:] == ["baseline", "tl:10"]
  assert rows["baseline"][7:] == ["–"] * 6
  assert rows["tl:10"][1:7] == ["–"] * 6
  assert "–" not in rows["baseline"][:7] + rows["tl:10"][7:]
  assert "a (sw:2); b (es:40)" in found.text


def test_runs_without_a_common_method_are_told_so(tmp_path):
  make_run(tmp_path / "a", methods=("baseline",))
  make_run(tmp_path / "b", methods=("es:40",))
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  assert "No two of the runs share a method." in found.text


def test_settings_that_differ(tmp_path):
  make_run(tmp_path / "a")
  make_run(
    tmp_path / "b",
    settings={**SETTINGS, "epochs": 5, "save_models": False, "new": True},
    versions={"jax": "0.11.0"},
    num_devices=2,
  )
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = found.cells("What differs")
  # What is off, and what one run doesn't say, is no difference.
  assert rows == {
    "Setting": ["a", "b"],
    "--epochs": ["3", "5"],
    "--new": ["–", "true"],
    "jax": ["0.10.2", "0.11.0"],
  }
  make_run(tmp_path / "d", seeds=(0, 3))
  found = report(tmp_path, tmp_path / "a", tmp_path / "d")
  assert found.cells("What differs") == {
    "Setting": ["a", "d"],
    "seeds": ["0", "0, 3"],
  }
  make_run(tmp_path / "c")
  assert (
    "No flag differs." in report(tmp_path, *map(tmp_path.joinpath, "ac")).text
  )


def test_more_runs_than_the_figure_shows(tmp_path):
  make_run(tmp_path / "run", methods=("tl:10",))
  one = runs.read(tmp_path / "run", "run")
  many = [
    dataclasses.replace(one, name=f"run {k}")
    for k in range(figures.MOST_RUNS + 1)
  ]
  text = page.page(many)
  assert f"in {', '.join(run.name for run in many[:-1])};" in text
