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
import pandas as pd

from experiments.outputs import agreement, choice, measures, pictures
from experiments.runtime import disk, resources
from experiments.runtime.console import say
from experiments.runtime.sizes import megabytes
from personalization_jax import distributed, figures
from personalization_jax.analysis import markdown
from personalization_jax.analysis.remarks import of_autoencoder
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints.files import write_atomically
from personalization_jax.datasets.splits import PADDING
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.methods import Method, known_method
from personalization_jax.runs import directory, table_files
from personalization_jax.study import Study
from personalization_jax.training.latent_space import LatentSpace

# What is remarkable about a run's people.
REMARKS = "remarks.md"
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


def remark(
  study: Study, remarks: Sequence[str], workdir: pathlib.Path, num_folds: int
) -> None:
  """Says who is trained on what and what is remarkable; keeps it, too."""
  fold = f"Fold 1 of {num_folds}: " if num_folds > 1 else ""
  lines = [fold + of_people(study), *(f"- {each}" for each in remarks)]
  say("\n".join(lines))
  if distributed.is_first():
    write_atomically(workdir / REMARKS, "\n".join(lines) + "\n")


def of_people(study: Study) -> str:
  """Who is trained on what, and where."""
  split, mesh = study.split, study.trainer.mesh
  train, validation, test = (
    sizes((rows != PADDING).sum(axis=1))
    for rows in (split.train, split.validation, split.test)
  )
  writers = study.population.individuals[split.global_train]
  others = writers[np.isin(writers, split.global_people)]
  of_others = sizes(np.unique(others, return_counts=True)[1])
  told = "".join([train, validation, test, of_others])
  which = " (min / median / max)" if " / " in told else ""
  also = (
    " and the individuals' training samples"
    if split.global_includes_individuals
    else ""
  )
  return (
    f"{len(split.individuals)} individuals, with {train} training,"
    f" {validation} validation and {test} test samples;"
    f" {len(split.global_people)} others, with {of_others} training samples"
    f"{which}, {len(others)} in all,{also} are D_G;"
    f" {study.population.num_classes} classes; {mesh.size} devices"
    f" ({mesh.devices.flat[0].device_kind})."
  )


def sizes(counts: np.ndarray) -> str:
  """Numbers of samples [n] that people have: least, median and most."""
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
  *,
  form: str,
  baseline: str | None = None,
  num_folds: int = 1,
) -> None:
  """Writes tables and figures of what is finished, and says what it took.

  `study` is of the tables' first seed and of the first fold, as is `space`, if
  one was needed; `form` is the figures' format. `baseline` is what all methods
  are compared with, as in `tables.of_results`.
  """
  methods = rows.parsed
  trained = space and space.autoencoder
  if worse := trained and of_autoencoder(trained.error, trained.error_of_mean):
    path = workdir / REMARKS
    write_atomically(path, f"{path.read_text()}- {worse}\n")
  finished = [every[m, seed] for seed in rows.seeds for m in rows.methods]
  folder = workdir / "figures"
  # Figures are of the tables beside them.
  for name, old in itertools.product(pictures.CAPTIONS, figures.FORMATS):
    (folder / f"{name}.{old}").unlink(missing_ok=True)
  for name in (choice.FILE, choice.BY_PERSON, agreement.FILE):
    (workdir / f"{name}.csv").unlink(missing_ok=True)
  # Whoever reads the table must know what its tests are against.
  directory.tell_baseline(workdir, baseline)
  table_files.write_tables(
    workdir,
    finished,
    study.population.labels,
    # People of several folds have no latent space in common.
    study.groups.distances() if space and num_folds == 1 else None,
    [every[m, seed] for m, seed in rows.beside],
    baseline,
  )
  drawn = pictures.draw(
    study, methods, finished, space, folder, form, baseline, num_folds
  )
  notes = [*rows.notes]
  if num_folds > 1:
    notes.append(pictures.OF_FOLDS.format(num_folds))
  print((workdir / "table1.md").read_text())
  further: list[tuple[types.ModuleType, Any]] = [
    (measures, measures.compare(finished, study.population))
  ]
  labels = study.population.labels
  chosen = choice.compare(finished, labels)
  # People of the first fold may have no validation data where others have.
  if chosen and any(result.validation_rows.shape[1] for result in finished):
    further.append((choice, chosen))
    people = choice.by_person(
      finished, labels, chosen, study.population.name_of
    )
    write_csv(people, workdir / f"{choice.BY_PERSON}.csv", choice.MISSING)
  if space and factors and num_folds == 1:
    # Who truly writes like whom is known: are the groups of such people?
    further.append((agreement, agreement.compare(study, methods, factors)))
  pages = [write_further(of, found, workdir, form) for of, found in further]
  drawn += [page for page in pages if page]
  names = ["results.csv", "table1.csv", "table1.md"]
  for of, _ in further:
    names.append(f"{of.FILE}.csv")
    if of is choice:
      names.append(f"{choice.BY_PERSON}.csv")
  print(
    f"Peak memory: {resources.peak_memory()}; disk:"
    f" {megabytes(disk.used(workdir))}."
  )
  print(f"Tables: {workdir}/{', '.join(names)}")
  if drawn:
    print(f"Figures: {', '.join(path.name for path in drawn)} in {folder}")
  if lost := divergence(finished):
    print(lost, file=sys.stderr, flush=True)
  for note in notes:
    print(note, flush=True)


def write_further(
  of: types.ModuleType, found: Any, workdir: pathlib.Path, form: str = "png"
) -> pathlib.Path | None:
  """Writes and prints what such a module found; its figure's file, if any."""
  table, axes = of.judged(found)
  write_csv(table, workdir / f"{of.FILE}.csv", of.MISSING)
  told = markdown.aligned(of.columns(table), of.NAMES)
  print(f"{of.TITLE}\n\n{told}\n\n{of.NOTE}")
  if axes is None:
    return None
  return figures.save(axes, workdir / "figures" / f"{of.FILE}.{form}")


def write_csv(table: pd.DataFrame, path: pathlib.Path, missing: str) -> None:
  """Writes a table with this for NaN."""
  text = table.to_csv(index=False, na_rep=missing, lineterminator="\n")
  write_atomically(path, text)


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
