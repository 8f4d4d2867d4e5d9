"""Where SG and IG measure similarity: AE(X) of every row, or its features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from personalization_jax import checks, distributed, schedules
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.keeper import Keeper
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import Split
from personalization_jax.networks.autoencoder import check_image_shape
from personalization_jax.randomness import SHARED
from personalization_jax.settings import Settings
from personalization_jax.training import autoencoder, autoencoder_training
from personalization_jax.training.population import individual_key
from personalization_jax.training.record import Record
from personalization_jax.training.step import Learner, TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedAutoEncoder:
  """An auto-encoder trained on D_G.

  Attributes:
    learner: network and optimiser.
    state: the trained auto-encoder.
    error: of reconstructing the test rows of D_G, which it never saw.
  """

  learner: Learner
  state: TrainState
  error: autoencoder.ReconstructionError


@dataclasses.dataclass(frozen=True, eq=False)
class LatentSpace:
  """Where every row of the store is.

  Attributes:
    latents: float32 [N, D]: AE(X) of images, with D = 16; of other samples
      their D features, standardised.
    autoencoder: what made them; None if the features did.
  """

  latents: np.ndarray
  autoencoder: TrainedAutoEncoder | None = None


@dataclasses.dataclass(frozen=True)
class LatentSettings:
  """How the auto-encoder is trained; the defaults are the paper's.

  Attributes:
    epochs: epochs on D_G.
    batch_size: samples in a batch.
    learning_rate: Adam's.
    width: factor on the channels of Fig. 5.
    seed: of initial weights and order.
  """

  epochs: int = 20
  batch_size: int = 128
  learning_rate: float = 1e-3
  width: float = 1.0
  seed: int = 0

  def __post_init__(self) -> None:
    """Refuses what can't be trained with, naming it."""
    checks.training(self)
    checks.plain_numbers(self)

  @classmethod
  def like(cls, settings: Settings) -> LatentSettings:
    """Epochs, batch size, width and seed of the classifier's."""
    return cls(
      settings.epochs,
      settings.batch_size,
      width=settings.width,
      seed=settings.seed,
    )


def check(population: Population) -> None:
  """Refuses samples that have no latent space here.

  Args:
    population: the store.

  Raises:
    ValueError: if they are images that the auto-encoder isn't made for.
  """
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

  Args:
    population: the store, of feature vectors or other samples that are no
      images; all axes but the first are one vector.
    split: its parts.

  Returns:
    The latent space: each feature less its mean over the training rows of D_G,
    divided by its standard deviation there. One that is constant there is 0.
  """
  features = population.images.reshape(len(population), -1).astype(np.float64)
  known = features[split.global_train]
  mean, spread = known.mean(axis=0), known.std(axis=0)
  # Rounding gives constants a spread, too.
  varies = spread > 1e-6 * np.abs(known).max(axis=0)
  scaled = (features - mean) / np.where(varies, spread, np.inf)
  return LatentSpace(latents=scaled.astype(np.float32))


def num_steps(split: Split, settings: LatentSettings) -> int:
  """Training steps of the auto-encoder.

  Args:
    split: whose training rows of D_G it is trained on.
    settings: epochs and batch size.

  Returns:
    Epochs times the batches in one.
  """
  return settings.epochs * schedules.steps_per_epoch(
    len(split.global_train), settings.batch_size
  )


def lower(
  population: Population, settings: LatentSettings
) -> list[jax.stages.Lowered]:
  """The programs of `fit`, before they are compiled; none without a network.

  Args:
    population: the store.
    settings: how to train.

  Returns:
    The very programs that `fit` calls, on one device each.
  """
  if not population.holds_images:
    return []
  learner = _learner(settings)
  shape = population.images.shape
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  state, images = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
    (
      jax.eval_shape(
        lambda key: autoencoder.create(learner, key, shape[1:]),
        jax.random.key(0),
      ),
      jax.ShapeDtypeStruct(shape, population.images.dtype),
    ),
  )
  return [
    autoencoder_training.lower(learner, state, images, settings.batch_size),
    *autoencoder.lower_evaluation(learner, state, images),
  ]


def fit(
  population: Population,
  split: Split,
  settings: LatentSettings,
  *,
  keeper: Keeper | None = None,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> LatentSpace:
  """Trains the auto-encoder on D_G, or takes it from its checkpoint.

  Samples that are no images need none: see `standardised`.

  Args:
    population: the store.
    split: its parts; the training rows of D_G are trained on.
    settings: how to train.
    keeper: saves it while it is trained and after; by default nothing does.
    on_steps: called with the training steps done since the last call.

  Returns:
    The latent space.

  Raises:
    ValueError: if there is no such network for these images, or the keeper has
      one of other data or settings.

  Source: Algorithm 1, lines 11 and 16; section IV.
  """
  check(population)
  if not population.holds_images:
    return standardised(population, split)
  learner = _learner(settings)
  key = individual_key(jax.random.key(settings.seed), SHARED)
  state: Any = autoencoder.create(learner, key, population.images.shape[1:])
  keeper = keeper or Keeper()
  identity = ""
  if keeper.folder is not None:
    identity = files.digest(
      [settings, population.fingerprint(), split.global_train]
    )
  task = keeper.task("autoencoder", identity)
  (piece,) = task.plan(1, 1)
  if piece.step:
    saved, history = task.restore(
      piece, jax.eval_shape(lambda: _as_one_of_many(state))
    )
    record = Record.restored(history, 1)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state = distributed.put(
      jax.tree.map(lambda leaf: leaf[0], saved), state, here
    )
  else:
    record = Record.restored({}, 1)

  def on_block(
    steps: int, state: TrainState, losses: Callable[[], np.ndarray]
  ) -> None:
    task.watch(
      piece,
      piece.step + steps,
      _as_one_of_many(state),
      lambda: record.trained(losses()[None]).saved(),
    )

  rows = schedules.global_batches(
    split.global_train,
    settings.batch_size,
    settings.epochs,
    seed=settings.seed,
    individual=SHARED,
  )
  on_steps(piece.step)
  if piece.step < len(rows):
    state, losses = autoencoder_training.train(
      learner,
      state,
      population.images,
      rows[piece.step :],
      on_steps=on_steps,
      on_block=on_block,
    )
    task.save(
      piece,
      len(rows),
      _as_one_of_many(state),
      record.trained(losses[None]).saved(),
    )
  error = autoencoder.reconstruction_error(
    learner, state, population.images, split.global_test, split.global_train
  )
  return LatentSpace(
    latents=autoencoder.encode(
      learner, state, population.images, np.arange(len(population))
    ),
    autoencoder=TrainedAutoEncoder(learner, state, error),
  )


def _learner(settings: LatentSettings) -> Learner:
  return autoencoder.make_learner(
    width=settings.width, learning_rate=settings.learning_rate
  )


def _as_one_of_many(state: TrainState) -> TrainState:
  return jax.tree.map(lambda leaf: leaf[None], state)
