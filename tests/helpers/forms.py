"""What RESULTS says of two runs beside the converged one, with its people.

`nist_forms` has the combined forms and TL of the last layers for all of them,
`nist_controls` the baseline and SW with more steps for the first ones. Methods
are compared person by person, with those of the converged run too.
"""

import dataclasses
from typing import Any

import numpy as np
from helpers.converged import GENERAL, OWN, SHAPING, Sentences, short

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
  shaping = [*SHAPING, *COMBINED, *LAST]
  most = max(own, key=own.get)
  again = {
    name: f"{short(one.accuracies('tl:300', OWN).mean(), '.4f')} on D_I and"
    f" {short(one.accuracies('tl:300', GENERAL).mean(), '.4f')} on D_G"
    for name, one in (("here", further), ("there", run))
  }
  choice = further.choice.set_index("method")["hurt"]
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
      abs(own["tl:300"] - run.accuracies("tl:300", OWN).mean()) < 0.002,
      f"TL n=300 was trained again and has {again['here']}, on the H100"
      f" {again['there']}: rounding alone moves a mean by that.",
    ),
    (
      most == early
      and own[early] - own["tl:300"] < 0.005
      and found[OWN, early, "tl:300"].holm > 0.05
      and general[early] == min(general[m] for m in shaping),
      "No combined form is the best on both. ES n=400 + TL n=300 has the"
      f" highest mean on D_I of all rows ({short(own[early])}) and the lowest"
      f" of shaping on D_G ({short(general[early])}), and isn't told from TL"
      " n=300 alone.",
    ),
    (
      found[OWN, mixed, "baseline"].holm < 0.05
      and found[GENERAL, mixed, "baseline"].holm > 0.05
      and found[OWN, mixed, "sw:12"].holm > 0.05,
      "ES n=400 + SW n=12 is better than the baseline on D_I"
      f" ({found[OWN, mixed, 'baseline']}, p ="
      f" {short(found[OWN, mixed, 'baseline'].holm)}) without a cost on D_G"
      f" that can be told ({found[GENERAL, mixed, 'baseline']}); what it adds"
      f" to SW n=12 can't be told ({found[OWN, mixed, 'sw:12']}).",
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
      "Transfer learning of the last layer alone, or of the last two, gains on"
      " D_I what TL n=300 gains, as far as 40 people tell, and hardly costs"
      f" D_G: the last one against TL n=300 {found[OWN, LAST[0], 'tl:300']} on"
      f" D_I and {found[GENERAL, LAST[0], 'tl:300']} on D_G (p < .0001);"
      " against the"
      f" baseline {found[OWN, LAST[0], 'baseline']} (p ="
      f" {short(found[OWN, LAST[0], 'baseline'].holm, '.4f')}) and"
      f" {found[GENERAL, LAST[0], 'baseline']}.",
    ),
    (
      choice[LAST[0]] == choice[LAST[1]],
      f"They hurt {choice[LAST[0]]:.0%} of the people against the model of D_G"
      f" alone, TL n=300 {choice['tl:300']:.0%}.",
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
      and found[GENERAL, last, "tl:300"].low > 0
      and found[GENERAL, last, "baseline"].holm > 0.05,
      "Of what the paper names and doesn't show, transfer learning of the last"
      f" layer alone (`{last}`) is as good for individuals as TL n=300"
      f" ({at[OWN]}) and hardly costs D_G ({at[GENERAL]}).",
    )
  ]
