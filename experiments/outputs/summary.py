"""What a run of `experiments.table1` says and draws, and of which results."""

from __future__ import annotations

import itertools
import pathlib
import sys
import types
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.outputs import agreement, choice, pictures
from experiments.runtime import resources
from personalization_jax import figures
from personalization_jax.analysis import markdown
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints.files import write_atomically
from personalization_jax.datasets.splits import PADDING
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.methods import Method, known_method
from personalization_jax.runs import table_files
from personalization_jax.study import Study
from personalization_jax.training.latent_space import LatentSpace

# A method's spec and a seed.
Finished = tuple[str, int]


class Rows(NamedTuple):
  """What the tables of a run directory are of."""

  methods: list[str]  # specs, in the order of the table
  seeds: list[int]  # with which each of them is finished
  beside: list[Finished]  # with other seeds: in results.csv alone
  notes: list[str]  # sentences about what is left out

  @property
  def parsed(self) -> list[Method]:
    """The methods themselves."""
    return [method for method in map(known_method, self.methods) if method]


def choose(
  asked: Mapping[str, Collection[int]],
  seeds: Sequence[int],
  finished: Collection[Finished],
  now: Sequence[str],
) -> Rows:
  """The methods `now` asked for, and all else that can be compared with them.

  That is every method of before which is finished with all seeds that they have
  in common. `asked` is spec -> seeds, and `seeds` are all that were ever asked
  for, in order; runs of old versions list finished seeds alone. `finished` is
  what there will be once this start ends.
  """
  notes = []
  there = {m: [s for s in seeds if (m, s) in finished] for m in asked}
  there = {method: its for method, its in there.items() if its}
  for method in [method for method in there if known_method(method) is None]:
    del there[method]
    notes.append(
      f"Method {method!r} is finished, but this version knows none of that"
      " name: it is left out of all tables."
    )
  common = [s for s in seeds if all(s in there[method] for method in now)]
  methods = [method for method in there if {*common} <= {*there[method]}]
  beside = [
    (method, seed)
    for seed in seeds
    for method, its in there.items()
    if seed in its and not (method in methods and seed in common)
  ]
  if beside:
    every = [s for s in seeds if any(s in its for its in there.values())]
    alone = ", ".join(f"{method} with seed {seed}" for method, seed in beside)
    notes.append(
      "table1.csv and the figures compare methods that have the same seeds"
      f" ({', '.join(map(str, common))}); in results.csv alone: {alone}."
      f" --methods={','.join(there)} --seeds={','.join(map(str, every))} would"
      " train what is missing and compare them all."
    )
  missing = []
  for method, its_seeds in asked.items():
    lost = [str(seed) for seed in its_seeds if (method, seed) not in finished]
    if method in there and lost:
      missing.append(f"{method} with seed {' and '.join(lost)}")
    elif lost or not its_seeds:
      missing.append(method)
  if missing:
    notes.append(
      f"Asked for before and not finished: {', '.join(missing)}; --methods and"
      " --seeds have to name them to go on."
    )
  return Rows(methods, common, beside, notes)


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
  numbers = [counts.min(), np.median(counts), counts.max()]
  if not np.ptp(counts):
    numbers = numbers[:1]
  return " / ".join(f"{n:.1f}".removesuffix(".0") for n in numbers)


def write(
  study: Study,
  factors: WriterFactors | None,
  rows: Rows,
  every: Mapping[Finished, Result],
  space: LatentSpace | None,
  workdir: pathlib.Path,
  form: str,
) -> None:
  """Writes tables and figures of what is finished, and says what it took.

  `study` is of the tables' first seed, as is `space`, if one was needed; `form`
  is the figures' format.
  """
  methods = rows.parsed
  finished = [every[m, seed] for seed in rows.seeds for m in rows.methods]
  folder = workdir / "figures"
  # Figures are of the tables beside them.
  for name, old in itertools.product(pictures.CAPTIONS, figures.FORMATS):
    (folder / f"{name}.{old}").unlink(missing_ok=True)
  for of in (choice, agreement):
    (workdir / f"{of.FILE}.csv").unlink(missing_ok=True)
  table = table_files.write_tables(
    workdir,
    finished,
    study.population.labels,
    study.groups.distances() if space else None,
    [every[m, seed] for m, seed in rows.beside],
  )
  drawn = pictures.draw(study, methods, finished, space, folder, form)
  print(markdown.markdown(table, of_run=True))
  further: list[tuple[types.ModuleType, Any]] = []
  chosen = choice.compare(finished, study.population.labels)
  if chosen and study.split.validation.shape[1]:
    further.append((choice, chosen))
  if space and factors:
    # Who truly writes like whom is known: are the groups of such people?
    further.append((agreement, agreement.compare(study, methods, factors)))
  drawn += [write_further(of, found, workdir, form) for of, found in further]
  names = ["results.csv", "table1.csv", "table1.md"]
  names += [f"{of.FILE}.csv" for of, _ in further]
  print(
    f"Peak memory: {resources.peak_memory()}; disk:"
    f" {resources.megabytes(resources.disk_used(workdir))}."
  )
  print(f"Tables: {workdir}/{', '.join(names)}")
  if drawn:
    print(f"Figures: {', '.join(path.name for path in drawn)} in {folder}")
  if lost := divergence(finished):
    print(lost, file=sys.stderr, flush=True)
  for note in rows.notes:
    print(note, flush=True)


def write_further(
  of: types.ModuleType, found: Any, workdir: pathlib.Path, form: str = "png"
) -> pathlib.Path:
  """Writes and prints what `choice` or `agreement` found; its figure's file."""
  table, axes = of.judged(found)
  text = table.to_csv(index=False, na_rep=of.MISSING, lineterminator="\n")
  write_atomically(workdir / f"{of.FILE}.csv", text)
  told = markdown.aligned(of.columns(table), of.NAMES)
  print(f"{of.TITLE}\n\n{told}\n\n{of.NOTE}")
  return figures.save(axes, workdir / "figures" / f"{of.FILE}.{form}")


def divergence(finished: Sequence[Result]) -> str | None:
  """A sentence about models that diverged, if any did."""
  gone = Counter(r.method for r in finished for _ in np.flatnonzero(r.diverged))
  if not gone:
    return None
  every = sum(len(result.diverged) for result in finished)
  of = ", ".join(f"{method}: {count}" for method, count in gone.items())
  return (
    f"{gone.total()} of {every} models diverged ({of}): their loss or"
    " parameters stopped being finite numbers, and they are left out of all"
    " else; a lower --learning_rate may help, in another --workdir."
  )
