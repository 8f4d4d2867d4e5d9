r"""The paper's Table I: one model for each person, by every method.

    python -m experiments.table1 --flagfile=experiments/presets/quickstart.flags

Flags override the preset; the defaults are the paper's settings on synthetic
handwriting. The same command on the same --workdir goes on where it stopped,
however it was stopped; SIGTERM and Ctrl-C save first and exit with code 75.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
import tqdm
from absl import app, flags, logging

from experiments import (
  interruption,
  processes,
  run_info,
  table1_agreement,
  table1_figures,
)
from personalization_jax import (
  hosts,
  latent_space,
  models,
  resources,
  results,
  splits,
  tables,
)
from personalization_jax.datasets import (
  Population,
  nist_digits,
  npz,
  synthetic,
  variations,
)
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.groups import Groups
from personalization_jax.latent_space import LatentSettings, LatentSpace
from personalization_jax.methods import Method, parse_methods
from personalization_jax.personalization import Study
from personalization_jax.population_training import make_mesh
from personalization_jax.progress import Keeper, Stopped
from personalization_jax.result import Result
from personalization_jax.settings import Settings

# These determine the results; a run directory holds one setting of them.
# --methods may grow from one call to the next, what is finished stays.
_DATASET = flags.DEFINE_enum(
  "dataset", "synthetic", ["synthetic", "nist_digits", "npz"], "The people."
)
_NIST_CONFIG = flags.DEFINE_enum(
    "nist_config", "mnist", ["mnist", "qmnist", "xnist"],
    "Which digits of NIST SD 19.",
)  # fmt: skip
_SYNTHETIC_SAMPLES = flags.DEFINE_integer(
  "synthetic_samples", 100, "Digits of each synthetic writer.", lower_bound=2
)
_NUM_INDIVIDUALS = flags.DEFINE_integer(
  "num_individuals", 100, "How many people get a model, |S|.", lower_bound=1
)
_NUM_GLOBAL_INDIVIDUALS = flags.DEFINE_integer(
  "num_global_individuals", 100, "How many others feed D_G.", lower_bound=1
)
_FLIPS = flags.DEFINE_bool(
  "flips", True, "Add flipped copies as classes: 10 become 30."
)
_CLASS_CONCENTRATION = flags.DEFINE_float(
    "class_concentration", None,
    "Vary the individuals' class counts by a Dirichlet distribution with this"
    " parameter (section II, variant 1); unset, they stay as they are.",
)  # fmt: skip
_IMAGE_SIZE = flags.DEFINE_integer(
  "image_size", 32, "Pixels a side: 16, 32 or 64."
)
_TRAIN_FRACTION = flags.DEFINE_float(
  "train_fraction", 0.7, "Part of everyone's samples that trains."
)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Epochs on D_G.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Samples in a batch.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's.")
_WIDTH = flags.DEFINE_float("width", 1.0, "Factor on Fig. 4's channel counts.")
_PRECISION = flags.DEFINE_enum(
  "precision", "float32", ["float32", "bfloat16"], "Of activations."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")

_AUTOENCODER_EPOCHS = flags.DEFINE_integer(
  "autoencoder_epochs", 20, "Epochs of the auto-encoder on D_G."
)
_GROUP_CANDIDATES = flags.DEFINE_enum(
  "group_candidates", "global", ["global", "individuals"],
  "Whom IG chooses from: the writers of D_G, or the other individuals.",
)  # fmt: skip

_METHODS = flags.DEFINE_string(
  "methods",
  "shaping",
  "'shaping', 'grouping', 'table1' (both), or a comma list of methods.",
)
_NPZ_PATH = flags.DEFINE_string(
    "npz_path", None, "With --dataset=npz: a file with the arrays images,"
    " labels and individuals.",
)  # fmt: skip
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where tensorflow-datasets keeps prepared data."
)
_MANUAL_DIR = flags.DEFINE_string(
  "manual_dir", None, "Where downloaded files lie already."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/table1", "The run directory.")
_INDIVIDUALS_PER_DEVICE = flags.DEFINE_integer(
    "individuals_per_device", 0,
    "Models on a device at once, which bounds memory; 0 takes 1 on a CPU and 8"
    " elsewhere.",
    lower_bound=0,
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

_DETERMINING = (
    _DATASET, _NIST_CONFIG, _SYNTHETIC_SAMPLES, _NUM_INDIVIDUALS,
    _NUM_GLOBAL_INDIVIDUALS, _FLIPS, _CLASS_CONCENTRATION, _IMAGE_SIZE,
    _TRAIN_FRACTION, _EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _WIDTH, _PRECISION,
    _SEED, _AUTOENCODER_EPOCHS, _GROUP_CANDIDATES, _SAVE_MODELS,
)  # fmt: skip


def load_population() -> tuple[Population, WriterFactors | None]:
  """The people that the flags name, and their hidden factors where known."""
  if _DATASET.value == "synthetic":
    writers = _NUM_INDIVIDUALS.value + _NUM_GLOBAL_INDIVIDUALS.value
    resources.check_fits(
      # Twice while they are drawn, and flips are two more.
      4 * writers * _SYNTHETIC_SAMPLES.value * _IMAGE_SIZE.value**2,
      f"{writers} writers (--num_individuals and --num_global_individuals) of"
      f" --synthetic_samples={_SYNTHETIC_SAMPLES.value} digits",
    )
    return synthetic.make_population(
      writers,
      samples_per_writer=_SYNTHETIC_SAMPLES.value,
      image_size=_IMAGE_SIZE.value,
      seed=_SEED.value,
    )
  if _DATASET.value == "nist_digits":
    population = nist_digits.load(
      _NIST_CONFIG.value,
      data_dir=_DATA_DIR.value,
      manual_dir=_MANUAL_DIR.value,
    )
    return population, None
  if _NPZ_PATH.value is None:
    raise ValueError("--dataset=npz needs --npz_path.")
  return npz.load(_NPZ_PATH.value), None


def vary_and_split(population: Population) -> tuple[Population, splits.Split]:
  """Sizes, flips, class counts; then who trains and tests on what."""
  population = variations.resize(population, _IMAGE_SIZE.value)
  if _FLIPS.value:
    population = variations.flips(population)
  people, global_people = splits.choose_people(
    population,
    _NUM_INDIVIDUALS.value,
    _NUM_GLOBAL_INDIVIDUALS.value,
    _SEED.value,
  )
  if _CLASS_CONCENTRATION.value is not None:
    population = variations.vary_class_counts(
      population,
      people,
      concentration=_CLASS_CONCENTRATION.value,
      seed=_SEED.value,
    )
  # The store goes onto every device: nobody else's samples need to.
  population = population.take(
    np.flatnonzero(
      np.isin(population.individuals, np.union1d(people, global_people))
    )
  )
  return population, splits.split(
    population,
    people,
    global_people,
    train_fraction=_TRAIN_FRACTION.value,
    seed=_SEED.value,
  )


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
    with progress(study.num_steps(waiting), waiting[0].spec) as bar:
      for method in waiting:
        bar.set_description(method.spec)
        finished[method] = study.personalize(method, on_steps=bar.update)
        if hosts.is_first():
          results.save_result(workdir, finished[method])
        study.forget(method)
  return [finished[method] for method in methods]


def find_groups(
  study: Study, methods: Sequence[Method], workdir: pathlib.Path
) -> LatentSpace | None:
  """Trains the auto-encoder if a method needs it, and tells the study."""
  kinds = {method.group.kind for method in methods if method.group}
  if not kinds & {"sg", "ig"}:
    return None
  settings = latent_settings()
  steps = latent_space.num_steps(study.split, settings)
  with progress(steps, "auto-encoder") as bar:
    space = latent_space.fit(
      study.population,
      study.split,
      settings,
      keeper=study.keeper,
      on_steps=bar.update,
    )
  say(
    f"Auto-encoder: squared error {space.error.model:.4f} a pixel on the test"
    f" data of D_G ({space.error.mean_image:.4f} by the mean image)."
  )
  study.groups = Groups(
    study.population,
    study.split,
    seed=_SEED.value,
    latents=space.latents,
    among_individuals=_GROUP_CANDIDATES.value == "individuals",
    mesh=make_mesh(jax.local_devices()),
  )
  return space


def latent_settings() -> LatentSettings:
  """How the flags have the auto-encoder trained."""
  return LatentSettings(
    epochs=_AUTOENCODER_EPOCHS.value,
    batch_size=_BATCH_SIZE.value,
    width=_WIDTH.value,
    seed=_SEED.value,
  )


def say(text: str) -> None:
  """Prints on the first process alone."""
  if hosts.is_first():
    print(text, flush=True)


def progress(total: int, description: str) -> tqdm.tqdm:
  """A bar with rate and time left."""
  return tqdm.tqdm(
    total=total,
    desc=description,
    unit="step",
    disable=not hosts.is_first(),
    # A log file gets a line now and then, a terminal a moving bar.
    mininterval=1.0 if sys.stderr.isatty() else 10.0,
  )


def prepare(
  should_stop: Callable[[], bool],
) -> tuple[Study, WriterFactors | None, tuple[Method, ...], pathlib.Path]:
  """Everything that a user's mistake can break, before any training."""
  methods = parse_methods(_METHODS.value)
  settings = Settings(
    epochs=_EPOCHS.value,
    batch_size=_BATCH_SIZE.value,
    learning_rate=_LEARNING_RATE.value,
    width=_WIDTH.value,
    precision=_PRECISION.value,
    seed=_SEED.value,
  )
  latent_settings()
  models.check_image_size(_IMAGE_SIZE.value)
  use_cpu_cores(_CPU_DEVICES.value)
  processes.join(
    _COORDINATOR_ADDRESS.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    _DISTRIBUTED.value,
  )
  mesh = make_mesh()
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  population, factors = load_population()
  population, split = vary_and_split(population)
  workdir = pathlib.Path(_WORKDIR.value)
  study = Study(
    population,
    split,
    settings,
    mesh=mesh,
    individuals_per_device=_INDIVIDUALS_PER_DEVICE.value
    or (1 if on_cpu else 8),
    store=_STORE.value,
    keeper=Keeper(
      workdir / "checkpoints",
      seconds=60 * _CHECKPOINT_MINUTES.value,
      should_stop=should_stop,
      say=say,
    ),
    models_dir=workdir / "models" if _SAVE_MODELS.value else None,
    groups=Groups(
      population,
      split,
      seed=_SEED.value,
      among_individuals=_GROUP_CANDIDATES.value == "individuals",
    ),
  )
  for method in methods:
    study.check(method)
  resources.check_memory(study, methods)
  need = resources.disk_need(study, methods, save_models=_SAVE_MODELS.value)
  resources.check_disk(workdir, need)
  determining = {flag.name: flag.value for flag in _DETERMINING}
  about = {
    "methods": [method.spec for method in methods],
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
  say(f"Disk: at most {resources.megabytes(need.total)} in {workdir}.")
  return study, factors, methods, workdir


def use_cpu_cores(devices: int) -> None:
  """Makes each core a device: many CPU operations run on one thread only.

  XLA divides long sums among as many threads as there are cores or devices,
  whichever is more, and that decides their last bits. A fixed number of threads
  (up to four devices, or as many as cores) makes results the same on one device
  or several.

  Args:
    devices: how many; 0 takes the cores there are.
  """
  cores = len(os.sched_getaffinity(0))
  os.environ.setdefault("NPROC", str(max(cores, 4)))
  # If JAX runs already, as in a notebook or a test, it keeps its devices.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", devices or cores)


def run(
  study: Study,
  factors: WriterFactors | None,
  methods: Sequence[Method],
  workdir: pathlib.Path,
) -> None:
  """Trains on all processes, reports on the first."""
  split = study.split
  say(
    f"{len(split.individuals)} individuals,"
    f" {(split.train >= 0).sum(axis=1).mean():.0f} training samples each;"
    f" D_G: {len(split.global_train)} of {len(split.global_people)} others;"
    f" {study.population.num_classes} classes;"
    f" {study.trainer.mesh.size} devices"
    f" ({study.trainer.mesh.devices.flat[0].device_kind})."
  )
  space = find_groups(study, methods, workdir)
  finished = train_all(study, methods, workdir)
  study.keeper.wait()
  if hosts.is_first():
    report(study, factors, methods, finished, space, workdir)
  hosts.wait_for_all("reported")


def report(
  study: Study,
  factors: WriterFactors | None,
  methods: Sequence[Method],
  finished: Sequence[Result],
  space: LatentSpace | None,
  workdir: pathlib.Path,
) -> None:
  """Writes the tables, draws the figures, says what it took."""
  rows = tables.write_tables(
    workdir,
    finished,
    study.population.labels,
    study.groups.distances() if space else None,
  )
  drawn = table1_figures.draw(
    study, methods, finished, space, workdir / "figures"
  )
  print(tables.markdown(rows))
  written = "results.csv, table1.csv, table1.md"
  if space and factors:
    # Who truly writes like whom is known: are the groups of such people?
    found = table1_agreement.compare(study, methods, factors)
    drawn.append(table1_agreement.write(found, workdir))
    print(table1_agreement.markdown(found))
    written += ", group_agreement.csv"
  print(
    f"Peak memory: {resources.peak_memory()}; disk:"
    f" {resources.megabytes(resources.disk_used(workdir))}."
  )
  print(f"Tables: {workdir}/{written}")
  print(
    f"Figures: {', '.join(path.name for path in drawn)} in {workdir}/figures"
  )


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
      study, factors, methods, workdir = prepare(should_stop)
      if hosts.is_first():
        stack.enter_context(results.alone_in(workdir))
    except (ValueError, OSError, ImportError) as error:
      sys.exit(f"error: {error}")
    run_or_say_why(study, factors, methods, workdir)


def run_or_say_why(
  study: Study,
  factors: WriterFactors | None,
  methods: Sequence[Method],
  workdir: pathlib.Path,
) -> None:
  """Runs, and ends the process in a sentence if it can't go on."""
  try:
    run(study, factors, methods, workdir)
  except Stopped:
    print(
      f"Stopped as asked to: the same command goes on (workdir={workdir}).",
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
  app.run(lambda argv: main(argv, interruption.install()))
