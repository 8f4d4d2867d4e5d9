"""What RESULTS says of `nist_small.flags`, made from its files."""

from helpers.converged import GENERAL, OWN, SHAPING, Numbers, Sentences

from experiments.outputs.report import runs

SETTINGS = {"num_individuals": 10, "epochs": 5}


def sentences(run: runs.Run, converged: runs.Run) -> Sentences:
  """What RESULTS says below the command."""
  n, end = Numbers(run), Numbers(converged)
  pairs = (f"{m} {n.at(OWN, m)} / {n.at(GENERAL, m)}" for m in SHAPING)
  differ = {k for k, v in converged.settings.items() if run.settings[k] != v}
  early = n.interval(GENERAL, "es:400", "baseline")
  many = n.better(GENERAL, "es:400", "baseline")
  return [
    (
      differ == {*SETTINGS} and SETTINGS.items() <= run.settings.items(),
      "The recipe above with 10 people and 5 epochs (910 steps).",
    ),
    (
      True,
      "54,010 steps in all, 7 min 44 s with compilation on two Intel Xeon"
      " cores, beside an editor and a linter (jax 0.10.2, 2026-11-27,"
      " 1c286b9).",
    ),
    (
      run.makers[0]["platform"] == "cpu" and len(run.people) == 10,
      f"acc(D_I) / acc(D_G): {', '.join(pairs)}.",
    ),
    (
      {maker["commit"] for maker in run.makers} == {"10b7fc87c1dc-dirty"},
      "One such core alone gave the same numbers (10b7fc8, with tests changed);"
      " its files are in `results/nist_small`.",
    ),
    (
      n.ends(GENERAL, "es:400", "baseline")[0] > 0
      and end.around_0(GENERAL, "es:400", "baseline")
      and n.best(GENERAL, SHAPING)[0] == "es:400",
      "ES n=400 leads on D_G after so few steps"
      f" ({early} against the baseline, {many} people), and trained to the end"
      " it doesn't.",
    ),
  ]
