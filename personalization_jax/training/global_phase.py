"""The model that D_G alone gives, with which transfer learning begins."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from personalization_jax import distributed
from personalization_jax.checkpoints.chunks import Piece
from personalization_jax.checkpoints.keeper import Task
from personalization_jax.datasets import Population
from personalization_jax.methods.batches import Batches
from personalization_jax.randomness import SHARED
from personalization_jax.training import evaluation, phases
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_key,
)
from personalization_jax.training.record import Record
from personalization_jax.training.step import TrainState


class GlobalPhase:
  """The phase on D_G that everybody shares: trained once, then kept."""

  def __init__(
    self,
    population: Population,
    batches: Batches,
    task: Callable[[], Task],
    eval_every: int,
  ):
    """Trains nothing yet.

    Args:
      population: the store.
      batches: of the study, with its split and its settings.
      task: gives, when it is needed, what keeps the model for later processes.
      eval_every: steps between two evaluations on validation data; 0 for none.
    """
    self._population = population
    self._batches = batches
    self._begin_task = task
    self._eval_every = eval_every
    self._trained: tuple[TrainState, Record] | None = None

  @property
  def is_done(self) -> bool:
    """Whether it was trained, here or by an earlier process."""
    return (
      self._trained is not None
      or self._piece.step == self._batches.num_shared_steps
    )

  def train(
    self,
    trainer: PopulationTrainer,
    on_steps: Callable[[int], None] = lambda steps: None,
  ) -> tuple[TrainState, Record]:
    """Trains it, unless that was done already.

    Args:
      trainer: how; of as many individuals as it likes.
      on_steps: called with the training steps done since the last call.

    Returns:
      The state, NumPy arrays with a leading axis of 1, keys as `hosts.gather`
      gives them; and its record, with everybody's accuracy.

    Source: Algorithm 1, line 9.
    """
    if self._trained is None:
      self._trained = self._train(trainer.one_per_device(), on_steps)
    return self._trained

  def _train(
    self, trainer: PopulationTrainer, on_steps: Callable[[int], None]
  ) -> tuple[TrainState, Record]:
    task, piece = self._task, self._piece
    batches, split = self._batches, self._batches.split
    end, people = batches.num_shared_steps, len(split.individuals)
    record = Record.empty(1, people)
    if piece.step:
      one, history = task.restore(piece, trainer.shapes)
      record = Record.restored(history, 1, people)
    if not piece.step:
      root = jax.random.key(batches.settings.seed)
      states = trainer.create(individual_key(root, SHARED)[None])
    elif piece.step < end:
      states = trainer.place(one)
      on_steps(piece.step)
    if piece.step < end:
      states, record = phases.train(
        trainer,
        states,
        record,
        batches.shared_rows()[None],
        phases=((end, 0),),
        points=phases.evaluation_steps([end], self._eval_every),
        evaluate=functools.partial(
          evaluation.validation_accuracy,
          trainer,
          self._population.labels,
          split.validation[None],
          split.global_validation,
        ),
        on_steps=on_steps,
        watch=functools.partial(task.watch, piece),
      )
      task.save(piece, end, states, record.saved())
      one = distributed.gather(states)
    return jax.tree.map(lambda leaf: leaf[:1], one), record

  @functools.cached_property
  def _task(self) -> Task:
    return self._begin_task()

  @functools.cached_property
  def _piece(self) -> Piece:
    """How far an earlier process came."""
    (piece,) = self._task.plan(1, 1)
    return piece
