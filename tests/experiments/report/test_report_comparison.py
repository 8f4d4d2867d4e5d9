"""The report of several runs: who is paired, and what is compared."""

import copy

import numpy as np
import pytest
from helpers.report_runs import METHODS, PEOPLE, SETTINGS, make_run, report
from scipy import stats

from experiments.outputs.report import page, runs
from personalization_jax import figures
from personalization_jax.analysis import metrics

CAPTIONS = {
  "individual": "acc(D_I) of each run, and its difference to a",
  "global": "acc(D_G) of each run, and its difference to a",
}


def compared(found, of, other="b"):
  """Method -> of each run mean (sd), of one the difference and all tests.

  From a's table of means, and from what stands behind it for this run.
  """
  means, place = found.cells(CAPTIONS[of]), "bcd".index(other)
  rows = found.cells(f"{other} against a: all tests")
  half = len(rows["Method"]) // 2
  some = slice(0, half) if of == "individual" else slice(half, None)
  for method in [name for name in rows if name not in ("", "Method")]:
    own = means[method]
    its = own[1 + 3 * place : 4 + 3 * place]
    corrected = rows["Method"].index("Holm")
    assert its[2] == rows[method][some][corrected]
    rows[method] = [own[0], *its[:2], *rows[method][some]]
  return rows


def draw(methods=METHODS, seeds=(0,), people=PEOPLE, seed=0):
  """Accuracies by chance: method -> individual -> seed -> pair."""
  rng = np.random.default_rng(seed)
  return {
    method: {
      person: {k: np.round(rng.uniform(0.3, 0.9, 2), 3) for k in seeds}
      for person in people
    }
    for method in methods
  }


def pairs_of(here, there, column):
  """Both means of everybody, over the seeds that both have, in order of ids."""
  found = []
  for person in sorted(here):
    both = [
      (here[person][seed][column], there[person][seed][column])
      for seed in here[person]
      if here[person][seed] is not None
      and there.get(person, {}).get(seed) is not None
    ]
    if both:
      found.append(np.mean(both, axis=0))
  return np.array(found).T


def spread_of(people, column):
  """Mean and sd of individuals' means over the seeds that they have."""
  means = [
    np.mean([pair[column] for pair in by_seed.values() if pair is not None])
    for by_seed in people.values()
    if any(pair is not None for pair in by_seed.values())
  ]
  return f"{np.mean(means):.4f} ({np.std(means, ddof=1):.4f})"


@pytest.mark.parametrize("of", ["individual", "global"])
@pytest.mark.parametrize(
  "seeds", [((0,), (0,)), ((0, 1, 2), (0, 1, 2)), ((0, 1, 2), (2, 5, 1))]
)
def test_difference_tests_and_count_are_of_what_both_runs_have(
  tmp_path, of, seeds
):
  column = ("individual", "global").index(of)
  here, there = draw(seeds=seeds[0]), draw(seeds=seeds[1], seed=1)
  # In another order: people are paired by their ids.
  there = {method: dict(reversed(x.items())) for method, x in there.items()}
  if len(seeds[0]) > 1:
    here["baseline"]["9"][0] = None
    here["tl:10"]["10"][2] = there["tl:10"]["10"][1] = None
  here["tl:10"]["13"] = dict.fromkeys(seeds[0])
  there["random:9"]["8"] = dict.fromkeys(seeds[1])
  make_run(tmp_path / "a", seeds=seeds[0], values=here)
  make_run(tmp_path / "b", seeds=seeds[1], values=there)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = compared(found, of)
  p = {"t": [], "w": []}
  for method in METHODS:
    a, b = pairs_of(here[method], there[method], column)
    cells = rows[method]
    assert cells[0] == spread_of(here[method], column)
    assert cells[1] == spread_of(there[method], column)
    assert float(cells[2].replace("−", "-")) == pytest.approx(
      (b - a).mean(), abs=6e-5
    )
    assert int(cells[3]) == len(a)
    p["t"].append(stats.ttest_rel(b, a).pvalue)
    p["w"].append(stats.wilcoxon(np.round(b - a, 12)).pvalue)
    assert float(cells[4]) == pytest.approx(p["t"][-1], abs=6e-5)
    assert float(cells[6]) == pytest.approx(p["w"][-1], abs=6e-5)
  for place, test in ((5, "t"), (7, "w")):
    shown = [float(rows[method][place].strip("*")) for method in METHODS]
    assert shown == pytest.approx(metrics.holm(p[test]), abs=6e-5)
    assert shown != pytest.approx(p[test], abs=6e-5)
  assert rows["<b>&co"][3] == "6"
  assert int(rows["random:9"][3]) == 5
  assert "Wilcoxon's signed-rank test are paired over individuals" in found.text
  assert ("3 seeds" in found.text) == (len(seeds[0]) == 3)
  some = "Only what both have with seed 1, 2 is compared."
  assert (some in found.text) == (seeds[0] != seeds[1])


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_runs_that_are_alike_where_both_have_something_do_not_differ(
  tmp_path, seeds
):
  """Whoever diverged in one of them: better seeds, or better people."""
  here = draw(("tl:10",), seeds)
  for person in PEOPLE:
    for seed in seeds:  # the seeds, and the people, differ much
      here["tl:10"][person][seed] = np.array(
        [0.1 + 0.2 * seed + 0.03 * int(person)] * 2
      ) - (0.3 if person == "9" else 0)
  there = copy.deepcopy(here)
  for person in PEOPLE[2:] if len(seeds) > 1 else PEOPLE[:2]:
    there["tl:10"][person][seeds[0]] = None
  make_run(tmp_path / "a", seeds=seeds, methods=("tl:10",), values=here)
  make_run(tmp_path / "b", seeds=seeds, methods=("tl:10",), values=there)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  for of in CAPTIONS:
    (before, after, *cells) = compared(found, of)["tl:10"]
    assert float(after.split()[0]) > float(before.split()[0]) + 0.03
    pairs = "6" if len(seeds) > 1 else "4"
    assert cells == ["+0.0000", pairs, *["1.0000"] * 4]
  assert "the difference needn't be that of the means" in found.text


def test_without_a_common_seed_people_s_means_are_paired_and_it_is_said(
  tmp_path,
):
  here = draw(("tl:10",), (0, 1))
  there = draw(("tl:10",), (2, 3), seed=1)
  there["tl:10"]["9"][3] = None
  make_run(tmp_path / "a", seeds=(0, 1), methods=("tl:10",), values=here)
  make_run(tmp_path / "b", seeds=(2, 3), methods=("tl:10",), values=there)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  a, b = (
    np.array(
      [
        np.mean([x[0] for x in by_seed.values() if x is not None])
        for by_seed in run["tl:10"].values()
      ]
    )
    for run in (here, there)
  )
  cells = compared(found, "individual")["tl:10"]
  assert float(cells[2].replace("−", "-")) == pytest.approx(
    (b - a).mean(), abs=6e-5
  )
  assert cells[3] == "6"
  assert float(cells[4]) == pytest.approx(
    stats.ttest_rel(b, a).pvalue, abs=6e-5
  )
  assert "They have no seed in common" in found.text


def test_means_are_over_the_seeds_of_each_run_s_table(tmp_path):
  seeds = {"global": (0, 1, 2), "tl:10": (0, 1), "sw:2": (2,)}
  here = {method: draw((method,), seeds[method])[method] for method in seeds}
  make_run(
    tmp_path / "a",
    methods=list(seeds),
    seeds=(0, 1, 2),
    values=here,
    table=(["global", "tl:10"], (0, 1)),
  )
  there = make_run(tmp_path / "b", methods=list(seeds))
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  for column, of in enumerate(CAPTIONS):
    rows = found.cells(CAPTIONS[of])
    for method, own in (("global", (0, 1)), ("tl:10", (0, 1)), ("sw:2", (2,))):
      people = {
        person: {seed: by_seed[seed] for seed in own}
        for person, by_seed in here[method].items()
      }
      shown, expected = rows[method][0], spread_of(people, column)
      assert shown.split()[0] == expected.split()[0]
      if (method, of) != ("global", "global"):
        assert shown == expected
        assert rows[method][1] == spread_of(there[method], column)
  assert "a: 2 seeds; an individual's accuracy is the mean" in found.text
  assert "b: Table I" not in found.text
  assert (
    "a: Table I is of seed 0, 1; not in there, and so by their own seeds: sw:2"
    " (seed 2)."
  ) in found.text


def test_of_partly_other_people_those_in_both_are_paired(tmp_path):
  others = ("10", "11", "12", "13", "14")
  here, there = draw(("tl:10",)), draw(("tl:10",), people=others, seed=1)
  make_run(tmp_path / "a", methods=("tl:10",), values=here)
  make_run(tmp_path / "b", methods=("tl:10",), values=there)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  cells = compared(found, "individual")["tl:10"]
  a, b = (
    np.array([run["tl:10"][k][0][0] for k in ("10", "11", "12", "13")])
    for run in (here, there)
  )
  assert float(cells[2].replace("−", "-")) == pytest.approx(
    (b - a).mean(), abs=6e-5
  )
  assert cells[3] == "4"
  assert float(cells[4]) == pytest.approx(
    stats.ttest_rel(b, a).pvalue, abs=6e-5
  )
  assert (
    "b: the same data as, and 4 of 5 individuals in common with the 6 of a"
  ) in found.text


@pytest.mark.parametrize(
  "other",
  [{"people": ("1", "2", "3", "4", "5")}, {"dataset_fingerprint": "beef"}],
  ids=["other people", "other data"],
)
def test_other_people_are_not_paired(tmp_path, other):
  here = make_run(tmp_path / "a", methods=METHODS[:2])
  there = make_run(tmp_path / "b", methods=METHODS[:2], shift=0.1, **other)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = compared(found, "individual")
  p = []
  for method in METHODS[:2]:
    a, b = (
      [by_seed[0][0] for by_seed in run[method].values()]
      for run in (here, there)
    )
    p.append(stats.ttest_ind(b, a, equal_var=False).pvalue)
    assert len(rows[method]) == 5
    assert float(rows[method][2].replace("−", "-")) == pytest.approx(
      np.mean(b) - np.mean(a), abs=6e-5
    )
    assert float(rows[method][3]) == pytest.approx(p[-1], abs=6e-5)
  shown = [float(rows[m][4].strip("*")) for m in METHODS[:2]]
  assert shown == pytest.approx(metrics.holm(p), abs=6e-5)
  assert "so it is Welch's t-test" in found.text
  assert "pairs:" not in found.text
  assert "Wilcoxon" not in found.text.replace("Wilcoxon's test are in", "")


@pytest.mark.parametrize("data", ["f00d", "beef"], ids=["paired", "Welch's"])
def test_one_model_of_each_run_is_no_sample_to_test(tmp_path, data):
  methods = ("global", "tl:10")
  here, there = draw(methods), draw(methods, seed=1)
  for run, value in ((here, 0.5), (there, 0.75)):
    for by_seed in run["global"].values():
      by_seed[0][1] = value
  make_run(tmp_path / "a", methods=methods, values=here)
  make_run(
    tmp_path / "b", methods=methods, values=there, dataset_fingerprint=data
  )
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = compared(found, "global")
  paired = data == "f00d"
  tests = rows["global"][4 if paired else 3 :]
  assert rows["global"][:3] == ["0.5000 (–)", "0.7500 (–)", "+0.2500"]
  assert tests == ["–"] * (4 if paired else 2)
  # Nor is it one of the comparisons that Holm's correction counts.
  t, t_holm = rows["tl:10"][4:6] if paired else rows["tl:10"][3:5]
  assert t_holm.strip("*") == t
  individual = compared(found, "individual")["global"]
  assert not any("–" in cell for cell in individual)
  assert "global is one model that all individuals (of a fold)" in found.text


def test_methods_are_compared_where_two_have_them(tmp_path):
  make_run(tmp_path / "a", methods=("baseline", "tl:10", "sw:2"))
  make_run(tmp_path / "b", methods=("baseline", "es:40"))
  make_run(tmp_path / "c", methods=("tl:10",))
  found = report(tmp_path, *(tmp_path / name for name in "abc"))
  rows = found.cells(CAPTIONS["individual"])
  assert list(rows)[2:] == ["baseline", "tl:10"]
  assert rows["baseline"][4:] == ["–"] * 3
  assert rows["tl:10"][1:4] == ["–"] * 3
  assert "–" not in rows["baseline"][:4] + rows["tl:10"][4:]
  for other, method in (("b", "tl:10"), ("c", "baseline")):
    tests = found.cells(f"{other} against a: all tests")
    assert tests.pop(method) == ["–"] * 10
    assert "–" not in [cell for cells in tests.values() for cell in cells]
  for run, method in (("a", "sw:2"), ("b", "es:40")):
    assert (
      f"{run}: not compared, for want of another run with it: {method}"
      in (found.text)
    )


def test_a_run_may_have_none_of_the_methods_compared(tmp_path):
  for name, method in (("a", "tl:10"), ("b", "tl:10"), ("c", "sw:2")):
    make_run(tmp_path / name, methods=(method,))
  found = report(tmp_path, *(tmp_path / name for name in "abc"))
  assert found.cells(CAPTIONS["individual"])["tl:10"][4:] == ["–"] * 3


def test_four_runs_fit_side_by_side(tmp_path):
  """On 1,216 pixels, a page's width: a digit takes 9 with its room aside."""
  for name in "abcd":
    make_run(tmp_path / name, shift=0.01 * ord(name) - 0.97)
  found = report(tmp_path, *(tmp_path / name for name in "abcd"))
  for caption in CAPTIONS.values():
    _, *lines = found.tables[caption][0]
    widths = [max(map(len, column)) for column in zip(*lines)]
    assert 8 * sum(widths) + 20 * len(widths) < 1216


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
  }
  assert found.cells("What made them differs") == {
    "Setting": ["a", "b"],
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
  many = [
    runs.Run(tmp_path / "run", f"run {k}") for k in range(figures.MOST_RUNS + 1)
  ]
  text = page.page(many)
  assert f"in {', '.join(run.name for run in many[:-1])};" in text
