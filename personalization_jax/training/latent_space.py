"""Where SG and IG measure similarity: AE(X) of every row, or its features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from personalization_jax import checks, distributed, schedules
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.keeper import Keeper
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import Split
from personalization_jax.networks.autoencoder import check_image_shape
from personalization_jax.randomness import SHARED
from personalization_jax.training import autoencoder, phases
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
)


class TrainedAutoEncoder(NamedTuple):
  """An auto-encoder trained on D_G."""

  model: nn.Module
  variables: dict[str, Any]  # its `params` and `batch_stats`, NumPy arrays
  # Of reconstructing the test rows of D_G, which it never saw.
  error: autoencoder.ReconstructionError


class LatentSpace(NamedTuple):
  """Where every row of the store is."""

  # float32 [N, D]: AE(X) of images, with D = 16; of other samples their D
  # features, standardised.
  latents: np.ndarray
  autoencoder: TrainedAutoEncoder | None = None  # what made them, if one did


@dataclasses.dataclass(frozen=True)
class LatentSettings:
  """How the auto-encoder is trained; the defaults are the paper's.

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
    raise ValueError(
      "float images must lie in 0..1 for the auto-encoder of SG and IG, but"
      f" reach from {images.min():.6g} to {images.max():.6g}."
    )


def standardised(population: Population, split: Split) -> LatentSpace:
  """The samples' own features as the latent space: no auto-encoder.

  Each feature less its mean over the training rows of D_G, divided by its
  standard deviation there; one that is constant there is 0.
  """
  features = population.images.reshape(len(population), -1).astype(np.float64)
  known = features[split.global_train]
  mean, spread = known.mean(axis=0), known.std(axis=0)
  # Rounding gives constants a spread, too.
  varies = spread > 1e-6 * np.abs(known).max(axis=0)
  scaled = (features - mean) / np.where(varies, spread, np.inf)
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
  images = population.images
  shapes = jax.ShapeDtypeStruct(images.shape, images.dtype)
  trainer = _trainer(shapes, settings, mesh)
  model, variables = trainer.learner.model, trainer.shapes_of_one.variables
  return [
    trainer.lower_train(settings.batch_size),
    *autoencoder.lower_evaluation(
      model, variables, shapes, trainer.mesh.devices.flat[0]
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
  keeper = keeper or Keeper()
  identity = ""
  if keeper.folder is not None:
    identity = files.digest(
      [settings, population.fingerprint(), split.global_train]
    )
  task = keeper.task("autoencoder", identity)
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
  key = individual_key(jax.random.key(settings.seed), SHARED)
  states, _ = phases.run_one(trainer, task, chunk, rows, key, on_steps=on_steps)
  model, images = trainer.learner.model, population.images
  variables = jax.tree.map(lambda leaf: leaf[0], states.variables)
  error = autoencoder.reconstruction_error(
    model, variables, images, split.global_test, split.global_train
  )
  latents = autoencoder.encode(model, variables, images, np.arange(len(images)))
  return LatentSpace(latents, TrainedAutoEncoder(model, variables, error))


def _trainer(
  images: Any, settings: LatentSettings, mesh: Mesh | None = None
) -> PopulationTrainer:
  """Of one model, on this process's first device."""
  learner = autoencoder.make_learner(
    width=settings.width, learning_rate=settings.learning_rate
  )
  mesh = mesh or distributed.make_mesh(jax.local_devices()[:1])
  return PopulationTrainer(learner, images, None, mesh)
