"""What the suites train: transfer learning's fine-tuning, as Table I does it.

Everybody starts from one shared model and takes a fixed number of steps on
batches of their own data. Implementations get the same store, the same rows,
the same initial model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.benchmarks import flops
from experiments.benchmarks.timing import Measurement
from personalization_jax import schedules, settings
from personalization_jax.datasets import Population, synthetic, variations
from personalization_jax.randomness import SHARED
from personalization_jax.training import step as training_step
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
  planned_bytes,
)

_SEED = 0
# 210 samples each after the flips, as the paper's D_I has for training. More
# people than writers share the writers' data: the store stays the same.
_DRAWINGS = 70
_WRITERS = 32


@dataclasses.dataclass(frozen=True)
class Work:
  """One thing to be done.

  Attributes:
    width: factor on Fig. 4's channels.
    batch_size: samples in a batch.
    individuals: how many models.
    steps: of each.
    image_size: pixels a side.
    precision: "float32" or "bfloat16", of activations.
  """

  width: float
  batch_size: int
  individuals: int
  steps: int
  image_size: int = 32
  precision: str = "float32"

  @property
  def samples(self) -> int:
    """Trained on in all."""
    return self.individuals * self.steps * self.batch_size

  def __str__(self) -> str:
    return (
      f"fine-tuning {self.individuals} individuals, width {self.width:g},"
      f" batch {self.batch_size}, {self.image_size} px, {self.steps} steps"
      f" each, {self.precision}"
    )

  def settings(self) -> settings.Settings:
    """The library's own settings, with Adam's 1e-3."""
    return settings.Settings(
      batch_size=self.batch_size,
      width=self.width,
      precision=self.precision,
      seed=_SEED,
    )

  def learner(self, num_classes: int) -> training_step.Learner:
    """The library's network and optimiser."""
    return settings.make_learner(self.settings(), num_classes)


def population(image_size: int, individuals: int) -> Population:
  """The store: synthetic handwriting of 30 classes.

  Args:
    image_size: pixels a side.
    individuals: how many people will be trained.

  Returns:
    The population; its writers are at most 32.
  """
  people, _ = synthetic.make_population(
    min(individuals, _WRITERS),
    samples_per_writer=_DRAWINGS,
    image_size=image_size,
    seed=_SEED,
  )
  return variations.flips(people)


def rows(work: Work, store: Population, part: slice) -> np.ndarray:
  """The rows of the store that some of the individuals are trained on.

  Args:
    work: what is done.
    store: from `population`.
    part: which individuals.

  Returns:
    int32 [n, T, B].
  """
  writers = store.individuals.max() + 1
  sources = schedules.transfer_learning(0, work.steps)
  return np.stack(
    [
      schedules.sample_rows(
        sources,
        np.empty(0, np.int32),
        np.flatnonzero(store.individuals == index % writers),
        work.batch_size,
        seed=_SEED,
        individual=index,
      )
      for index in range(work.individuals)[part]
    ]
  )


@dataclasses.dataclass(eq=False)
class Ours:
  """This project doing the work; calling it waits for the result.

  Attributes:
    work: what is done.
    store: from `population`.
    mesh: see `PopulationTrainer`.
    individuals_per_device: see there.
    side_by_side: see there.
  """

  work: Work
  store: Population
  mesh: Mesh
  individuals_per_device: int = 1
  side_by_side: int | None = None

  def __post_init__(self) -> None:
    """Compiles nothing yet."""
    self._trainer = PopulationTrainer(
      self.work.learner(self.store.num_classes),
      self.store.images,
      self.store.labels,
      self.mesh,
      self.individuals_per_device,
      self.side_by_side,
    )
    self._root = jax.random.key(_SEED)

  @functools.cached_property
  def shared(self) -> training_step.TrainState:
    """The model that everybody starts from, with a leading axis of 1."""
    one = self._trainer.one_per_device()
    states = one.create(individual_key(self._root, SHARED)[None])
    return jax.tree.map(lambda leaf: leaf[:1], states)

  def untrained(self) -> training_step.TrainState:
    """The first chunk's models before the first step."""
    return self._states(next(self._trainer.chunks(self.work.individuals)))

  def planned_bytes(self) -> int | None:
    """Of each device, to train; see there."""
    trainer = self._trainer
    return planned_bytes(
      trainer.lower_train(self.work.batch_size), on_cpu=trainer.on_cpu
    )

  def first(self) -> None:
    """The first chunk alone: compiles what the whole work needs."""
    next(self._chunks())

  def __call__(self) -> np.ndarray:
    """Losses float32 [individuals, T], in nats."""
    return np.concatenate([losses for _, losses in self._chunks()])

  def digest(self) -> str:
    """Does the work and sums up all weights and losses, to the last bit."""
    total = hashlib.sha256()
    for states, losses in self._chunks():
      own = jax.tree.map(np.asarray, (states.params, states.batch_stats))
      # Individual by individual: chunks of other sizes give the same bytes.
      for index in range(len(losses)):
        for leaf in [*jax.tree.leaves(own), losses]:
          total.update(np.ascontiguousarray(leaf[index]).tobytes())
    return total.hexdigest()

  def with_flops(
    self, measured: Measurement, peak: float | None
  ) -> Measurement:
    """Adds what a rate means in operations, and of the devices' peak.

    Args:
      measured: ours, in samples a second.
      peak: a device's FLOP/s; None takes it from `flops.peak`.

    Returns:
      The measurement.
    """
    work, devices = self.work, self.mesh.devices
    achieved = measured.ours * flops.training_flops(
      work.width, work.image_size, self.store.num_classes
    )
    peak = peak or flops.peak(devices.flat[0].device_kind, work.precision)
    return dataclasses.replace(
      measured,
      flops=achieved,
      utilisation=peak and achieved / (peak * devices.size),
    )

  def _chunks(self) -> Iterator[tuple[training_step.TrainState, np.ndarray]]:
    for part in self._trainer.chunks(self.work.individuals):
      yield self._trainer.train(
        self._states(part), rows(self.work, self.store, part)
      )

  def _states(self, part: slice) -> training_step.TrainState:
    ids = range(self.work.individuals)[part]
    keys = jnp.stack([individual_key(self._root, index) for index in ids])
    return self._trainer.share(self.shared, keys)
