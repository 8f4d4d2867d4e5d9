"""What a run needs of disk and memory, and what it took (host)."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.runtime import host_memory
from personalization_jax import distributed, grouping
from personalization_jax.datasets.splits import PADDING
from personalization_jax.methods import Method
from personalization_jax.runs import saved_models
from personalization_jax.study import Study
from personalization_jax.training import autoencoder, latent_space
from personalization_jax.training.latent_space import LatentSettings
from personalization_jax.training.population import (
  BLOCK_STEPS,
  PopulationTrainer,
  planned_bytes,
)

# Two checkpoints are kept while a third is written.
_CHECKPOINTS = 3
# Tables, figures, Orbax's own small files.
_OTHER = 32 * 2**20
# What a CPU's compiler takes for each line of StableHLO, and keeps: 58 to 91
# KiB, measured on programs of 5,000 to 9,000 lines.
_COMPILED_LINE = 92 * 2**10
# What tables, figures and small programs take of the host beside all else, and
# further ones where there is a latent space: 80 to 110 and 135 MiB, measured on
# quickstart.
_REST = 128 * 2**20
_REST_OF_GROUPS = 160 * 2**20
# Bytes of a sample while it is standardised, to each of its own.
_WIDER = 8


@dataclasses.dataclass(frozen=True)
class DiskNeed:
  """Bytes that a run takes at most at once.

  Attributes:
    checkpoints: of what is under way, and of models that several start from.
    predictions: of all methods, and of one under way.
    models: saved for good.
    other: tables and figures.
  """

  checkpoints: int
  predictions: int
  models: int
  other: int = _OTHER

  @property
  def total(self) -> int:
    """All of it."""
    return self.checkpoints + self.predictions + self.models + self.other


def disk_need(
  study: Study,
  methods: Sequence[Method],
  *,
  save_models: bool = False,
  seeds: int = 1,
) -> DiskNeed:
  """An upper bound, from shapes alone.

  Args:
    study: the population, its split and the network.
    methods: what is to be trained.
    save_models: whether every individual's parameters are kept.
    seeds: how many such studies there are.

  Returns:
    The bytes.
  """
  shapes = study.trainer.shapes
  chunk = study.trainer.chunk_size
  state = bytes_of(shapes) // chunk
  people = len(study.split.individuals)
  steps = max((study.batches.length(method) for method in methods), default=0)
  tested = (
    study.split.validation.shape[1]
    + study.split.test.shape[1]
    + len(study.split.global_test)
  )
  # Shared: the model of D_G on every device, and the auto-encoder.
  shared = (study.trainer.mesh.size + 1) * (state + 4 * steps)
  if any(method.needs_latents for method in methods):
    shared += max(0, _autoencoder_bytes(study) - state)
  model = bytes_of((shapes.params, shapes.batch_stats)) // chunk
  files = model + saved_models.OVERHEAD
  # A curve has two numbers, at every step at most.
  recorded = 4 * steps * (3 if study.eval_every else 1)
  one_method = people * (8 * tested + recorded + 16)
  return DiskNeed(
    checkpoints=seeds
    * _CHECKPOINTS
    * (min(chunk, people) * (state + 4 * steps) + shared),
    predictions=seeds * (len(methods) + 1) * one_method,
    models=seeds * save_models * len(methods) * people * files,
  )


def _autoencoder_bytes(study: Study) -> int:
  """Of its training state; 0 where another latent space must serve."""
  shape = study.population.sample_shape
  learner = autoencoder.make_learner(width=study.settings.width)
  try:
    return bytes_of(
      jax.eval_shape(
        lambda key: autoencoder.create(learner, key, shape), jax.random.key(0)
      )
    )
  except ValueError:  # there is none for samples of this shape
    return 0


def check_memory(
  study: Study,
  methods: Sequence[Method],
  latents: LatentSettings | None = None,
) -> None:
  """Refuses schedules and models that this host can't hold.

  Args:
    study: the population, its split and the network.
    methods: what is to be trained.
    latents: of the auto-encoder; by default as `Study.find_groups` has it.

  Raises:
    ValueError: naming the flags, the need and what there is.
  """
  chunk = study.trainer.chunk_size
  batch = study.settings.batch_size
  for method in methods:
    steps = study.batches.length(method)
    check_fits(
      schedule_bytes(steps, batch, chunk),
      f"the schedule of {method.spec!r} for {chunk} individuals at once"
      f" ({steps} steps: --epochs={study.settings.epochs},"
      f" --batch_size={batch})",
    )
  if any(method.needs_latents for method in methods):
    latents = latents or LatentSettings.like(study.settings)
    steps = latent_space.num_steps(study.split, latents)
    check_fits(
      schedule_bytes(steps, latents.batch_size, 1),
      f"the auto-encoder's schedule ({steps} steps:"
      f" --autoencoder_epochs={latents.epochs})",
    )
  if study.trainer.on_cpu:
    check_fits(
      3 * bytes_of(study.trainer.shapes),
      f"{chunk} models at once (--individuals_per_device)",
    )


def schedule_bytes(steps: int, batch_size: int, individuals: int) -> int:
  """Bytes that schedules take of the host.

  Args:
    steps: of each.
    batch_size: samples in a batch.
    individuals: how many schedules there are at once.

  Returns:
    Sources, rows, and rows while they are being drawn; a block of steps has
    them once more, even where there are fewer steps.
  """
  drawn = 4 * steps * (4 + individuals * (2 * batch_size + 1))
  return drawn + 8 * BLOCK_STEPS * individuals * batch_size


@dataclasses.dataclass(frozen=True)
class Phase:
  """What one phase of a run takes at most; phases follow one another.

  Attributes:
    device: bytes of each device, the images on it among them.
    host: bytes of this process beside what it has before, where its devices
      are the host's cores.
  """

  device: int
  host: int = 0


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
  """What training and all that goes with it take at most.

  Attributes:
    phases: by name.
    process: bytes that this process has when all is compiled, and takes for
      small things later; None on devices with memory of their own, where the
      host's isn't planned.
  """

  phases: Mapping[str, Phase]
  process: int | None

  @property
  def host(self) -> int | None:
    """Bytes of the host, all in all."""
    if self.process is None:
      return None
    return self.process + max(phase.host for phase in self.phases.values())

  def __str__(self) -> str:
    """As it is told."""
    first, *others = (
      f"{name} {{}}{megabytes(phase.device)}{{}}"
      for name, phase in self.phases.items()
    )
    text = first.format("takes at most ", " of each device")
    for other in others:
      text += ", " + other.format("", "")
    if self.host is not None:
      text += (
        f"; all in all at most {megabytes(self.host)} of the host's"
        f" {megabytes(host_memory.limit())}, program files aside"
      )
    return text


def fitting_trainer(
  study: Study,
  methods: Sequence[Method],
  *,
  latents: LatentSettings | None = None,
  memory_gib: float = 0.0,
  fewer: bool = True,
) -> tuple[PopulationTrainer, MemoryPlan | None]:
  """Holds a study to the memory of its devices, and of this host.

  Args:
    study: whose programs are compiled for this.
    methods: what is to be trained.
    latents: of the auto-encoder, where methods need one; by default as
      `Study.find_groups` has it.
    memory_gib: of each device; 0 for all that there is.
    fewer: whether fewer individuals may go on a device at once, half as many
      each time, until they fit.

  Returns:
    The study's trainer, or one of fewer individuals, and what it takes at most;
    None if that isn't known.

  Raises:
    ValueError: if it doesn't fit, naming the flags, the need and what there is.
  """
  trainer = study.trainer
  while True:
    plan = _plan_of_study(study, trainer, methods, latents)
    if plan is None:
      return trainer, None
    count = trainer.individuals_per_device
    fault = _lack(trainer, plan, memory_gib)
    if fault is None:
      return trainer, plan
    if fewer and count > 1:
      trainer = trainer.with_individuals_per_device(count // 2)
      continue
    lower = "--individuals_per_device, " if count > 1 else ""
    raise ValueError(
      f"--individuals_per_device={count} would take {fault}: lower"
      f" {lower}--batch_size or --width, or take --store=host (and see"
      " --memory_gib and --cpu_devices)."
    )


def _lack(
  trainer: PopulationTrainer, plan: MemoryPlan, memory_gib: float
) -> str | None:
  """What is too much, and what there may be; None if it fits."""
  limit = memory_gib * 2**30 if memory_gib else _device_memory(trainer)
  name, phase = max(plan.phases.items(), key=lambda item: item[1].device)
  if limit is not None and phase.device > limit:
    may = f"{memory_gib:g} GiB"
    if not memory_gib:
      may = f"{megabytes(int(limit))}, all it has"
    return (
      f"{megabytes(phase.device)} of each device for {name}, but may take {may}"
    )
  if plan.process is None or plan.host is None:
    return None
  # All processes must come to the same chunks.
  if not distributed.highest(int(plan.host > host_memory.limit())):
    return None
  name = max(plan.phases, key=lambda name: plan.phases[name].host)
  return (
    f"{megabytes(plan.host)} of this host's memory for {name} on"
    f" {len(trainer.mesh.local_devices)} devices"
    f" ({megabytes(plan.process)} of it are the process's own),"
    f" {_but_may_take()}"
  )


def check_schedules(steps: int, batch_size: int, people: int) -> None:
  """Refuses schedules that this host can't hold.

  Args:
    steps: of each.
    batch_size: samples in a batch.
    people: how many are trained at once.

  Raises:
    ValueError: naming both numbers, the need and what there is.
  """
  check_fits(
    schedule_bytes(steps, batch_size, people),
    f"batch_size={batch_size} in steps={steps} for {people} people at once",
  )


def check_trainer(
  trainer: PopulationTrainer,
  programs: Mapping[str, jax.stages.Lowered],
  batch_size: int,
  steps: int,
) -> None:
  """Refuses training that this host or its devices have no memory for.

  Args:
    trainer: of all people at once that it has room for.
    programs: its own, by the phase that calls them; they are compiled.
    batch_size: samples in a batch.
    steps: of everybody's schedule.

  Raises:
    ValueError: naming batch_size, the need and what there is.
  """
  plan = _plan(trainer, programs, batch_size, steps)
  if plan is not None and (fault := _lack(trainer, plan, 0.0)):
    raise ValueError(f"batch_size={batch_size} would take {fault}: lower it.")


def _plan(
  trainer: PopulationTrainer,
  programs: Mapping[str, jax.stages.Lowered],
  batch_size: int,
  steps: int,
  others: Sequence[jax.stages.Lowered] = (),
) -> MemoryPlan | None:
  """What a trainer's programs take, which are compiled; None if unknown."""
  if trainer.on_cpu:
    # What compiling one took, the next one has again.
    _check_compiling([*programs.values(), *others])
  sizes = {
    name: planned_bytes(program, on_cpu=trainer.on_cpu)
    for name, program in programs.items()
  }
  # Rows, and states that are being saved.
  beside = schedule_bytes(steps, batch_size, trainer.chunk_size) + 2 * bytes_of(
    trainer.shapes
  )
  here = len(trainer.mesh.local_devices)
  phases = {
    name: Phase(size, here * (size - _stored(trainer)) + beside)
    for name, size in sizes.items()
    if size is not None
  }
  if len(phases) < len(sizes):
    return None
  process = host_memory.taken() + _REST if trainer.on_cpu else None
  return MemoryPlan(phases, process)


def _plan_of_study(
  study: Study,
  trainer: PopulationTrainer,
  methods: Sequence[Method],
  latents: LatentSettings | None,
) -> MemoryPlan | None:
  """What each phase of a study takes, as XLA plans its programs."""
  split, batch = study.split, study.settings.batch_size
  tested = split.validation.shape[1] + split.test.shape[1]
  programs = {
    "training": trainer.lower_train(batch),
    "evaluation": trainer.lower_predict(tested + len(split.global_test)),
  }
  steps = max((study.batches.length(method) for method in methods), default=0)
  grouped = any(method.needs_latents for method in methods)
  latents = latents or LatentSettings.like(study.settings)
  of_space = latent_space.lower(study.population, latents) if grouped else []
  plan = _plan(trainer, programs, batch, steps, of_space)
  if plan is None or not grouped:
    return plan
  sizes = [planned_bytes(one, on_cpu=trainer.on_cpu) for one in of_space]
  # The images once more, on one device; errors are measured on the host, and
  # what has no network is standardised there.
  space = max((size for size in sizes if size is not None), default=0)
  pixels = bytes_of(study.population.images)
  here = len(trainer.mesh.local_devices)
  search = _grouping_bytes(study, methods, here)
  store = _stored(trainer)
  return MemoryPlan(
    {
      **plan.phases,
      "the latent space": Phase(store + space, space + _WIDER * pixels),
      "grouping": Phase(store + search, here * search),
    },
    plan.process and host_memory.taken() + _REST + _REST_OF_GROUPS,
  )


def _stored(trainer: PopulationTrainer) -> int:
  """Bytes of the images and labels that are on each device already."""
  if trainer.store != "device":
    return 0
  return bytes_of((trainer.images, trainer.labels))


def _check_compiling(programs: Iterable[jax.stages.Lowered]) -> None:
  """Refuses what a CPU's compiler has no memory for; it would be killed."""
  lines = max(len(program.as_text().splitlines()) for program in programs)
  need = host_memory.taken() + lines * _COMPILED_LINE
  if distributed.highest(int(need > host_memory.limit())):
    raise ValueError(
      f"compiling takes up to {megabytes(need)} of this host's memory,"
      f" {_but_may_take()}: give it more, or take a smaller model."
    )


def _grouping_bytes(
  study: Study, methods: Sequence[Method], devices: int
) -> int:
  """Of a device, for the search of SG and IG; an upper bound by shapes."""
  split = study.split
  people, most = split.train.shape
  width = autoencoder.NUM_LATENTS
  if not study.population.holds_images:
    width = math.prod(study.population.sample_shape)
  candidates = max(people, len(study.groups.candidates))
  means = 16 * (people + candidates) * study.population.num_classes * width
  # Distances in float64, while they are being sorted.
  sizes = [2 * means + 32 * people * candidates]
  for method in methods:
    if method.group is not None and method.group.kind == "sg":
      sizes.append(
        grouping.planned_bytes(
          math.ceil(people / devices),
          most,
          int((split.train != PADDING).sum(axis=1).min()),
          len(split.global_train),
          width,
          method.group.n,
        )
      )
  return max(sizes)


def _device_memory(trainer: PopulationTrainer) -> int | None:
  """Bytes of the smallest device of a mesh; None if they share the host's."""
  if trainer.on_cpu:
    return None
  stats = [device.memory_stats() or {} for device in trainer.mesh.local_devices]
  known = [one["bytes_limit"] for one in stats if "bytes_limit" in one]
  here = min(known, default=host_memory.limit() // max(1, len(stats)))
  # All processes must come to the same chunks; MiB fit their 32 bits.
  return -distributed.highest(-(here // 2**20)) * 2**20


def check_fits(size: int, what: str) -> None:
  """Refuses what is larger than this host's memory.

  Args:
    size: in bytes.
    what: for whoever reads the error.

  Raises:
    ValueError: saying what, the need and what there is.
  """
  if size > host_memory.limit():
    raise ValueError(f"{what} would take {megabytes(size)}, {_but_may_take()}.")


def _but_may_take() -> str:
  return (
    f"but may take {megabytes(host_memory.limit())}, all that this host, its"
    " container or its job has"
  )


def check_disk(workdir: pathlib.Path, need: DiskNeed) -> None:
  """Refuses a run that would fill its disk.

  Args:
    workdir: the run directory; what it holds already counts as there.
    need: from `disk_need`.

  Raises:
    ValueError: naming the flag, the need and what is free.
  """
  free = shutil.disk_usage(_existing(workdir)).free
  missing = need.total - disk_used(workdir)
  if missing > free:
    raise ValueError(
      f"--workdir={workdir} needs {megabytes(missing)} more, but its disk has"
      f" {megabytes(free)} free: make room or take another directory."
    )


def disk_used(folder: pathlib.Path) -> int:
  """Bytes of all files below a folder; 0 if there is none."""
  return sum(
    path.stat().st_size for path in folder.rglob("*") if path.is_file()
  )


def peak_memory() -> str:
  """The most memory that this process had, of the host and of its devices."""
  text = f"{megabytes(host_memory.peak())} of the host"
  if files := host_memory.program_files():
    text += f" ({megabytes(files)} of them program files)"
  peaks = [
    stats["peak_bytes_in_use"]
    for device in jax.local_devices()
    if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
  ]
  if peaks:
    text += f", {megabytes(max(peaks))} of a device"
  return text


def bytes_of(tree: Any) -> int:
  """Bytes of a tree of arrays, or of their shapes; a key has two numbers."""

  def one(leaf: Any) -> int:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return 8 * math.prod(leaf.shape)
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize

  return sum(map(one, jax.tree.leaves(tree)))


def megabytes(size: int) -> str:
  """A number of bytes for people."""
  return f"{math.ceil(size / 2**20):,} MiB"


def _existing(path: pathlib.Path) -> pathlib.Path:
  path = path.absolute()
  while not path.exists():
    path = path.parent
  return path
