"""From a method to everybody's models and their accuracy.

`personalize` is the whole of the paper's experiment for one row of Table I.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from personalization_jax import (
  hosts,
  models,
  own_model,
  saved_models,
  schedules,
)
from personalization_jax.datasets import Population
from personalization_jax.groups import Groups
from personalization_jax.methods import Method
from personalization_jax.population_training import (
  OnBlock,
  PopulationTrainer,
  individual_key,
)
from personalization_jax.progress import Keeper, Piece, Task
from personalization_jax.randomness import SHARED
from personalization_jax.result import Result
from personalization_jax.settings import Settings, make_learner
from personalization_jax.splits import PADDING, Split
from personalization_jax.training import TrainState


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
    model: nn.Module | None = None,
    individuals_per_device: int = 1,
    side_by_side: int | None = None,
    store: str = "device",
    keeper: Keeper | None = None,
    models_dir: pathlib.Path | None = None,
    groups: Groups | None = None,
  ):
    """Checks the parts against each other and puts the store on the devices.

    Args:
      population: the store.
      split: its parts.
      settings: how to train.
      mesh: where; see `population_training.make_mesh`.
      model: what everybody's model is: any Flax Linen module that gives logits
        [B, num_classes] of samples [B, ...], called as `own_model` says; by
        default Fig. 4's network.
      individuals_per_device: models on a device at once.
      side_by_side: see `PopulationTrainer`.
      store: likewise, "device" or "host".
      keeper: saves what is under way, and the model of D_G alone, for later
        processes; by default they are in memory only.
      models_dir: where `saved_models` keeps everybody's final parameters; None
        keeps none.
      groups: what data grouping enlarges D_I with; by default random groups
        alone, since SG and IG need a latent space.

    Raises:
      ValueError: if the samples don't suit the network.
    """
    if model is None:
      _check_images(population)
    else:
      own_model.check(model, population.sample_shape, population.num_classes)
    self.population = population
    self.split = split
    self.settings = settings
    self.trainer = PopulationTrainer(
      make_learner(settings, population.num_classes, model),
      population.images,
      population.labels,
      mesh,
      individuals_per_device,
      side_by_side,
      store,
    )
    self.groups = groups or Groups(population, split, seed=settings.seed)
    self._root = jax.random.key(settings.seed)
    self._shared: tuple[TrainState, np.ndarray] | None = None
    self.keeper = keeper or Keeper()
    self.models_dir = models_dir
    self._shared_task = self.keeper.task("global_phase")

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
    if method.last_layers:
      self._frozen_layers(method)

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

  def length(self, method: Method) -> int:
    """Steps of a method's schedule, the longest individual's."""
    num_global = len(self.split.global_train)
    if method.baseline:
      num_global += int((self.split.train != PADDING).sum(axis=1).max())
    per_epoch = schedules.steps_per_epoch(num_global, self.settings.batch_size)
    return method.early + self.settings.epochs * per_epoch + method.late

  def num_steps(self, methods: Sequence[Method]) -> int:
    """Training steps that these methods take, summed over individuals."""
    own = [
      method.late if method.shares_global_phase else self.length(method)
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
      progress.Stopped: if the keeper was asked to stop.

    Source: section IV; the shaping half of Table I.
    """
    self.check(method)
    task = self.keeper.task(method.spec)
    pieces = task.plan(len(self.split.individuals), self.trainer.chunk)
    for piece in pieces:
      if piece.step < 0:
        on_steps(
          self.num_steps([method])
          // len(self.split.individuals)
          * len(piece.indices)
        )
        continue
      self.keeper.check()
      task.finish(piece, self._personalize_piece(method, task, piece, on_steps))
    parts = task.parts(pieces)
    joined = {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return Result(
      method=method.spec,
      seed=self.settings.seed,
      individuals=self.split.individuals,
      individual_rows=self.split.test,
      global_rows=self.split.global_test,
      **joined,
    )

  def forget(self, method: Method) -> None:
    """Removes what was kept of a method under way: its result is safe."""
    hosts.wait_for_all("forget")  # others may still be reading
    self.keeper.task(method.spec).discard()

  def _personalize_piece(
    self,
    method: Method,
    task: Task,
    piece: Piece,
    on_steps: Callable[[int], None],
  ) -> dict[str, np.ndarray]:
    """These individuals' part of a `Result`."""
    indices = piece.indices
    rows = np.stack([self.rows(method, index) for index in indices])
    states, before = self._begin(method, task, piece, on_steps)
    # The last k layers alone are a phase of its own, with its own compiled
    # step; without that option everything is one phase.
    late = rows.shape[1] - method.late if method.last_layers else rows.shape[1]
    frozen = self._frozen_layers(method)
    for end, frozen_layers in ((late, 0), (rows.shape[1], frozen)):
      states, losses = self.trainer.train(
        states,
        rows[:, before.shape[1] : end],
        frozen_layers=frozen_layers,
        on_steps=lambda steps: on_steps(steps * len(indices)),
        on_block=_watch(task, piece, before),
      )
      before = np.concatenate([before, losses], axis=1)
    if self.models_dir is not None:
      people = self.split.individuals[list(indices)].tolist()
      saved_models.save(self.models_dir, method.spec, people, states)
    # One array for both tests, so that one compilation serves them.
    own = self.split.test[list(indices)]
    general = np.broadcast_to(
      self.split.global_test, (len(indices), len(self.split.global_test))
    )
    tested = np.concatenate([own, general], axis=1)
    predictions = self.trainer.predict(states, tested)
    diverged = (
      ~self.trainer.finite(states)[: len(indices)]
      # Losses of padded steps are NaN by design.
      | (~np.isfinite(before) & (rows != PADDING).any(axis=2)).any(axis=1)
      | ((predictions < 0) & (tested != PADDING)).any(axis=1)
    )
    return {
      "individual_predictions": predictions[:, : own.shape[1]],
      "global_predictions": predictions[:, own.shape[1] :],
      "losses": before,
      "diverged": diverged,
    }

  def _begin(
    self,
    method: Method,
    task: Task,
    piece: Piece,
    on_steps: Callable[[int], None],
  ) -> tuple[TrainState, np.ndarray]:
    """The models that training goes on with, and the losses [n, t] before."""
    count = len(piece.indices)
    shared_steps = self._num_shared_steps if method.shares_global_phase else 0
    if piece.step:
      states, losses = task.restore(piece, self.trainer.shapes)
      on_steps((piece.step - shared_steps) * count)
      return self.trainer.place(states), losses
    keys = jnp.stack(
      [
        individual_key(self._root, int(self.split.individuals[index]))
        for index in piece.indices
      ]
    )
    if not method.shares_global_phase:
      return self.trainer.create(keys), np.empty((count, 0), np.float32)
    shared, losses = self.global_phase(on_steps)
    return (
      self.trainer.share(shared, keys),
      np.broadcast_to(losses, (count, len(losses))),
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
      The state, NumPy arrays with a leading axis of 1, keys as `hosts.gather`
      gives them; and its losses float32 [T] in nats.

    Source: Algorithm 1, line 9.
    """
    if self._shared is None:
      task, piece = self._shared_task, self._shared_piece
      trainer = self.trainer.one_per_device()
      if piece.step:
        one, losses = task.restore(piece, trainer.shapes)
      if not piece.step:
        states = trainer.create(individual_key(self._root, SHARED)[None])
        losses = np.empty((1, 0), np.float32)
      elif piece.step < self._num_shared_steps:
        states = trainer.place(one)
        on_steps(piece.step)
      if piece.step < self._num_shared_steps:
        rows = schedules.sample_rows(
          schedules.transfer_learning(self._num_shared_steps, 0),
          self.split.global_train,
          np.empty(0, np.int32),
          self.settings.batch_size,
          seed=self.settings.seed,
          individual=SHARED,
        )
        states, new = trainer.train(
          states,
          rows[None, piece.step :],
          on_steps=on_steps,
          on_block=_watch(task, piece, losses),
        )
        losses = np.concatenate([losses, new], axis=1)
        task.save(piece, self._num_shared_steps, states, losses)
        one = hosts.gather(states)
      self._shared = jax.tree.map(lambda leaf: leaf[:1], one), losses[0]
    return self._shared

  def _frozen_layers(self, method: Method) -> int:
    """How many first layers TL leaves as they are."""
    if not method.last_layers:
      return 0
    model = self.trainer.learner.model
    if not own_model.takes_frozen_layers(model):
      raise ValueError(
        f"method {method.spec!r} trains the last layers alone, but model"
        f" {type(model).__name__} doesn't take frozen_layers."
      )
    try:
      there = models.count_layers(self.trainer.shapes.params)
    except ValueError as error:
      raise ValueError(
        f"method {method.spec!r} with model {type(model).__name__}: {error}"
      ) from error
    if method.last_layers > there:
      raise ValueError(
        f"method {method.spec!r} trains the last {method.last_layers} layers,"
        f" but the network has {there}."
      )
    return there - method.last_layers

  @property
  def _num_shared_steps(self) -> int:
    return self.settings.epochs * self.steps_per_epoch

  @functools.cached_property
  def _shared_piece(self) -> Piece:
    """How far an earlier process came with the model of D_G alone."""
    (piece,) = self._shared_task.plan(1, 1)
    return piece

  @property
  def _has_shared(self) -> bool:
    return (
      self._shared is not None
      or self._shared_piece.step == self._num_shared_steps
    )

  def _other(self, index: int) -> int:
    """The next individual, I' of the baseline (section IV)."""
    return (index + 1) % len(self.split.individuals)


def _check_images(population: Population) -> None:
  """Refuses samples that Fig. 4's network isn't made for."""
  if not population.holds_images:
    raise ValueError(
      "the paper's network takes images [H, W, C], but samples have shape"
      f" {list(population.sample_shape)}: give a model of your own, for"
      " instance models.MLP (--model=mlp)."
    )
  height, width, _ = population.sample_shape
  if height != width:
    raise ValueError(
      f"images must be square for the paper's network, but are"
      f" {height}x{width}."
    )
  models.check_image_size(height)


def _watch(task: Task, piece: Piece, before: np.ndarray) -> OnBlock:
  """Saves a piece between blocks of steps, behind the losses [n, t] before."""

  def on_block(
    steps: int, states: TrainState, losses: Callable[[], np.ndarray]
  ) -> None:
    task.watch(
      piece,
      before.shape[1] + steps,
      lambda: states,
      lambda: np.concatenate([before, losses()], axis=1),
    )

  return on_block
