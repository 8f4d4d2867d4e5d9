"""Where SG and IG measure similarity: AE(X) of every row, or its features.

Fig. 5's auto-encoder is trained on D_G by a `PopulationTrainer`, like any
model, with a loss of its own; one serves everybody.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from personalization_jax import checks, distributed, schedules
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.keeper import Keeper
from personalization_jax.datasets import Population, scaling
from personalization_jax.datasets.splits import Split
from personalization_jax.networks.autoencoder import (
  AutoEncoder,
  check_image_shape,
)
from personalization_jax.randomness import SHARED
from personalization_jax.training import phases
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  PopulationTrainer,
)
from personalization_jax.training.step import as_input, in_batches

# Rows evaluated at once; always as many, so that all calls share one program.
_EVALUATION_BATCH = 256


class TrainedAutoEncoder(NamedTuple):
  """An auto-encoder trained on D_G."""

  model: nn.Module
  variables: dict[str, Any]  # its `params` and `batch_stats`, NumPy arrays
  # Mean squared error per pixel, images in 0..1, of reconstructing the test
  # rows of D_G, which it never saw; and of the mean training image as answer.
  error: float
  error_of_mean: float


class LatentSpace(NamedTuple):
  """Where every row of the store is."""

  # float32 [N, D]: AE(X) of images, with D = 16; of other samples their D
  # features, standardised.
  latents: np.ndarray
  autoencoder: TrainedAutoEncoder | None = None  # what made them, if one did


@dataclasses.dataclass(frozen=True)
class LatentSettings:
  """How the auto-encoder is trained.

  Epochs and batch size are the paper's, which names no learning rate.

  Raises:
    ValueError: naming what nothing can be trained with.
  """

  epochs: int = 20  # on D_G
  batch_size: int = 128  # samples in a batch
  learning_rate: float = 1e-3  # Adam's
  width: float = 1.0  # factor on the channels of Fig. 5
  seed: int = 0  # of initial weights and order

  def __post_init__(self) -> None:
    """Checks every field."""
    checks.training(self)
    checks.plain_numbers(self)


def check(population: Population) -> None:
  """Rejects images that the auto-encoder isn't made for with a ValueError."""
  if not population.holds_images:
    return
  check_image_shape(population.sample_shape)
  images = population.images
  if images.dtype != np.uint8 and not 0 <= images.min() <= images.max() <= 1:
    remedy = ""
    if population.scaling is not None:
      remedy = " as standardised: give images in 0..1 and standardise='none'"
      if population.scaling.dtype == "uint8":
        remedy = ", for they were standardised: take standardise='none'"
    raise ValueError(
      "float images must lie in 0..1 for the auto-encoder of SG and IG, but"
      f" reach from {images.min():.6g} to {images.max():.6g}{remedy}."
    )


def standardised(population: Population, split: Split) -> LatentSpace:
  """The samples' own features as the latent space: no auto-encoder.

  Each feature less its mean over the training rows of D_G, divided by its
  standard deviation there; one that is constant there is 0.
  """
  features = population.images.reshape(len(population), -1).astype(np.float64)
  mean, spread = scaling.moments(features[split.global_train])
  scaled = (features - mean) / np.where(spread > 0, spread, np.inf)
  return LatentSpace(latents=scaled.astype(np.float32))


def num_steps(split: Split, settings: LatentSettings) -> int:
  """Training steps of the auto-encoder: epochs times the batches in one."""
  return settings.epochs * schedules.steps_per_epoch(
    len(split.global_train), settings.batch_size
  )


def lower(
  population: Population, settings: LatentSettings, mesh: Mesh | None = None
) -> list[jax.stages.Lowered]:
  """The very programs of `fit`, on one device each; none without a network.

  The first one trains. A mesh of one device, which may not be here, stands for
  this process's first one.
  """
  if not population.holds_images:
    return []
  shapes = jax.ShapeDtypeStruct(
    population.images.shape, population.images.dtype
  )
  trainer = _trainer(shapes, settings, mesh)
  there = jax.sharding.SingleDeviceSharding(trainer.mesh.devices.flat[0])
  placed = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there),
    (trainer.shapes_of_one.variables, shapes),
  )
  rows = np.zeros(_EVALUATION_BATCH, np.int32)
  return [
    trainer.lower_train(settings.batch_size),
    *(
      _evaluate_batch.lower(what, trainer.learner.model, *placed, rows)
      for what in ("latents", "errors")
    ),
  ]


def fit(
  population: Population,
  split: Split,
  settings: LatentSettings,
  *,
  keeper: Keeper | None = None,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> LatentSpace:
  """Trains the auto-encoder on D_G, or takes it from the keeper.

  Samples that are no images need none: see `standardised`. `on_steps` is called
  with the training steps done since the last call.

  Source: Algorithm 1, lines 11 and 16; section IV.
  """
  check(population)
  if not population.holds_images:
    return standardised(population, split)
  task = (keeper or Keeper()).task(
    "autoencoder",
    lambda: files.digest(
      [settings, population.fingerprint(), split.global_train]
    ),
  )
  (chunk,) = task.plan(1, 1)
  rows = schedules.global_batches(
    split.global_train,
    settings.batch_size,
    settings.epochs,
    seed=settings.seed,
    individual=SHARED,
  )
  if chunk.step == len(rows):
    on_steps(chunk.step)
  trainer = _trainer(population.images, settings)
  states, _ = phases.run_one(
    trainer, task, chunk, rows, settings.seed, on_steps=on_steps
  )
  model, images = trainer.learner.model, population.images
  variables = jax.tree.map(lambda leaf: leaf[0], states.variables)
  errors = reconstruction_errors(
    model, variables, images, split.global_test, split.global_train
  )
  everything = np.arange(len(images))
  latents = evaluate("latents", model, variables, images, everything)
  return LatentSpace(latents, TrainedAutoEncoder(model, variables, *errors))


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


def _trainer(
  images: Any, settings: LatentSettings, mesh: Mesh | None = None
) -> PopulationTrainer:
  """Of one model, on this process's first device."""
  learner = make_learner(
    width=settings.width, learning_rate=settings.learning_rate
  )
  mesh = mesh or distributed.make_mesh(jax.local_devices()[:1])
  return PopulationTrainer(learner, images, None, mesh)


def reconstruction_errors(
  model: nn.Module,
  variables: Any,
  images: Any,
  rows: np.ndarray,
  train_rows: np.ndarray,
) -> tuple[float, float]:
  """Of held-out rows, and of the mean of train_rows in their place."""
  if not len(rows) or not len(train_rows):
    raise ValueError(
      "a reconstruction error needs a held-out row and a training row at"
      f" least, but there are {len(rows)} and {len(train_rows)}."
    )
  checks.in_range("train_rows", np.asarray(train_rows), len(images))
  errors = evaluate("errors", model, variables, images, rows)
  store = np.asarray(images)
  full = 255 if store.dtype == np.uint8 else 1
  mean = store[train_rows].mean(axis=0, dtype=np.float64) / full
  of_mean = np.square(store[rows] / np.float32(full) - mean.astype(np.float32))
  return (
    float(errors.mean(dtype=np.float64)),
    float(of_mean.mean(dtype=np.float64)),
  )


def evaluate(
  what: str, model: nn.Module, variables: Any, images: Any, rows: np.ndarray
) -> np.ndarray:
  """What an auto-encoder gives for rows [n] of the store, float32 [n, ...].

  "latents" [n, 16], AE(X) by running statistics; "images" [n, H, W, C], X', 1
  is full ink; or "errors" [n], of these.

  Source: Algorithm 1, lines 14 and 17.
  """
  rows = np.asarray(rows)
  checks.in_range("rows", rows, len(images))
  # What isn't bound to a device would have a program compiled of its own.
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  placed = jax.device_put((variables, images), here)
  of_batch = functools.partial(_evaluate_batch, what, model, *placed)
  found = in_batches(of_batch, rows.astype(np.int32), _EVALUATION_BATCH)
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
