"""What RESULTS says of two runs beside the converged one, with its people.

`nist_forms` has the combined forms and TL of the last layers for all of them,
`nist_controls` the baseline and SW with more steps for the first ones. Methods
are compared person by person, with those of the converged run too.
"""

import dataclasses
from typing import Any

import numpy as np
from helpers.converged import GENERAL, OWN, Sentences, short

from experiments.outputs.report import runs
from personalization_jax.analysis import markdown, metrics, tables

COMBINED = ("es:40+sw:12+tl:10", "es:400+tl:300", "es:400+sw:12")
LAST = ("tl:300:last=1", "tl:300:last=2")
LONGER = {"baseline": "baseline@steps=4040", "sw:2": "sw:2@steps=4040"}
OF_FORMS = [
  *((form, "baseline") for form in COMBINED),
  ("es:40+sw:12+tl:10", "tl:300"),
  ("es:400+tl:300", "tl:300"),
  ("es:400+sw:12", "sw:12"),
  *((last, other) for last in LAST for other in ("baseline", "tl:300")),
]
# Rows of RESULTS, of which the last ones are this run's.
SHOWN = ["baseline", "es:400", "sw:12", "sw:2", "tl:300", *COMBINED, *LAST]
OF_CONTROLS = [
  *((longer, method) for method, longer in LONGER.items()),
  *((method, LONGER["baseline"]) for method in ("es:400", "tl:300")),
]


@dataclasses.dataclass
class Change:
  """A method against another one, person by person."""

  mean: float
  low: float
  high: float
  p: float  # Wilcoxon's
  holm: float = 1.0

  def __str__(self) -> str:
    ends = f"[{short(self.low, '+.4f')}, {short(self.high, '+.4f')}]"
    return f"{short(self.mean, '+z.4f')} {ends}"


def both(run: runs.Run, further: runs.Run) -> tables.Values:
  """Accuracies of the further run's people, in both runs; its own count."""
  assert {*further.people} <= {*run.people}
  assert run.seeds == further.seeds
  return {
    of: {
      method: own.accuracies(method, of, further.people, run.seeds)
      for own in (run, further)
      for method in own.seeds_of
    }
    for of in (OWN, GENERAL)
  }


def change(values: np.ndarray, reference: np.ndarray) -> Change:
  """Of accuracies [K, S] from others, uncorrected."""
  found = metrics.paired_changes(values, reference)
  p = metrics.paired_tests(values, reference).wilcoxon
  return Change(float(found.mean()), *metrics.interval_of_mean(found), p)


def corrected(found: dict[Any, Change]) -> dict[Any, Change]:
  """Changes with Holm's correction over all of them."""
  every = metrics.holm([one.p for one in found.values()])
  return {
    key: dataclasses.replace(one, holm=p)
    for (key, one), p in zip(found.items(), every)
  }


def changes(
  values: tables.Values, pairs: list[tuple[str, str]]
) -> dict[tuple[str, str, str], Change]:
  """By data, method and the one compared with; corrected over all of them."""
  return corrected(
    {
      (of, *pair): change(*(values[of][method] for method in pair))
      for of in (OWN, GENERAL)
      for pair in pairs
    }
  )


def table(values: tables.Values, pairs: list[tuple[str, str]]) -> str:
  """The changes as Markdown."""
  found = changes(values, pairs)
  columns = [
    ("", name, cells) for name, cells in zip(("method", "against"), zip(*pairs))
  ]
  for of, symbol in ((OWN, "D_I"), (GENERAL, "D_G")):
    own = [found[of, *pair] for pair in pairs]
    columns += [
      ("", f"acc({symbol}), change [95%]", [str(change) for change in own]),
      ("", "p (Holm)", markdown.cells([change.holm for change in own], "p*")),
    ]
  return markdown.aligned(columns, 2)


def levels(values: tables.Values, methods: list[str]) -> str:
  """Means and standard deviations as Markdown, as the converged run's."""
  return markdown.beside_paper(
    {of: {m: own[m] for m in methods} for of, own in values.items()}
  )


def of_forms(run: runs.Run, further: runs.Run) -> Sentences:
  """What RESULTS says of the combined forms and of TL's last layers."""
  values = both(run, further)
  found = changes(values, OF_FORMS)
  means = {
    of: {m: float(own[m].mean()) for m in own if m != "local"}
    for of, own in values.items()
  }
  own, general = means[OWN], means[GENERAL]
  three, early, mixed = COMBINED
  again = {
    (method, of): further.accuracies(method, of) - run.accuracies(method, of)
    for method in ("tl:300", "global")
    for of in (OWN, GENERAL)
  }
  moved = {k: short(v.mean(), "+z.4f") for k, v in again.items()}
  apart = [short(again[m, OWN].std(ddof=1)) for m in ("tl:300", "global")]
  hurt = {
    one: (one.choice.set_index("method")["hurt"] * len(one.people)).round()
    for one in (run, further)
  }
  # What they begin with, or are compared with, in the same run.
  start = {
    m: change(values[GENERAL][m], values[GENERAL]["global"])
    for m in (mixed, *LAST, "tl:300")
  }
  maker = further.makers[0]
  return [
    (
      len(further.people) == 40
      and run.settings == further.settings
      and maker["platform"] == "cpu"
      and maker["commit"] == "1c286b9e27ad",
      f"Two Intel Xeon cores, jax {maker['versions']['jax']}, float32,"
      " 2026-11-27, commit 1c286b9, beside other work.",
    ),
    (
      all(abs(change.mean()) < 0.0015 for change in again.values()),
      "Trained again on these cores with this jax, TL n=300 moved by"
      f" {moved['tl:300', OWN]} on D_I and {moved['tl:300', GENERAL]} on D_G,"
      f" and D_G's model by {moved['global', OWN]} on D_I, where single people"
      f" moved by an sd of {apart[0]} and {apart[1]}: comparisons of the two"
      " machines' rows have that in them.",
    ),
    (
      not any(
        own[m] == max(own.values()) and general[m] == max(general.values())
        for m in COMBINED
      )
      and all(found[of, early, "tl:300"].holm > 0.05 for of in (OWN, GENERAL)),
      "No combined form's mean is the best on both. ES n=400 + TL n=300"
      f" ({short(own[early])} and {short(general[early])}) isn't told from TL"
      " n=300 alone on either.",
    ),
    (
      found[OWN, mixed, "baseline"].holm < 0.05
      and found[GENERAL, mixed, "baseline"].holm > 0.05
      and found[OWN, mixed, "sw:12"].holm > 0.05
      and start[mixed].high < 0,
      "ES n=400 + SW n=12 is better than the baseline on D_I"
      f" ({found[OWN, mixed, 'baseline']}, p ="
      f" {short(found[OWN, mixed, 'baseline'].holm)}). On D_G it isn't told"
      f" from the baseline ({found[GENERAL, mixed, 'baseline']}) and is below"
      f" the model of D_G alone ({start[mixed]}). What it adds to SW n=12 can't"
      f" be told ({found[OWN, mixed, 'sw:12']}).",
    ),
    (
      found[GENERAL, three, "baseline"].high < 0
      and found[OWN, three, "baseline"].holm > 0.05,
      "ES n=40 + SW n=12 + TL n=10 gives up"
      f" {short(-found[GENERAL, three, 'baseline'].mean, '.4f')} on D_G (p ="
      f" {short(found[GENERAL, three, 'baseline'].holm, '.4f')}) for"
      f" {short(found[OWN, three, 'baseline'].mean, '.4f')} on D_I (p ="
      f" {short(found[OWN, three, 'baseline'].holm)}).",
    ),
    (
      all(
        found[OWN, m, "baseline"].holm < 0.001
        and found[OWN, m, "tl:300"].holm > 0.05
        and found[GENERAL, m, "tl:300"].holm < 1e-4
        and found[GENERAL, m, "baseline"].holm > 0.05
        for m in LAST
      ),
      "Transfer learning of the last layer alone, or of the last two, isn't"
      " told from TL n=300 on D_I and costs D_G less: the last one against TL"
      f" n=300 {found[OWN, LAST[0], 'tl:300']} on D_I and"
      f" {found[GENERAL, LAST[0], 'tl:300']} on D_G (p < .0001); against the"
      f" baseline {found[OWN, LAST[0], 'baseline']} (p ="
      f" {short(found[OWN, LAST[0], 'baseline'].holm, '.4f')}) and"
      f" {found[GENERAL, LAST[0], 'baseline']}.",
    ),
    (
      all(start[m].high < 0 and start[m].p < 1e-4 for m in (*LAST, "tl:300")),
      "Against the model of D_G that they begin with, D_G loses"
      f" {start[LAST[0]]} by it and {start['tl:300']} by TL n=300 (p < .0001,"
      " uncorrected).",
    ),
    (
      hurt[further][LAST[0]] == hurt[further][LAST[1]],
      f"They hurt {hurt[further][LAST[0]]:.0f} people each, TL n=300"
      f" {hurt[further]['tl:300']:.0f} here and {hurt[run]['tl:300']:.0f} on"
      " the H100: too few to tell.",
    ),
    (
      True,
      "They also leave batch normalisation's statistics as they were on D_G:"
      " this run can't tell whether that or the fewer weights keep D_G.",
    ),
  ]


def of_controls(run: runs.Run, controls: runs.Run) -> Sentences:
  """What RESULTS says of the baseline and SW with more steps."""
  values, (longer, weighed) = both(run, controls), LONGER.values()
  found = changes(values, OF_CONTROLS)
  steps = run.settings["epochs"] * 182
  known = {**run.settings, "num_individuals": 20}
  return [
    (
      controls.settings == known
      and len(controls.people) == 20
      and steps + 400 == 4040
      and f"{longer} {weighed}" == "baseline@steps=4040 sw:2@steps=4040",
      "The first 20 of the 40 people, with 4,040 steps: as many as ES n=400"
      " takes, and 100 more than TL n=300.",
    ),
    (
      all(
        found[of, more, method].holm > 0.05
        for of in (OWN, GENERAL)
        for method, more in LONGER.items()
      )
      and found[GENERAL, longer, "baseline"].high < 0.0035,
      "More steps alone change nothing that can be told:"
      f" {found[OWN, longer, 'baseline']} on D_I and"
      f" {found[GENERAL, longer, 'baseline']} on D_G for the baseline.",
    ),
    (
      found[GENERAL, "tl:300", longer].holm < 1e-4
      and found[OWN, "tl:300", longer].low > 0
      and found[OWN, "tl:300", longer].holm > 0.05
      and found[OWN, "tl:300", longer].mean
      >= change(values[OWN]["tl:300"], values[OWN]["baseline"]).mean,
      "So TL's cost on D_G comes of the person's data, not of the steps; its"
      " gain on D_I is no smaller against the longer baseline"
      f" ({found[OWN, 'tl:300', longer]}, which 20 people don't tell after"
      " correction).",
    ),
    (
      found[OWN, "es:400", longer].low < 0 < found[OWN, "es:400", longer].high,
      "ES n=400 isn't told from a baseline of as many steps, on D_I"
      f" ({found[OWN, 'es:400', longer]}) or on D_G"
      f" ({found[GENERAL, 'es:400', longer]}).",
    ),
  ]


def of_readme(run: runs.Run, further: runs.Run) -> Sentences:
  """The sentence of README on the further run."""
  values, last = both(run, further), LAST[0]
  found = changes(values, OF_FORMS)
  at = {of: short(float(values[of][last].mean())) for of in (OWN, GENERAL)}
  return [
    (
      found[OWN, last, "tl:300"].holm > 0.05
      and found[GENERAL, last, "tl:300"].low > 0,
      "Of what the paper names and doesn't show, transfer learning of the last"
      f" layer alone (`{last}`) isn't told from TL n=300 for individuals"
      f" ({at[OWN]}) and costs D_G less ({at[GENERAL]}).",
    )
  ]
