r"""The paper's Table I: one model for each person, by every method.

    python -m experiments.table1 --flagfile=experiments/presets/quickstart.flags

Flags override the preset; the defaults are the paper's settings on synthetic
handwriting. The same command on the same --workdir goes on where it stopped,
however it was stopped; SIGTERM and Ctrl-C save first and exit with code 75.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import pathlib
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging

from experiments.flags import study_flags
from experiments.outputs import rows as table1_rows
from experiments.outputs import summary
from experiments.outputs.rows import Finished, Rows
from experiments.runtime import (
  console,
  interruption,
  processes,
  resources,
  run_info,
  tensorboard,
)
from experiments.runtime.console import say
from personalization_jax import checks, distributed
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.chunks import AnotherTrainingError
from personalization_jax.checkpoints.keeper import Keeper, Stopped
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.methods import Method, known_method, parse_methods
from personalization_jax.runs import directory
from personalization_jax.study import Study, make_trainer
from personalization_jax.training import latent_space
from personalization_jax.training.latent_space import LatentSpace

# Within so many seconds a shared disk shows what another host wrote.
_SHARED_WITHIN = 20.0
_FINGERPRINT = "dataset_fingerprint"

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


@dataclasses.dataclass
class Prepared:
  """A run that nothing is wrong with, as far as can be told before training.

  Attributes:
    workdir: the run directory, where no other run is.
    studies: one for each seed.
    methods: to be trained.
    rows: what the tables are to be of.
    drawn: the study of the tables' first seed, whose split and groups are shown
      in figures.
    factors: what is known of how synthetic people write.
    earlier: results in the directory that aren't asked for now; the first
      process alone reads them.
    made_with: versions, device, command and so on.
  """

  workdir: pathlib.Path
  studies: list[Study]
  methods: tuple[Method, ...]
  rows: Rows
  drawn: Study
  factors: WriterFactors | None
  earlier: dict[Finished, Result]
  made_with: dict[str, Any]


def train_all(
  study: Study,
  methods: Sequence[Method],
  workdir: pathlib.Path,
  made_with: Mapping[str, Any],
) -> list[Result]:
  """Trains what isn't finished yet, and keeps each method once it is.

  Args:
    study: of one seed.
    methods: what is asked for.
    workdir: the run directory.
    made_with: kept with each result.

  Returns:
    Everything on the first process; on the others, what they had to train.
  """
  home = study_flags.home(workdir, study.settings.seed)
  finished: dict[Method, Result] = {}
  # The others are told: they might find another state of the directory.
  for method in methods if distributed.is_first() else ():
    try:
      result = directory.load_result(
        home, method.spec, study.population, study.settings.seed
      )
    except ValueError as error:
      say(f"{error} It is trained again.")
      directory.set_aside(home, method.spec)
      continue
    if result is not None:
      finished[method] = result
  found = distributed.from_first(np.array([m in finished for m in methods]))
  for method, there in zip(methods, found):
    if there:
      study.forget(method)
  waiting = [method for method, there in zip(methods, found) if not there]
  if waiting:
    with console.progress(study.num_steps(waiting), waiting[0].spec) as bar:
      for method in waiting:
        bar.set_description(method.spec)
        finished[method] = study.personalize(method, on_steps=bar.update)
        if distributed.is_first():
          directory.save_result(
            home, finished[method], study.population, made_with
          )
          directory.tell_origins(workdir)
        study.forget(method)
  return [finished[method] for method in methods if method in finished]


def find_groups(study: Study, methods: Sequence[Method]) -> LatentSpace | None:
  """Makes the latent space if a method needs it, and tells the study."""
  if not any(method.needs_latents for method in methods):
    return None
  settings = study_flags.latent_settings(study.settings.seed)
  images = study.population.holds_images
  steps = latent_space.num_steps(study.split, settings) if images else 0
  with console.progress(steps, "latent space") as bar:
    space = study.find_groups(settings, on_steps=bar.update)
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


def check_flags() -> tuple[tuple[Method, ...], tuple[int, ...]]:
  """What can be told from the flags alone.

  Returns:
    The methods and the seeds to train with.

  Raises:
    ValueError: naming the flag that is wrong.
  """
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
    tensorboard.check()
  return methods, seeds


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
  """The run directory for this run's processes alone.

  Args:
    workdir: the run directory.

  Yields:
    Once the first process has it, and the others see what it wrote there.

  Raises:
    ValueError: if it is another's, or each process has its own.
    OSError: if it can't be written to.
  """
  with contextlib.ExitStack() as stack:
    token = secrets.token_hex(8)
    if distributed.is_first():
      stack.enter_context(directory.alone_in(workdir, token))
    token = distributed.text_from_first(token)
    end = time.monotonic() + _SHARED_WITHIN
    while not (distributed.is_first() or directory.holds_token(workdir, token)):
      if time.monotonic() > end:
        raise ValueError(
          f"--workdir={workdir} isn't the same directory for all processes: it"
          " must lie on a disk that they share."
        )
      time.sleep(0.2)
    yield


def check_alike(given: Mapping[str, Any]) -> None:
  """Refuses processes that were started with different flags or data.

  Args:
    given: flag -> JSON value, and the data's fingerprint.

  Raises:
    ValueError: on the processes that differ from the first, naming the flag.
  """
  mine = json.loads(json.dumps(given))
  firsts = json.loads(distributed.text_from_first(json.dumps(given)))
  for name in {**firsts, **mine}:
    # NaN is NaN here.
    if json.dumps(firsts.get(name)) == json.dumps(mine.get(name)):
      continue
    if name == _FINGERPRINT:
      raise ValueError("the processes of this run read different data.")
    raise ValueError(
      f"--{name}={mine.get(name)} of one process is --{name}={firsts.get(name)}"
      " of the first: start all with the same flags."
    )


def prepare(
  methods: tuple[Method, ...],
  seeds: tuple[int, ...],
  workdir: pathlib.Path,
  should_stop: Callable[[], bool],
) -> Prepared:
  """Everything that a user's mistake can break, before any training.

  Args:
    methods: to be trained.
    seeds: with each of these.
    workdir: the run directory, this run's alone.
    should_stop: asked now and then whether to save and exit.
  """
  population, factors = study_flags.load_population()
  study_flags.check_inert(population, _needs_latents(methods, workdir))
  population, people, global_people = study_flags.vary(population)
  determining = {
    **study_flags.determining(population),
    "save_models": _SAVE_MODELS.value,
    "eval_every": _EVAL_EVERY.value,
  }
  check_alike(
    {
      **determining,
      "methods": [method.spec for method in methods],
      "seeds": seeds,
      **{
        flag.name: flag.value
        for flag in (_INDIVIDUALS_PER_DEVICE, _MEMORY_GIB, _STORE)
      },
      _FINGERPRINT: population.fingerprint(),
    }
  )
  studies: dict[int, Study] = {}

  def study_of(seed: int) -> Study:
    if seed in studies:
      return studies[seed]
    split = study_flags.split(population, people, global_people, seed)
    home = study_flags.home(workdir, seed)
    settings = study_flags.training_settings(seed)
    # Compiled once for all seeds.
    first = next(iter(studies.values()), None)
    trainer = first.trainer if first else None
    return Study(
      population,
      split,
      settings,
      trainer=trainer
      or make_trainer(
        population,
        settings,
        model=study_flags.model(population),
        individuals_per_device=_INDIVIDUALS_PER_DEVICE.value or None,
        store=_STORE.value,
      ),
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

  for seed in seeds:
    studies[seed] = study_of(seed)
    for method in methods:
      studies[seed].check(method)
  if any(method.needs_latents for method in methods):
    latent_space.check(population)
  first = studies[seeds[0]]
  latents = study_flags.latent_settings(seeds[0])
  resources.check_memory(first, methods, latents)
  trainer, memory = resources.fitting_trainer(
    first,
    methods,
    latents=latents,
    memory_gib=_MEMORY_GIB.value,
    fewer=not _INDIVIDUALS_PER_DEVICE.value,
  )
  if trainer is not first.trainer:
    for seed in seeds:
      studies[seed] = studies[seed].with_trainer(trainer)
    first = studies[seeds[0]]
  need = resources.disk_need(
    first, methods, save_models=_SAVE_MODELS.value, seeds=len(seeds)
  )
  made_with = {**study_flags.about(), **run_info.describe()}
  rows, earlier = Rows((), ()), {}
  if distributed.is_first():
    resources.check_disk(workdir, need)
    finished = directory.saved(workdir)
    pairs = [(method.spec, seed) for method in methods for seed in seeds]
    asked = set(pairs)
    asked_for: dict[str, list[int]] = {}
    for spec, seed in [*finished, *pairs]:
      asked_for.setdefault(spec, []).append(seed)
    config = directory.open_run(
      workdir,
      determining,
      population.fingerprint(),
      {
        **(
          {"label_names": population.label_names}
          if population.label_names
          else {}
        ),
        **made_with,
      },
      inert=study_flags.inert(population),
      growing={
        "methods": list(asked_for),
        "seeds": [seed for _, seed in [*finished, *pairs]],
        "asked": asked_for,
      },
    )
    earlier = load_earlier(
      workdir, [one for one in finished if one not in asked], population
    )
    rows = table1_rows.choose(
      config["methods"],
      config["seeds"],
      asked | set(earlier),
      [method.spec for method in methods],
    )
  rows = Rows.from_json(distributed.text_from_first(rows.to_json()))
  for seed in seeds:
    # Every process writes its part of a checkpoint.
    home = study_flags.home(workdir, seed)
    for folder in ("checkpoints", "predictions", "figures"):
      if folder == "checkpoints" or distributed.is_first():
        files.check_writable(home / folder)
  drawn = study_of(rows.seeds[0])
  distributed.wait_for_all("prepared")
  if memory is not None:
    say(
      f"Memory: {memory} (individuals at once on a device:"
      f" {trainer.individuals_per_device})."
    )
  say(f"Disk: at most {resources.megabytes(need.total)} in {workdir}.")
  return Prepared(
    workdir,
    list(studies.values()),
    methods,
    rows,
    drawn,
    factors,
    earlier,
    made_with,
  )


def sizes(rows: np.ndarray) -> str:
  """How many samples individuals have: the fewest, the median, the most.

  Args:
    rows: int32 [S, R], everybody's, -1 for padding.

  Returns:
    The three numbers, or the one that is everybody's.
  """
  counts = (rows != PADDING).sum(axis=1)
  low, high = counts.min(), counts.max()
  if low == high:
    return str(low)
  median = f"{np.median(counts):.1f}".removesuffix(".0")
  return f"{low} / {median} / {high}"


def _needs_latents(methods: Sequence[Method], workdir: pathlib.Path) -> bool:
  """Whether a method does that is asked for now, or was before."""
  earlier = directory.saved(workdir) if distributed.is_first() else []
  known = [known_method(method) for method, _ in earlier]
  every = [*methods, *(method for method in known if method)]
  return bool(
    distributed.highest(int(any(method.needs_latents for method in every)))
  )


def load_earlier(
  workdir: pathlib.Path, finished: Sequence[Finished], population: Population
) -> dict[Finished, Result]:
  """Results that are in the directory and aren't asked for now.

  Args:
    workdir: the run directory.
    finished: their methods and seeds.
    population: what they were made of.

  Returns:
    Those that can be read; of others it is said that they are left out.
  """
  found = {}
  for method, seed in finished:
    home = study_flags.home(workdir, seed)
    try:
      result = directory.load_result(home, method, population, seed)
    except ValueError as error:
      say(f"{error} It is left out of all tables.")
      continue
    if result is not None:
      found[method, seed] = result
  return found


def run(prepared: Prepared) -> None:
  """Trains on all processes, reports on the first.

  Args:
    prepared: from `prepare`.

  Raises:
    SystemExit: with code 1, if every model diverged.
  """
  studies, methods = prepared.studies, prepared.methods
  workdir, table = prepared.workdir, prepared.rows
  first = studies[0]
  split = first.split
  say(
    f"{len(split.individuals)} individuals, with {sizes(split.train)} training,"
    f" {sizes(split.validation)} validation and {sizes(split.test)} test"
    " samples (min / median / max);"
    f" D_G: {len(split.global_train)} of {len(split.global_people)} others;"
    f" {first.population.num_classes} classes;"
    f" {first.trainer.mesh.size} devices"
    f" ({first.trainer.mesh.devices.flat[0].device_kind})."
  )
  space: LatentSpace | None = None
  finished: list[Result] = []
  for study in studies:
    if len(studies) > 1:
      say(f"Seed {study.settings.seed}.")
    if study is prepared.drawn:
      space = find_groups(study, [*methods, *table.parsed])
    else:
      find_groups(study, methods)
    finished += train_all(study, methods, workdir, prepared.made_with)
    study.keeper.wait()
  if prepared.drawn not in studies:
    space = find_groups(prepared.drawn, table.parsed)
    prepared.drawn.keeper.wait()
  if distributed.is_first():
    every = {(result.method, result.seed): result for result in finished}
    every |= prepared.earlier
    summary.write(
      prepared.drawn,
      prepared.factors,
      table.parsed,
      [every[method, seed] for seed in table.seeds for method in table.methods],
      space,
      workdir,
      [every[one] for one in table.beside],
    )
    for note in table.notes:
      say(note)
    if _TENSORBOARD.value:
      tensorboard.write(workdir / "tensorboard", list(every.values()))
  distributed.wait_for_all("reported")
  if distributed.from_first(
    np.array(all(result.diverged.all() for result in finished))
  ):
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
  workdir = pathlib.Path(_WORKDIR.value)
  with contextlib.ExitStack() as stack:
    try:
      if len(argv) > 1:
        raise ValueError(
          f"unexpected argument {argv[1]!r}; flags begin with --."
        )
      methods, seeds = check_flags()
      processes.use_cpu_cores(_CPU_DEVICES.value)
      processes.join(
        _COORDINATOR_ADDRESS.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        _DISTRIBUTED.value,
      )
      stack.enter_context(alone(workdir))
      prepared = prepare(methods, seeds, workdir, should_stop)
    except Exception as error:
      end_if_known(error, workdir, refusals=(ValueError, OSError, ImportError))
      raise
    try:
      run(prepared)
    except Stopped:
      print(
        f"Stopped as asked to: the same command goes on (--workdir={workdir}).",
        file=sys.stderr,
        flush=True,
      )
      sys.exit(interruption.EXIT_CODE)
    except Exception as error:
      end_if_known(error, workdir, refusals=(OSError, AnotherTrainingError))
      raise


def end_if_known(
  error: Exception,
  workdir: pathlib.Path,
  refusals: tuple[type[Exception], ...],
) -> None:
  """Ends the run in a sentence, on all processes; returns if there is none.

  Args:
    error: why it can't go on.
    workdir: the run directory.
    refusals: errors that say themselves what is wrong.
  """
  again = f"the same command goes on (--workdir={workdir})"
  if ran_out_of_memory(error):
    processes.end(
      f"error: out of memory ({checks.first_line(error)[:200]}): with a lower"
      f" --individuals_per_device or --store=host {again}; a lower --batch_size"
      " or --width takes another --workdir."
    )
  if processes.is_loss(error):
    processes.end_as_told()  # if it was so that the other one could say why
    processes.end(
      f"error: {processes.name()} lost another one"
      f" ({checks.first_line(error)[:200]}); what is saved is safe, and"
      f" {again}.",
      processes.EXIT_CODE,
    )
  if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
    processes.end(
      f"error: --workdir={workdir} is on a full disk; what is finished is safe,"
      " and with more space the same command goes on."
    )
  if isinstance(error, OSError) and error.filename and error.strerror:
    processes.end(f"error: {error.filename}: {error.strerror}.")
  if isinstance(error, refusals):
    processes.end(f"error: {console.as_flag(error, list(flags.FLAGS))}")
  if processes.several():
    traceback.print_exception(error)
    processes.end(
      f"error: {processes.name()} failed ({type(error).__name__}:"
      f" {checks.first_line(error)[:200]})."
    )


def ran_out_of_memory(error: Exception) -> bool:
  """Whether the host's memory or a device's had no room."""
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


if __name__ == "__main__":
  processes.use_compilation_cache()
  app.run(lambda argv: main(argv, interruption.install(tell=processes.tell)))
