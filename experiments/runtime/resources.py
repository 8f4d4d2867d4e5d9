"""What a run needs of memory, and what it took (host)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import jax

from experiments.runtime import host_memory, sizes
from experiments.runtime.sizes import bytes_of, megabytes
from personalization_jax import checks, distributed, grouping
from personalization_jax.datasets.splits import PADDING
from personalization_jax.methods import Method
from personalization_jax.networks import classifier
from personalization_jax.networks.autoencoder import NUM_LATENTS
from personalization_jax.study import Study
from personalization_jax.training import latent_space
from personalization_jax.training.latent_space import LatentSettings
from personalization_jax.training.population import (
  BLOCK_STEPS,
  PREDICTED,
  PopulationTrainer,
  planned_bytes,
)

# What a CPU's compiler takes for each line of StableHLO, and keeps: 58 to 91
# KiB, measured on programs of 5,000 to 9,000 lines.
_COMPILED_LINE = 92 * 2**10
# What tables, figures and small programs take of the host beside all else, and
# further ones where there is a latent space: 80 to 156 and 135 to 160 MiB, on
# quickstart.
_REST = 160 * 2**20
_REST_OF_GROUPS = 160 * 2**20
# Bytes of a sample while it is standardised, to each of its own.
_WIDER = 8


def _beside(
  study: Study, methods: Sequence[Method], trainer: PopulationTrainer
) -> dict[str, int]:
  """Phase -> what methods of the field take of a device, beside TL's plan.

  Upper bounds, by shapes: people's memory isn't counted less where they share
  most of their model.
  """
  at_once = trainer.side_by_side or 1
  here = trainer.individuals_per_device
  model = bytes_of(trainer.shapes_of_one.variables)
  # Samples as floats, twice while they are fetched, in two sets.
  samples = (
    16 * sizes.num_fitted(study) * math.prod(study.population.sample_shape)
  )
  training, evaluation = 0, 0
  for method in methods:
    # D_G's model and its Fisher information; what penalties and low-rank
    # additions compute of parameters; models that were the best; what Reptile
    # begins an episode with.
    base = 2 * model * method.needs_global_model
    computed = 4 * model * bool(method.reference or method.trainable)
    kept = 2 * model * method.best + 3 * model * bool(method.start)
    training = max(training, base + at_once * computed + here * kept)
    answers = 2 * here * sizes.answer_bytes(study, method)
    if method.fit is not None:
      # Distances to all rows, and their order, of a batch.
      sorting = 32 * PREDICTED * sizes.num_fitted(study)
      answers += at_once * (samples + sorting + 2 * model)
    evaluation = max(evaluation, base + answers)
  return {"training": training, "evaluation": evaluation}


def check_host(
  study: Study, methods: Sequence[Method], latents: LatentSettings
) -> None:
  """Rejects schedules that this host can't hold."""
  chunk, settings = study.trainer.chunk_size, study.settings
  for method in methods:
    steps = study.batches.length(method)
    check_fits(
      _schedule_bytes(steps, settings.batch_size, chunk),
      f"the schedule of {method.spec!r} for {chunk} individuals at once"
      f" ({steps} steps: --epochs={settings.epochs},"
      f" --batch_size={settings.batch_size})",
    )
  if sizes.need_latents(methods):
    steps = latent_space.num_steps(study.split, latents)
    check_fits(
      _schedule_bytes(steps, latents.batch_size, 1),
      f"the auto-encoder's schedule ({steps} steps:"
      f" --autoencoder_epochs={latents.epochs})",
    )


def check_schedules(steps: int, batch_size: int, people: int) -> None:
  """Rejects schedules of so many people at once that this host can't hold."""
  what = f"batch_size={batch_size} in steps={steps} for {people} people at once"
  check_fits(_schedule_bytes(steps, batch_size, people), what)


def _schedule_bytes(steps: int, batch_size: int, individuals: int) -> int:
  """Bytes that so many individuals' schedules take of the host."""
  # Sources, rows, and rows while they are being drawn; a block of steps has
  # them once more, even where there are fewer steps.
  drawn = 4 * steps * (4 + individuals * (2 * batch_size + 1))
  return drawn + 8 * BLOCK_STEPS * individuals * batch_size


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
  """Bytes that phases take at most, one after another."""

  device: Mapping[str, int]  # phase -> of each device, with images on it
  # phase -> of the host, all in all; empty if devices have their own memory.
  host: Mapping[str, int]
  process: int  # those of the host that are there in any phase

  def __str__(self) -> str:
    phases = (f"{name} {megabytes(need)}" for name, need in self.device.items())
    text = f"at most {', '.join(phases)} of each device"
    if self.host:
      text += (
        f"; all in all at most {megabytes(max(self.host.values()))} of the"
        f" host's {megabytes(host_memory.limit())}, program files aside"
      )
    return text


def fitting_trainer(
  study: Study,
  methods: Sequence[Method],
  *,
  latents: LatentSettings,
  memory_gib: float = 0.0,
  fewer: bool = True,
  stores: int = 1,
) -> tuple[PopulationTrainer, MemoryPlan | None]:
  """The study's trainer and its plan, if that is known; rejects one too large.

  With `fewer`, it gets half as many individuals on a device until they fit into
  `memory_gib` of each, 0 for all that there is. There are as many `stores` of
  the study's size on each device, where seeds have samples of their own.
  """
  check_host(study, methods, latents)
  trainer, grouped = study.trainer, sizes.need_latents(methods)
  of_space = latent_space.lower(study.population, latents) if grouped else []
  beside = (stores - 1) * _stored(trainer)
  while True:
    programs = lower(study, trainer)
    try:
      plan = memory_plan(study, methods, trainer, programs, of_space)
      if plan is not None:
        device = {name: size + beside for name, size in plan.device.items()}
        plan = dataclasses.replace(plan, device=device)
      fault = plan and _lack(trainer, plan, memory_gib)
    except jax.errors.JaxRuntimeError as error:
      fault = no_room(error)
    if not fault:
      return trainer, plan
    count = trainer.individuals_per_device
    if not fewer or count == 1:
      break
    trainer = trainer.with_individuals_per_device(count // 2)
  remedies = ["--individuals_per_device"] * (count > 1) + ["--batch_size"]
  is_fig_4 = isinstance(trainer.learner.model, classifier.Classifier)
  if is_fig_4 or (grouped and study.population.holds_images):
    remedies.append("--width")
  raise ValueError(
    f"--individuals_per_device={count} would take {fault}: lower"
    f" {' or '.join(remedies)}, or take --store=host (and see --memory_gib and"
    " --cpu_devices)."
  )


def lower(
  study: Study, trainer: PopulationTrainer
) -> dict[str, jax.stages.Lowered]:
  """The very programs that a trainer runs for a study, by phase."""
  return {
    "training": trainer.lower_train(study.settings.batch_size),
    "evaluation": trainer.lower_predict(sizes.num_tested(study)),
  }


def no_room(error: jax.errors.JaxRuntimeError) -> str:
  """What a compiler says of a program that no device holds; or its error."""
  if "RESOURCE_EXHAUSTED" not in str(error):
    raise error
  return f"more than a device has ({checks.first_line(error)[:200]})"


def memory_plan(
  study: Study,
  methods: Sequence[Method],
  trainer: PopulationTrainer,
  programs: Mapping[str, jax.stages.Lowered | jax.stages.Compiled],
  of_space: Sequence[jax.stages.Lowered | jax.stages.Compiled],
) -> MemoryPlan | None:
  """What a study takes by a trainer, which may be of devices that aren't here.

  Programs are those of `lower` and of `latent_space.lower`. None if XLA tells
  nothing.
  """
  batch, steps = study.settings.batch_size, sizes.longest(study, methods)
  devices = len(trainer.mesh.local_devices)
  search = (
    _search_bytes(study, methods, devices) if sizes.need_latents(methods) else 0
  )
  beside = _beside(study, methods, trainer)
  if any(method.reference or method.trainable for method in methods):
    # D_G's model answers about each batch, or other activations are kept.
    answering = planned_bytes(programs["evaluation"], on_cpu=trainer.on_cpu)
    beside["training"] += math.ceil(batch / PREDICTED) * (answering or 0)
  return _plan(trainer, programs, batch, steps, of_space, search, beside)


def check_trainer(
  trainer: PopulationTrainer,
  programs: Mapping[str, jax.stages.Lowered],
  batch_size: int,
  steps: int,
) -> None:
  """Rejects training, by its phases' programs, that no memory holds."""
  plan = _plan(trainer, programs, batch_size, steps)
  if plan is not None and (fault := _lack(trainer, plan, 0.0)):
    raise ValueError(f"batch_size={batch_size} would take {fault}: lower it.")


def _plan(
  trainer: PopulationTrainer,
  programs: Mapping[str, jax.stages.Lowered | jax.stages.Compiled],
  batch_size: int,
  steps: int,
  of_space: Sequence[jax.stages.Lowered | jax.stages.Compiled] = (),
  search: int = 0,
  beside: Mapping[str, int] | None = None,
) -> MemoryPlan | None:
  """What each phase takes, as XLA plans its programs; None if it doesn't."""
  if trainer.on_cpu:
    # What compiling one took, the next one has again.
    _check_compiling([*programs.values(), *of_space])
  planned = functools.partial(planned_bytes, on_cpu=trainer.on_cpu)
  sizes = {name: planned(program) for name, program in programs.items()}
  device = {name: size for name, size in sizes.items() if size is not None}
  if device != sizes:
    return None
  for name, size in (beside or {}).items():
    device[name] += size
  stored = _stored(trainer)
  here = len(trainer.mesh.local_devices)
  # Rows, and states that are being saved.
  rest = _schedule_bytes(steps, batch_size, trainer.chunk_size)
  rest += 2 * bytes_of(trainer.shapes)
  host = {name: here * (size - stored) + rest for name, size in device.items()}
  if search:  # by methods that group: they need a latent space, too
    space = max((planned(program) or 0 for program in of_space), default=0)
    # The images once more, on one device; errors are measured on the host, and
    # what has no network is standardised there.
    wider = _WIDER * bytes_of(trainer.images)
    device |= {"the latent space": stored + space, "grouping": stored + search}
    host |= {"the latent space": space + wider, "grouping": here * search}
  if not trainer.on_cpu:
    return MemoryPlan(device, {}, 0)
  process = host_memory.taken() + _REST + bool(search) * _REST_OF_GROUPS
  host = {name: process + size for name, size in host.items()}
  return MemoryPlan(device, host, process)


def _stored(trainer: PopulationTrainer) -> int:
  """Bytes of the store on each device."""
  on_device = trainer.store == "device"
  return on_device * bytes_of((trainer.images, trainer.labels))


def _lack(
  trainer: PopulationTrainer, plan: MemoryPlan, memory_gib: float
) -> str | None:
  """What is too much, and what there may be; None if it fits."""
  limit = memory_gib * 2**30 or _device_memory(trainer)
  name, size = max(plan.device.items(), key=lambda item: item[1])
  if limit is not None and size > limit:
    may = f"{memory_gib:g} GiB"
    if not memory_gib:
      may = f"{megabytes(int(limit))}, all it has"
    return f"{megabytes(size)} of each device for {name}, but may take {may}"
  if not plan.host:
    return None
  name, size = max(plan.host.items(), key=lambda item: item[1])
  # All processes must come to the same chunks.
  if not distributed.highest(int(size > host_memory.limit())):
    return None
  return (
    f"{megabytes(size)} of this host's memory for {name} on"
    f" {len(trainer.mesh.local_devices)} devices"
    f" ({megabytes(plan.process)} of it are the process's own),"
    f" {_but_may_take()}"
  )


def _check_compiling(
  programs: Iterable[jax.stages.Lowered | jax.stages.Compiled],
) -> None:
  """Rejects what a CPU's compiler has no memory for; it would be killed."""
  texts = (program.as_text() or "" for program in programs)
  lines = max(len(text.splitlines()) for text in texts)
  need = host_memory.taken() + lines * _COMPILED_LINE
  check_fits(need, "compiling", ": give it more, or take a smaller model")


def _search_bytes(study: Study, methods: Sequence[Method], devices: int) -> int:
  """Of a device, for the search of SG and IG; an upper bound by shapes."""
  split = study.split
  people, most = split.train.shape
  here = math.ceil(people / devices)
  least = int((split.train != PADDING).sum(axis=1).min())
  images, shape = study.population.holds_images, study.population.sample_shape
  width = NUM_LATENTS if images else math.prod(shape)
  candidates = max(people, len(study.groups.candidates))
  means = 16 * (people + candidates) * study.population.num_classes * width
  rows = len(split.global_train)
  of_sg = [
    grouping.planned_bytes(here, most, least, rows, width, method.group.n)
    for method in methods
    if method.group and method.group.kind == "sg"
  ]
  # Distances in float64, while they are being sorted.
  return max(2 * means + 32 * people * candidates, *of_sg, 0)


def _device_memory(trainer: PopulationTrainer) -> int | None:
  """Bytes of the smallest device of a mesh; None if they share the host's."""
  if trainer.on_cpu:
    return None
  stats = [device.memory_stats() or {} for device in trainer.mesh.local_devices]
  known = [one["bytes_limit"] for one in stats if "bytes_limit" in one]
  here = min(known, default=host_memory.limit() // max(1, len(stats)))
  # All processes must come to the same chunks; MiB fit their 32 bits.
  return -distributed.highest(-(here // 2**20)) * 2**20


def check_fits(size: int, what: str, remedy: str = "") -> None:
  """Rejects what takes more bytes than this host's memory has."""
  if size > host_memory.limit():
    raise ValueError(
      f"{what} would take {megabytes(size)}, {_but_may_take()}{remedy}."
    )


def _but_may_take() -> str:
  return (
    f"but may take {megabytes(host_memory.limit())}, all that this host, its"
    " container or its job has"
  )


def peak_memory() -> str:
  """The most memory that this process had, of the host and of its devices."""
  text = f"{megabytes(host_memory.peak())} of the host"
  if of_files := host_memory.program_files():
    text += f" ({megabytes(of_files)} of them program files)"
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if peak := max(one.get("peak_bytes_in_use", 0) for one in stats):
    text += f", {megabytes(peak)} of a device"
  return text
