"""Fig. 5's auto-encoder: its training, and latents (JAX).

One model, trained on D_G and shared by everybody; grouping measures similarity
between its latents.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from personalization_jax import training
from personalization_jax.autoencoder_model import NUM_LATENTS, check_image_shape
from personalization_jax.autoencoder_model import AutoEncoder as AutoEncoder
from personalization_jax.autoencoder_model import upsampling as upsampling
from personalization_jax.pace import Pace
from personalization_jax.splits import PADDING
from personalization_jax.training import Learner, TrainState

# Rows evaluated at once; always as many, so that all calls share one program.
_EVALUATION_BATCH = 256


def make_learner(
  *,
  width: float = 1.0,
  learning_rate: float = 1e-3,
  precision: str = "float32",
) -> Learner:
  """Fig. 5's network with Adam; the defaults are the paper's.

  Args:
    width: factor on the channels, above 0.
    learning_rate: Adam's.
    precision: "float32" or "bfloat16", of activations.

  Returns:
    The learner. Programs are compiled for it, so make one and keep it.

  Raises:
    ValueError: if width isn't above 0.
  """
  if not 0 < width < math.inf:
    raise ValueError(f"width={width} must be above 0.")
  model = AutoEncoder(width=width, dtype=jnp.dtype(precision))
  return Learner(model, optax.adam(learning_rate))


@functools.partial(jax.jit, static_argnames=("learner", "image_shape"))
def create(
  learner: Learner, key: jax.Array, image_shape: tuple[int, ...]
) -> TrainState:
  """A fresh auto-encoder.

  Args:
    learner: from `make_learner`.
    key: typed key; it determines the initial weights.
    image_shape: (H, W, C).

  Returns:
    The state at step 0.

  Raises:
    ValueError: if there is no such network for these images.
  """
  return training.create_state(learner, key, image_shape)


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
  total = jnp.where(mask, _error(images, reconstructed), 0.0).sum()
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
  block_steps: int = 50,
) -> tuple[TrainState, np.ndarray]:
  """Trains through a schedule, on one device.

  Args:
    learner: network and optimiser.
    state: from `create`; consumed.
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
  _check_rows(rows, PADDING, len(images))
  state, images = _on_one_device((state, images))
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


def encode(
  learner: Learner, state: TrainState, images: Any, rows: np.ndarray
) -> np.ndarray:
  """AE(X) of rows of the store, each by itself (running statistics).

  Args:
    learner: network and optimiser.
    state: from `train`.
    images: uint8 [N, H, W, C] or float32 in 0..1, the store.
    rows: integers [n], 0 .. N - 1.

  Returns:
    Latents float32 [n, 16].

  Raises:
    ValueError: if there is no such row.

  Source: Algorithm 1, lines 14 and 17.
  """
  latents = _evaluate(_encode_batch, learner, state, images, rows)
  return latents.reshape(-1, NUM_LATENTS)


def reconstruct(
  learner: Learner, state: TrainState, images: Any, rows: np.ndarray
) -> np.ndarray:
  """X' of rows of the store, encoded and decoded.

  Args:
    learner: network and optimiser.
    state: from `train`.
    images: uint8 [N, H, W, C] or float32 in 0..1, the store.
    rows: integers [n], 0 .. N - 1.

  Returns:
    Float32 [n, H, W, C], where 1 is an image's 255; some may be above 1.

  Raises:
    ValueError: if there is no such row.
  """
  reconstructed = _evaluate(_reconstruct_batch, learner, state, images, rows)
  return reconstructed.reshape(-1, *images.shape[1:])


@dataclasses.dataclass(frozen=True)
class ReconstructionError:
  """Mean squared error per pixel, images in 0..1.

  Attributes:
    model: of the auto-encoder's reconstructions.
    mean_image: of answering every image by the mean training image.
  """

  model: float
  mean_image: float


def reconstruction_error(
  learner: Learner,
  state: TrainState,
  images: Any,
  rows: np.ndarray,
  train_rows: np.ndarray,
) -> ReconstructionError:
  """How well held-out images are reconstructed.

  Args:
    learner: network and optimiser.
    state: from `train`.
    images: uint8 [N, H, W, C] or float32 in 0..1, the store.
    rows: integers [n], held-out rows, at least one.
    train_rows: integers [m], the rows that were trained on, at least one.

  Returns:
    The error, and the mean image's for comparison.

  Raises:
    ValueError: if there is no row, or no such row.
  """
  if not len(rows) or not len(train_rows):
    raise ValueError(
      "a reconstruction error needs a held-out row and a training row at"
      f" least, but there are {len(rows)} and {len(train_rows)}."
    )
  _check_rows(train_rows, 0, len(images))
  errors = _evaluate(_error_batch, learner, state, images, rows)
  store = np.asarray(images)
  full = 255 if store.dtype == np.uint8 else 1
  mean = (store[train_rows].mean(axis=0, dtype=np.float64) / full).astype(
    np.float32
  )
  baseline = np.square(store[rows] / np.float32(full) - mean)
  return ReconstructionError(
    model=float(errors.mean(dtype=np.float64)),
    mean_image=float(baseline.mean(dtype=np.float64)),
  )


@functools.partial(jax.jit, static_argnames="learner", donate_argnames="state")
def _train_block(
  learner: Learner, state: TrainState, images: jax.Array, rows: jax.Array
) -> tuple[TrainState, jax.Array]:
  """Scans over steps; one of padding alone computes and changes nothing."""

  def step(state: TrainState, rows: jax.Array) -> tuple[TrainState, jax.Array]:
    return jax.lax.cond(
      (rows >= 0).any(),
      lambda: train_step(learner, state, *_gather(images, rows)),
      lambda: (state, jnp.float32(jnp.nan)),
    )

  return jax.lax.scan(step, state, rows)


def _evaluate(
  function: Callable[..., jax.Array],
  learner: Learner,
  state: TrainState,
  images: Any,
  rows: np.ndarray,
) -> np.ndarray:
  """A function of a batch, over all rows, in programs of one shape."""
  rows = np.asarray(rows)
  check_image_shape(images.shape[1:])
  _check_rows(rows, 0, len(images))
  state, images = _on_one_device((state, images))
  parts = []
  for start in range(0, len(rows), _EVALUATION_BATCH):
    batch = rows[start : start + _EVALUATION_BATCH]
    filled = np.zeros(_EVALUATION_BATCH, np.int32)
    filled[: len(batch)] = batch
    parts.append(_evaluate_batch(function, learner, state, images, filled))
  joined = [np.asarray(part) for part in parts]
  return np.concatenate(joined or [np.empty(0, np.float32)])[: len(rows)]


def _encode_batch(
  learner: Learner, variables: Any, batch: jax.Array
) -> jax.Array:
  latents: Any = learner.model.apply(variables, batch, method="encode")
  return latents


def _reconstruct_batch(
  learner: Learner, variables: Any, batch: jax.Array
) -> jax.Array:
  reconstructed: Any = learner.model.apply(variables, batch)
  return reconstructed


def _error_batch(
  learner: Learner, variables: Any, batch: jax.Array
) -> jax.Array:
  return _error(batch, _reconstruct_batch(learner, variables, batch))


@functools.partial(jax.jit, static_argnames=("function", "learner"))
def _evaluate_batch(
  function: Callable[..., jax.Array],
  learner: Learner,
  state: TrainState,
  images: jax.Array,
  rows: jax.Array,
) -> jax.Array:
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  return function(learner, variables, _gather(images, rows)[0])


def _gather(images: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Images float32 [B, H, W, C] in 0..1, and False [B] where padding."""
  return training.as_input(images[jnp.maximum(rows, 0)]), rows >= 0


def _error(images: jax.Array, reconstructed: jax.Array) -> jax.Array:
  """(X - X')^2, mean over an image's pixels: [B]."""
  return jnp.square(images - reconstructed).mean(axis=(1, 2, 3))


def _on_one_device(tree: Any) -> Any:
  """Arrays on this process's first device, where the one model is.

  The state too, even if it's there: a fresh one isn't bound to the device yet,
  a trained one is, and each kind would have its program compiled.
  """
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.device_put(tree, here)


def _check_rows(rows: np.ndarray, least: int, num_rows: int) -> None:
  if not np.size(rows):
    return
  low, high = int(np.min(rows)), int(np.max(rows))
  if low < least or high >= num_rows:
    raise ValueError(
      f"rows must lie in {least}..{num_rows - 1}, but hold"
      f" {low if low < least else high}."
    )
