"""Through a schedule: from the start or from a checkpoint, saved on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from personalization_jax import distributed
from personalization_jax.checkpoints.chunks import Chunk
from personalization_jax.checkpoints.keeper import Task
from personalization_jax.training.evaluation import Validation
from personalization_jax.training.population import Block, PopulationTrainer
from personalization_jax.training.record import Record
from personalization_jax.training.step import TrainState


def run(
  trainer: PopulationTrainer,
  task: Task,
  chunk: Chunk,
  rows: np.ndarray,
  begin: Callable[[], tuple[TrainState, Record]],
  *,
  phases: Sequence[tuple[int, int]] | None = None,
  validation: Validation | None = None,
  reported: int = 0,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> tuple[TrainState, Record]:
  """Trains a chunk of models to the end of its schedule.

  Args:
    trainer: how; it has room for the chunk.
    task: saves what is under way and knows what was saved.
    chunk: n individuals, and how far they have come.
    rows: int32 [n, T, B], of the whole schedule, -1 for padding.
    begin: gives the models and the record that nothing saved begins with.
    phases: see `PopulationTrainer.train`.
    validation: when to evaluate, and on what; None for never.
    reported: steps of what is saved that `on_steps` was told of already.
    on_steps: called with the training steps done since the last call, summed
      over the chunk.

  Returns:
    Their states, with a leading axis of n or more, and what was recorded.

  Source: Algorithm 1.
  """
  count = len(chunk.indices)
  points = validation.steps if validation else ()
  if chunk.step:
    saved, history = task.restore(chunk, trainer.shapes)
    states = trainer.place(saved)
    people = validation.own.shape[1] if validation else 1
    record = Record.restored(history, count, people)
    on_steps((chunk.step - reported) * count)
  else:
    states, record = begin()

  def evaluate(states: TrainState) -> None:
    nonlocal record
    if validation:
      record = record.evaluated(*validation.accuracy(trainer, states))

  def on_block(block: Block) -> None:
    on_steps(block.finished * count)
    if block.step in points:
      evaluate(block.states)
    task.watch(
      chunk,
      block.step,
      block.states,
      lambda: record.trained(block.losses()).saved(),
    )

  # A checkpoint may have been written before its step's evaluation.
  if record.evaluations < sum(point <= record.steps for point in points):
    evaluate(states)
  states, losses = trainer.train(
    states,
    rows,
    start=record.steps,
    phases=phases,
    points=points,
    on_block=on_block,
  )
  return states, record.trained(losses)


def run_one(
  trainer: PopulationTrainer,
  task: Task,
  chunk: Chunk,
  rows: np.ndarray,
  key: jax.Array,
  *,
  validation: Validation | None = None,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> tuple[TrainState, Record]:
  """Trains a model that several go on with, and keeps it for later processes.

  Args:
    trainer: how; fillers of more individuals would be trained for nothing.
    task: see `run`.
    chunk: its only one, from `task.plan(1, 1)`.
    rows: int32 [T, B], -1 for padding.
    key: typed key [], of initial weights and dropout.
    validation: see `run`, of one model and k people.
    on_steps: see `run`; a model that is there already tells no steps.

  Returns:
    The state, NumPy arrays with a leading axis of 1, keys as
    `distributed.gather` gives them; and its record.

  Source: Algorithm 1, line 9.
  """
  people = validation.own.shape[1] if validation else 1
  states, record = run(
    trainer,
    task,
    chunk,
    rows[None],
    lambda: (trainer.create(key[None]), Record.restored({}, 1, people)),
    validation=validation,
    reported=len(rows) if chunk.step == len(rows) else 0,
    on_steps=on_steps,
  )
  if chunk.step < len(rows):
    task.save(chunk, len(rows), states, record.saved())
  one = jax.tree.map(lambda leaf: leaf[:1], distributed.gather(states))
  return one, record
