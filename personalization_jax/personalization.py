"""From a method to everybody's models and their accuracy.

`personalize` is the whole of the paper's experiment for one row of Table I.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from personalization_jax import checkpoints, metrics, models, schedules
from personalization_jax.datasets import Population
from personalization_jax.groups import Groups
from personalization_jax.methods import Method
from personalization_jax.population_training import (
  PopulationTrainer,
  individual_key,
)
from personalization_jax.randomness import SHARED
from personalization_jax.settings import Settings, make_learner
from personalization_jax.splits import PADDING, Split
from personalization_jax.training import TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """What one method gave every individual.

  Attributes:
    method: the method's spec.
    seed: the run's seed.
    individuals: int32 [S], ids.
    individual_rows: int32 [S, R], test rows of each D_I, -1 for padding.
    individual_predictions: int32 [S, R], predicted classes.
    global_rows: int32 [Q], test rows of D_G.
    global_predictions: int32 [S, Q], each individual's model on D_G.
    losses: float32 [S, T], training loss of each step in nats, NaN where a
      step was padding.
  """

  method: str
  seed: int
  individuals: np.ndarray
  individual_rows: np.ndarray
  individual_predictions: np.ndarray
  global_rows: np.ndarray
  global_predictions: np.ndarray
  losses: np.ndarray

  def individual_accuracy(
    self, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_I) float64 [S] and test sizes [S], given the store's labels."""
    return metrics.accuracy(
      self.individual_predictions, labels, self.individual_rows
    )

  def global_accuracy(
    self, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """acc(D_G) float64 [S] and test sizes [S], given the store's labels."""
    rows = np.broadcast_to(self.global_rows, self.global_predictions.shape)
    return metrics.accuracy(self.global_predictions, labels, rows)


class Study:
  """One split of one population, and models trained on it.

  The phase on D_G that transfer learning shares is trained when first needed
  and kept.
  """

  def __init__(
    self,
    population: Population,
    split: Split,
    settings: Settings,
    *,
    mesh: Mesh,
    individuals_per_device: int = 1,
    side_by_side: int | None = None,
    checkpoint_dir: pathlib.Path | None = None,
    groups: Groups | None = None,
  ):
    """Checks the parts against each other and puts the store on the devices.

    Args:
      population: the store.
      split: its parts.
      settings: how to train.
      mesh: where; see `population_training.make_mesh`.
      individuals_per_device: models on a device at once.
      side_by_side: see `PopulationTrainer`.
      checkpoint_dir: where the model of D_G alone is kept for later
        processes; None keeps it in memory only.
      groups: what data grouping enlarges D_I with; by default random groups
        alone, since SG and IG need a latent space.

    Raises:
      ValueError: if the images don't suit the network.
    """
    height, width = population.images.shape[1:3]
    if height != width:
      raise ValueError(f"images must be square, but are {height}x{width}.")
    models.check_image_size(height)
    self.population = population
    self.split = split
    self.settings = settings
    self.trainer = PopulationTrainer(
      make_learner(settings, population.num_classes),
      population.images,
      population.labels,
      mesh,
      individuals_per_device,
      side_by_side,
    )
    self.groups = groups or Groups(population, split, seed=settings.seed)
    self._root = jax.random.key(settings.seed)
    self._shared: tuple[TrainState, np.ndarray] | None = None
    self._shared_path = checkpoint_dir and checkpoint_dir / "global_phase"

  @property
  def steps_per_epoch(self) -> int:
    """Steps that show D_G once."""
    return schedules.steps_per_epoch(
      len(self.split.global_train), self.settings.batch_size
    )

  def check(self, method: Method) -> None:
    """Refuses a method that this study can't train.

    Args:
      method: the method.

    Raises:
      ValueError: saying why.
    """
    if method.baseline and len(self.split.individuals) < 2:
      raise ValueError(
        "method 'baseline' trains on another individual's data, so"
        " num_individuals must be at least 2."
      )
    if method.group is not None:
      self.groups.check(method.group)
    if method.last_layers and method.last_layers > models.NUM_LAYERS:
      raise ValueError(
        f"method {method.spec!r} trains the last {method.last_layers} layers,"
        f" but the network has {models.NUM_LAYERS}."
      )

  def sources(self, method: Method, index: int | None = None) -> np.ndarray:
    """Where each step's batch is drawn from (the paper's Fig. 2).

    Args:
      method: the method.
      index: place of an individual in the split, whose own schedule is asked
        for. Only the baseline's differ, by the size of D_I'; None gives the
        longest.

    Returns:
      int32 [T], GLOBAL or INDIVIDUAL. The baseline's D_G includes D_I'.
    """
    num_global = len(self.split.global_train)
    if method.baseline:
      sizes = (self.split.train != PADDING).sum(axis=1)
      num_global += sizes.max() if index is None else sizes[self._other(index)]
    return schedules.combined(
      epochs=self.settings.epochs,
      steps_per_epoch=schedules.steps_per_epoch(
        int(num_global), self.settings.batch_size
      ),
      early=method.early,
      period=method.period,
      late=method.late,
    )

  def num_steps(self, methods: Sequence[Method]) -> int:
    """Training steps that these methods take, summed over individuals."""
    own = [
      method.late if method.shares_global_phase else len(self.sources(method))
      for method in methods
    ]
    shares = any(method.shares_global_phase for method in methods)
    shared = self._num_shared_steps if shares and not self._has_shared else 0
    return sum(own) * len(self.split.individuals) + shared

  def personalize(
    self,
    method: Method,
    *,
    on_steps: Callable[[int], None] = lambda steps: None,
  ) -> Result:
    """Trains one model for every individual and tests it on D_I and D_G.

    Args:
      method: what is trained on, and when.
      on_steps: called as training goes on with the number of training steps
        done since the last call, summed over individuals.

    Returns:
      Every individual's predictions and losses.

    Raises:
      ValueError: if the method can't be trained on this split.

    Source: section IV; the shaping half of Table I.
    """
    self.check(method)
    parts = [
      self._personalize_chunk(
        method, range(len(self.split.individuals))[part], on_steps
      )
      for part in self.trainer.chunks(len(self.split.individuals))
    ]
    own, general, losses = (np.concatenate(part) for part in zip(*parts))
    return Result(
      method=method.spec,
      seed=self.settings.seed,
      individuals=self.split.individuals,
      individual_rows=self.split.test,
      individual_predictions=own,
      global_rows=self.split.global_test,
      global_predictions=general,
      losses=losses,
    )

  def _personalize_chunk(
    self, method: Method, indices: range, on_steps: Callable[[int], None]
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions on D_I [n, R] and on D_G [n, Q], and losses [n, T]."""
    keys = jnp.stack(
      [
        individual_key(self._root, int(self.split.individuals[index]))
        for index in indices
      ]
    )
    rows = np.stack([self.rows(method, index) for index in indices])
    if method.shares_global_phase:
      shared, shared_losses = self.global_phase(on_steps)
      states = self.trainer.share(shared, keys)
      done = len(shared_losses)
      losses = [np.broadcast_to(shared_losses, (len(indices), done))]
    else:
      states, done, losses = self.trainer.create(keys), 0, []
    # The last k layers alone are a phase of its own, with its own compiled
    # step; without that option everything is one phase.
    late = rows.shape[1] - method.late if method.last_layers else rows.shape[1]
    frozen = models.NUM_LAYERS - (method.last_layers or models.NUM_LAYERS)
    for phase, frozen_layers in (
      (rows[:, done:late], 0),
      (rows[:, max(done, late) :], frozen),
    ):
      states, phase_losses = self.trainer.train(
        states,
        phase,
        frozen_layers=frozen_layers,
        on_steps=lambda steps: on_steps(steps * len(indices)),
      )
      losses.append(phase_losses)
    # One array for both tests, so that one compilation serves them.
    own = self.split.test[list(indices)]
    general = np.broadcast_to(
      self.split.global_test, (len(indices), len(self.split.global_test))
    )
    predictions = self.trainer.predict(
      states, np.concatenate([own, general], axis=1)
    )
    return (
      predictions[:, : own.shape[1]],
      predictions[:, own.shape[1] :],
      np.concatenate(losses, axis=1),
    )

  def rows(self, method: Method, index: int) -> np.ndarray:
    """The rows of every batch that individual `index` is trained on.

    Args:
      method: the method.
      index: place of the individual in the split.

    Returns:
      int32 [T, B], -1 for padding; T is the same for all individuals.
    """
    sources = self.sources(method, index)
    global_rows = self.split.global_train
    if method.baseline:
      global_rows = np.concatenate(
        [global_rows, self.split.parts(self._other(index))[0]]
      )
    person = int(self.split.individuals[index])
    draw = functools.partial(
      schedules.sample_rows,
      global_rows=global_rows,
      individual_rows=self.individual_rows(method, index),
      batch_size=self.settings.batch_size,
      early=method.early,
      seed=self.settings.seed,
    )
    rows = draw(sources, individual=person)
    if method.shares_global_phase:
      shared = slice(0, self._num_shared_steps)
      rows[shared] = draw(sources[shared], individual=SHARED)
    longest = len(self.sources(method))
    return np.pad(
      rows, ((0, longest - len(rows)), (0, 0)), constant_values=PADDING
    )

  def individual_rows(self, method: Method, index: int) -> np.ndarray:
    """What stands for D_I in training: D_I, or D_I' enlarged with a group.

    Args:
      method: the method.
      index: place of the individual in the split.

    Returns:
      int32 [m], rows of the store.

    Source: section III, data grouping.
    """
    own, _, _ = self.split.parts(index)
    if method.group is None:
      return own
    group = self.groups.rows(method.group)[index]
    return group if method.group.only else np.concatenate([own, group])

  def global_phase(
    self, on_steps: Callable[[int], None] = lambda steps: None
  ) -> tuple[TrainState, np.ndarray]:
    """The model that D_G alone gives; trained once, then kept.

    Args:
      on_steps: called with the training steps done since the last call.

    Returns:
      The state, with a leading axis of 1, and its losses float32 [T] in nats.

    Source: Algorithm 1, line 9.
    """
    if self._shared is None:
      trainer = self.trainer.one_per_device()
      key = individual_key(self._root, SHARED)[None]
      states = jax.tree.map(lambda leaf: leaf[:1], trainer.create(key))
      like = (states, np.zeros(self._num_shared_steps, np.float32))
      if self._shared_path and checkpoints.exists(self._shared_path):
        self._shared = checkpoints.restore(self._shared_path, like)
      else:
        self._shared = self._train_global_phase(trainer, key, on_steps)
        if self._shared_path:
          checkpoints.save(self._shared_path, self._shared)
    return self._shared

  def _train_global_phase(
    self,
    trainer: PopulationTrainer,
    key: jax.Array,
    on_steps: Callable[[int], None],
  ) -> tuple[TrainState, np.ndarray]:
    rows = schedules.sample_rows(
      schedules.transfer_learning(self._num_shared_steps, 0),
      self.split.global_train,
      np.empty(0, np.int32),
      self.settings.batch_size,
      seed=self.settings.seed,
      individual=SHARED,
    )
    states, losses = trainer.train(
      trainer.create(key), rows[None], on_steps=on_steps
    )
    return jax.tree.map(lambda leaf: leaf[:1], states), losses[0]

  @property
  def _num_shared_steps(self) -> int:
    return self.settings.epochs * self.steps_per_epoch

  @property
  def _has_shared(self) -> bool:
    return self._shared is not None or (
      self._shared_path is not None and checkpoints.exists(self._shared_path)
    )

  def _other(self, index: int) -> int:
    """The next individual, I' of the baseline (section IV)."""
    return (index + 1) % len(self.split.individuals)
