r"""Measures this project, beside the best alternatives, on this machine.

    python -m experiments.benchmark --suite=grouping

Prints a table and writes it, with versions and the command, as JSON. Peers are
optional dependencies: `pip install personalization_jax[bench]`. Each number is
a median of rounds in which ours and the peer take turns; what compiling adds
to the first call stands beside it, not in it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pathlib
from collections.abc import Sequence

import jax
from absl import app, flags

from experiments import run_info
from experiments.benchmarks.timing import Measurement

# A suite is a module of experiments.benchmarks with a function `run`.
_SUITES = ("grouping",)

_SUITE = flags.DEFINE_multi_enum(
  "suite", None, _SUITES, "What to measure.", required=True
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)
_OUTPUT = flags.DEFINE_string(
  "output", None, "The JSON file; by default benchmark_<suites>.json, here."
)
_CPU_DEVICES = flags.DEFINE_integer(
  "cpu_devices", None, "Virtual CPU devices; by default one for each core."
)
_QUICK = flags.DEFINE_bool("quick", False, "A small version, to try it.")


def table(measurements: Sequence[Measurement]) -> str:
  """The measurements as lines for people."""

  def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"

  header = ("ours", "peer", "ratio", "first call", "unit", "what")
  rows = [header] + [
    (
      number(m.ours),
      number(m.peer),
      number(m.ratio),
      number(m.first_call),
      m.unit,
      m.name if m.peer_name is None else f"{m.name}; peer: {m.peer_name}",
    )
    for m in measurements
  ]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if place < 5 else cell
      for place, (cell, width) in enumerate(zip(row, widths))
    )
    for row in rows
  )


def main(argv: Sequence[str]) -> None:
  """Runs the suites that the flags name."""
  if len(argv) > 1:
    raise app.UsageError(f"Unknown argument {argv[1]!r}: flags begin with --.")
  jax.config.update(
    "jax_num_cpu_devices",
    _CPU_DEVICES.value or len(os.sched_getaffinity(0)),
  )
  measurements = []
  for suite in _SUITE.value:
    module = importlib.import_module(f"experiments.benchmarks.{suite}")
    for measurement in module.run(_REPEATS.value, _QUICK.value):
      print(table([measurement]).splitlines()[1], flush=True)
      measurements.append(measurement)
  print("\n" + table(measurements))
  path = pathlib.Path(
    _OUTPUT.value or f"benchmark_{'_'.join(_SUITE.value)}.json"
  )
  report = {
    "environment": run_info.describe(),
    "measurements": [dataclasses.asdict(m) for m in measurements],
  }
  path.write_text(json.dumps(report, indent=2) + "\n")
  print(f"\nWritten to {path}.")


if __name__ == "__main__":
  app.run(main)
