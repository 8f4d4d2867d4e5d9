"""Training of Fig. 5's auto-encoder, on one device (JAX)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from personalization_jax.datasets.splits import PADDING
from personalization_jax.networks.autoencoder import check_image_shape
from personalization_jax.training import autoencoder
from personalization_jax.training.population import Pace
from personalization_jax.training.step import Learner, TrainState

_BLOCK_STEPS = 50


def loss_fn(
  params: Any,
  learner: Learner,
  batch_stats: Any,
  images: jax.Array,
  mask: jax.Array,
) -> tuple[jax.Array, Any]:
  """Mean (X - X')^2 over the pixels of the rows that are no padding.

  Args:
    params: the network's parameters.
    learner: network and optimiser.
    batch_stats: running statistics.
    images: float32 [B, H, W, C] in 0..1.
    mask: bool [B].

  Returns:
    The loss [] in squared units of full ink and the new batch statistics.

  Source: section IV ("L2-reconstruction loss").
  """
  reconstructed, updates = learner.model.apply(
    {"params": params, "batch_stats": batch_stats},
    images,
    mask,
    train=True,
    mutable=["batch_stats"],
  )
  errors = autoencoder.squared_error(images, reconstructed)
  total = jnp.where(mask, errors, 0.0).sum()
  return total / jnp.maximum(mask.sum(), 1), updates["batch_stats"]


def train_step(
  learner: Learner, state: TrainState, images: jax.Array, mask: jax.Array
) -> tuple[TrainState, jax.Array]:
  """One step on one batch.

  Args:
    learner: network and optimiser.
    state: the model before.
    images: float32 [B, H, W, C] in 0..1.
    mask: bool [B], False where a row is padding; one at least is none.

  Returns:
    The model after, and the loss [] before.

  Source: section IV (Adam on D_G, batch 128).
  """
  (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
    state.params, learner, state.batch_stats, images, mask
  )
  updates, opt_state = learner.optimizer.update(
    gradients, state.opt_state, state.params
  )
  state = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
  )
  return state, loss


def train(
  learner: Learner,
  state: TrainState,
  images: Any,
  rows: np.ndarray,
  *,
  on_steps: Callable[[int], None] = lambda steps: None,
  on_block: Callable[
    [int, TrainState, Callable[[], np.ndarray]], None
  ] = lambda steps, state, losses: None,
  block_steps: int = _BLOCK_STEPS,
) -> tuple[TrainState, np.ndarray]:
  """Trains through a schedule, on one device.

  Args:
    learner: network and optimiser.
    state: from `autoencoder.create`; consumed.
    images: uint8 [N, H, W, C] or float32 in 0..1, the store.
    rows: int32 [T, B], rows of the store, -1 for padding: what
      `schedules.global_batches` draws from D_G for `randomness.SHARED`.
    on_steps: called with the number of steps done since the last call.
    on_block: called at each end of a block with the steps done, the state
      (not to be kept) and a function that gives the losses so far; what it
      raises ends training.
    block_steps: steps in one compiled scan, at most.

  Returns:
    The state, and losses float32 [T], NaN where a step was padding.

  Raises:
    ValueError: if images or rows don't fit.

  Source: Algorithm 1, lines 11 and 16.
  """
  check_image_shape(images.shape[1:])
  autoencoder.check_rows(rows, PADDING, len(images))
  state, images = autoencoder.on_one_device((state, images))
  losses: list[tuple[jax.Array, int]] = []

  def losses_so_far() -> np.ndarray:
    blocks = [np.asarray(block)[:steps] for block, steps in losses]
    return np.concatenate([np.empty(0, np.float32), *blocks])

  def wait(block: jax.Array, steps: int) -> None:
    block.block_until_ready()
    pace.ended(steps)
    on_steps(steps)

  pace = Pace(block_steps, 3.0)
  done = 0
  while done < len(rows):
    steps = min(pace.steps(), len(rows) - done)
    missing = ((0, block_steps - steps), (0, 0))
    padded = np.pad(rows[done : done + steps], missing, constant_values=PADDING)
    state, block_losses = _train_block(
      learner, state, images, padded.astype(np.int32)
    )
    pace.started()
    losses.append((block_losses, steps))
    done += steps
    if len(losses) > 1:
      # One block behind, so that the device never waits for the host.
      wait(*losses[-2])
    on_block(done, state, losses_so_far)
  if losses:
    wait(*losses[-1])
  return state, losses_so_far()


def lower(
  learner: Learner,
  state: TrainState,
  images: Any,
  batch_size: int,
  *,
  block_steps: int = _BLOCK_STEPS,
) -> jax.stages.Lowered:
  """The program that trains, before it is compiled.

  Args:
    learner: network and optimiser.
    state: the shapes of its states, on the device.
    images: likewise of the store.
    batch_size: samples in a batch.
    block_steps: as `train`'s.

  Returns:
    The very program of `train`.
  """
  rows = jax.ShapeDtypeStruct((block_steps, batch_size), np.int32)
  return _train_block.lower(learner, state, images, rows)


@functools.partial(jax.jit, static_argnames="learner", donate_argnames="state")
def _train_block(
  learner: Learner, state: TrainState, images: jax.Array, rows: jax.Array
) -> tuple[TrainState, jax.Array]:
  """Scans over steps; one of padding alone computes and changes nothing."""

  def step(state: TrainState, rows: jax.Array) -> tuple[TrainState, jax.Array]:
    return jax.lax.cond(
      (rows >= 0).any(),
      lambda: train_step(learner, state, *autoencoder.gather(images, rows)),
      lambda: (state, jnp.float32(jnp.nan)),
    )

  return jax.lax.scan(step, state, rows)
