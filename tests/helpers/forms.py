"""What RESULTS says of the runs beside the converged one, with its people.

`nist_forms` has the combined forms and TL of the last layers for all of them,
`nist_controls_3940` and `_4040` the baseline and SW with so many steps. Methods
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
# Steps: those of TL n=300, and of ES n=400.
CONTROLS = {3940: "nist_controls_3940", 4040: "nist_controls_4040"}
OF_FORMS = [
  *((form, "baseline") for form in COMBINED),
  ("es:40+sw:12+tl:10", "tl:300"),
  ("es:400+tl:300", "tl:300"),
  ("es:400+sw:12", "sw:12"),
  *((last, other) for last in LAST for other in ("baseline", "tl:300")),
]
# Rows of RESULTS, of which the last ones are this run's.
SHOWN = ["baseline", "es:400", "sw:12", "sw:2", "tl:300", *COMBINED, *LAST]


def of_longer(steps: int) -> list[tuple[str, str]]:
  """The comparisons of a control."""
  longer = f"baseline@steps={steps}"
  return [
    (longer, "baseline"),
    (f"sw:2@steps={steps}", "sw:2"),
    ("es:400", longer),
    ("tl:300", longer),
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
      "They also leave batch normalisation's statistics as they were on D_G, of"
      " which the end of this section says more.",
    ),
  ]


def of_controls(
  run: runs.Run, further: runs.Run, controls: dict[int, runs.Run]
) -> Sentences:
  """What RESULTS says of the baseline and SW with more steps, and of AdaBN."""
  of = {steps: both(run, control) for steps, control in controls.items()}
  found = {k: changes(values, of_longer(k)) for k, values in of.items()}
  most = run.settings["epochs"] * 182
  longer = {k: f"baseline@steps={k}" for k in of}
  first, second = (found[k] for k in of)
  with_3940, with_4040 = longer.values()
  longest = [
    found[k][data, f"{m}@steps={k}", m]
    for k in of
    for data in (OWN, GENERAL)
    for m in ("baseline", "sw:2")
  ]
  much = second[GENERAL, "sw:2@steps=4040", "sw:2"]
  commits = {
    k: {maker["commit"] for maker in control.makers}
    for k, control in controls.items()
  }
  values, start = of[3940], both(run, further)[GENERAL]
  own, general = (
    change(values[data]["adabn"], values[data]["global"])
    for data in (OWN, GENERAL)
  )
  lost = change(start["tl:300"], start["global"])
  return [
    (
      (most + 300, most + 400) == (*of,)
      and all(
        control.settings == run.settings
        and control.people == run.people
        and control.makers[0]["platform"] == "cpu"
        for control in controls.values()
      ),
      "The same 40 people with TL n=300's 3,940 steps and with ES n=400's"
      " 4,040.",
    ),
    (
      commits[3940] == {"a5f8633d2f70", "d6345ac44a85"}
      and commits[4040] == {"10b7fc87c1dc-dirty", "54c56c62cdd5"},
      "The first run is of commits a5f8633 and (`adabn`) d6345ac, the second,"
      " on one core, of 10b7fc8 (with tests changed) and 54c56c6, 2026-11-27"
      " and 28; they train the same.",
    ),
    (
      all(one.holm > 0.05 for one in longest)
      and max(longest, key=lambda one: max(one.low, -one.high)) is much,
      "More steps alone change nothing that can be told: 300 more of the"
      f" baseline {first[OWN, with_3940, 'baseline']} on D_I and"
      f" {first[GENERAL, with_3940, 'baseline']} on D_G, 400 more"
      f" {second[OWN, with_4040, 'baseline']} and"
      f" {second[GENERAL, with_4040, 'baseline']}. The clearest change is SW"
      f" n=2's on D_G with 400 more, {much} (p = {short(much.holm)}).",
    ),
    (
      first[GENERAL, "tl:300", with_3940].holm < 1e-4
      and second[GENERAL, "tl:300", with_4040].holm < 1e-4
      and second[OWN, "tl:300", with_4040].holm < 0.05
      and first[OWN, "tl:300", with_3940].holm < 0.05
      and first[OWN, "tl:300", with_3940].low > 0,
      "So TL n=300's gain on D_I and its cost on D_G come of the person's data:"
      " against a baseline of as many steps they are"
      f" {first[OWN, 'tl:300', with_3940]} (p ="
      f" {short(first[OWN, 'tl:300', with_3940].holm)}) and"
      f" {first[GENERAL, 'tl:300', with_3940]} (p < .0001), against that of"
      f" 4,040 {second[OWN, 'tl:300', with_4040]} (p ="
      f" {short(second[OWN, 'tl:300', with_4040].holm)}) and"
      f" {second[GENERAL, 'tl:300', with_4040]} (p < .0001).",
    ),
    (
      all(
        one[data, "es:400", which].low < 0 < one[data, "es:400", which].high
        for one, which in ((first, with_3940), (second, with_4040))
        for data in (OWN, GENERAL)
      ),
      "ES n=400 isn't told from either longer baseline, on D_I or on D_G.",
    ),
    (
      own.low > 0 and own.p < 0.05 and general.high < 0,
      "D_G's model with the batch statistics of the person's training data"
      " (`adabn`, no training) has"
      f" {own} on D_I against that model (p = {short(own.p)}) and {general} on"
      " D_G (p < .0001, both uncorrected).",
    ),
    (
      general.p < 1e-4 and lost.high < 5 * general.mean,
      "So with the weights of D_G's model such statistics cost D_G little of"
      f" what TL n=300 does ({short(lost.mean, '+z.4f')}); what they cost with"
      " TL's own weights wasn't measured.",
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
