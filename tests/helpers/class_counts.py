"""What RESULTS says of three runs with class counts of people's own."""

from experiments.outputs.report import runs
from helpers import forms
from helpers.converged import GENERAL, OWN, Sentences, short
from personalization_jax.analysis import markdown, metrics

METHODS = ("local", "sw:2", "tl:300")
# By --class_concentration, from the most uneven to nearly even.
CONCENTRATIONS = ("0.1", "1", "100")


def changes(
  found: dict[str, runs.Run],
) -> dict[tuple[str, str], forms.Change]:
  """On D_I from `global`, by concentration and method; corrected over all."""
  told = {}
  for concentration, run in found.items():
    values = {OWN: run.values()[OWN], GENERAL: run.values()[OWN]}
    pairs = [(method, "global") for method in METHODS]
    for (of, method, _), change in forms.changes(values, pairs).items():
      if of == OWN:
        told[concentration, method] = change
  for change, p in zip(
    told.values(), metrics.holm([c.p for c in told.values()])
  ):
    change.holm = p
  return told


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
