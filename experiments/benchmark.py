r"""Measures this project, beside the best alternatives, on this machine.

    python -m experiments.benchmark --suite=training

Suites: training (a population of networks, against PyTorch and plain `vmap`),
scaling (up to 4,000 individuals, on one to four virtual devices), grouping
(against faiss), or all. Prints a table and writes it, with versions and the
command, as JSON. Peers are optional dependencies: `pip install
personalization_jax[bench]`. Each number is a median of rounds in which ours and
the peers take turns; our first call, which compiles, is given beside it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments.benchmarks import measuring
from experiments.runtime import console, processes, run_info

# What changes times and is no flag: recorded, and the same for all processes.
_VARIABLES = (
  "MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES", "NPROC", "OMP_", "KMP_", "MKL_",
  "XLA_", "JAX_", "CUDA_VISIBLE_DEVICES", "PYTORCH_",
)  # fmt: skip

# Suites read those without a name here.
# fmt: off
_SUITE = flags.DEFINE_multi_enum("suite", None, [*measuring.SUITES, "all"],
    "What to measure", required=True)
flags.DEFINE_integer("repeats", 5, "Rounds of measurement.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None,
    "The JSON file; by default benchmark_<suites>.json, here.")
_CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0,
    "Virtual CPU devices; 0 takes one for each core.",
    lower_bound=0, upper_bound=1024)
flags.DEFINE_bool("quick", False, "A small version, to try it.")
_PEERS = flags.DEFINE_bool("peers", True,
    "Measure the peers too; --nopeers measures ours alone.")
flags.DEFINE_integer("individuals_per_device", 0,
    "Models on a device at once; 0 takes up to 8 (training) or one (scaling) on"
    " a CPU, and elsewhere all of them (training) or 8 (scaling).",
    lower_bound=0)
flags.DEFINE_integer("individuals", 0,
    "Individuals in training; 0 takes each row's own number.", lower_bound=0)
flags.DEFINE_integer("steps", 0,
    "Training steps of each individual; 0 takes each row's own number.",
    lower_bound=0)
flags.DEFINE_string("only", "",
    "Rows of training whose name holds this, as 'width 1, batch'.")
_SIDE_BY_SIDE = flags.DEFINE_list(
    "side_by_side", ["1", "8", "25", "50", "100"],
    "On an accelerator: how many individuals one operation computes; each is"
    " tried, the best meets the peers.")
flags.DEFINE_float("peak_tflops", None,
    "The device's peak in TFLOP/s, if the benchmark doesn't know it.")
# fmt: on


def environment() -> dict[str, Any]:
  """What the numbers depend on beside the code."""
  about = run_info.describe()
  for _, package in measuring.PEERS.values():
    about["versions"][package] = run_info.version(package)
  given = sorted(os.environ.items())
  variables = {name: v for name, v in given if name.startswith(_VARIABLES)}
  return {**about, "cores": len(processes.cores()), "variables": variables}


def prepare() -> list[str]:
  """Everything that a user's mistake can break; the suites that can run."""
  if not all(n.isdigit() and int(n) for n in _SIDE_BY_SIDE.value):
    raise ValueError(
      f"--side_by_side={','.join(_SIDE_BY_SIDE.value)} must be whole numbers"
      " of 1 or more, separated by commas."
    )
  wanted = measuring.SUITES if "all" in _SUITE.value else _SUITE.value
  suites = measuring.runnable(wanted, _PEERS.value)
  # As experiments.table1 has it: results don't depend on the devices.
  processes.use_cpu_cores(_CPU_DEVICES.value)
  # PyTorch and plain vmap share an accelerator's memory with us.
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
  return suites


def main(argv: Sequence[str]) -> None:
  """Runs the suites that the flags name."""
  try:
    console.begin(argv)
    suites = prepare()
  except ValueError as error:
    sys.exit(f"error: {error}")
  default = f"benchmark_{'_'.join(_SUITE.value)}.json"
  path = pathlib.Path(_OUTPUT.value or default)
  command = ["python", "-m", "experiments.benchmark", *sys.argv[1:]]
  record: dict[str, Any] = {
    "command": shlex.join(command),
    "environment": environment(),
  }
  measurements: list[measuring.Measurement] = []
  for suite in suites:
    module = importlib.import_module(f"experiments.benchmarks.{suite}")
    for measurement in module.run(flags.FLAGS):
      print(measuring.table([measurement]).splitlines()[1], flush=True)
      measurements.append(measurement)
      # Written anew each time: what was measured stays if a later row fails.
      record["measurements"] = [dataclasses.asdict(m) for m in measurements]
      path.write_text(json.dumps(record, indent=2) + "\n")
  print("\n" + measuring.table(measurements))
  print(f"\nWritten to {path}.")


if __name__ == "__main__":
  app.run(main)
