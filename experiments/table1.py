r"""The paper's Table I: one model for each person, by every method.

    python -m experiments.table1 --flagfile=experiments/presets/quickstart.flags

Flags override the preset; the defaults are the paper's settings on synthetic
handwriting. The same command on the same --workdir goes on where it stopped,
however it was stopped; SIGTERM and Ctrl-C save first and exit with code 75.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from experiments.flags import study_flags, values
from experiments.outputs import summary
from experiments.outputs.summary import Finished, Rows
from experiments.runtime import (
  console,
  guards,
  interruption,
  processes,
  resources,
  run_info,
  tensorboard,
)
from experiments.runtime.console import say
from personalization_jax import distributed
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.keeper import AnotherTrainingError, Keeper
from personalization_jax.datasets import Population
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.methods import Method, known_method, parse_methods
from personalization_jax.methods.specs import HELP
from personalization_jax.runs import directory
from personalization_jax.study import Study, make_trainer
from personalization_jax.training import latent_space
from personalization_jax.training.latent_space import LatentSpace
from personalization_jax.training.population import PopulationTrainer

# Its flags are this script's, and --help shows them.
flags.adopt_module_key_flags(study_flags)

# fmt: off
# It may grow from one call to the next; what is finished stays.
_METHODS = flags.DEFINE_string("methods", "shaping",
    f"Methods and sets of them, separated by commas: {HELP}.")
WORKDIR = flags.DEFINE_string("workdir", "runs/table1", "The run directory.")
_INDIVIDUALS_PER_DEVICE = flags.DEFINE_integer("individuals_per_device", 0,
    "Models on a device at once, which bounds memory; 0 takes 1 on a CPU and"
    " 8 elsewhere.", lower_bound=0)
SIDE_BY_SIDE = flags.DEFINE_integer("side_by_side", 0,
    "How many of them one operation computes; the others follow one after"
    " another. 0 takes 1 on a CPU and all of them elsewhere;"
    " experiments.plan tells what else would take.", lower_bound=0)
MEMORY_GIB = flags.DEFINE_float("memory_gib", 0.0,
    "GiB of each device's memory that training may take; 0 for all of it."
    " Unless --individuals_per_device is set, as many models are trained at"
    " once as fit.", lower_bound=0.0)
STORE = flags.DEFINE_enum("store", "device", ["device", "host"],
    "Where the images are: on every device, or on the host, which sends"
    " each block of steps the rows that it needs.")
_CHECKPOINT_MINUTES = flags.DEFINE_float("checkpoint_minutes", 10.0,
    "Minutes between two checkpoints of unfinished training; 0 saves"
    " after every block of steps.", lower_bound=0.0)
_SAVE_MODELS = flags.DEFINE_bool("save_models", False,
    "Keep everybody's final parameters, in models/.")
_EVAL_EVERY = flags.DEFINE_integer("eval_every", 0,
    "Steps from one evaluation on validation data to the next, for curves in"
    " metrics.jsonl; 0 draws none.", lower_bound=0)
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False,
    "Write losses and curves for TensorBoard too (extra `tensorboard`).")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False,
    "This is one of several processes of a run. JAX finds them by"
    " itself on SLURM, GKE, TPU pods and others.")
_COORDINATOR_ADDRESS = flags.DEFINE_string("coordinator_address", None,
    "HOST:PORT of the run's first process.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None,
    "How many processes the run has.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None,
    "This process's number, from 0.", lower_bound=0)
CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0,
    "Virtual devices on a CPU; 0 takes one for each core.",
    lower_bound=0, upper_bound=1024)
# fmt: on


def main(
  argv: Sequence[str], should_stop: Callable[[], bool] = lambda: False
) -> None:
  """From flags to a run directory; what goes wrong is said in a sentence.

  argv[0] is the program's name; should_stop is asked now and then whether to
  save and exit.
  """
  workdir = pathlib.Path(WORKDIR.value)
  with contextlib.ExitStack() as stack:
    with guards.told(workdir, ValueError, OSError, ImportError):
      console.begin(argv)
      methods, seeds = check_flags()
      processes.use_cpu_cores(CPU_DEVICES.value)
      address = values.of(_COORDINATOR_ADDRESS, _NUM_PROCESSES, _PROCESS_ID)
      processes.join(**address, detect=_DISTRIBUTED.value)
      stack.enter_context(guards.alone(workdir))
      run = prepare(methods, seeds, workdir, should_stop)
    with guards.told(workdir, OSError, AnotherTrainingError):
      say(summary.of_people(run.studies[0]))
      if scale := study_flags.of_scale(run.studies[0].population):
        say(scale)
      results = run.results
      spaces: dict[Study, LatentSpace | None] = {}
      for study in dict.fromkeys([*run.studies, run.drawn]):
        asked = methods if study in run.studies else ()
        shown = run.rows.parsed if study is run.drawn else ()
        if len(seeds) > 1 and asked:
          say(f"Seed {study.settings.seed}.")
        spaces[study] = find_groups(study, [*asked, *shown])
        if asked:
          results |= train_all(study, asked, workdir, run)
        study.keeper.wait()
      if distributed.is_first():
        space = spaces[run.drawn]
        summary.write(run.drawn, run.factors, run.rows, results, space, workdir)
        if _TENSORBOARD.value:
          tensorboard.write(workdir / "tensorboard", results.values())
      distributed.wait_for_all("reported")
      now = itertools.product((method.spec for method in methods), seeds)
      # The others have what they trained alone.
      gone = [results[one].diverged.all() for one in now if one in results]
      if distributed.from_first(np.array(all(gone))):
        sys.exit(1)  # the report says so, and what to do


def check_flags() -> tuple[tuple[Method, ...], tuple[int, ...]]:
  """The methods and seeds; rejects what is wrong by the flags alone."""
  with console.of("--methods"):
    methods = parse_methods(_METHODS.value)
  for flag in (_CHECKPOINT_MINUTES, MEMORY_GIB):
    if not math.isfinite(flag.value):
      raise ValueError(
        f"--{flag.name}={flag.value} must be a number of 0 or more."
      )
  seeds = study_flags.seeds()
  for seed in seeds:
    study_flags.training_settings(seed)
    study_flags.latent_settings(seed)
  if _TENSORBOARD.value:
    tensorboard.check()
  return methods, seeds


class Run(NamedTuple):
  """A run that nothing is wrong with, as far as can be told before training."""

  studies: Sequence[Study]  # one for each seed
  drawn: Study  # of the tables' first seed, which may be none of these
  factors: WriterFactors | None  # how synthetic people write
  rows: Rows  # what the tables are to be of
  # What is finished; the first process alone reads it.
  results: dict[Finished, Result]
  made_with: Mapping[str, Any]  # versions, device, command and so on


def prepare(
  methods: Sequence[Method],
  seeds: Sequence[int],
  workdir: pathlib.Path,
  should_stop: Callable[[], bool],
) -> Run:
  """Everything that a user's mistake can break, before any training."""
  people, factors = load_people(methods, workdir)
  population = people[0]
  determining = {
    **study_flags.determining(population),
    **values.of(_SAVE_MODELS, _EVAL_EVERY),
  }
  guards.check_alike(
    {
      **determining,
      "methods": [method.spec for method in methods],
      "seeds": seeds,
      **values.of(_INDIVIDUALS_PER_DEVICE, SIDE_BY_SIDE, MEMORY_GIB, STORE),
      guards.FINGERPRINT: population.fingerprint(),
    }
  )

  trainers: dict[Population, PopulationTrainer] = {}

  def trainer_of(scaled: Population) -> PopulationTrainer:
    """Of a seed's samples; programs are compiled once for all seeds."""
    if not trainers:
      trainers[scaled] = make_trainer(
        scaled,
        study_flags.training_settings(seeds[0]),
        model=study_flags.model(scaled),
        **values.of(_INDIVIDUALS_PER_DEVICE, SIDE_BY_SIDE, STORE),
      )
    if scaled not in trainers:
      one, *_ = trainers.values()
      trainers[scaled] = dataclasses.replace(
        one, images=scaled.images, labels=scaled.labels
      )
    return trainers[scaled]

  def make(seed: int) -> Study:
    """One seed's study."""
    home = study_flags.home(workdir, seed)
    keeper = Keeper(
      home / "checkpoints",
      seconds=60 * _CHECKPOINT_MINUTES.value,
      should_stop=should_stop,
      say=say,
    )
    return study_flags.make_study(
      *people,
      seed,
      trainer_of,
      keeper=keeper,
      models_dir=home / "models" if _SAVE_MODELS.value else None,
      eval_every=_EVAL_EVERY.value,
    )

  studies = [make(seed) for seed in seeds]
  for study, method in itertools.product(studies, methods):
    study.check(method)
  if any(method.needs_latents for method in methods):
    latent_space.check(studies[0].population)
  trainer, memory = resources.fitting_trainer(
    studies[0],
    methods,
    latents=study_flags.latent_settings(seeds[0]),
    memory_gib=MEMORY_GIB.value,
    fewer=not _INDIVIDUALS_PER_DEVICE.value,
    stores=len(trainers),
  )
  if trainer is not studies[0].trainer:
    for scaled, own in trainers.items():
      trainers[scaled] = own.with_individuals_per_device(
        trainer.individuals_per_device
      )
    studies = [
      dataclasses.replace(study, trainer=trainers[study.population])
      for study in studies
    ]
  disk = resources.disk_need(
    studies[0], methods, save_models=_SAVE_MODELS.value, seeds=len(seeds)
  )
  made_with = {**study_flags.about(), **run_info.describe()}
  rows = Rows([], [], [], [])
  results: dict[Finished, Result] = {}
  if distributed.is_first():
    resources.check_disk(workdir, disk)
    rows, results = open_directory(
      workdir, methods, seeds, population, determining, made_with
    )
  rows = Rows(*json.loads(distributed.text_from_first(json.dumps(rows))))
  for seed in seeds:
    for name in ("checkpoints", "predictions", "figures"):
      files.check_writable(study_flags.home(workdir, seed) / name)
  shown = rows.seeds[0]
  drawn = dict(zip(seeds, studies)).get(shown) or make(shown)
  distributed.wait_for_all("prepared")
  if memory is not None:
    say(
      f"Memory: {memory} (individuals at once on a device:"
      f" {trainer.individuals_per_device})."
    )
  say(f"Disk: at most {resources.megabytes(disk)} in {workdir}.")
  return Run(studies, drawn, factors, rows, results, made_with)


def load_people(
  methods: Sequence[Method], workdir: pathlib.Path
) -> tuple[tuple[Population, np.ndarray, np.ndarray], WriterFactors | None]:
  """What `vary` gives and hidden factors; rejects flags without effect."""
  population, factors = study_flags.load_population()
  known = list(methods)
  if distributed.is_first():
    earlier = (known_method(spec) for spec, _ in directory.saved(workdir))
    known += [method for method in earlier if method]
  grouped = distributed.highest(any(method.needs_latents for method in known))
  study_flags.refuse_inert(study_flags.inert(population, grouped=bool(grouped)))
  return study_flags.vary(population), factors


def open_directory(
  workdir: pathlib.Path,
  methods: Sequence[Method],
  seeds: Sequence[int],
  population: Population,
  determining: Mapping[str, Any],
  made_with: Mapping[str, Any],
) -> tuple[Rows, dict[Finished, Result]]:
  """Writes config.json; the tables' rows, and what is finished."""
  now = [(method.spec, seed) for method in methods for seed in seeds]
  finished = directory.saved(workdir)
  names = population.label_names
  config = directory.open_run(
    workdir,
    determining,
    population.fingerprint(),
    {**({"label_names": names} if names else {}), **made_with},
    inert=study_flags.inert(population),
    asked=now,
  )
  results: dict[Finished, Result] = {}
  for spec, seed in dict.fromkeys([*finished, *now]):
    home = study_flags.home(workdir, seed)
    try:
      if result := directory.load_result(home, spec, population, seed):
        results[spec, seed] = result
    except ValueError as error:
      if (spec, seed) in now:
        say(f"{error} It is trained again.")
        directory.set_aside(home, spec)
      else:
        say(f"{error} It is left out of all tables.")
  rows = summary.choose(
    {spec: config["asked"].get(spec, ()) for spec in config["methods"]},
    config["seeds"],
    {*now, *results},
    [method.spec for method in methods],
  )
  return rows, results


def find_groups(study: Study, methods: Sequence[Method]) -> LatentSpace | None:
  """Makes the latent space if a method needs it, and tells the study."""
  if not any(method.needs_latents for method in methods):
    return None
  settings = study_flags.latent_settings(study.settings.seed)
  images = study.population.holds_images
  steps = latent_space.num_steps(study.split, settings) if images else 0
  with console.progress(steps, "latent space") as bar:
    space = study.find_groups(settings, on_steps=bar.update)
  if trained := space.autoencoder:
    say(
      f"Auto-encoder: squared error {trained.error:.4f} a pixel on the test"
      f" data of D_G ({trained.error_of_mean:.4f} by the mean image)."
    )
  else:
    say(
      f"Latent space: {space.latents.shape[1]} features, standardised over D_G."
    )
  return space


def train_all(
  study: Study, methods: Sequence[Method], workdir: pathlib.Path, run: Run
) -> dict[Finished, Result]:
  """Trains and keeps what isn't finished, and forgets its checkpoints."""
  seed = study.settings.seed
  # The others are told: the first process alone has read what is finished.
  there = distributed.from_first(
    np.array([(method.spec, seed) in run.results for method in methods], bool)
  )
  waiting = [method for method, is_there in zip(methods, there) if not is_there]
  for method in methods:
    if method not in waiting:
      study.forget(method)
  trained: dict[Finished, Result] = {}
  with console.progress(study.num_steps(waiting), "training") as bar:
    for method in waiting:
      bar.set_description(method.spec)
      result = study.personalize(method, on_steps=bar.update)
      trained[method.spec, seed] = result
      if distributed.is_first():
        home = study_flags.home(workdir, seed)
        directory.save_result(home, result, study.population, run.made_with)
        directory.tell_origins(workdir)
      study.forget(method)
  return trained


if __name__ == "__main__":
  processes.use_compilation_cache()
  app.run(lambda argv: main(argv, interruption.install(processes.tell)))
