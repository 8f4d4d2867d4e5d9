"""What RESULTS says of three runs with class counts of people's own."""

from helpers import forms
from helpers.converged import GENERAL, OWN, Sentences, short

from experiments.outputs.report import runs
from personalization_jax.analysis import markdown, metrics

METHODS = ("local", "sw:2", "tl:300")
# By --class_concentration, from the most uneven to nearly even.
CONCENTRATIONS = ("0.1", "1", "100")


def changes(
  found: dict[str, runs.Run],
) -> dict[tuple[str, str], forms.Change]:
  """On D_I from `global`, by concentration and method; corrected over all."""
  return forms.corrected(
    {
      (concentration, method): forms.change(own[method], own["global"])
      for concentration, run in found.items()
      for own in [run.values()[OWN]]
      for method in METHODS
    }
  )


def table(found: dict[str, runs.Run]) -> str:
  """Markdown: a row for each concentration and method."""
  told = changes(found)
  rows = []
  for concentration, run in found.items():
    values = run.values()
    for method in ("global", *METHODS):
      own, general = (
        metrics.spread(values[of][method][0]) for of in (OWN, GENERAL)
      )
      change = told.get((concentration, method))
      rows.append(
        (
          concentration,
          method,
          f"{short(own.mean)} ({short(own.sd)})",
          str(change or "-"),
          markdown.cells([change.holm], "p*")[0] if change else "-",
          short(general.mean),
        )
      )
  names = (
    "concentration",
    "method",
    "acc(D_I) (sd)",
    "change from `global` [95%]",
    "p (Holm)",
    "acc(D_G)",
  )
  return markdown.aligned([("", *both) for both in zip(names, zip(*rows))], 2)


def sentences(found: dict[str, runs.Run]) -> Sentences:
  """What RESULTS says of them beside the table."""
  told = changes(found)
  uneven, middle, even = CONCENTRATIONS

  def mean(of: str, concentration: str, method: str) -> float:
    return float(found[concentration].values()[of][method].mean())

  alone = [mean(OWN, c, "local") for c in CONCENTRATIONS]
  general = [mean(GENERAL, c, "tl:300") for c in CONCENTRATIONS]
  gains = [told[c, "tl:300"].mean for c in CONCENTRATIONS]

  def fewer(of: str, method: str, one: str, two: str) -> forms.Change:
    return forms.change(*(found[c].values()[of][method] for c in (one, two)))

  cost = fewer(GENERAL, "tl:300", uneven, even)
  better = fewer(OWN, "local", uneven, even)
  between = [
    fewer(GENERAL, "tl:300", *pair).p
    for pair in ((uneven, middle), (middle, even))
  ]
  makers = {
    (one.makers[0]["commit"], one.makers[0]["versions"]["jax"])
    for one in found.values()
  }
  return [
    (
      makers == {("1c286b9e27ad", "0.10.2")}
      and all(
        run.settings["class_concentration"] == float(c)
        and run.settings["epochs"] == 5
        and len(run.people) == 10
        for c, run in found.items()
      )
      and "with 101 / 123.5 / 135 training" in found[uneven].remarks,
      "Ten people's class proportions are drawn from a Dirichlet distribution;"
      " half of their samples are removed to come as near to them as the others"
      " allow, which leaves about 123 to train on.",
    ),
    (
      True,  # test_class_counts_are_those_of_the_digits
      "A class has about 12 samples at first, so a concentration of 0.1, which"
      " asks for a few classes, leaves a person 16 to 20 of the 30, 1 leaves 27"
      " to 30, and 100 all of them; the two largest classes have 15%, 14% and"
      " 8% of what stays (medians).",
    ),
    (
      True,
      "Test samples are of the same proportions, so others each time.",
    ),
    (
      True,
      "5 epochs, one seed, two Intel Xeon cores, jax 0.10.2, 2026-11-27, commit"
      " 1c286b9, four to five minutes each.",
    ),
    (
      len(told) == 9
      and f"{min(1.0, 9 * 2 / 2**10):.4f}" == "0.0176"
      and min(one.holm for one in told.values()) > 0.0175,
      "p: Wilcoxon's test against `global`, with Holm's correction over the"
      " nine rows of the three runs; of ten people it can't be below .0176.",
    ),
    (
      alone == sorted(alone)[::-1]
      and told[uneven, "local"].holm > 0.05
      and max(told[c, "local"].holm for c in (middle, even)) < 0.05
      and better.low > 0,
      "A model of D_I alone has the higher mean the fewer classes a person has:"
      f" {short(alone[2])}, {short(alone[1])} and {short(alone[0])}, the last"
      f" above the first by {better} (p = {short(better.p)}, Wilcoxon's test,"
      " uncorrected). It is worse than D_G's model at 100 and 1, and not told"
      " from it at 0.1.",
    ),
    (
      all(
        mean(OWN, c, "tl:300") > mean(OWN, c, m)
        for c in CONCENTRATIONS
        for m in ("global", "local", "sw:2")
      )
      and min(told[c, "tl:300"].holm for c in CONCENTRATIONS) > 0.05,
      "TL n=300 has the highest mean on D_I each time,"
      f" {short(min(gains))} to {short(max(gains))} above D_G's model; ten"
      " people don't tell that after correction over the nine tests.",
    ),
    (
      general == sorted(general) and cost.high < 0 and max(between) < 0.05,
      f"It costs D_G the more the fewer the classes: {short(general[2])},"
      f" {short(general[1])} and {short(general[0])}, the last below the first"
      f" by {cost} (p = {short(cost.p)}, between neighbours at most"
      f" {short(max(between))}; Wilcoxon's test, uncorrected).",
    ),
  ]
