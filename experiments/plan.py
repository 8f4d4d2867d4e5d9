r"""What a study would take of a device, here or not: memory and time.

    pip install -e '.[plan-tpu]'
    python -m experiments.plan --target=v5e --individuals_per_device=1,8,32 \
        --flagfile=experiments/presets/paper.flags

The other flags are those of experiments.table1. XLA compiles the study's
programs for the target, ahead of time where that isn't here; nothing is
trained. What is printed are estimates: memory as the compiler plans it; bytes
moved as its text says; the floor of the time, which is the largest of bytes and
arithmetic by the chip's data sheet, and 2 microseconds for each kernel of a
GPU; on a TPU the compiler's own estimate. On this machine's CPU the time is
that of a few steps. Hours are those of training alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import tqdm
from absl import app, flags
from jax.sharding import Mesh

from experiments import table1
from experiments.flags import study_flags
from experiments.runtime import (
  chips,
  console,
  costs,
  host_memory,
  processes,
  resources,
  run_info,
  sizes,
)
from experiments.runtime.console import say
from experiments.runtime.costs import Cost
from personalization_jax import distributed
from personalization_jax.checkpoints import files
from personalization_jax.methods import Method
from personalization_jax.study import Study
from personalization_jax.training import latent_space, step
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_keys,
)

flags.adopt_module_key_flags(table1)
flags.adopt_module_key_flags(study_flags)

# fmt: off
_TARGET = flags.DEFINE_enum("target", "cpu", ["cpu", *chips.CHIPS],
    "The device: this machine's CPU, or a chip by its name.")
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 1,
    "How many such chips the study is to have.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Where to write the plan as JSON.")
_DUMP = flags.DEFINE_string("dump", None,
    "A folder for the compiled text of each training program, and a list of its"
    " costliest instructions.")
# Several here, where experiments.table1 takes one.
_OWN = flags.FlagValues()
_COUNTS = flags.DEFINE_list("individuals_per_device", None,
    "Models on a device at once, separated by commas.", flag_values=_OWN)
# fmt: on
_MEASURED_STEPS = 5


class Row(NamedTuple):
  """What a step of so many individuals on a device takes of it."""

  individuals: int
  side_by_side: int
  state: int  # bytes, as all memory: of the models and their optimiser
  store: int
  temporaries: int
  device: int  # all in all, in the phase that takes most
  host: int  # all in all; 0 where devices have their own memory
  fits: bool
  moved: int  # bytes read and written
  cycles: int  # by a TPU's compiler; 0 elsewhere
  operations: float  # of floating-point numbers
  seconds: dict[str, float]  # by what tells them, the best last

  @property
  def seconds_for_each(self) -> float:
    """Of one individual's step."""
    return [*self.seconds.values()][-1] / self.individuals


def main(argv: Sequence[str]) -> None:
  """From flags to tables."""
  target = _TARGET.value
  try:
    console.begin(argv)
    methods, seeds = table1.check_flags()
    counts = _counts()
    if target == "cpu" and _NUM_DEVICES.value > 1:
      raise ValueError(
        f"--num_devices={_NUM_DEVICES.value} is of chips: --target=cpu takes"
        " --cpu_devices."
      )
    if _JSON.value and pathlib.Path(_JSON.value).is_dir():
      raise ValueError(f"--json={_JSON.value} is a folder: name a file.")
    processes.use_cpu_cores(table1.CPU_DEVICES.value)
    mesh = distributed.make_mesh(
      jax.local_devices() if target == "cpu" else chips.devices(target)[:1]
    )
    people, _ = table1.load_people(methods, pathlib.Path(table1.WORKDIR.value))
    model, folds = study_flags.model(people[0]), study_flags.folds(*people)
    study = study_flags.make_study(*people, seeds[0], model=model)
    for method in methods:
      study.check(method)
    latents = study_flags.latent_settings(seeds[0])
    resources.check_host(study, methods, latents)
    if _JSON.value:
      files.check_writable(pathlib.Path(_JSON.value).parent)
    if _DUMP.value:
      files.check_writable(pathlib.Path(_DUMP.value))
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f"error: {console.as_flag(error, list(flags.FLAGS))}")
  devices = mesh.size if target == "cpu" else _NUM_DEVICES.value
  say(_title(target, devices, study, methods, seeds))
  if len(folds) > 1:
    say(f"Of the first of {len(folds)} folds, but for the hours: of all.")
  of_space: list[jax.stages.Compiled] = []
  if any(method.needs_latents for method in methods):
    one = distributed.make_mesh(mesh.devices.flat[:1])
    lowered = latent_space.lower(study.population, latents, one)
    of_space = [program.compile() for program in lowered]
  rows = []
  for count in tqdm.tqdm(counts, f"compiling for {target}"):
    trainer = _trainer(study, mesh, count)
    try:
      rows.append(plan_row(study, methods, trainer, target, of_space))
    except jax.errors.JaxRuntimeError as error:
      say(f"\n{count} on a device take {resources.no_room(error)}.")
      break  # and so do more
  if rows:
    say("\n" + table(rows).to_string(index=False))
  plan = {
    "target": target,
    "num_devices": devices,
    "rows": [row._asdict() for row in rows],
    "made_with": run_info.describe(),
  }
  chosen = recommended(rows)
  if chosen is None:
    say("\nNone of these fits: see --store=host, --batch_size and --width.")
  else:
    spent = hours(study, methods, chosen, alone=rows[0], devices=devices)
    if of_space and target != "cpu":
      store = sizes.bytes_of(study.population.images)
      seconds = _seconds(target, costs.cost_of_step(of_space[0], store))
      steps = latent_space.num_steps(study.split, latents)
      spent.loc["(auto-encoder, by bytes alone)"] = _spent(steps, seconds)
    spent = len(seeds) * len(folds) * spent
    spent.loc["all"] = spent.sum()
    say(
      f"\nRecommended: --individuals_per_device={chosen.individuals}. Steps of"
      " a device, and hours of training:"
    )
    say(spent.to_string(float_format="{:.4f}".format))
    plan |= {
      "recommended": chosen.individuals,
      "hours": json.loads(spent.to_json(orient="index")),
    }
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(plan, indent=2) + "\n")


def _counts() -> list[int]:
  """Numbers of individuals on a device, 1 first: D_G's model is alone."""
  default = ["1"] if _TARGET.value == "cpu" else ["1", "8", "32"]
  given = _COUNTS.value or default
  if not all(text.isdecimal() and int(text) for text in given):
    raise ValueError(
      f"--individuals_per_device={','.join(given)} must be whole numbers of 1"
      " or more, separated by commas."
    )
  return sorted({1, *map(int, given)})


def _title(
  target: str,
  num_devices: int,
  study: Study,
  methods: Sequence[Method],
  seeds: Sequence[int],
) -> str:
  what = f"{num_devices} device(s) of this machine's CPU"
  if target != "cpu":
    chip = chips.CHIPS[target]
    peak = chip.peak[study.settings.precision]
    what = (
      f"{num_devices} x {target} ({chip.memory / 2**30:.0f} GiB for JAX,"
      f" {chip.bandwidth / 1e9:,.0f} GB/s, {peak / 1e12:,.0f} TFLOP/s)"
    )
  return (
    f"{len(study.split.individuals)} individuals, {len(methods)} methods,"
    f" {len(seeds)} seed(s) on {what}: estimates by XLA (jax"
    f" {jax.__version__}), not measurements."
  )


def _trainer(study: Study, mesh: Mesh, count: int) -> PopulationTrainer:
  """The study's trainer on a mesh; of shapes alone if that isn't here."""
  population, store = study.population, table1.STORE.value
  samples: Any = (population.images, population.labels)
  if store == "device" and mesh.devices.flat[0].platform != "cpu":
    samples = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in samples]
  images, labels = samples
  return dataclasses.replace(
    study.trainer,
    images=images,
    labels=labels,
    mesh=mesh,
    individuals_per_device=count,
    side_by_side=min(table1.SIDE_BY_SIDE.value, count),
    store=store,
  )


def plan_row(
  study: Study,
  methods: Sequence[Method],
  trainer: PopulationTrainer,
  target: str,
  of_space: Sequence[jax.stages.Compiled],
) -> Row:
  """What a step of a trainer's takes, by the programs it would run."""
  count = trainer.individuals_per_device
  programs: dict[str, Any] = resources.lower(study, trainer)
  programs["training"] = compiled = programs["training"].compile()
  plan = resources.memory_plan(study, methods, trainer, programs, of_space)
  if plan is None:
    raise ValueError(f"--target={target}: XLA tells no memory of its programs.")
  device, host = max(plan.device.values()), max(plan.host.values(), default=0)
  batch = study.settings.batch_size
  cost = costs.cost_of_step(compiled, sizes.bytes_of(trainer.images))
  if _DUMP.value:
    _dump(pathlib.Path(_DUMP.value), f"{target}_{count}", compiled, cost)
  together = trainer.side_by_side or 1
  turns = math.ceil(count / together)
  moved = turns * cost.moved
  operations = count * batch * operations_of_sample(trainer, batch)
  if target == "cpu":
    seconds = {"measured": _measured(study, trainer)}
  else:
    chip = chips.CHIPS[target]
    peak = chip.peak[study.settings.precision]
    seconds = _seconds(target, cost)
    seconds = {name: turns * each for name, each in seconds.items()}
    seconds["floor"] = max(seconds["floor"], operations / peak)
  return Row(
    count,
    together,
    sizes.bytes_of(trainer.shapes) // trainer.mesh.size,
    (trainer.store == "device")
    * sizes.bytes_of((trainer.images, trainer.labels)),
    compiled.memory_analysis().temp_size_in_bytes,
    device,
    host,
    _fits(target, device, host),
    moved,
    turns * cost.cycles,
    operations,
    seconds,
  )


def operations_of_sample(trainer: PopulationTrainer, batch_size: int) -> float:
  """Floating-point operations of a training step, for each of its samples.

  They are those of the plain network, as a TPU computes it: what a CPU's
  kernels make of it counts differently.
  """
  samples, labels = (
    jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype)
    for array in (trainer.images, trainer.labels)
  )
  mask = jax.ShapeDtypeStruct((batch_size,), bool)
  train = functools.partial(step.train_step, trainer.learner)
  traced = jax.jit(
    lambda state, samples, *rest: train(state, step.as_input(samples), *rest)
  ).trace(trainer.shapes_of_one, samples, labels, mask)
  analysis = traced.lower(lowering_platforms=("tpu",)).cost_analysis()
  return analysis["flops"] / batch_size


def _seconds(target: str, cost: Cost) -> dict[str, float]:
  """Of a step by its bytes and kernels, and by a TPU's compiler."""
  chip = chips.CHIPS[target]
  floor = max(cost.moved / chip.bandwidth, cost.kernels * chip.launch)
  by = {"floor": floor}
  return by | ({"compiler": cost.cycles / chip.clock} if cost.cycles else {})


def _measured(study: Study, trainer: PopulationTrainer) -> float:
  """Seconds of a step on this machine's CPU, all its devices at work."""
  people = np.arange(trainer.chunk_size)
  states = trainer.create(individual_keys(jax.random.key(0), people))
  rows = study.batches.shared_rows()[:_MEASURED_STEPS]
  rows = np.broadcast_to(rows, (trainer.chunk_size, *rows.shape))
  states, _ = trainer.train(states, rows)
  start = time.perf_counter()
  trainer.train(states, rows)
  return (time.perf_counter() - start) / rows.shape[1]


def _fits(target: str, device: int, host: int) -> bool:
  limit = table1.MEMORY_GIB.value * 2**30
  if target == "cpu":
    return host <= host_memory.limit() and (not limit or device <= limit)
  return device <= (limit or chips.CHIPS[target].memory)


def _dump(
  folder: pathlib.Path, name: str, compiled: jax.stages.Compiled, cost: Cost
) -> None:
  """Writes a program's text and the list of its costliest instructions."""
  (folder / f"{name}.txt").write_text(compiled.as_text() or "")
  unit = "cycles" if cost.cycles else "bytes moved"
  lines = [f"{amount:>15,} {text}" for amount, text in cost.costliest[:100]]
  (folder / f"{name}_costliest.txt").write_text(
    "\n".join([f"{unit:>15} instruction of a step", *lines]) + "\n"
  )


def recommended(rows: Sequence[Row]) -> Row | None:
  """The fastest that fits, or a smaller one about as fast."""
  fitting = [row for row in rows if row.fits]
  least = min((row.seconds_for_each for row in fitting), default=0.0)
  about = [row for row in fitting if row.seconds_for_each <= 1.03 * least]
  return about[0] if about else None


def table(rows: Sequence[Row]) -> pd.DataFrame:
  """Memory in MiB, and time in milliseconds, by individuals on a device."""
  described = []
  for row in rows:
    memory = {
      name: math.ceil(getattr(row, name) / 2**20)
      for name in ("state", "store", "temporaries", "device", "host")
    }
    described.append(
      {
        "individuals": row.individuals,
        "side by side": row.side_by_side,
        **{f"{name} MiB": size for name, size in memory.items()},
        "fits": "yes" if row.fits else "no",
        "GB moved": round(row.moved / 1e9, 2),
        "GFLOP": round(row.operations / 1e9, 1),
        **{f"{name} ms": round(1e3 * s, 3) for name, s in row.seconds.items()},
        "models' steps a second": round(1 / row.seconds_for_each),
      }
    )
  found = pd.DataFrame(described)
  return found if found["host MiB"].any() else found.drop(columns="host MiB")


def hours(
  study: Study,
  methods: Sequence[Method],
  chosen: Row,
  *,
  alone: Row,
  devices: int,
) -> pd.DataFrame:
  """Steps of a device and hours by method, and of the phase that some share.

  `chosen` says what everybody's training takes, `alone` what one model's does.
  """
  chunk = devices * chosen.individuals
  chunks = math.ceil(len(study.split.individuals) / chunk)
  spent = {}
  if any(method.shares_global_phase for method in methods):
    steps = study.batches.num_shared_steps
    spent["(D_G's model, shared)"] = _spent(steps, alone.seconds)
  for method in methods:
    steps = method.late
    if not method.shares_global_phase:
      steps = study.batches.length(method)
    spent[method.spec] = _spent(chunks * steps, chosen.seconds)
  columns = ["steps", *(f"hours ({name})" for name in chosen.seconds)]
  return pd.DataFrame.from_dict(spent, orient="index", columns=columns)


def _spent(steps: int, seconds: Mapping[str, float]) -> list[float]:
  return [steps, *(steps * each / 3600 for each in seconds.values())]


if __name__ == "__main__":
  processes.use_compilation_cache()
  app.run(main, argv=_OWN(sys.argv, known_only=True))
