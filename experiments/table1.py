r"""The paper's Table I: one model for each person, by every method.

    python -m experiments.table1 --flagfile=experiments/presets/quickstart.flags

Flags override the preset; the defaults are the paper's settings on synthetic
handwriting. The same command on the same --workdir goes on where it stopped,
however it was stopped; SIGTERM and Ctrl-C save first and exit with code 75.
"""

from __future__ import annotations

import contextlib
import errno
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags, logging

from experiments import (
  console,
  interruption,
  processes,
  run_info,
  study_flags,
  table1_report,
)
from experiments.console import say
from personalization_jax import (
  event_files,
  hosts,
  latent_space,
  resources,
  results,
)
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.latent_space import LatentSpace
from personalization_jax.methods import Method, parse_methods
from personalization_jax.personalization import Study
from personalization_jax.progress import Keeper, Stopped
from personalization_jax.result import Result

# It may grow from one call to the next; what is finished stays.
_METHODS = flags.DEFINE_string(
  "methods",
  "shaping",
  "'shaping', 'grouping', 'table1' (both), or a comma list of methods.",
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/table1", "The run directory.")
_INDIVIDUALS_PER_DEVICE = flags.DEFINE_integer(
    "individuals_per_device", 0,
    "Models on a device at once, which bounds memory; 0 takes 1 on a CPU and 8"
    " elsewhere.",
    lower_bound=0,
)  # fmt: skip
_MEMORY_GIB = flags.DEFINE_float(
    "memory_gib", 0.0,
    "What training may take of each device; 0 for all its memory. Where"
    " --individuals_per_device doesn't say, as many models go at once as fit.",
    lower_bound=0.0,
)  # fmt: skip
_STORE = flags.DEFINE_enum(
    "store", "device", ["device", "host"],
    "Where the images are: on every device, or on the host, which sends each"
    " block of steps what it needs.",
)  # fmt: skip
_CHECKPOINT_MINUTES = flags.DEFINE_float(
    "checkpoint_minutes", 10.0,
    "Between two checkpoints of what is under way; 0 saves after every block of"
    " steps.",
    lower_bound=0.0,
)  # fmt: skip
_SAVE_MODELS = flags.DEFINE_bool(
  "save_models", False, "Keep everybody's final parameters, in models/."
)
_EVAL_EVERY = flags.DEFINE_integer(
    "eval_every", 0,
    "Steps from one evaluation on validation data to the next, for curves in"
    " metrics.jsonl; 0 draws none.",
    lower_bound=0,
)  # fmt: skip
_TENSORBOARD = flags.DEFINE_bool(
    "tensorboard", False,
    "Write losses and curves for TensorBoard too (extra `tensorboard`).",
)  # fmt: skip
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False,
    "One of several processes of a run, which JAX finds by itself on SLURM,"
    " GKE, TPU pods and others.",
)  # fmt: skip
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  "coordinator_address", None, "HOST:PORT of the run's first process."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "How many processes the run has."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Which of them this is, from 0."
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Virtual devices on a CPU; 0 takes one for each core.",
    lower_bound=0, upper_bound=1024,
)  # fmt: skip


def train_all(
  study: Study, methods: Sequence[Method], workdir: pathlib.Path
) -> list[Result]:
  """Trains what isn't finished yet, and keeps each method once it is."""
  finished: dict[Method, Result] = {}
  for method in methods:
    try:
      result = results.load_result(workdir, method.spec)
    except ValueError as error:
      say(f"{error} It is trained again.")
      if hosts.is_first():
        results.set_aside(workdir, method.spec)
      continue
    if result is not None:
      finished[method] = result
      study.forget(method)
  # The first process may have found another one's file damaged, or whole.
  found = hosts.from_first(np.array([m in finished for m in methods]))
  waiting = [method for method, there in zip(methods, found) if not there]
  if waiting:
    with console.progress(study.num_steps(waiting), waiting[0].spec) as bar:
      for method in waiting:
        bar.set_description(method.spec)
        finished[method] = study.personalize(method, on_steps=bar.update)
        if hosts.is_first():
          results.save_result(workdir, finished[method])
        study.forget(method)
  return [finished[method] for method in methods]


def find_groups(study: Study, methods: Sequence[Method]) -> LatentSpace | None:
  """Makes the latent space if a method needs it, and tells the study."""
  if not any(method.needs_latents for method in methods):
    return None
  settings = study_flags.latent_settings(study.settings.seed)
  images = study.population.holds_images
  steps = latent_space.num_steps(study.split, settings) if images else 0
  with console.progress(steps, "latent space") as bar:
    space = study.find_groups(
      settings,
      among_individuals=study.groups.among_individuals,
      on_steps=bar.update,
    )
  if space.autoencoder:
    error = space.autoencoder.error
    say(
      f"Auto-encoder: squared error {error.model:.4f} a pixel on the test data"
      f" of D_G ({error.mean_image:.4f} by the mean image)."
    )
  else:
    say(
      f"Latent space: {space.latents.shape[1]} features, standardised over D_G."
    )
  return space


def prepare(
  should_stop: Callable[[], bool],
) -> tuple[list[Study], WriterFactors | None, tuple[Method, ...], pathlib.Path]:
  """Everything that a user's mistake can break, before any training."""
  try:
    methods = parse_methods(_METHODS.value)
  except ValueError as error:
    raise ValueError(f"--methods: {error}") from error
  for flag in (_CHECKPOINT_MINUTES, _MEMORY_GIB):
    if not math.isfinite(flag.value):
      raise ValueError(
        f"--{flag.name}={flag.value} must be a number of 0 or more."
      )
  seeds = study_flags.seeds()
  for seed in seeds:
    study_flags.training_settings(seed)
    study_flags.latent_settings(seed)
  if _TENSORBOARD.value:
    event_files.check()
  processes.use_cpu_cores(_CPU_DEVICES.value)
  processes.join(
    _COORDINATOR_ADDRESS.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    _DISTRIBUTED.value,
  )
  population, factors = study_flags.load_population()
  population, people, global_people = study_flags.vary(population)
  workdir = pathlib.Path(_WORKDIR.value)
  studies: list[Study] = []
  for seed in seeds:
    split = study_flags.split(population, people, global_people, seed)
    home = study_flags.home(workdir, seed)
    studies.append(
      Study(
        population,
        split,
        study_flags.training_settings(seed),
        model=study_flags.model(population),
        # Compiled once for all seeds.
        trainer=studies[0].trainer if studies else None,
        individuals_per_device=_INDIVIDUALS_PER_DEVICE.value or None,
        store=_STORE.value,
        keeper=Keeper(
          home / "checkpoints",
          seconds=60 * _CHECKPOINT_MINUTES.value,
          should_stop=should_stop,
          say=say,
        ),
        models_dir=home / "models" if _SAVE_MODELS.value else None,
        eval_every=_EVAL_EVERY.value,
        groups=study_flags.groups(population, split, seed),
      )
    )
    for method in methods:
      studies[-1].check(method)
  if any(method.needs_latents for method in methods):
    latent_space.check(population)
  latents = study_flags.latent_settings(seeds[0])
  resources.check_memory(studies[0], methods, latents)
  trainer, memory = resources.fitting_trainer(
    studies[0],
    methods,
    latents=latents,
    memory_gib=_MEMORY_GIB.value,
    fewer=not _INDIVIDUALS_PER_DEVICE.value,
  )
  for study in studies:
    study.trainer = trainer
  need = resources.disk_need(
    studies[0], methods, save_models=_SAVE_MODELS.value, seeds=len(seeds)
  )
  resources.check_disk(workdir, need)
  determining = {
    **study_flags.determining(population),
    "save_models": _SAVE_MODELS.value,
    "eval_every": _EVAL_EVERY.value,
  }
  about = {
    "methods": [method.spec for method in methods],
    "seeds": seeds,
    **(
      {"label_names": population.label_names} if population.label_names else {}
    ),
    **run_info.describe(),
  }
  results.open_run(
    workdir,
    determining,
    population.fingerprint(),
    about,
    write=hosts.is_first(),
  )
  hosts.wait_for_all("prepared")
  if memory is not None:
    say(
      f"Memory: {memory} (individuals at once on a device:"
      f" {trainer.individuals_per_device})."
    )
  say(f"Disk: at most {resources.megabytes(need.total)} in {workdir}.")
  return studies, factors, methods, workdir


def run(
  studies: Sequence[Study],
  factors: WriterFactors | None,
  methods: Sequence[Method],
  workdir: pathlib.Path,
) -> None:
  """Trains on all processes, reports on the first.

  Raises:
    SystemExit: with code 1, if every model diverged.
  """
  first = studies[0]
  split = first.split
  train, validation, test = (
    f"{(rows >= 0).sum(axis=1).mean():.0f}"
    for rows in (split.train, split.validation, split.test)
  )
  say(
    f"{len(split.individuals)} individuals, {train} training, {validation}"
    f" validation and {test} test samples each;"
    f" D_G: {len(split.global_train)} of {len(split.global_people)} others;"
    f" {first.population.num_classes} classes;"
    f" {first.trainer.mesh.size} devices"
    f" ({first.trainer.mesh.devices.flat[0].device_kind})."
  )
  spaces: list[LatentSpace | None] = []
  finished: list[Result] = []
  for study in studies:
    if len(studies) > 1:
      say(f"Seed {study.settings.seed}.")
    spaces.append(find_groups(study, methods))
    home = study_flags.home(workdir, study.settings.seed)
    finished += train_all(study, methods, home)
    study.keeper.wait()
  if hosts.is_first():
    table1_report.write(first, factors, methods, finished, spaces[0], workdir)
    if _TENSORBOARD.value:
      event_files.write(workdir / "tensorboard", finished)
  hosts.wait_for_all("reported")
  if all(result.diverged.all() for result in finished):
    sys.exit(1)  # the report says so, and what to do


def main(
  argv: Sequence[str], should_stop: Callable[[], bool] = lambda: False
) -> None:
  """From flags to a run directory; what goes wrong is said in a sentence.

  Args:
    argv: the program's name, and what isn't a flag.
    should_stop: asked now and then whether to save and exit.
  """
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step it takes
  with contextlib.ExitStack() as stack:
    try:
      if len(argv) > 1:
        raise ValueError(
          f"unexpected argument {argv[1]!r}; flags begin with --."
        )
      studies, factors, methods, workdir = prepare(should_stop)
      if hosts.is_first():
        stack.enter_context(results.alone_in(workdir))
    except (ValueError, OSError, ImportError, MemoryError) as error:
      sys.exit(f"error: {console.as_flag(error, list(flags.FLAGS))}")
    run_or_say_why(studies, factors, methods, workdir)


def run_or_say_why(
  studies: Sequence[Study],
  factors: WriterFactors | None,
  methods: Sequence[Method],
  workdir: pathlib.Path,
) -> None:
  """Runs, and ends the process in a sentence if it can't go on."""
  try:
    run(studies, factors, methods, workdir)
  except Stopped:
    print(
      f"Stopped as asked to: the same command goes on (--workdir={workdir}).",
      file=sys.stderr,
      flush=True,
    )
    sys.exit(interruption.EXIT_CODE)
  except Exception as error:
    processes.end_if_lost(error, workdir)
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
      raise
    sys.exit(
      f"error: --workdir={workdir} is on a full disk; what is finished is safe,"
      " and with more space the same command goes on."
    )


if __name__ == "__main__":
  processes.use_compilation_cache()
  app.run(lambda argv: main(argv, interruption.install()))
