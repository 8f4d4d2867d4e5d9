"""The paper's claims: each verdict, by planted effects."""

import math

import numpy as np
import pytest
from scipy import stats

from personalization_jax.analysis import claims, markdown, metrics, paper
from personalization_jax.analysis.columns import CLAIM_COLUMNS, DATA

PEOPLE = 40


def like_the_paper(scale=1.0, noise=0.001, people=PEOPLE):
  """Accuracies [1, S] with the paper's means and sds; `scale` of differences.

  A person has the same quantile by each method, so that all can be told.
  """
  rng = np.random.default_rng(0)
  place = stats.norm.ppf((np.arange(people) + 0.5) / people)
  place /= place.std(ddof=1)
  values = {data: {} for data in DATA}
  for data in DATA:
    for method in paper.TABLE_1:
      its = paper.spread_of(data, method)
      mean = 0.9 + scale * (its.mean - 0.9)
      drawn = rng.normal(0, noise, people)
      sd = 0.02 if data == "individual" else 0.001
      values[data][method] = (mean + sd * place + drawn)[None]
  return values


def by_claim(table):
  return dict(zip(table["claim"], table["claim_verdict"]))


def verdicts(table):
  sides = zip(table["data"], table["method"], table["against"])
  return dict(zip(sides, table["verdict"]))


@pytest.fixture(scope="module")
def table():
  return claims.judge(like_the_paper(noise=1e-5))


def test_what_the_paper_has_holds_where_differences_are_sure(table):
  assert (*table.columns,) == CLAIM_COLUMNS
  found = by_claim(table)
  # sds are all alike here.
  found.pop("e1")
  assert set(found.values()) == {"holds"}
  assert " ".join(found) == "a1 a2 a3 b1 b2 c1 c2 c3 d1 d2 e2"
  # The table's .980 for both, so that one setting decides.
  tied = verdicts(table)["individual", "sw:12", "baseline"]
  assert tied == "can't be told"


def test_numbers_are_those_of_the_accuracies(table):
  values = like_the_paper(noise=1e-5)["individual"]
  row = table[(table["claim"] == "c1") & (table["against"] == "es:400")].iloc[0]
  assert (row["paper_method"], row["paper_against"]) == (0.984, 0.983)
  change = (values["sw:2"] - values["es:400"])[0]
  assert row["difference"] == pytest.approx(change.mean())
  assert row["ours_method"] == pytest.approx(values["sw:2"].mean())
  assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(change).pvalue)
  assert row["pairs"] == PEOPLE
  assert row["low"] < change.mean() < row["high"]


def test_p_values_are_corrected_over_all_comparisons_once(table):
  once = table.drop_duplicates(["data", "method", "against"])
  # SW n=2 beside the baseline is in a2 and c1, and in c2 and c3.
  assert len(once) == len(table) - 2
  tested = once[once["p_wilcoxon"].notna()].sort_values("p_wilcoxon")
  highest, count = 0.0, len(tested)
  for k, row in enumerate(tested.to_dict("records")):
    highest = max(highest, min(1.0, (count - k) * row["p_wilcoxon"]))
    assert row["p_holm"] == pytest.approx(highest)


def test_opposite_effects_do_not_hold():
  found = claims.judge(like_the_paper(scale=-1.0, noise=1e-5))
  verdict = by_claim(found)
  # One setting of SW is as good as the baseline, so the other can't decide.
  assert verdict.pop("a2") == "can't be told"
  # TL n=300 has the paper's .979, as has the baseline.
  assert verdict.pop("b2") == "can't be told"
  verdict.pop("e1")
  assert verdict.pop("e2") == "holds"
  assert set(verdict.values()) == {"doesn't"}


def test_small_effects_can_not_be_told_and_say_how_many_people_would():
  values = like_the_paper(noise=0.05)
  found = claims.judge(values)
  assert by_claim(found)["b1"] == "can't be told"
  row = found.query("claim == 'c3' and method == 'es:40'").iloc[0]
  assert row["verdict"] == "can't be told"
  change = (values["global"]["es:40"] - values["global"]["sw:2"])[0]
  count = found.drop_duplicates(["data", "method", "against"])["p_holm"].count()
  z = stats.norm.ppf(1 - 0.05 / count / 2) + stats.norm.ppf(0.8)
  effect = change.mean() / change.std(ddof=1)
  expected = math.ceil(np.pi / 3 * (z / effect) ** 2)
  assert PEOPLE < row["people_needed"] == expected < 10_000
  text = claims.text(found)
  start = "| can't be told with 40 people; >10000 needed to"
  assert f"{start} confirm it (estimate)" in text
  assert f"{start} refute it (estimate)" in text
  assert f"over all {count} comparisons" in text


def test_so_many_people_do_give_that_power():
  rng = np.random.default_rng(1)
  pilot = rng.normal(size=30)
  pilot = 0.4 + (pilot - pilot.mean()) / pilot.std(ddof=1)
  count = int(metrics.people_needed(pilot, 0.01))
  trials = rng.normal(0.4, 1.0, (400, count))
  p = stats.wilcoxon(trials, axis=1).pvalue
  assert (p < 0.01).mean() == pytest.approx(0.8, abs=0.06)
  assert metrics.people_needed(np.array([-1.0, 1.0]), 0.05) == math.inf
  assert math.isnan(metrics.people_needed(np.array([1.0]), 0.05))


def test_a_claim_names_the_methods_that_it_lacks():
  values = like_the_paper(noise=1e-5)
  for of in values.values():
    del of["es:400"], of["random:6500"]
  found = claims.judge(values)
  verdict = by_claim(found)
  assert verdict["a1"] == "holds"  # one setting is enough
  assert verdict["b1"] == verdict["c1"] == "lacks es:400"
  assert verdict["d1"] == verdict["d2"] == "lacks random:6500"
  assert verdict["e2"] == "holds"
  assert found["p_holm"].isna().sum() > 2
  assert "| lacks es:400 " in claims.text(found)
  nothing = claims.judge({data: {} for data in DATA})
  assert nothing["claim_verdict"].str.startswith("lacks").all()
  claims.text(nothing)


@pytest.mark.parametrize("people", [1, 2])
@pytest.mark.filterwarnings("error")
def test_hardly_anybody_tells_nothing(people):
  values = {
    of: {m: v[:, :people] for m, v in own.items()}
    for of, own in like_the_paper().items()
  }
  found = claims.judge(values)
  assert set(found["claim_verdict"]) == {"can't be told"}
  assert f"with {people} people" in claims.text(found) or people == 1


def test_seeds_are_averaged_and_who_diverged_is_left_out():
  one = like_the_paper()
  two = {
    of: {m: np.vstack([v + 0.01, v - 0.01]) for m, v in own.items()}
    for of, own in one.items()
  }
  found = claims.judge(one), claims.judge(two)
  for name in ("difference", "low", "high", "p_wilcoxon", "ours_method"):
    np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-9)
  # With the seed that both have; of nobody without one.
  two["individual"]["sw:2"][0, 3] = math.nan
  two["individual"]["sw:2"][:, 5] = math.nan
  row = claims.judge(two).query("claim == 'c1' and against == 'tl:10'").iloc[0]
  mine, others = (one["individual"][m][0] for m in ("sw:2", "tl:10"))
  assert row["pairs"] == PEOPLE - 1
  expected = np.delete(mine - others, 5).mean()
  assert row["difference"] == pytest.approx(expected)


def test_fairness_is_a_rank_correlation_over_methods_and_an_sd():
  values = like_the_paper(noise=0.01, people=25)
  for k, method in enumerate(paper.TABLE_1):  # the more, the more alike
    values["global"][method] = (
      0.9 + 0.002 * k + np.linspace(-1, 1, 25)[None] * (0.05 - 0.003 * k)
    )
  found = claims.judge(values).set_index(["claim", "data"])
  own = np.stack([v[0] for v in values["individual"].values()])
  test = stats.spearmanr(own.mean(axis=1), -own.std(axis=1, ddof=1))
  row = found.loc["e1", "individual"]
  assert row["difference"] == pytest.approx(test.statistic)
  assert row["p_wilcoxon"] == pytest.approx(test.pvalue)
  assert math.isnan(row["people_needed"])
  planted = found.loc["e1", "global"]
  assert planted["difference"] == pytest.approx(1.0)
  assert planted["verdict"] == "holds"
  # The paper's own table: more accurate methods vary less on D_G alone.
  assert row["paper_method"] < 0 < planted["paper_method"]
  sds = found.loc["e2", "both"]
  general = np.stack([v[0] for v in values["global"].values()])
  expected = [x.std(axis=1, ddof=1).mean() for x in (own, general)]
  assert [sds["ours_method"], sds["ours_against"]] == pytest.approx(expected)
  apart = [
    np.abs(x - np.median(x, axis=1, keepdims=True)).mean(axis=0)
    for x in (own, general)
  ]
  p = stats.wilcoxon(apart[0] - apart[1]).pvalue
  assert sds["p_wilcoxon"] == pytest.approx(p)


def test_the_interval_is_the_bootstrap_s():
  values = np.random.default_rng(2).normal(0.3, 1.0, 30)
  drawn, rng = [], np.random.default_rng(0)
  for rows in rng.integers(30, size=(10_000, 30)):
    drawn.append(sum(values[row] for row in rows) / 30)
  ordered = sorted(drawn)
  low, high = metrics.interval_of_mean(values)
  assert ordered[249] <= low <= ordered[250]
  assert ordered[9748] <= high <= ordered[9750]
  peer = stats.bootstrap(
    (values,), np.mean, n_resamples=10_000, method="percentile"
  ).confidence_interval
  np.testing.assert_allclose([low, high], peer, atol=0.03)
  assert metrics.interval_of_mean(values) == (low, high)
  assert np.isnan(metrics.interval_of_mean(values[:0])).all()


def test_a_person_is_drawn_with_all_values():
  values = np.random.default_rng(3).normal(size=(20, 2))
  values[:, 1] = values[:, 0]
  found = metrics.interval(values, lambda p: np.ptp(p.mean(axis=1), axis=1))
  np.testing.assert_allclose(found, 0.0, atol=1e-12)


def test_our_table_stands_beside_the_paper_s():
  values = like_the_paper(noise=0.002)
  values["individual"]["global"] = values["individual"]["baseline"] - 0.01
  values["global"]["global"] = np.full((1, PEOPLE), 0.9)
  lines = markdown.beside_paper(values).splitlines()
  rows = {
    cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
    for cells in (line.split("|") for line in lines)
  }
  assert [*rows][0::2][0] == "method"
  change = (values["individual"]["sw:2"] - values["individual"]["baseline"])[0]
  low, high = metrics.interval_of_mean(change)
  own, changed, better, theirs, *_, last = rows["sw:2"]
  spread = metrics.spread(values["individual"]["sw:2"][0])
  assert own == f"{spread.mean:.3f} ({spread.sd:.3f})".replace("0.", ".")
  told = f"{change.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
  assert changed == told.replace("0.", ".")
  assert better == f"{(change > 0).sum()} of 40"
  assert (theirs, last) == (".984 (.017)", ".968 (.009)")
  assert rows["baseline"][1:3] == rows["random:1500"][1:3] == ["-", "-"]
  against = values["global"]["ig:5"] - values["global"]["random:1500"]
  assert rows["ig:5"][6] == f"{(against > 0).sum()} of 40"
  assert rows["global"][3:] == ["-", ".900", "-", "-", "-"]


def test_claims_at_the_papers_level_have_no_correction():
  rng = np.random.default_rng(2)
  values = like_the_paper(noise=1e-5)
  of = values["individual"]
  # p of about .03, of which Holm's correction leaves nothing.
  chance = rng.normal(size=PEOPLE)
  chance = 0.34 + (chance - chance.mean()) / chance.std(ddof=1)
  settings = {claim.name: claim for claim in claims.CLAIMS}
  for sign, expected in ((1, "holds"), (-1, "doesn't")):
    for method in ("tl:10", "tl:300"):
      of[method] = of["baseline"] + sign * 0.01 * chance
    found = claims.judge(values)
    own = found[found["claim"] == "a3"]
    assert (own["p_wilcoxon"] < 0.1).all() and (own["p_holm"] > 0.05).all()
    assert by_claim(found)["a3"] == "can't be told"
    assert claims.loosely(found, settings["a3"]) == expected
  del of["tl:10"], of["tl:300"]
  found = claims.judge(values)
  assert claims.loosely(found, settings["a3"]) == "lacks tl:10 tl:300"
