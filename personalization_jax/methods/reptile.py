"""Reptile: a model of D_G made for adapting to one person (JAX).

Source: Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms"
(2018), arXiv 1803.02999, the serial version (Algorithm 1). First-order
Per-FedAvg (Fallah et al. 2020) with several local steps has the same aim.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from personalization_jax import checks
from personalization_jax.schedules.episodes import episodes


@dataclasses.dataclass(frozen=True)
class Reptile:
  """What everybody's training begins with in place of D_G's model.

  Each episode adapts the model to one writer of D_G for a few steps, with a
  fresh optimiser, and then moves it part of the way there.

  Attributes:
    inner_steps: batches of one writer in an episode.
    rate: the part of the way in the first episode; it falls linearly to 0 at
      the end of training, as in section 6.1.

  Raises:
    ValueError: if inner_steps is no whole number, or rate not in 0..1.
  """

  inner_steps: int = 5
  rate: float = 1.0
  count: ClassVar[int] = 1  # of models

  def __post_init__(self) -> None:
    checks.whole_number("inner_steps", self.inner_steps, 1)
    checks.positive("rate", self.rate)
    if self.rate > 1:
      raise ValueError(f"rate={self.rate} must be at most 1.")
    checks.plain_numbers(self)

  @property
  def name(self) -> str:
    """For the files of the model."""
    return f"start_reptile_{self.inner_steps}_{self.rate}"

  def rows(
    self,
    global_rows: np.ndarray,
    individuals: np.ndarray,
    batch_size: int,
    num_steps: int,
    *,
    seed: int,
  ) -> np.ndarray:
    """The rows int32 [num_steps, B] of all episodes; see `episodes`.

    Steps that make no whole episode are padding, at the end.
    """
    inner_steps, count = self._episodes(num_steps)
    rows = episodes(
      global_rows, individuals, batch_size, inner_steps, count, seed=seed
    )
    missing = num_steps - len(rows)
    return np.pad(rows, ((0, missing), (0, 0)), constant_values=-1)

  def optimizer(
    self, inner: optax.GradientTransformation, num_steps: int
  ) -> optax.GradientTransformation:
    """What trains on these rows; `inner` adapts to one writer."""
    inner_steps, count = self._episodes(num_steps)
    rate = optax.linear_schedule(self.rate, 0.0, count)
    return reptile(inner, inner_steps, rate)

  def _episodes(self, num_steps: int) -> tuple[int, int]:
    """Steps of an episode, which fits in, and how many episodes there are."""
    inner_steps = min(self.inner_steps, num_steps)
    return inner_steps, num_steps // inner_steps


class ReptileState(NamedTuple):
  """Of the transformation `reptile`."""

  slow: Any  # the parameters that the episode began with
  step: jax.Array  # int32 [], updates done
  inner: Any  # the state of the episode's optimiser


def reptile(
  inner: optax.GradientTransformation,
  inner_steps: int,
  outer_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
  """Moves slow parameters towards those that every episode ends with.

  After each `inner_steps` updates of the inner optimiser

      params = slow <- slow + rate (params - slow),

  and its state begins anew. Only parameters move so: a model's running batch
  statistics go on through the episodes as through any batches.

  Args:
    inner: the optimiser within an episode.
    inner_steps: updates in an episode.
    outer_rate: the rate, or a schedule of it by the number of episodes that
      came before.

  Returns:
    The transformation. `update` needs params, as they are after the last one.
  """

  def init(params: Any) -> ReptileState:
    # A copy: training donates both.
    slow = jax.tree.map(jnp.copy, params)
    return ReptileState(slow, jnp.zeros((), jnp.int32), inner.init(params))

  def update(
    updates: Any, state: ReptileState, params: Any = None
  ) -> tuple[Any, ReptileState]:
    if params is None:
      raise ValueError("reptile needs the parameters: update(..., params).")
    moves, inner_state = inner.update(updates, state.inner, params)
    fast = optax.apply_updates(params, moves)
    step = state.step + 1
    ends = step % inner_steps == 0
    rate = outer_rate
    if callable(outer_rate):
      rate = outer_rate(state.step // inner_steps)

    def where(there: Any, here: Any) -> Any:
      return jax.tree.map(
        lambda there, here: jnp.where(ends, there, here), there, here
      )

    def towards(slow: jax.Array, fast: jax.Array) -> jax.Array:
      return (slow + rate * (fast - slow)).astype(slow.dtype)

    slow = jax.tree.map(towards, state.slow, fast)
    back = jax.tree.map(jnp.subtract, slow, params)
    return where(back, moves), ReptileState(
      where(slow, state.slow), step, where(inner.init(slow), inner_state)
    )

  return optax.GradientTransformation(init, update)
