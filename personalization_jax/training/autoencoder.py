"""Fig. 5's auto-encoder: its loss, latents and reconstructions (JAX).

A `PopulationTrainer` trains it on D_G like any model, with its own loss; one
serves everybody, and grouping measures similarity between its latents.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from personalization_jax import checks
from personalization_jax.networks.autoencoder import AutoEncoder
from personalization_jax.training.learner import Learner
from personalization_jax.training.step import as_input, in_batches

# Rows evaluated at once; always as many, so that all calls share one program.
_EVALUATION_BATCH = 256


@functools.lru_cache(maxsize=32)
def make_learner(*, width: float, learning_rate: float = 1e-3) -> Learner:
  """Fig. 5's network with Adam, one learner for the same arguments."""
  return Learner(
    AutoEncoder(width=width),
    optax.adam(learning_rate),
    loss=squared_error,
    empty_batches=False,  # each batch of an epoch of D_G has data
  )


def squared_error(
  reconstructed: jax.Array, images: jax.Array, *_: Any
) -> jax.Array:
  """(X - X')^2, mean over an image's pixels: float32 [B], full ink is 1.

  Source: section IV ("L2-reconstruction loss").
  """
  return jnp.square(images - reconstructed).mean(axis=(1, 2, 3))


def encode(
  model: nn.Module, variables: Any, images: Any, rows: np.ndarray
) -> np.ndarray:
  """AE(X) of rows [n] of the store, by running statistics: float32 [n, 16].

  Source: Algorithm 1, lines 14 and 17.
  """
  return _evaluate("latents", model, variables, images, rows)


def reconstruct(
  model: nn.Module, variables: Any, images: Any, rows: np.ndarray
) -> np.ndarray:
  """X' of rows [n] of the store: float32 [n, H, W, C], 1 is full ink."""
  return _evaluate("images", model, variables, images, rows)


class ReconstructionError(NamedTuple):
  """Mean squared error per pixel, images in 0..1."""

  model: float  # of the auto-encoder's reconstructions
  mean_image: float  # of answering every image by the mean training image


def reconstruction_error(
  model: nn.Module,
  variables: Any,
  images: Any,
  rows: np.ndarray,
  train_rows: np.ndarray,
) -> ReconstructionError:
  """How well held-out rows are reconstructed, beside the mean of train_rows."""
  if not len(rows) or not len(train_rows):
    raise ValueError(
      "a reconstruction error needs a held-out row and a training row at"
      f" least, but there are {len(rows)} and {len(train_rows)}."
    )
  checks.in_range("train_rows", np.asarray(train_rows), len(images))
  errors = _evaluate("errors", model, variables, images, rows)
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


def lower_evaluation(
  model: nn.Module, variables: Any, images: Any, device: Any
) -> list[jax.stages.Lowered]:
  """The very programs of `encode` and `reconstruction_error`, by shapes."""
  rows = np.zeros(_EVALUATION_BATCH, np.int32)
  there = jax.sharding.SingleDeviceSharding(device)
  variables, images = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there),
    (variables, images),
  )
  return [
    _evaluate_batch.lower(what, model, variables, images, rows)
    for what in ("latents", "errors")
  ]


def _evaluate(
  what: str, model: nn.Module, variables: Any, images: Any, rows: np.ndarray
) -> np.ndarray:
  """Latents, images or errors of all rows, in programs of one shape."""
  rows = np.asarray(rows)
  checks.in_range("rows", rows, len(images))
  # What isn't bound to a device would have a program compiled of its own.
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  placed = jax.device_put((variables, images), here)
  evaluate = functools.partial(_evaluate_batch, what, model, *placed)
  found = in_batches(evaluate, rows.astype(np.int32), _EVALUATION_BATCH)
  return np.asarray(found)


@functools.partial(jax.jit, static_argnames=("what", "model"))
def _evaluate_batch(
  what: str,
  model: nn.Module,
  variables: Any,
  images: jax.Array,
  rows: jax.Array,
) -> Any:
  batch = as_input(images[jnp.maximum(rows, 0)])
  if what == "latents":
    return model.apply(variables, batch, method="encode")
  found: Any = model.apply(variables, batch)
  return found if what == "images" else squared_error(found, batch)
