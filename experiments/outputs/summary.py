"""What a run of `experiments.table1` says and draws."""

from __future__ import annotations

import pathlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.outputs import agreement, choice, pictures
from experiments.outputs.report.captions import CAPTIONS
from experiments.outputs.rows import Finished, Rows
from experiments.runtime import resources
from personalization_jax.analysis.markdown import markdown
from personalization_jax.analysis.result import Result
from personalization_jax.datasets.splits import PADDING
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.runs import table_files
from personalization_jax.study import Study
from personalization_jax.training.latent_space import LatentSpace


def of_people(study: Study) -> str:
  """Who is trained on what, and where."""
  split, mesh = study.split, study.trainer.mesh
  return (
    f"{len(split.individuals)} individuals, with {sizes(split.train)} training,"
    f" {sizes(split.validation)} validation and {sizes(split.test)} test"
    " samples (min / median / max);"
    f" D_G: {len(split.global_train)} of {len(split.global_people)} others;"
    f" {study.population.num_classes} classes; {mesh.size} devices"
    f" ({mesh.devices.flat[0].device_kind})."
  )


def sizes(rows: np.ndarray) -> str:
  """Numbers of rows [S, R] that individuals have: least, median and most."""
  counts = (rows != PADDING).sum(axis=1)
  low, high = counts.min(), counts.max()
  if low == high:
    return str(low)
  median = f"{np.median(counts):.1f}".removesuffix(".0")
  return f"{low} / {median} / {high}"


def write(
  study: Study,
  factors: WriterFactors | None,
  rows: Rows,
  every: Mapping[Finished, Result],
  space: LatentSpace | None,
  workdir: pathlib.Path,
) -> None:
  """Writes tables and figures of what is finished, and says what it took.

  `study` is of the tables' first seed, as is `space`, if one was needed.
  """
  methods = rows.parsed
  finished = [every[m, seed] for seed in rows.seeds for m in rows.methods]
  # Figures are of the tables beside them.
  for name in CAPTIONS:
    (workdir / "figures" / f"{name}.png").unlink(missing_ok=True)
  for name in ("choice.csv", "group_agreement.csv"):
    (workdir / name).unlink(missing_ok=True)
  table = table_files.write_tables(
    workdir,
    finished,
    study.population.labels,
    study.groups.distances() if space else None,
    [every[m, seed] for m, seed in rows.beside],
  )
  drawn = pictures.draw(study, methods, finished, space, workdir / "figures")
  print(markdown(table, of_run=True))
  further = {}
  chosen = choice.compare(finished, study.population.labels)
  if chosen and study.split.validation.shape[1]:
    further["choice.csv"] = choice.write(chosen, workdir)
  if space and factors:
    # Who truly writes like whom is known: are the groups of such people?
    found = agreement.compare(study, methods, factors)
    further["group_agreement.csv"] = agreement.write(found, workdir)
  for text, page in further.values():
    drawn.append(page)
    print(text)
  written = ", ".join(["results.csv", "table1.csv", "table1.md", *further])
  print(
    f"Peak memory: {resources.peak_memory()}; disk:"
    f" {resources.megabytes(resources.disk_used(workdir))}."
  )
  print(f"Tables: {workdir}/{written}")
  if drawn:
    print(
      f"Figures: {', '.join(path.name for path in drawn)} in {workdir}/figures"
    )
  if lost := divergence(finished):
    print(lost, file=sys.stderr, flush=True)
  for note in rows.notes:
    print(note, flush=True)


def divergence(finished: Sequence[Result]) -> str | None:
  """A sentence about models that diverged, if any did."""
  gone: Counter[str] = Counter()
  for result in finished:
    gone[result.method] += int(result.diverged.sum())
  if not gone.total():
    return None
  every = sum(len(result.diverged) for result in finished)
  of = ", ".join(f"{method}: {count}" for method, count in (+gone).items())
  return (
    f"{gone.total()} of {every} models diverged ({of}): their loss or"
    " parameters stopped being finite numbers, and they are left out of all"
    " else; a lower --learning_rate may help, in another --workdir."
  )
