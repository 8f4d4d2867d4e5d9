r"""A model of their own for new people, from a saved one (transfer learning).

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
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import flags

from experiments.flags import file_flags, people_flags, values
from experiments.runtime import console, resources, run_info
from personalization_jax import checks, distributed
from personalization_jax.analysis import model_choice
from personalization_jax.analysis.remarks import of_study
from personalization_jax.checkpoints import files
from personalization_jax.datasets import Population, new_people
from personalization_jax.datasets.splits import Split
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


def personalize() -> None:
  """From the flags to everybody's folder."""
  description, folders, studies, method = prepare()
  start = time.perf_counter()
  made_with = {"settings": FLAGS.flag_values_dict(), **run_info.describe()}
  reports: list[dict[str, Any]] = []
  with console.progress(_STEPS.value * len(folders), "personalize") as bar:
    for study in studies:
      before, _ = study.personalize("global").individual_accuracy()
      found = study.personalize(method, keep_models=True, on_steps=bar.update)
      after, _ = found.individual_accuracy()
      better = model_choice.choose(after, before)
      for place, person in enumerate(found.people.tolist()):
        own, _, held_out = study.split.parts(place)
        folder = folders[len(reports)]
        report = {
          "individual": person,
          "status": "diverged" if found.diverged[place] else "ok",
          "accuracy_before": float(before[place]),
          "accuracy_after": float(after[place]),
          "better_on_held_out": "personal" if better[place] else "base",
          "train_size": len(own),
          "held_out_size": len(held_out),
          **made_with,
        }
        reports.append(report)
        if not found.diverged[place]:
          model = jax.tree.map(lambda leaf, k=place: leaf[k], found.models)
          saved_models.save_one(folder, model, description)
          text = json.dumps(report, indent=1) + "\n"
          files.write_atomically(folder / "person.json", text)
  tell(folders, reports, time.perf_counter() - start)


def prepare() -> tuple[Description, list[pathlib.Path], list[Study], Method]:
  """Everything that a user's mistake can break, before any training.

  The base model's description; everybody's folder; studies of as many people at
  once as there are, or have room, in this order; and what each trains by.
  """
  description, variables = people_flags.load_model(_BASE)
  settings = Settings(**values.of(_LEARNING_RATE, _SEED, _BATCH_SIZE))
  network = description.network()
  spec = f"tl:{_STEPS.value}"
  checks.whole_number("steps", _STEPS.value, 1)
  if (last_layers := _LAST_LAYERS.value) is not None:
    check_last_layers(network, last_layers, variables["params"])
    spec += f":last={last_layers}"
  method = parse_method(spec)
  population, arrays = people_flags.load_people(_SAMPLES, description, _FILE)
  several = "individuals" in arrays
  if _TEST_SAMPLES.value is None:
    split = _hold_out(population, several)
  else:
    held_out, _ = people_flags.load_people(_TEST_SAMPLES, description, _FILE)
    with console.of("--samples and --test_samples"):
      population, split = new_people.join(population, held_out)
  # Fillers would be trained for nothing: no more places than people.
  ids, steps, batch = split.individuals, _STEPS.value, _BATCH_SIZE.value
  mesh = distributed.make_mesh(jax.devices()[: len(ids)])
  most = math.ceil(len(ids) / mesh.size)
  together = min(distributed.default_individuals_per_device(mesh), most)
  resources.check_schedules(steps, batch, mesh.size * together)
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
  trainer = make_trainer(
    population,
    settings,
    model=network,
    mesh=mesh,
    individuals_per_device=together,
  )
  _, trainable = method.phases(steps)[-1]
  programs = {
    "training": trainer.lower_train(batch, trainable),
    "evaluation": trainer.lower_predict(split.test.shape[1]),
  }
  resources.check_trainer(trainer, programs, batch, steps)
  about: dict[str, Any] = {
    "trainer": trainer,
    "base": variables,
    **values.of(_PRECISE_BATCH_STATS),
  }
  studies = [
    Study(population, split.take(some), settings, model=network, **about)
    for some in trainer.chunks(len(ids))
  ]
  lags = studies[0].has_batch_stats and not _PRECISE_BATCH_STATS.value
  last_phases = {spec: steps} if lags else {}
  for sentence in of_study(population, split, last_phases):
    print(f"- {sentence}")
  return description, folders, studies, method


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
    print(
      f"{folder}: {report['train_size']} samples trained,"
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
