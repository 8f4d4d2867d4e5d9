r"""Measures this project, beside the best alternatives, on this machine.

    python -m experiments.benchmark --suite=training

Suites: training (a population of networks, against PyTorch and plain `vmap`),
scaling (up to 4,000 individuals, on one to four virtual devices), grouping
(against faiss), or all. Prints a table and writes it, with versions and the
command, as JSON. Peers are optional dependencies: `pip install
personalization_jax[bench]`. Each number is a median of rounds in which ours and
the peers take turns; our first call, which compiles, stands beside it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from experiments.benchmarks import measuring
from experiments.runtime import run_info
from experiments.runtime.processes import cores, use_cpu_cores

# What changes times and is no flag: recorded, and the same for all processes.
_VARIABLES = (
  "MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES", "NPROC", "OMP_", "KMP_", "MKL_",
  "XLA_", "JAX_", "CUDA_VISIBLE_DEVICES", "PYTORCH_",
)  # fmt: skip

_SUITE = flags.DEFINE_multi_enum(
  "suite", None, [*measuring.SUITES, "all"], "What to measure.", required=True
)
_REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Rounds of measurement.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "The JSON file; by default benchmark_<suites>.json, here."
)
_CPU_DEVICES = flags.DEFINE_integer(
  "cpu_devices", None, "Virtual CPU devices; by default one for each core."
)
_QUICK = flags.DEFINE_bool("quick", False, "A small version, to try it.")
_WITH_PEERS = flags.DEFINE_bool(
  "peers", True, "Measure the peers too; --nopeers measures ours alone."
)
_INDIVIDUALS_PER_DEVICE = flags.DEFINE_integer(
    "individuals_per_device", 0,
    "Models on a device at once; 0 takes up to 8 (training) or one (scaling) on"
    " a CPU, and elsewhere all of them (training) or 8 (scaling).",
    lower_bound=0,
)  # fmt: skip
_INDIVIDUALS = flags.DEFINE_integer(
  "individuals",
  0,
  "Individuals in training; 0 takes each row's own number.",
  lower_bound=0,
)
_STEPS = flags.DEFINE_integer(
  "steps",
  0,
  "Training steps of each individual; 0 takes each row's own number.",
  lower_bound=0,
)
_ONLY = flags.DEFINE_string(
  "only", "", "Rows of training whose name holds this, as 'width 1, batch'."
)
_SIDE_BY_SIDE = flags.DEFINE_list(
    "side_by_side", ["1", "8", "25", "50", "100"],
    "On an accelerator: how many individuals one operation computes; each is"
    " tried, the best meets the peers.",
)  # fmt: skip
_PEAK_TFLOPS = flags.DEFINE_float(
  "peak_tflops",
  None,
  "The device's peak in TFLOP/s, if the benchmark doesn't know it.",
)


def run(suites: Sequence[str]) -> Iterator[measuring.Measurement]:
  """Yields the measurements of suites, sized by the flags."""
  options = measuring.Options(
    repeats=_REPEATS.value,
    quick=_QUICK.value,
    peers=_WITH_PEERS.value,
    only=_ONLY.value,
    individuals=_INDIVIDUALS.value,
    steps=_STEPS.value,
    individuals_per_device=_INDIVIDUALS_PER_DEVICE.value,
    side_by_side=tuple(map(int, _SIDE_BY_SIDE.value)),
    peak=_PEAK_TFLOPS.value and 1e12 * _PEAK_TFLOPS.value,
  )
  for suite in suites:
    module = importlib.import_module(f"experiments.benchmarks.{suite}")
    yield from module.run(options)


def environment() -> dict[str, Any]:
  """What the numbers depend on beside the code."""
  about = run_info.describe()
  for _, package in measuring.PEERS.values():
    try:
      about["versions"][package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      about["versions"][package] = None
  return {
    **about,
    "cores": len(cores()),
    "variables": {
      name: value
      for name, value in sorted(os.environ.items())
      if name.startswith(_VARIABLES)
    },
  }


def prepare() -> list[str]:
  """Everything that a user's mistake can break, before any measurement."""
  suites = list(measuring.SUITES) if "all" in _SUITE.value else _SUITE.value
  if not all(n.isdigit() and int(n) for n in _SIDE_BY_SIDE.value):
    raise ValueError(
      f"--side_by_side={','.join(_SIDE_BY_SIDE.value)} must be whole numbers"
      " of 1 or more, separated by commas."
    )
  suites = measuring.runnable(suites, _WITH_PEERS.value)
  # As experiments.table1 has it: results don't depend on the devices.
  use_cpu_cores(_CPU_DEVICES.value or 0)
  # PyTorch and plain vmap share an accelerator's memory with us.
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
  return suites


def main(argv: Sequence[str]) -> None:
  """Runs the suites that the flags name."""
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # JAX tells which backends it lacks
  try:
    if len(argv) > 1:
      raise ValueError(f"unexpected argument {argv[1]!r}; flags begin with --.")
    suites = prepare()
  except ValueError as error:
    sys.exit(f"error: {error}")
  path = pathlib.Path(
    _OUTPUT.value or f"benchmark_{'_'.join(_SUITE.value)}.json"
  )
  record: dict[str, Any] = {
    "command": shlex.join(
      ["python", "-m", "experiments.benchmark", *sys.argv[1:]]
    ),
    "environment": environment(),
  }
  measurements: list[measuring.Measurement] = []
  for measurement in run(suites):
    print(measuring.table([measurement]).splitlines()[1], flush=True)
    measurements.append(measurement)
    # Written anew each time: what was measured stays if a later row fails.
    record["measurements"] = [dataclasses.asdict(m) for m in measurements]
    path.write_text(json.dumps(record, indent=2) + "\n")
  print("\n" + measuring.table(measurements))
  print(f"\nWritten to {path}.")


if __name__ == "__main__":
  app.run(main)
