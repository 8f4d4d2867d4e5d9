"""What README and RESULTS say of the converged run, made from its files.

Each sentence stands beside what must be so for it to be said. The documents
have these texts word for word, wherever their lines break.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from experiments.outputs.report import runs
from personalization_jax.analysis import claims, metrics, paper
from personalization_jax.analysis.paper import TABLE_1

METHODS = [*TABLE_1]
SHAPING, GROUPING = METHODS[:7], METHODS[7:]
GROUPS = ["ig:5", "ig:21", "sg:1500", "sg:6500"]
OWN, GENERAL = "individual", "global"

# Numbers that no file of the run has.
ELSEWHERE = ("2026-11-27", "H100", "Fig. 3")

Sentences = list[tuple[bool, str]]


def short(value: float, form: str = ".3f") -> str:
  """A number as tables have it, without the 0 before its point."""
  return format(value, form).replace("0.", ".", 1)


class Numbers:
  """The run's numbers, as texts and as what conditions are made of."""

  def __init__(self, run: runs.Run):
    self.run = run
    self.values = run.values()
    self.claims = claims.judge(self.values)
    self.choice = run.choice.set_index("method")

  def mean(self, of: str, method: str) -> float:
    return float(metrics.mean_without_nan(self.values[of][method]).mean())

  def sd(self, of: str, method: str) -> str:
    people = metrics.mean_without_nan(self.values[of][method])
    return short(metrics.spread(people).sd)

  def best(self, of: str, methods: list[str]) -> list[str]:
    """From the highest mean to the lowest."""
    return sorted(methods, key=lambda m: -self.mean(of, m))

  def at(self, of: str, method: str) -> str:
    return short(self.mean(of, method))

  def range(self, of: str, methods: list[str]) -> str:
    worst_last = self.best(of, methods)
    return f"{self.at(of, worst_last[-1])} to {self.at(of, worst_last[0])}"

  def changes(self, of: str, method: str, against: str) -> np.ndarray:
    return metrics.paired_changes(
      self.values[of][method], self.values[of][against]
    )

  def ends(self, of: str, method: str, against: str) -> tuple[float, float]:
    return metrics.interval_of_mean(self.changes(of, method, against))

  def around_0(self, of: str, method: str, against: str) -> bool:
    """Whether the interval has 0, so that the two aren't told."""
    low, high = self.ends(of, method, against)
    return low < 0 < high

  def change(self, of: str, method: str, against: str) -> str:
    return short(self.changes(of, method, against).mean(), "+z.4f")

  def interval(self, of: str, method: str, against: str) -> str:
    low, high = self.ends(of, method, against)
    both = f"[{short(low, '+.4f')}, {short(high, '+.4f')}]"
    return f"{self.change(of, method, against)} {both}"

  def better(self, of: str, method: str, against: str) -> str:
    change = self.changes(of, method, against)
    return f"{(change > 0).sum()} of {len(change)}"

  def correlation(self, methods: list[str]) -> float:
    """Of the ranks of acc(D_I) and acc(D_G)."""
    means = [[self.mean(of, m) for m in methods] for of in (OWN, GENERAL)]
    return float(stats.spearmanr(*means).statistic)

  def p(self, name: str, method: str, against: str, which: str) -> float:
    table = self.claims
    own = table[(table["claim"] == name) & (table["method"] == method)]
    return float(own[own["against"] == against][which].iloc[0])

  def claims_by_t(self) -> pd.DataFrame:
    """The claims' table, with paired t-tests instead of Wilcoxon's."""
    table = self.claims.copy()
    for row in table.index[table["data"].isin([OWN, GENERAL])]:
      of, *pair = table.loc[row, ["data", "method", "against"]]
      if {*pair} <= {*self.values[of]}:
        tests = metrics.paired_tests(*(self.values[of][m] for m in pair))
        table.loc[row, "p_wilcoxon"] = tests.t
    return table

  def verdict(self, name: str) -> str:
    table = self.claims
    return table[table["claim"] == name]["claim_verdict"].iloc[0]

  def count(self, verdict: str) -> int:
    own = self.claims.drop_duplicates("claim")
    return int((own["claim_verdict"] == verdict).sum())

  def over_methods(self, name: str, of: str, which: str) -> float:
    own = self.claims[self.claims["claim"] == name]
    return float(own[own["data"] == of][which].iloc[0])

  def chosen(self, method: str, column: str, form: str) -> str:
    return short(self.choice[column][method], form)


def theirs(of: str, method: str) -> str:
  return short(paper.spread_of(of, method).mean)


def their_correlation(methods: list[str]) -> float:
  means = [
    [paper.spread_of(of, m).mean for m in methods] for of in (OWN, GENERAL)
  ]
  return float(stats.spearmanr(*means).statistic)


def verdicts(n: Numbers) -> tuple[bool, str]:
  holds, fails, unsure = map(
    n.count, (claims.HOLDS, claims.FAILS, claims.UNSURE)
  )
  many = len(claims.CLAIMS)
  tested_by_t = n.claims_by_t()
  loosely, by_t = (
    [claims.loosely(table, claim) for claim in claims.CLAIMS]
    for table in (n.claims, tested_by_t)
  )
  loose = [loosely.count(v) for v in (claims.HOLDS, claims.FAILS)]
  own = tested_by_t.set_index("claim")["p_wilcoxon"]["a1"]
  other = [i for i in range(many) if loosely[i] != by_t[i]]
  return (
    holds + fails + unsure == many
    and [claims.CLAIMS[i].name for i in other] == ["a1"],
    f"Of {many} claims of the paper {holds} hold, {fails} doesn't, and {unsure}"
    f" can't be told with {len(n.run.people)} people after correction; at p <"
    f" .1 without one, the paper's level for most, {loose[0]} hold by"
    " Wilcoxon's test (ES's on D_I not by the t-test, p ="
    f" {short(own.min())}), {loose[1]} don't.",
  )


def readme(n: Numbers) -> Sentences:
  """README's three sentences, and what it says of the setting."""
  settings = n.run.settings
  own, every = n.best(OWN, SHAPING), n.best(OWN, METHODS)
  return [
    (
      settings["width"] == 0.25,
      "MNIST's digits by writer, at a quarter of the paper's channels and"
      f" {settings['image_size']} pixels: {settings['num_individuals']}"
      f" individuals, {settings['num_global_individuals']} other writers in"
      f" D_G, {settings['epochs']} epochs and one seed.",
    ),
    (
      paper.INDIVIDUALS == 100,
      "Beside it the paper's Table I: 100 individuals, full width, 32 pixels.",
    ),
    (
      True,
      "Change: mean difference from the half's baseline, with a 95% bootstrap"
      " interval over people.",
    ),
    (
      every[0] == "tl:300" == n.best(GENERAL, METHODS)[-1]
      and own.index("sw:2") == 2
      and paper.spread_of(OWN, "sw:2").mean
      == max(paper.spread_of(OWN, m).mean for m in SHAPING)
      and n.ends(OWN, "tl:300", "baseline")[0] > 0
      and n.around_0(OWN, "sw:2", "tl:10"),
      "TL n=300 has the highest mean for individuals"
      f" ({n.at(OWN, 'tl:300')}) and of the paper's methods the lowest for D_G"
      f" ({n.at(GENERAL, 'tl:300')}), where the paper's costs nothing; the"
      " paper's best for individuals, SW n=2, has the third mean of shaping"
      " here, not told from TL n=10's.",
    ),
    (
      n.around_0(GENERAL, "es:400", "baseline")
      and all(n.around_0(OWN, group, "random:1500") for group in GROUPS),
      "ES n=400 isn't told from the baseline on D_G"
      f" ({n.interval(GENERAL, 'es:400', 'baseline')}), nor any group from"
      " 1,500 random samples for individuals.",
    ),
    verdicts(n),
  ]


def results(n: Numbers) -> Sentences:
  """What RESULTS says of the run, but for its tables."""
  return [
    *_making(n),
    (True, CHANGE),
    *_their_own_table(n),
    verdicts(n),
    *_agrees(n),
    *_differs(n),
    *_open(n),
    *_hurt(n),
  ]


CHANGE = (
  "Change: mean difference from the half's baseline (`baseline`,"
  " `random:1500`), with the 95% interval of a bootstrap over people."
)


def _making(n: Numbers) -> Sentences:
  of, about = n.run.settings, n.run.about
  steps = math.ceil(23229 / of["batch_size"])
  people = (
    "40 individuals, with 156 / 250.5 / 273 training, 24 / 36 / 39 validation"
    " and 45 / 72 / 78 test samples; 100 others, with 138 / 240 / 273 training"
    " samples (min / median / max), 23229 in all, are D_G; 30 classes"
  )
  recipe = {
    "num_individuals": 40,
    "num_global_individuals": 100,
    "image_size": 16,
    "width": 0.25,
    "initializer": "pytorch",
    "learning_rate": 0.001,
    "batch_size": 128,
    "epochs": 20,
    "validation_fraction": 0.1,
    "precision": "float32",
  }
  makers = [
    (maker["device"], maker["versions"]["jax"], maker["commit"])
    for maker in n.run.makers[:2]
  ]
  calls = [maker["command"] for maker in n.run.makers[:2]]
  return [
    (
      people in n.run.remarks and about["num_classes"] == 30,
      "40 individuals with 156 to 273 training samples (median 250.5), 24 to 39"
      " for validation and 45 to 78 for the test (median 72); 100 other writers"
      " with 23,229 training samples in D_G; 30 classes.",
    ),
    (
      recipe.items() <= of.items() and steps == 182 and n.run.seeds == ["0"],
      "16 pixels, a quarter of the paper's channels, PyTorch's initial weights,"
      " Adam at 0.001, batches of 128, 20 epochs of 182 steps (3,640 in all;"
      " the baseline's, with another person's data, a step or two more an"
      " epoch), a tenth of everybody's samples for validation, one seed.",
    ),
    (
      set(makers)
      == {("NVIDIA H100 80GB HBM3", "0.11.2", "bb6c926b7d3e-dirty")},
      "One NVIDIA H100 80GB HBM3, lent, jax 0.11.2, float32.",
    ),
    (
      "--methods=references,shaping" in calls[0]
      and "--methods=references,table1" in calls[1],
      "Two calls, of `--methods=references,shaping` and then of"
      " `references,table1`, took 159 and 141 s with every compilation and the"
      " auto-encoder; the digits were prepared before.",
    ),
    (
      makers[0][2] == "bb6c926b7d3e-dirty",
      "`config.json` names the older commit `bb6c926b7d3e-dirty`: that machine"
      " had the files without their history, and they were those of be37613.",
    ),
  ]


def _their_own_table(n: Numbers) -> Sentences:
  def their(of: str, method: str) -> float:
    return paper.spread_of(of, method).mean

  gains = [
    short(their(OWN, m) - their(OWN, "baseline"))
    for m in ("es:400", "sw:2", "tl:300")
  ]
  lead = their(OWN, "sw:2") - their(OWN, "tl:300")
  general = their_correlation(GROUPING), n.correlation(GROUPING)
  return [
    (
      their(OWN, "sw:12") == their(OWN, "baseline"),
      f"a: ES n=400, SW n=2 and TL n=300 are {gains[0]}, {gains[1]} and"
      f" {gains[2]} above the baseline on D_I, SW n=12 has the baseline's"
      f" {theirs(OWN, 'baseline')}. Whether p < .1 needs paired differences,"
      " which the table doesn't have.",
    ),
    (
      their(GENERAL, "tl:300") == their(GENERAL, "baseline")
      and "tl:400" not in TABLE_1,
      'b2: "TL with 400 initial iterations" isn\'t in the table. On D_G'
      f" TL n=300 has the baseline's {theirs(GENERAL, 'baseline')} and TL n=10"
      f" {theirs(GENERAL, 'tl:10')}.",
    ),
    (
      their(OWN, "es:400") == their(OWN, "tl:300"),
      f"c1: SW n=2 is the first on D_I by {short(lead)}; the table can't tell"
      " whether that is more than chance.",
    ),
    (
      n.correlation(SHAPING) < -0.9 and abs(their_correlation(SHAPING)) < 0.05,
      '"Better personalization performance, generally, implies worse general'
      ' performance": over the'
      " paper's shaping rows the rank correlation of the two is"
      f" {short(their_correlation(SHAPING), '.2f')}; over ours"
      f" {short(n.correlation(SHAPING), '.2f')}. Over the groups it is"
      f" {short(general[0], '.2f')} and {short(general[1], '.2f')}.",
    ),
    (
      n.over_methods("e1", OWN, "paper_method") < 0,
      "e1: over the paper's 13 rows the rank correlation of mean and -sd on D_I"
      f" is {short(n.over_methods('e1', OWN, 'paper_method'), '.2f')}, against"
      " the sentence, and on D_G"
      f" {short(n.over_methods('e1', GENERAL, 'paper_method'), '.2f')}. Ours"
      f" are {short(n.over_methods('e1', OWN, 'ours_method'), '.2f')} and"
      f" {short(n.over_methods('e1', GENERAL, 'ours_method'), '.2f')}.",
    ),
  ]


def _agrees(n: Numbers) -> Sentences:
  above = [m for m in SHAPING if m != "baseline"]
  gains = sorted(n.changes(OWN, m, "baseline").mean() for m in above)
  surely = [m for m in above if n.ends(OWN, m, "baseline")[0] > 0]
  large = "random:6500"
  d2 = n.claims[n.claims["claim"] == "d2"].set_index("against")["verdict"]
  size = 72
  accuracies = [n.mean(OWN, m) for m in METHODS]
  chances = [a * (1 - a) / size for a in accuracies]
  sds_of = [metrics.spread(n.values[OWN][m][0]).sd for m in METHODS]
  by_chance = np.sqrt(chances).mean()
  rest = np.sqrt(np.maximum(np.square(sds_of) - chances, 0)).mean()
  sds = [
    n.over_methods("e2", "both", f"ours_{side}")
    for side in ("method", "against")
  ]
  return [
    (
      gains[0] > 0 and surely == ["sw:12", "sw:2", "tl:10", "tl:300"],
      "Every shaping method has a higher mean on D_I than the baseline, by"
      f" {short(gains[0], '.4f')} to {short(gains[-1], '.4f')}. The intervals"
      " of SW and TL are above 0; corrected over all comparisons TL n=300"
      f" alone holds (p = {short(n.p('a3', 'tl:300', 'baseline', 'p_holm'))}).",
    ),
    (
      n.p("c2", "baseline", "sw:2", "p_holm") < 1e-4,
      f"SW n=2 costs D_G: {n.interval(GENERAL, 'sw:2', 'baseline')}, better for"
      f" {n.better(GENERAL, 'sw:2', 'baseline')} people (p < .0001); SW n=12"
      f" costs less: {n.interval(GENERAL, 'sw:12', 'baseline')}.",
    ),
    (
      n.best(GENERAL, GROUPING)[0] == large
      and [m for m in d2.index if d2[m] != "holds"] == ["sg:6500"],
      "6,500 random samples are the best of grouping on D_G"
      f" ({n.at(GENERAL, large)}); the comparison holds with all but SG n=6500"
      f" ({n.interval(GENERAL, large, 'sg:6500')}).",
    ),
    (
      n.verdict("e2") == "holds",
      "People differ more on D_I than on D_G: the sd, mean over methods, is"
      f" {short(sds[0])} and {short(sds[1])}. Part of the first is the test"
      f" itself: {size} samples have a binomial sd of {short(by_chance)} at"
      f" these accuracies. {short(rest)} remains without it.",
    ),
  ]


def _differs(n: Numbers) -> Sentences:
  one = n.mean(GENERAL, "global")
  lost = [n.changes(OWN, m, "random:1500").mean() for m in GROUPS]
  above = (n.values[GENERAL]["baseline"][0] > one).sum()
  random = metrics.paired_tests(
    *(n.values[GENERAL][m] for m in ("random:1500", "sw:2"))
  ).wilcoxon
  costs = n.ends(GENERAL, "ig:5", "random:1500")
  apart = [
    metrics.paired_tests(
      *(n.values[OWN][one] for one in (m, "baseline"))
    ).wilcoxon
    for m in GROUPING
  ]
  return [
    (
      n.mean(OWN, "baseline") < paper.spread_of(OWN, "baseline").mean,
      f"Levels: the baseline has {n.at(OWN, 'baseline')} (sd"
      f" {n.sd(OWN, 'baseline')}) on D_I and {n.at(GENERAL, 'baseline')} on"
      f" D_G; the paper's {theirs(OWN, 'baseline')} (sd"
      f" {short(paper.spread_of(OWN, 'baseline').sd)}) and"
      f" {theirs(GENERAL, 'baseline')}.",
    ),
    (
      n.around_0(GENERAL, "es:400", "baseline"),
      "b1: ES n=400 isn't told from the baseline on D_G:"
      f" {n.interval(GENERAL, 'es:400', 'baseline')}, better for"
      f" {n.better(GENERAL, 'es:400', 'baseline')} people.",
    ),
    (
      n.best(OWN, SHAPING)[:2] == ["tl:300", "tl:10"]
      and n.best(GENERAL, SHAPING)[-2:] == ["tl:10", "tl:300"]
      and n.verdict("b2") == "doesn't",
      "b2, c3: TL has the highest means of shaping on D_I and the lowest on"
      " D_G, where"
      f" TL n=10 loses {n.interval(GENERAL, 'tl:10', 'baseline')} and TL n=300"
      f" {n.interval(GENERAL, 'tl:300', 'baseline')}. The paper's loses"
      " nothing.",
    ),
    (
      n.best(OWN, SHAPING)[2] == "sw:2"
      and n.verdict("c1") != "holds"
      and n.around_0(OWN, "sw:2", "tl:10"),
      "c1: SW n=2 has the third mean on D_I, not told from TL n=10's and behind"
      " TL n=300's by"
      f" {n.interval(OWN, 'sw:2', 'tl:300')} (p ="
      f" {short(n.p('c1', 'sw:2', 'tl:300', 'p_wilcoxon'))}, uncorrected).",
    ),
    (
      n.best(OWN, GROUPING)[0] == "random:1500"
      and max(lost) < 0
      and all(n.around_0(OWN, group, "random:1500") for group in GROUPS),
      "d1: no group is told from 1,500 random samples on D_I: they have"
      f" {n.at(OWN, 'random:1500')}, and the groups' means are"
      f" {short(-max(lost), '.4f')} to {short(-min(lost), '.4f')} lower.",
    ),
    (
      n.around_0(OWN, "random:1500", "sw:2")
      and n.ends(GENERAL, "random:1500", "sw:2")[0] > 0,
      "Nor are these random samples told from SW n=2 on the person's data"
      f" alone: {n.interval(OWN, 'random:1500', 'sw:2')} on D_I. On D_G they"
      f" are above it: {n.interval(GENERAL, 'random:1500', 'sw:2')} (p ="
      f" {short(random, '.4f')}, Wilcoxon's test, uncorrected).",
    ),
    (
      costs[1] < 0,
      "IG n=5 costs D_G, against as many random samples:"
      f" {n.interval(GENERAL, 'ig:5', 'random:1500')}; in the paper .001.",
    ),
    (
      min(n.mean(OWN, m) for m in GROUPING) > n.mean(OWN, "baseline")
      and max(paper.spread_of(OWN, m).mean for m in GROUPING) < 0.980,
      "All rows of grouping have a higher mean on D_I than the baseline"
      f" ({n.range(OWN, GROUPING)}, Wilcoxon's p"
      f" {short(min(apart))} to {short(max(apart))}, uncorrected); the paper's"
      " have a lower one (.975 to .979).",
    ),
    (
      all(n.mean(GENERAL, m) < one for m in METHODS),
      "No method's mean on D_G reaches that of the model of D_G alone"
      f" ({short(one)}), which is a single one: {above} of the baseline's"
      f" {len(n.run.people)} are above it. The paper doesn't show that model.",
    ),
  ]


def _open(n: Numbers) -> Sentences:
  steps = 3640
  return [
    (
      n.run.seeds == ["0"],
      "One seed: TL's models of all people begin with the same model of D_G,"
      " whose luck no interval has.",
    ),
    (
      n.run.settings["epochs"] * 182 == steps,
      f"ES n=400 takes {400 / steps:.0%} more steps than the {steps:,} on D_G,"
      f" TL n=300 {300 / steps:.0%}: the next section has controls with as many"
      " steps.",
    ),
    (
      "tl:10 has fewer than 50 steps" in n.run.remarks,
      "TL n=10 was tested with running batch statistics, for which its last"
      " phase is too short (`remarks.md`).",
    ),
  ]


def _hurt(n: Numbers) -> Sentences:
  most = n.choice["hurt_with_choice"][[*METHODS, "local"]].max()
  many = len(n.run.people)
  hurt = {m: round(n.choice["hurt"][m] * many) for m in n.choice.index}
  return [
    (
      True,
      "Hurt is who has a lower test accuracy by the method than by the model of"
      " D_G alone, if only by one sample.",
    ),
    (
      hurt["tl:300"] == hurt["sw:2"],
      f"TL n=300 and SW n=2 hurt {hurt['tl:300']} of the {many} people, ES"
      f" n=400 {hurt['es:400']}, and a model of D_I alone {hurt['local']}.",
    ),
    (
      most <= 0.05,
      "If everyone takes the one that is better on their validation data, D_G's"
      f" if they are equal, at most {most * many:.0f} are hurt, and TL n=300's"
      f" gain falls from {n.chosen('tl:300', 'gain', '+.4f')} to"
      f" {n.chosen('tl:300', 'gain_with_choice', '+.4f')}.",
    ),
  ]
