"""What experiments/device_check.sh asks a card: right results, steps, Table I.

`correctness` trains a small study there and on the CPU, `steps` times training
steps of every formulation, and `paper` trains the paper's study for a while.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
from absl.flags import FlagValues
from jax import Array

import personalization_jax as pj
from experiments.benchmarks import grouping, training
from experiments.benchmarks.measuring import Row
from experiments.benchmarks.work import Ours, Work, population
from experiments.runtime import host_memory
from personalization_jax.datasets import Population, npz
from personalization_jax.distributed import make_mesh
from personalization_jax.grouping import single_sample_groups
from personalization_jax.networks.kernels import accelerator, cpu, platforms
from personalization_jax.networks.kernels.cpu import patches
from personalization_jax.study import make_trainer
from personalization_jax.training.population import planned_bytes

# Of float32 with products of full precision. Adam's steps have the size of the
# learning rate whatever the gradient's, so rounding grows: on a CPU between two
# formulations from 1e-5 nats in 8 steps to 0.1 in 20; 0.02 and 0.03 at the end.
_EARLY = 5  # steps
_TOLERANCES = {"early losses": 1e-3, "mean loss": 0.1, "mean accuracy": 0.1}
# Training samples of all of Table I's models.
TABLE_1 = 668e6


def _gradients_by_patches(
  images: Array, kernel: Array, cotangent: Array
) -> tuple[Array, Array]:
  return jax.vjp(patches.convolve, images, kernel)[1](cotangent)


# What convolves, and its gradients, on whatever device.
FORMULATIONS: dict[str, tuple[Callable[..., Any], ...]] = {
  "rule": (),  # what the library takes there
  "xla": (accelerator.convolve, accelerator.gradients),
  "patches": (patches.convolve, _gradients_by_patches),
  "cpu": (cpu.convolve, cpu.gradients),  # Winograd, superpixels or blocks
}


def formulation(name: str) -> contextlib.AbstractContextManager[Any]:
  """Convolutions of models made inside are of this formulation."""
  chosen = dict(zip(("convolve", "gradients"), FORMULATIONS[name]))
  return mock.patch.dict(
    platforms.BY_PLATFORM,
    {
      platform: of._replace(**chosen)
      for platform, of in platforms.BY_PLATFORM.items()
    },
  )


def correctness(options: FlagValues) -> Iterator[Row]:
  """Yields a small study's losses and accuracies, and SG's rows."""
  people = population(16, 6) if not options.data else npz.load(options.data)
  count = min(3, len(np.unique(people.individuals)) // 2)
  split = pj.split(people, num_individuals=count, num_global_individuals=count)
  width = 1 / 16 if options.quick else 1 / 4
  epochs = 1 if options.quick else 10
  settings = pj.Settings(epochs=epochs, batch_size=32, width=width)
  meshes = {"device": jax.devices()[-1], "CPU": jax.devices("cpu")[0]}
  found: dict[str, dict[str, Any]] = {}
  samples, rows = grouping.latents(
    "classes", 4, 600 if options.quick else 30_000
  )
  total = 100 if options.quick else 1500
  for name, device in meshes.items():
    mesh = make_mesh([device])
    trainer = make_trainer(
      people, settings, mesh=mesh, individuals_per_device=count
    )
    study = pj.Study(people, split, settings, trainer=trainer)
    # A rehearsal has no other device, but another formulation.
    rehearsal = name == "device" and device.platform == "cpu"
    shape = formulation("xla" if rehearsal else "rule")
    with shape, jax.default_matmul_precision("highest"):
      result = study.personalize("sw:2")
    counts = np.full(4, samples.shape[1])
    found[name] = {
      "early losses": result.losses[:, :_EARLY],
      "mean loss": result.losses.mean(),
      "mean accuracy": result.individual_accuracy()[0].mean(),
      "SG": single_sample_groups(samples, counts, rows, total, mesh=mesh),
    }
  for what, tolerance in _TOLERANCES.items():
    ours, peer = (found[name][what] for name in meshes)
    difference = float(np.abs(ours - peer).max())
    yield {
      "name": f"{what} of {count} individuals, width {width:g}, float32,"
      f" {result.losses.shape[1]} steps",
      "ours": float(ours.mean()),
      "peer": float(peer.mean()),
      "peer_name": "the CPU",
      "difference": difference,  # at most
      "tolerance": tolerance,
      "within": difference <= tolerance,
    }
  same = np.array_equal(found["device"]["SG"], found["CPU"]["SG"])
  yield {"name": "SG's rows, all as on the CPU", "within": same}


def steps(options: FlagValues) -> Iterator[Row]:
  """Yields rates of training steps, the first of each flag's values first."""
  models = [int(count) for count in options.models]
  store = _people(options, max(models))
  size = store.images.shape[1]
  batch = 8 if options.quick else 128
  for shape, precision, width, count, together in itertools.product(
    options.formulations,
    options.precisions,
    map(float, options.widths),
    models,
    options.side_by_side,
  ):
    length = options.steps or min(400, max(50, 1600 // count))
    work = Work(width, batch, count, length, size, precision)
    how = {
      "individuals_per_device": count,
      "side_by_side": min(int(together), count),
      "mesh": make_mesh(jax.devices()[:1]),
    }
    name = f"{work}, {how['side_by_side']} side by side, {shape}"
    try:
      with formulation(shape):
        ours = Ours(work, store, **how)
        row = training.alone(ours, options)
        program = ours.trainer.lower_train(batch)
        planned = planned_bytes(program, on_cpu=ours.trainer.on_cpu)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
      print(f"{name} failed:\n{error}", file=sys.stderr, flush=True)
      why = f"{type(error).__name__}: {str(error).strip()[:200]}"
      yield {"name": name, "failed": why}
      continue
    about = {
      "formulation": shape,
      "steps_per_second": row["ours"] / (batch * count),
      "planned_MiB": planned and planned / 2**20,
      "peak_MiB_so_far": _peak(),
    }
    yield row | {"name": name} | about


def paper(options: FlagValues) -> Iterator[Row]:
  """Yields a rate of the paper's study, and how long Table I takes by it."""
  people = _people(options, 2 * (options.individuals or 100))
  most = len(np.unique(people.individuals)) // 2
  count = min(options.individuals or 100, most)
  split = pj.split(people, num_individuals=count, num_global_individuals=count)
  for precision in options.precisions:
    settings = pj.Settings(width=float(options.widths[0]), precision=precision)
    per_device = options.individuals_per_device or count
    trainer = make_trainer(people, settings, individuals_per_device=per_device)
    study = pj.Study(people, split, settings, trainer=trainer)
    limit = options.seconds / len(options.precisions)
    per_second, seconds = _steps_per_second(study, limit)
    rate = per_second * settings.batch_size
    yield {
      "name": f"the paper's study, {count} individuals, {per_device} on a"
      f" device, width {settings.width:g}, {people.sample_shape[0]} px,"
      f" {precision}",
      "unit": "samples/s",
      "ours": rate,
      "steps_per_second": per_second,
      "measured_seconds": seconds,
      "table1_minutes": TABLE_1 / rate / 60,
      "peak_MiB_so_far": _peak(),
    }


def _steps_per_second(study: pj.Study, limit: float) -> tuple[float, float]:
  """Over all individuals, from the first report on, which compiled; seconds."""
  done: list[tuple[float, int]] = []

  def on_steps(steps: int) -> None:
    done.append((time.monotonic(), steps))
    if done[-1][0] - done[0][0] > limit:
      raise TimeoutError

  with contextlib.suppress(TimeoutError):
    study.personalize("sw:2", on_steps=on_steps)
  seconds = done[-1][0] - done[0][0]
  return sum(steps for _, steps in done[1:]) / seconds, seconds


def _people(options: FlagValues, count: int) -> Population:
  """The data that were brought along, or made-up ones."""
  if options.data:
    return npz.load(options.data)
  return population(16 if options.quick else 32, count, most=count)


def _peak() -> float:
  """MiB that this process took of the device at most; on a CPU of the host."""
  stats = jax.devices()[0].memory_stats() or {}
  return (stats.get("peak_bytes_in_use") or host_memory.peak()) / 2**20
