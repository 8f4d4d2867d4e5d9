"""The paper's claims tested on a run, and its Table I beside the paper's."""

from __future__ import annotations

import pathlib

from experiments.outputs import summary
from experiments.outputs.report.runs import Run
from personalization_jax import figures
from personalization_jax.analysis import claims, markdown, metrics
from personalization_jax.analysis.columns import DATA
from personalization_jax.checkpoints.files import write_atomically


def write(run: Run, folder: pathlib.Path) -> str:
  """Writes claims.csv, claims.md and beside_paper.png; what claims.md says."""
  values = run.values()
  if not values[DATA[0]]:
    raise ValueError(f"{run.name} has no results.csv: nothing can be tested.")
  table = claims.judge(values)
  summary.write_csv(table, folder / "claims.csv", "nan")
  text = f"{markdown.beside_paper(values)}\n\n{claims.text(table)}"
  write_atomically(folder / "claims.md", text)
  mean, (own, general) = metrics.mean_without_nan, values.values()
  means = {method: (mean(own[method]), mean(general[method])) for method in own}
  figures.save(figures.beside_paper(means), folder / "beside_paper.png")
  return text
