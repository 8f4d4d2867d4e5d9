"""What the suites train: transfer learning's fine-tuning, as Table I does it.

Everybody starts from one shared model and takes a fixed number of steps on
batches of their own data. Implementations get the same store, the same rows,
the same initial model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from personalization_jax import schedules
from personalization_jax.datasets import Population, synthetic, variations
from personalization_jax.networks import classifier
from personalization_jax.randomness import SHARED
from personalization_jax.settings import Settings
from personalization_jax.study import make_trainer
from personalization_jax.training.population import individual_keys
from personalization_jax.training.step import TrainState

_SEED = 0
# 210 samples each after the flips, as the paper's D_I has for training. More
# people than writers share the writers' data: the store stays the same.
_DRAWINGS = 70
_WRITERS = 32


@dataclasses.dataclass(frozen=True)
class Work:
  """One thing to be done."""

  width: float  # factor on Fig. 4's channels
  batch_size: int
  individuals: int  # a model each
  steps: int  # of each model
  image_size: int = 32  # pixels a side
  precision: str = "float32"  # or "bfloat16", of activations

  def __str__(self) -> str:
    return (
      f"fine-tuning {self.individuals} individuals, width {self.width:g},"
      f" batch {self.batch_size}, {self.image_size} px, {self.steps} steps"
      f" each, {self.precision}"
    )

  def settings(self) -> Settings:
    """The library's own settings, with Adam's 1e-3."""
    return Settings(width=self.width, precision=self.precision)


def population(
  image_size: int, individuals: int, most: int = _WRITERS
) -> Population:
  """The store: synthetic handwriting of 30 classes, of few writers at most."""
  people, _ = synthetic.make_population(
    min(individuals, most),
    samples_per_writer=_DRAWINGS,
    image_size=image_size,
    seed=_SEED,
  )
  return variations.flips(people)


def rows(work: Work, store: Population) -> np.ndarray:
  """The store's rows that individuals are trained on, int32 [n, T, B]."""
  writers = np.unique(store.individuals)
  own = [np.flatnonzero(store.individuals == each) for each in writers]
  size = (work.batch_size, work.steps)
  batches = (
    schedules.individual_batches(
      own[each % len(own)], *size, seed=_SEED, individual=each
    )
    for each in range(work.individuals)
  )
  return np.stack([*batches])


class Task(NamedTuple):
  """What goes to a peer's process."""

  settings: Settings
  store: Population
  rows: np.ndarray  # int32 [individuals, T, B] of the store, without padding
  # Of our network, as NumPy arrays.
  params: Mapping[str, Any]
  batch_stats: Mapping[str, Any]


class Ours:
  """This project doing the work; calling it waits for the result."""

  def __init__(self, work: Work, store: Population, **how: Any):
    """Makes the model that everybody starts from.

    `how` are options of `study.make_trainer`.
    """
    self.work, self.store, self.rows = work, store, rows(work, store)
    self.trainer = make_trainer(store, work.settings(), **how)
    self._root = jax.random.key(_SEED)
    self._shared = self.trainer.with_individuals_per_device(1).create(
      individual_keys(self._root, [SHARED])
    )

  def __str__(self) -> str:
    """The work, and how it is done."""
    return f"{self.work}, {self.trainer.side_by_side} side by side"

  def __call__(self) -> np.ndarray:
    """Losses float32 [individuals, T], in nats."""
    return np.concatenate([*self.chunks()])

  def chunks(self) -> Iterator[np.ndarray]:
    """Trains chunk by chunk; the losses. The first compiles all."""
    for chunk in self.trainer.chunks(self.work.individuals):
      yield self.trainer.train(self.states(chunk), self.rows[chunk])[1]

  def states(self, chunk: slice) -> TrainState:
    """A chunk's models before the first step."""
    ids = range(self.work.individuals)[chunk]
    return self.trainer.share(self._shared, individual_keys(self._root, ids))

  def task(self) -> Task:
    """The same work for a peer."""
    model = jax.tree.map(
      lambda leaf: np.asarray(leaf[0]), self._shared.variables
    )
    return Task(self.work.settings(), self.store, self.rows, **model)


def forward_macs(width: float, image_size: int, num_classes: int) -> list[int]:
  """Multiply-adds for one grey image of each layer of Fig. 4 with weights.

  Only products count, with zero padding: what every implementation of the
  network has to compute.
  """
  macs = []
  side, inputs = image_size, 1
  for layer in classifier.FIG_4:
    outputs = int(layer.channels * width)
    macs.append((side * layer.size) ** 2 * inputs * outputs)
    inputs = outputs
    side //= 2 if layer.pool else 1
  # The last pooling is global, so the dense layer sees one vector.
  return [*macs, inputs * num_classes]


def training_flops(width: float, image_size: int, num_classes: int) -> int:
  """Floating-point operations of a training step, for each image of the batch.

  Two for a multiply-add. The gradient of each layer's weights and that of its
  input cost as much as the layer itself; nobody needs that of the images. What
  is made of it is how much of a chip goes into the network, not how busy it is.
  """
  macs = forward_macs(width, image_size, num_classes)
  return 2 * (3 * sum(macs) - macs[0])
