"""What a run needs of disk and memory, and what it took (host)."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import resource
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from personalization_jax import autoencoder, hosts
from personalization_jax.methods import Method
from personalization_jax.personalization import Study
from personalization_jax.population_training import PopulationTrainer

# Two checkpoints are kept while a third is written.
_CHECKPOINTS = 3
# Tables, figures, Orbax's own small files.
_OTHER = 32 * 2**20
_MODEL_FILES = 64 * 2**10  # of one saved model, beside its numbers


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
  chunk = study.trainer.chunk
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
  # A curve has two numbers, at every step at most.
  recorded = 4 * steps * (3 if study.eval_every else 1)
  one_method = people * (8 * tested + recorded + 16)
  return DiskNeed(
    checkpoints=seeds
    * _CHECKPOINTS
    * (min(chunk, people) * (state + 4 * steps) + shared),
    predictions=seeds * (len(methods) + 1) * one_method,
    models=seeds * save_models * len(methods) * people * (model + _MODEL_FILES),
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


def check_memory(study: Study, methods: Sequence[Method]) -> None:
  """Refuses schedules and models that this host can't hold.

  Args:
    study: the population, its split and the network.
    methods: what is to be trained.

  Raises:
    ValueError: naming the flags, the need and what there is.
  """
  chunk = study.trainer.chunk
  batch = study.settings.batch_size
  for method in methods:
    # Sources, rows, and rows while they are being drawn.
    steps = study.batches.length(method)
    check_fits(
      4 * steps * (4 + chunk * (2 * batch + 1)),
      f"the schedule of {method.spec!r} for {chunk} individuals at once"
      f" ({steps} steps: --epochs={study.settings.epochs},"
      f" --batch_size={batch})",
    )
  if study.trainer.mesh.devices.flat[0].platform == "cpu":
    check_fits(
      3 * bytes_of(study.trainer.shapes),
      f"{chunk} models at once (--individuals_per_device)",
    )


def fitting_trainer(
  trainer: PopulationTrainer,
  batch_size: int,
  *,
  memory_gib: float = 0.0,
  fewer: bool = True,
) -> tuple[PopulationTrainer, int | None]:
  """Holds training to the memory of its devices.

  Args:
    trainer: whose program is compiled for this.
    batch_size: samples in a batch.
    memory_gib: of each device; 0 for all that there is.
    fewer: whether fewer individuals may go on a device at once, half as many
      each time, until they fit.

  Returns:
    The trainer, or one of fewer individuals, and the bytes that it takes of
    each device at most; None if they aren't known.

  Raises:
    ValueError: if it doesn't fit, naming the flags, the need and what there is.
  """
  limit = (
    int(memory_gib * 2**30) if memory_gib else _device_memory(trainer.mesh)
  )
  need = trainer.planned_bytes(batch_size)
  while need is not None and need > limit:
    count = trainer.individuals_per_device
    if fewer and count > 1:
      trainer = trainer.with_individuals_per_device(count // 2)
      need = trainer.planned_bytes(batch_size)
      continue
    may = (
      f"{memory_gib:g} GiB" if memory_gib else f"{megabytes(limit)}, all it has"
    )
    lower = "--individuals_per_device, " if count > 1 else ""
    raise ValueError(
      f"--individuals_per_device={count} would take {megabytes(need)} of each"
      f" device, but may take {may} (--memory_gib): lower"
      f" {lower}--batch_size or --width, or take --store=host."
    )
  return trainer, need


def _device_memory(mesh: Mesh) -> int:
  """Bytes of the smallest device of a mesh; on CPUs they share the host's."""
  stats = [device.memory_stats() or {} for device in mesh.local_devices]
  known = [one["bytes_limit"] for one in stats if "bytes_limit" in one]
  here = min(known, default=_host_memory() // max(1, len(stats)))
  # All processes must come to the same chunks; MiB fit their 32 bits.
  return -hosts.highest(-(here // 2**20)) * 2**20


def _host_memory() -> int:
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fits(size: int, what: str) -> None:
  """Refuses what is larger than this host's memory.

  Args:
    size: in bytes.
    what: for whoever reads the error.

  Raises:
    ValueError: saying what, the need and what there is.
  """
  there = _host_memory()
  if size > there:
    raise ValueError(
      f"{what} would take {megabytes(size)}, but this host's memory has"
      f" {megabytes(there)}."
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
  # Linux counts in KiB, macOS in bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  text = f"{megabytes(host)} of the host"
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
