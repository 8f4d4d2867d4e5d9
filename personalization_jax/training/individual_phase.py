"""Everybody's own models, trained by a method, as many at a time as fit."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from personalization_jax import study_checks
from personalization_jax.checkpoints.chunks import Piece
from personalization_jax.checkpoints.keeper import Task
from personalization_jax.datasets import Population
from personalization_jax.methods import Method
from personalization_jax.methods.batches import Batches
from personalization_jax.training import evaluation, phases
from personalization_jax.training.global_phase import GlobalPhase
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_keys,
)
from personalization_jax.training.record import Record
from personalization_jax.training.step import TrainState


class IndividualTraining:
  """From a method's batches to the models of some individuals."""

  def __init__(
    self,
    population: Population,
    batches: Batches,
    global_phase: GlobalPhase,
    eval_every: int,
  ):
    """Trains nothing yet.

    Args:
      population: the store.
      batches: of the study, with its split and its settings.
      global_phase: what transfer learning begins with.
      eval_every: steps between two evaluations on validation data; 0 for none.
    """
    self._population = population
    self._batches = batches
    self._global_phase = global_phase
    self._eval_every = eval_every

  def evaluation_steps(self, method: Method) -> list[int]:
    """Behind which steps a method's models are evaluated, if they are.

    Args:
      method: the method.

    Returns:
      Every `eval_every` steps, at the end, and where the shared phase ends.
    """
    ends = [self._batches.length(method)]
    if method.shares_global_phase:
      ends.append(self._batches.num_shared_steps)
    return phases.evaluation_steps(ends, self._eval_every)

  def train(
    self,
    trainer: PopulationTrainer,
    method: Method,
    task: Task,
    piece: Piece,
    on_steps: Callable[[int], None],
  ) -> tuple[TrainState, np.ndarray, Record]:
    """Trains some individuals' models to the end of their schedule.

    Args:
      trainer: how; a piece is at most its chunk.
      method: what is trained on, and when.
      task: of that method, which saves what is under way.
      piece: n individuals, and how far they have come.
      on_steps: called with the training steps done since the last call, summed
        over individuals.

    Returns:
      Their states, with a leading axis of n or more; what they were trained on,
      rows int32 [n, T, B], -1 for padding; and what was recorded of it.

    Source: Algorithm 1.
    """
    split, indices = self._batches.split, list(piece.indices)
    rows = np.stack([self._batches.rows(method, index) for index in indices])
    states, record = self._begin(trainer, method, task, piece, on_steps)
    # The last k layers alone are a phase of its own, with its own compiled
    # step; without that option everything is one phase.
    late = rows.shape[1] - method.late if method.last_layers else rows.shape[1]
    frozen = study_checks.frozen_layers(method, trainer)
    states, record = phases.train(
      trainer,
      states,
      record,
      rows,
      phases=((late, 0), (rows.shape[1], frozen)),
      points=self.evaluation_steps(method),
      evaluate=functools.partial(
        evaluation.validation_accuracy,
        trainer,
        self._population.labels,
        split.validation[indices][:, None],
        split.global_validation,
      ),
      on_steps=lambda steps: on_steps(steps * len(indices)),
      watch=functools.partial(task.watch, piece),
    )
    return states, rows, record

  def _begin(
    self,
    trainer: PopulationTrainer,
    method: Method,
    task: Task,
    piece: Piece,
    on_steps: Callable[[int], None],
  ) -> tuple[TrainState, Record]:
    """The models that training goes on with, and what was recorded before."""
    batches, count = self._batches, len(piece.indices)
    if piece.step:
      states, history = task.restore(piece, trainer.shapes)
      shared = batches.num_shared_steps if method.shares_global_phase else 0
      on_steps((piece.step - shared) * count)
      return trainer.place(states), Record.restored(history, count)
    keys = individual_keys(
      jax.random.key(batches.settings.seed),
      batches.split.individuals[list(piece.indices)],
    )
    if not method.shares_global_phase:
      return trainer.create(keys), Record.empty(count)
    state, record = self._global_phase.train(trainer, on_steps)
    return trainer.share(state, keys), record.of(piece.indices)
