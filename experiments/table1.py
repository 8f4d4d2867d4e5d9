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
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags

from experiments.flags import study_flags, values
from experiments.outputs import finished, summary
from experiments.outputs.summary import Finished, Rows
from experiments.runtime import (
  console,
  disk,
  guards,
  interruption,
  processes,
  resources,
  run_info,
  sizes,
  tensorboard,
  training,
)
from experiments.runtime.console import say
from experiments.runtime.training import Run
from personalization_jax import distributed
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.keeper import AnotherTrainingError, Keeper
from personalization_jax.datasets import Population
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.figures import FORMATS
from personalization_jax.methods import (
  Method,
  known_method,
  parse_method,
  parse_methods,
)
from personalization_jax.methods.specs import HELP, SETS
from personalization_jax.runs import directory
from personalization_jax.study import Study, make_trainer
from personalization_jax.training import latent_space
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
    " elsewhere 8, or 4, 2 or 1 where more don't fit.", lower_bound=0)
SIDE_BY_SIDE = flags.DEFINE_integer("side_by_side", 0,
    "How many of them one operation computes; the others follow one after"
    " another. 0 takes 1 on a CPU and all of them elsewhere;"
    " experiments.plan tells what else would take.", lower_bound=0)
MEMORY_GIB = flags.DEFINE_float("memory_gib", 0.0,
    "GiB of each device's memory that training may take; 0 for all of it."
    " Unless --individuals_per_device is set, its default is halved until the"
    " models fit.", lower_bound=0.0)
STORE = flags.DEFINE_enum("store", "device", ["device", "host"],
    "Where the images are: on every device, or on the host, which sends"
    " each block of steps the rows that it needs.")
_CHECKPOINT_MINUTES = flags.DEFINE_float("checkpoint_minutes", 10.0,
    "Minutes between two checkpoints of unfinished training; 0 saves"
    " after every block of steps.", lower_bound=0.0)
_SAVE_MODELS = flags.DEFINE_bool("save_models", False,
    "Keep everybody's final parameters, in models/.")
_SAVE_PROBABILITIES = flags.DEFINE_bool("save_probabilities", False,
    "Keep the probabilities of all classes for everybody's test samples of D_I,"
    " in predictions/.")
# It may change from one call to the next: tables and figures are made anew.
_COMPARE_TO = flags.DEFINE_string("compare_to", None,
    "The method that p-values and gains are against, such as 'global'; unset,"
    " the paper's: 'baseline', and for data grouping 'random:N'.")
_EVAL_EVERY = flags.DEFINE_integer("eval_every", 0,
    "Steps from one evaluation on validation data to the next, for curves in"
    " metrics.jsonl; 0 draws none.", lower_bound=0)
_FIGURE_FORMAT = flags.DEFINE_enum("figure_format", "png", [*FORMATS],
    "Format of the figures' files. A report shows PNG and SVG.")
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
      summary.remark(run.first, run.remarks, workdir, run.num_folds)
      methods = tuple(run.methods)
      results, space = training.train_all(run, methods, seeds, workdir)
      if distributed.is_first():
        summary.write(
          *(run.drawn, run.factors, run.rows, results, space, workdir),
          form=_FIGURE_FORMAT.value,
          baseline=compare_to(),
          num_folds=run.num_folds,
        )
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
  compare_to()
  seeds = study_flags.seeds()
  for seed in seeds:
    study_flags.training_settings(seed)
    study_flags.latent_settings(seed)
  if _TENSORBOARD.value:
    tensorboard.check()
  return methods, seeds


def compare_to() -> str | None:
  """The spec of --compare_to, as tables have it; None if it isn't set."""
  if _COMPARE_TO.value is None:
    return None
  with console.of("--compare_to"):
    return parse_method(_COMPARE_TO.value).spec


def check_compare_to(methods: Sequence[str]) -> None:
  """Rejects a --compare_to that these specs of a table lack."""
  if compare_to() not in (None, *methods):
    raise ValueError(
      f"--compare_to={compare_to()} must be a method of the table, which has"
      f" {', '.join(methods)}: add it to --methods."
    )


def prepare(
  methods: Sequence[Method],
  seeds: Sequence[int],
  workdir: pathlib.Path,
  should_stop: Callable[[], bool],
) -> Run:
  """Everything that a user's mistake can break, before any training."""
  notes: list[str] = []
  people, factors = load_people(methods, workdir, notes.append)
  population = people[0]
  determining = {
    **study_flags.determining(population),
    **values.of(_SAVE_MODELS, _EVAL_EVERY),
  }
  if _SAVE_PROBABILITIES.value:
    determining |= values.of(_SAVE_PROBABILITIES)
  guards.check_alike(
    {
      **determining,
      "methods": [method.spec for method in methods],
      "seeds": seeds,
      **values.of(_INDIVIDUALS_PER_DEVICE, SIDE_BY_SIDE, MEMORY_GIB, STORE),
      guards.FINGERPRINT: population.fingerprint(),
    }
  )

  folds = study_flags.folds(*people)
  shared: tuple[Population, PopulationTrainer] | None = None

  def trainer_of(scaled: Population) -> PopulationTrainer:
    """Of a study's samples; all studies share their compiled programs."""
    nonlocal shared
    if shared is None:
      trainer = make_trainer(
        scaled,
        study_flags.training_settings(seeds[0]),
        model=study_flags.model(scaled),
        **values.of(_INDIVIDUALS_PER_DEVICE, SIDE_BY_SIDE, STORE),
      )
      shared = scaled, trainer
    owner, trainer = shared
    if scaled is owner:
      return trainer
    return dataclasses.replace(
      trainer, images=scaled.images, labels=scaled.labels
    )

  def make(seed: int, fold: int = 0, *, to_train: bool = True) -> Study:
    """A seed's study of a fold; keeps nothing if it isn't to be trained."""
    home = study_flags.home(workdir, seed, fold, len(folds))
    keeper = Keeper(
      home / "checkpoints",
      seconds=60 * _CHECKPOINT_MINUTES.value,
      should_stop=should_stop,
      say=say,
    )
    return study_flags.make_study(
      population,
      *folds[fold],
      seed,
      trainer_of,
      keeper=keeper if to_train else None,
      models_dir=home / "models" if _SAVE_MODELS.value else None,
      eval_every=_EVAL_EVERY.value,
      keep_probabilities=_SAVE_PROBABILITIES.value,
    )

  every = [*itertools.product(seeds, range(len(folds)))]
  first = make(*every[0])
  methods = _without_inapplicable(first, methods, notes.append)
  for place, each in enumerate(every):
    study = make(*each, to_train=False) if place else first
    for method in methods:
      study.check(method)
  if any(method.needs_latents for method in methods):
    latent_space.check(first.population)
  trainer, memory = resources.fitting_trainer(
    first,
    methods,
    latents=study_flags.latent_settings(seeds[0]),
    memory_gib=MEMORY_GIB.value,
    fewer=not _INDIVIDUALS_PER_DEVICE.value,
    # The first's, and that of whoever is trained.
    stores=1 + (first.population.scaling is not None and len(every) > 1),
  )
  if trainer is not first.trainer:
    shared = first.population, trainer
    first = dataclasses.replace(first, trainer=trainer)
  need = disk.need(
    first,
    methods,
    **values.of(_SAVE_MODELS, _SAVE_PROBABILITIES),
    seeds=len(seeds),
    folds=len(folds),
  )
  made_with = {**study_flags.about(), **run_info.describe()}
  rows = Rows([], [], [], [])
  results: dict[Finished, Result] = {}
  if distributed.is_first():
    disk.check(workdir, need)
    known = [method.spec for method in methods]
    known += [spec for spec, _ in directory.saved(workdir)]
    check_compare_to([*dict.fromkeys(known)])
    rows, results = finished.open_directory(
      workdir, methods, seeds, population, determining, made_with
    )
  rows = Rows(*json.loads(distributed.text_from_first(json.dumps(rows))))
  check_compare_to(rows.methods)
  for seed, fold in every:
    home = study_flags.home(workdir, seed, fold, len(folds))
    for name in ("checkpoints", "predictions"):
      files.check_writable(home / name)
  files.check_writable(workdir / "figures")
  shown = rows.seeds[0]
  drawn = first if shown == seeds[0] else make(shown)
  distributed.wait_for_all("prepared")
  if memory is not None:
    say(
      f"Memory: {memory} (individuals at once on a device:"
      f" {trainer.individuals_per_device})."
    )
  say(f"Disk: at most {sizes.megabytes(need)} in {workdir}.")
  notes += study_flags.remarks(first, methods, people)
  about = factors, rows, notes, results, made_with
  return Run(make, methods, len(folds), first, drawn, *about)


def _without_inapplicable(
  study: Study, methods: Sequence[Method], say: Callable[[str], None]
) -> list[Method]:
  """Leaves out what the set "field" has, but this model can't be trained by."""
  named = [item.strip() for item in _METHODS.value.split(",")]
  kept = []
  for method in methods:
    try:
      study.check(method)
    except ValueError as error:
      if method.spec in named or method.spec not in SETS["field"]:
        raise
      say(f"'field' goes without {method.spec!r} here: {error}")
    else:
      kept.append(method)
  return kept


def load_people(
  methods: Sequence[Method],
  workdir: pathlib.Path,
  say: Callable[[str], None] = say,
) -> tuple[tuple[Population, np.ndarray, np.ndarray], WriterFactors | None]:
  """What `vary` gives and hidden factors; rejects flags without effect.

  `say` is told how the data were taken.
  """
  population, factors = study_flags.load_population(say)
  known = list(methods)
  if distributed.is_first():
    earlier = (known_method(spec) for spec, _ in directory.saved(workdir))
    known += [method for method in earlier if method]
  grouped = distributed.highest(any(method.needs_latents for method in known))
  late = distributed.highest(any(method.late for method in known))
  study_flags.refuse_inert(
    study_flags.inert(population, grouped=bool(grouped), late=bool(late))
  )
  return study_flags.vary(population), factors


if __name__ == "__main__":
  processes.use_compilation_cache()
  app.run(lambda argv: main(argv, interruption.install(processes.tell)))
