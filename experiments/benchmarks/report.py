"""The benchmark's suites, what their peers need, and the table of results."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from experiments.benchmarks.timing import Measurement

# A suite is a module of experiments.benchmarks; the module that its peer needs,
# and the package that brings it.
PEERS = {
  "training": ("torch", "torch"),
  "scaling": None,
  "grouping": ("faiss", "faiss-cpu"),
}


def table(measurements: Sequence[Measurement]) -> str:
  """The measurements as lines for people."""

  def number(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.3g}"

  header = (
    "ours", "peer", "ratio", "unit", "first call, s", "GFLOP/s", "% of peak",
    "what",
  )  # fmt: skip
  rows = [header] + [
    (
      number(m.ours),
      number(m.peer),
      number(m.ratio),
      m.unit,
      number(m.first_call),
      number(m.flops, 1e-9),
      number(m.utilisation, 100),
      m.name
      + (f"; peer: {m.peer_name}" if m.peer_name else "")
      + (f"; goal: {m.goal}" if m.goal else ""),
    )
    for m in measurements
  ]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if place < len(header) - 1 else cell
      for place, (cell, width) in enumerate(zip(row, widths))
    )
    for row in rows
  )


def check_peers(suites: Sequence[str], with_peers: bool) -> list[str]:
  """Leaves out what can't be measured without a package, if that is wanted.

  Args:
    suites: which are asked for.
    with_peers: whether their peers are.

  Returns:
    The suites that can be run.

  Raises:
    ValueError: if a peer is wanted but isn't installed.
  """
  runnable = []
  for suite in suites:
    peer = PEERS[suite]
    if peer is None or importlib.util.find_spec(peer[0]):
      runnable.append(suite)
      continue
    if with_peers:
      raise ValueError(
        f"--suite={suite} measures against {peer[1]}, which isn't installed:"
        " pip install 'personalization_jax[bench]', or take --nopeers."
      )
    if suite == "grouping":
      print("Left out: grouping, which can't do without its peer, faiss-cpu.")
    else:
      runnable.append(suite)
  return runnable
