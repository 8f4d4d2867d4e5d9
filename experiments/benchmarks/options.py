"""What the flags of `experiments.benchmark` say to the suite `training`."""

from __future__ import annotations

import dataclasses

from experiments.benchmarks.work import Work


@dataclasses.dataclass(frozen=True)
class Options:
  """What is measured, and how.

  Attributes:
    repeats: rounds of each comparison.
    quick: a small version, to try the script.
    peers: whether peers are measured.
    only: rows whose name holds this.
    individuals: instead of the rows' own; 0 leaves them.
    steps: likewise.
    individuals_per_device: models on a device at once; 0 takes up to 8 on a CPU
      and as many as there are elsewhere.
    side_by_side: on an accelerator, the numbers that are tried.
    peak: the device's FLOP/s; None takes it from `flops.peak`.
    limit: seconds that plain `vmap` may take.
  """

  repeats: int = 3
  quick: bool = False
  peers: bool = True
  only: str = ""
  individuals: int = 0
  steps: int = 0
  individuals_per_device: int = 0
  side_by_side: tuple[int, ...] = (1, 8, 25, 50, 100)
  peak: float | None = None
  limit: float = 90.0

  def resized(self, work: Work) -> Work:
    """The work with the numbers that were asked for."""
    return dataclasses.replace(
      work,
      individuals=self.individuals or work.individuals,
      steps=self.steps or work.steps,
    )
