"""Fig. 5's auto-encoder on rows of the store: latents, reconstructions (JAX).

One model, trained on D_G (`autoencoder_training`) and shared by everybody;
grouping measures similarity between its latents.
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

from personalization_jax.networks.autoencoder import (
  NUM_LATENTS,
  AutoEncoder,
  check_image_shape,
)
from personalization_jax.training import step as training_step
from personalization_jax.training.step import Learner, TrainState

# Rows evaluated at once; always as many, so that all calls share one program.
_EVALUATION_BATCH = 256


@functools.lru_cache(maxsize=32)
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
    The learner, the same one for the same arguments: programs are compiled
    for it.

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
  return training_step.create_state(learner, key, image_shape)


def encode(
  learner: Learner, state: TrainState, images: Any, rows: np.ndarray
) -> np.ndarray:
  """AE(X) of rows of the store, each by itself (running statistics).

  Args:
    learner: network and optimiser.
    state: from `autoencoder_training.train`.
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
    state: from `autoencoder_training.train`.
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
    state: from `autoencoder_training.train`.
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
  check_rows(train_rows, 0, len(images))
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


def gather(images: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A batch of the store.

  Args:
    images: uint8 [N, H, W, C] or float32 in 0..1, the store.
    rows: integers [B], -1 for padding.

  Returns:
    Images float32 [B, H, W, C] in 0..1, and bool [B], False where padding.
  """
  return training_step.as_input(images[jnp.maximum(rows, 0)]), rows >= 0


def squared_error(images: jax.Array, reconstructed: jax.Array) -> jax.Array:
  """(X - X')^2, mean over an image's pixels.

  Args:
    images: float32 [B, H, W, C] in 0..1.
    reconstructed: of that shape.

  Returns:
    Float32 [B], in squared units of full ink.

  Source: section IV ("L2-reconstruction loss").
  """
  return jnp.square(images - reconstructed).mean(axis=(1, 2, 3))


def lower_evaluation(
  learner: Learner, state: TrainState, images: Any
) -> list[jax.stages.Lowered]:
  """The programs that encode and that measure errors, before compilation.

  Args:
    learner: network and optimiser.
    state: the shapes of its states, on the device.
    images: likewise of the store.

  Returns:
    The very programs of `encode` and of `reconstruction_error`.
  """
  rows = np.zeros(_EVALUATION_BATCH, np.int32)
  return [
    _evaluate_batch.lower(function, learner, state, images, rows)
    for function in (_encode_batch, _error_batch)
  ]


def on_one_device(tree: Any) -> Any:
  """Arrays on this process's first device, where the one model is.

  The state too, even if it's there: a fresh one isn't bound to the device yet,
  a trained one is, and each kind would have its program compiled.

  Args:
    tree: of arrays, wherever they are.

  Returns:
    The same tree, there.
  """
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.device_put(tree, here)


def check_rows(rows: np.ndarray, least: int, num_rows: int) -> None:
  """Refuses rows that the store doesn't have.

  Args:
    rows: integers of any shape.
    least: the lowest that is allowed: 0, or -1 where there may be padding.
    num_rows: of the store.

  Raises:
    ValueError: if one is none.
  """
  if not np.size(rows):
    return
  low, high = int(np.min(rows)), int(np.max(rows))
  if low < least or high >= num_rows:
    raise ValueError(
      f"rows must lie in {least}..{num_rows - 1}, but hold"
      f" {low if low < least else high}."
    )


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
  check_rows(rows, 0, len(images))
  state, images = on_one_device((state, images))
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
  return squared_error(batch, _reconstruct_batch(learner, variables, batch))


@functools.partial(jax.jit, static_argnames=("function", "learner"))
def _evaluate_batch(
  function: Callable[..., jax.Array],
  learner: Learner,
  state: TrainState,
  images: jax.Array,
  rows: jax.Array,
) -> jax.Array:
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  return function(learner, variables, gather(images, rows)[0])
