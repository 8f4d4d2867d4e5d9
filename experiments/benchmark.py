r"""Measures this project, beside the best alternatives, on this machine.

    python -m experiments.benchmark --suite=training

Suites: training (a population of networks, against PyTorch and plain `vmap`),
scaling (up to 4,000 individuals, on one to four virtual devices), grouping
(against faiss), or all; and those of `experiments/device_check.sh`. Prints each
row and writes it, with versions and the command, as JSON. Peers are optional
dependencies: `pip install personalization_jax[bench]`. Each number is a median
of rounds in which ours and the peers take turns; our first call, which
compiles, is given beside it.
"""

from __future__ import annotations

import os
import pathlib
import pkgutil
import re
import sys
from collections.abc import Sequence

from absl import app, flags

from experiments.benchmarks import measuring
from experiments.runtime import console, processes, run_info

# What changes times and is no flag: recorded, and the same for all processes.
_VARIABLES = (
  "MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES", "NPROC", "OMP_", "KMP_", "MKL_",
  "XLA_", "JAX_", "CUDA_VISIBLE_DEVICES", "PYTORCH_",
)  # fmt: skip

# The function of each suite, and the package of its peer.
SUITES = {
  "training": ("training:run", "torch"),
  "scaling": ("scaling:run", None),
  "grouping": ("grouping:run", "faiss-cpu"),
  # Those of experiments/device_check.sh aren't among "all".
  "correctness": ("device_check:correctness", None),
  "steps": ("device_check:steps", None),
  "paper": ("device_check:paper", None),
}
ALL = ("training", "scaling", "grouping")

# Suites read those without a name here.
# fmt: off
_SUITE = flags.DEFINE_multi_enum("suite", None, [*SUITES, "all"],
    "What to measure", required=True)
flags.DEFINE_integer("repeats", 5, "Rounds of measurement.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None,
    "The JSON file; by default benchmark_<suites>.json, here. In a folder it is"
    " device_check-<device>.json.")
_APPEND = flags.DEFINE_bool("append", False,
    "Add to what the JSON file holds already.")
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
flags.DEFINE_list(
    "side_by_side", ["1", "8", "25", "50", "100"],
    "On an accelerator: how many individuals one operation computes; each is"
    " tried, the best meets the peers.")
flags.register_validator("side_by_side",
    lambda counts: all(n.isdigit() and int(n) for n in counts),
    "must be whole numbers of 1 or more, separated by commas.")
flags.DEFINE_float("peak_tflops", None,
    "The device's peak in TFLOP/s, if the benchmark doesn't know it.")
flags.DEFINE_string("data", None,
    "An npz file of people for steps, paper and correctness, as table1 takes"
    " it; by default they are made up.")
flags.DEFINE_list("widths", ["1", "0.25"], "Of steps; paper takes the first.")
flags.DEFINE_list("precisions", ["bfloat16", "float32"],
    "Of steps and paper: float32, bfloat16.")
flags.DEFINE_list("models", ["8", "32", "1", "64"],
    "How many models a device has in steps.")
flags.DEFINE_list("formulations", ["rule"],
    "Of the convolutions in steps: rule (what the library picks), xla, patches,"
    " cpu.")
flags.DEFINE_float("seconds", 60.0, "How long paper trains.", lower_bound=0.0)
# fmt: on


def main(argv: Sequence[str]) -> None:
  """Runs the suites that the flags name."""
  try:
    console.begin(argv)
  except ValueError as error:
    sys.exit(f"error: {error}")
  # As experiments.table1 has it: results don't depend on the devices.
  processes.use_cpu_cores(_CPU_DEVICES.value)
  suites = ALL if "all" in _SUITE.value else _SUITE.value
  if "training" in suites:  # its peers share an accelerator's memory with us
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
  variables = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
  about = run_info.describe()
  about |= {"cores": len(processes.cores()), "variables": variables}
  path = pathlib.Path(
    _OUTPUT.value or f"benchmark_{'_'.join(_SUITE.value)}.json"
  )
  if path.is_dir():
    device = re.sub(r"\W+", "-", about["device"]).lower()
    path /= f"device_check-{device}.json"
  if not _APPEND.value:
    path.unlink(missing_ok=True)
  for peer in filter(None, {SUITES[suite][1] for suite in suites}):
    about["versions"][peer] = run_info.version(peer)
    if _PEERS.value and not about["versions"][peer]:
      print(f"Left out: {peer}; pip install 'personalization_jax[bench]'.")
  for suite in suites:
    run = pkgutil.resolve_name(f"experiments.benchmarks.{SUITES[suite][0]}")
    for row in run(flags.FLAGS):
      print(measuring.line(row), flush=True)
      measuring.add({"suite": suite, **row}, path, about)
  print(f"Written to {path}.")


if __name__ == "__main__":
  app.run(main)
