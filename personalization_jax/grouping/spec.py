"""What D_I is enlarged with, in words: the spec of a group."""

from __future__ import annotations

import dataclasses

from personalization_jax import checks


@dataclasses.dataclass(frozen=True)
class Group:
  """What D_I is enlarged with (section III, data grouping).

  Attributes:
    kind: "sg" for similar samples, "ig" for similar individuals, "random" for
      the baseline's random samples.
    n: samples in all, or individuals for "ig".
    only: the group takes D_I's place instead of enlarging it.
  """

  kind: str
  n: int
  only: bool = False

  def __post_init__(self) -> None:
    """Rejects what is no number of samples or individuals."""
    checks.whole_number("n", self.n, 1)
    checks.plain_numbers(self)

  @property
  def spec(self) -> str:
    """Its name in a method's spec."""
    return f"{self.kind}:{self.n}" + (":only" if self.only else "")

  @property
  def needs_latents(self) -> bool:
    """Whether similarity in a latent space chooses it."""
    return self.kind != "random"
