r"""A model of their own for new people, from a saved one.

    python -m experiments.personalize --base=runs/x/models/global/7 \
      --samples=person.npz --steps=300 --output=models/anna

The npz file holds images, the samples: images, square for the paper's network
and resized to what the base model takes, or feature vectors or whatever else it
was trained on, of the same shape. It also holds labels, classes of the base
model by name or number; a person may lack some. With an array individuals,
everybody in it gets a model, in OUTPUT/NAME. Rows that share a number in an
array originals (copies of one sample) are all trained on or all held out. A
folder written holds an Orbax checkpoint, model.json, and person.json with the
person's accuracy on the samples held out, before and after. One person takes
seconds on a CPU.

Models are made by transfer learning, or by another --method that needs no data
but the person's. One that chooses on validation data (knn:K, mix:METHOD, @best)
has a fifth of the person's training samples for that. --shots=1,2,5,10,all
makes further models of fewer training samples, which aren't saved: OUTPUT gets
tables (shots.csv, shots_by_person.csv) and a figure (shots.png) of accuracy by
the number of samples.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments.flags import file_flags, people_flags, values
from experiments.outputs import shots as of_shots
from experiments.outputs.shots import ALL
from experiments.runtime import console, resources, run_info
from personalization_jax import checks, distributed
from personalization_jax.analysis import model_choice
from personalization_jax.analysis.remarks import of_study
from personalization_jax.checkpoints import files
from personalization_jax.datasets import Population, new_people
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.methods import Method, parse_method
from personalization_jax.runs import saved_models
from personalization_jax.runs.saved_models import Description
from personalization_jax.settings import Settings
from personalization_jax.study import Study, make_trainer
from personalization_jax.training.learner import check_last_layers

FLAGS = flags.FlagValues()
# fmt: off
_BASE = flags.DEFINE_string("base", None,
    "The folder of a saved model to start from.", flag_values=FLAGS)
_SAMPLES = flags.DEFINE_string("samples", None,
    "An npz file with the arrays images and labels, individuals if it holds"
    " several people, and originals if some rows are copies.",
    flag_values=FLAGS)
_TEST_SAMPLES = flags.DEFINE_string("test_samples", None,
    "An npz file like --samples with the samples to hold out; without"
    " it --validation_fraction of --samples is held out.", flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None,
    "The folder to write the person's model to; a folder of folders for"
    " several people.", flag_values=FLAGS)
_METHOD = flags.DEFINE_string("method", None,
    "The method, such as l2sp:300@0.1, head:300, lora:300:4, tl:300@best,"
    " adabn, knn:10, mix:tl:300, local:300 or global; by default tl by --steps"
    " and --last_layers.", flag_values=FLAGS)
_SHOTS = flags.DEFINE_string("shots", None,
    "Numbers of training samples, as in 1,2,5,10,all, to compare models by that"
    " have seen so many of each person; those of all are saved.",
    flag_values=FLAGS)
_STEPS = flags.DEFINE_integer("steps", 300,
    "Batches of the person's data, TL's n.", flag_values=FLAGS)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32,
    "Samples in a batch.", flag_values=FLAGS)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3,
    "Adam's learning rate.", flag_values=FLAGS)
_LAST_LAYERS = flags.DEFINE_integer("last_layers", None,
    "Train only this many layers, the last ones.", flag_values=FLAGS)
_VALIDATION_FRACTION = flags.DEFINE_float("validation_fraction", 0.2,
    "Fraction of everyone's samples to hold out.", flag_values=FLAGS)
_PRECISE_BATCH_STATS = flags.DEFINE_bool("precise_batch_stats", False,
    "Compute the batch statistics of trained models anew, over up to 50 of"
    " their last batches: running ones lag behind few --steps.",
    flag_values=FLAGS)
_SEED = flags.DEFINE_integer("seed", 0,
    "Seed of everything random.", flag_values=FLAGS)
flags.mark_flags_as_required([_BASE, _SAMPLES, _OUTPUT], FLAGS)
# fmt: on
_FILE = file_flags.define(FLAGS)


class Plan(NamedTuple):
  """What is to be done."""

  description: Description  # of the models
  base: dict[str, Any]  # `params` and `batch_stats`
  folders: list[pathlib.Path]  # everybody's
  method: Method
  # Number of samples, the last one all -> studies of as many people at once as
  # there are, or have room, in this order.
  studies: dict[str, list[Study]]


def personalize() -> None:
  """From the flags to everybody's folder."""
  description, base, folders, method, studies = prepare()
  start = time.perf_counter()
  used = FLAGS.flag_values_dict()
  new = [flag.name for flag in (_METHOD, _SHOTS) if flag.value is None]
  settings = {name: used[name] for name in used if name not in new}
  made_with = {"settings": settings, **run_info.describe()}
  reports: list[dict[str, Any]] = []
  lines: list[dict[str, Any]] = []
  *fewer, last = studies.items()
  total = sum(s.num_steps([method]) for some in studies.values() for s in some)
  with console.progress(total, "personalize") as bar:
    by_person = _before(last[1])
    for shots, some in [*fewer, last]:
      for study in some:
        found = study.personalize(
          method, keep_models=shots == ALL, on_steps=bar.update
        )
        before = np.array([by_person[name] for name in found.people.tolist()])
        lines += of_shots.rows(study, found, shots, before)
        if shots != ALL:
          continue
        after, _ = found.individual_accuracy()
        better = model_choice.choose(after, before)
        for place, person in enumerate(found.people.tolist()):
          own, chosen_by, held_out = study.split.parts(place)
          folder = folders[len(reports)]
          report = {
            "individual": person,
            "status": "diverged" if found.diverged[place] else "ok",
            "accuracy_before": float(before[place]),
            "accuracy_after": float(after[place]),
            "better_on_held_out": "personal" if better[place] else "base",
            "train_size": len(own),
            "held_out_size": len(held_out),
          }
          if len(chosen_by):
            report["choice_size"] = len(chosen_by)
          if found.best_steps is not None:
            report["best_steps"] = int(found.best_steps[place])
          reports.append(report | made_with)
          if not found.diverged[place]:
            model = jax.tree.map(lambda leaf, k=place: leaf[k], found.models)
            reference = base if method.reference else None
            saved_models.save_one(folder, model, description, reference)
            text = json.dumps(reports[-1], indent=1) + "\n"
            files.write_atomically(folder / "person.json", text)
  if _SHOTS.value is not None:
    of_shots.write(pathlib.Path(_OUTPUT.value or ""), lines, by_person)
  tell(folders, reports, time.perf_counter() - start)


def _before(studies: Sequence[Study]) -> dict[Any, float]:
  """The base model's accuracy on everybody's samples held out, by name."""
  found: dict[Any, float] = {}
  for study in studies:
    result = study.personalize("global")
    before, _ = result.individual_accuracy()
    found |= zip(result.people.tolist(), before.tolist())
  return found


def prepare() -> Plan:
  """Everything that a user's mistake can break, before any training."""
  method = _method()
  numbers = [] if _SHOTS.value is None else of_shots.parse(_SHOTS.value)
  description, variables = people_flags.load_model(_BASE)
  if description.method is not None:
    raise ValueError(
      f"--base={_BASE.value} answers by method {description.method!r}, not by"
      " its parameters alone: begin with a model that does, such as the one"
      " that it was made from."
    )
  settings = Settings(**values.of(_LEARNING_RATE, _SEED, _BATCH_SIZE))
  network = description.network()
  if _METHOD.value is None and (last_layers := _LAST_LAYERS.value) is not None:
    check_last_layers(network, last_layers, variables["params"])
  population, arrays = people_flags.load_people(_SAMPLES, description, _FILE)
  several = "individuals" in arrays
  if _TEST_SAMPLES.value is None:
    split = _hold_out(population, several)
  else:
    held_out, _ = people_flags.load_people(_TEST_SAMPLES, description, _FILE)
    with console.of("--samples and --test_samples"):
      population, split = new_people.join(population, held_out)
  splits = _splits(population, split, method, numbers)
  split = splits[ALL]
  # Fillers would be trained for nothing: no more places than people.
  ids, batch = split.individuals, _BATCH_SIZE.value
  mesh = distributed.make_mesh(jax.devices()[: len(ids)])
  most = math.ceil(len(ids) / mesh.size)
  together = min(distributed.default_individuals_per_device(mesh), most)
  steps = method.early if method.local else method.late
  resources.check_schedules(steps, batch, mesh.size * together)
  trainer = make_trainer(
    population,
    settings,
    model=network,
    mesh=mesh,
    individuals_per_device=together,
  )
  about: dict[str, Any] = {
    "trainer": trainer,
    "base": variables,
    **values.of(_PRECISE_BATCH_STATS),
  }
  studies = {
    shots: [
      Study(population, of.take(some), settings, model=network, **about)
      for some in trainer.chunks(len(of.individuals))
    ]
    for shots, of in splits.items()
  }
  first = studies[ALL][0]
  first.check(method)
  output = pathlib.Path(_OUTPUT.value or "")
  with console.of("--output"):
    folders = [output]
    if several:
      names = map(population.name_of, ids)
      folders = [output / name for name in files.folder_names(names)]
    for folder in folders:
      # Orbax would replace the whole folder, whatever is in it.
      if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
          f"{folder} is there already; choose another or remove it."
        )
    files.check_writable(output)
  _check_memory(first, method)
  lags = first.trainer.has_batch_stats and not _PRECISE_BATCH_STATS.value
  last_phases = {method.spec: steps} if lags else {}
  for sentence in of_study(population, split, last_phases):
    print(f"- {sentence}")
  if method.predict is not None:
    description = dataclasses.replace(description, method=method.spec)
  return Plan(description, variables, folders, method, studies)


def _method() -> Method:
  """What --method names, or transfer learning by the other flags."""
  if _METHOD.value is None:
    checks.whole_number("steps", _STEPS.value, 1)
    last = _LAST_LAYERS.value
    text = f"tl:{_STEPS.value}"
    # What is no number of layers is named once the network is known.
    ok = last is not None and last > 0
    return parse_method(f"{text}:last={last}" if ok else text)
  for flag in (_STEPS, _LAST_LAYERS):
    if FLAGS[flag.name].present:
      raise ValueError(
        f"--method={_METHOD.value} says what is trained for how many steps, so"
        f" --{flag.name} can't be set beside it."
      )
  with console.of("--method"):
    method = parse_method(_METHOD.value)
    if method.lack:
      raise ValueError(
        f"{method.spec!r} can't make a model from --base and a person's samples"
        f" alone: {method.lack}."
      )
  return method


def _splits(
  population: Population, split: Split, method: Method, numbers: Sequence[int]
) -> dict[str, Split]:
  """Number of training samples -> the split of those who have so many."""
  choosing = method.fit is not None or method.best
  if choosing and 1 in numbers:
    raise ValueError(
      f"--shots={_SHOTS.value}: method {method.spec!r} has samples to train on"
      " and others to choose by, so 2 are the fewest."
    )
  take = functools.partial(
    new_people.first_samples, population, split, seed=_SEED.value
  )
  everything = split
  if choosing:
    with console.of(f"--method={method.spec}"):
      everything = take(choosing=True)
  found = {str(n): take(n, choosing=choosing) for n in numbers}
  for number, some in found.items():
    if not len(some.individuals):
      raise ValueError(
        f"--shots={_SHOTS.value}: nobody has {number} samples to train on;"
        f" {(split.train != PADDING).sum(axis=1).max()} are the most."
      )
    if len(some.individuals) < len(split.individuals):
      who = of_shots.left_out(population, split.individuals, some.individuals)
      print(f"- {who} have fewer than {number} samples to train on.")
  return {**found, ALL: everything}


def _check_memory(study: Study, method: Method) -> None:
  """Rejects training and answers that no memory holds."""
  trainer, split = study.trainer_of(method), study.split
  batch, steps = _BATCH_SIZE.value, study.batches.length(method)
  fitted = max(split.train.shape[1], split.validation.shape[1])
  tested = split.validation.shape[1] + split.test.shape[1]
  programs = {"evaluation": trainer.lower_predict(tested, fitted)}
  if steps:
    _, trainable = method.phases(steps)[-1]
    programs = {"training": trainer.lower_train(batch, trainable), **programs}
  if method.fit is not None:
    programs["the choice"] = trainer.lower_fit(fitted)
  resources.check_trainer(trainer, programs, batch, steps)


def _hold_out(population: Population, several: bool) -> Split:
  """The split of --samples; `several` if it says whose each sample is."""
  given = f"--samples={_SAMPLES.value}"
  if not several and len(np.unique(population.originals)) < 2:
    copies = f" in {len(population)} copies" if len(population) > 1 else ""
    raise ValueError(
      f"{given} holds one sample{copies}; two are needed, one to train on and"
      " one to hold out."
    )
  fraction = _VALIDATION_FRACTION.value
  try:
    return new_people.hold_out(population, fraction, seed=_SEED.value)
  except ValueError as error:
    if str(error).startswith(_VALIDATION_FRACTION.name):
      raise
    raise ValueError(f"{given}: {error}") from error


def tell(
  folders: Sequence[pathlib.Path],
  reports: Sequence[dict[str, Any]],
  seconds: float,
) -> None:
  """Says what everybody's model is worth; ends in an error if one diverged."""
  for report, folder in zip(reports, folders):
    verdict = "diverged: no model is saved"
    if report["status"] == "ok":
      verdict = (
        f"accuracy {report['accuracy_before']:.4f} before,"
        f" {report['accuracy_after']:.4f} after"
      )
      if report["better_on_held_out"] == "base":
        verdict += " (no better: the base model may serve this person as well)"
    choosing = ""
    if "choice_size" in report:
      choosing = f" {report['choice_size']} to choose by,"
    print(
      f"{folder}: {report['train_size']} samples trained,{choosing}"
      f" {report['held_out_size']} held out; {verdict}."
    )
  table = pd.DataFrame(reports)
  ok = table[table["status"] == "ok"]
  gone = table["individual"].drop(ok.index)
  if len(table) > 1 and len(ok):
    before, after = ok["accuracy_before"], ok["accuracy_after"]
    of_all = f" of {len(table)}, whose models didn't diverge"
    print(
      f"{len(ok)} people{of_all if len(gone) else ''}: mean accuracy"
      f" {before.mean():.4f} before, {after.mean():.4f} after;"
      f" {model_choice.hurt(after, before):.0%} worse than before."
    )
  print(f"Training and saving took {seconds:.1f} s.")
  if len(gone):
    raise ValueError(
      f"{len(gone)} of {len(table)} models diverged (individual {gone.iloc[0]}"
      " first); a lower --learning_rate may help."
    )


main = functools.partial(people_flags.or_say_why, personalize, FLAGS)

if __name__ == "__main__":
  people_flags.run(main, FLAGS)
