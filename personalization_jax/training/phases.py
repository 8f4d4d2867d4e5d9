"""Trains models through a schedule, from its start or from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from personalization_jax.analysis import metrics
from personalization_jax.checkpoints.chunks import Chunk
from personalization_jax.checkpoints.keeper import History, Task
from personalization_jax.datasets.splits import PADDING
from personalization_jax.networks import interface
from personalization_jax.randomness import SHARED
from personalization_jax.training.evaluation import Record, Validation
from personalization_jax.training.population import (
  Block,
  PopulationTrainer,
  individual_key,
  without_fillers,
)
from personalization_jax.training.step import TrainState, state_of


@dataclasses.dataclass
class Best:
  """Keeps each model as it was when it was best on validation data.

  Of equal ones the earlier stays. Nothing is kept before the first look.
  """

  steps: Sequence[int]  # after which steps of the schedule to look
  labels: np.ndarray  # int32 [N], the store's
  own: np.ndarray  # int32 [n, R], validation rows of n individuals
  variables: Any = None  # `params` and `batch_stats` of a chunk
  # float32 [n, 2]: after how many steps, and with what accuracy.
  found: np.ndarray = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    """Nothing is found yet."""
    nothing = np.array([0, -1], np.float32)
    self.found = np.tile(nothing, (len(self.own), 1))

  def look(
    self, trainer: PopulationTrainer, states: TrainState, step: int
  ) -> None:
    """Keeps those models that are better than any before."""
    answers = trainer.predict(states, self.own)
    truth = metrics.at_rows(self.labels, self.own)
    accuracy, _ = metrics.accuracy(answers.predictions, truth)
    better = accuracy > self.found[:, 1]
    self.found[better, 0] = step
    self.found[better, 1] = accuracy[better]
    self.variables = trainer.where(better, states.variables, self.variables)


def run(
  trainer: PopulationTrainer,
  task: Task,
  chunk: Chunk,
  rows: np.ndarray,
  begin: Callable[[], tuple[TrainState, History]],
  *,
  phases: Sequence[tuple[Any, ...]] | None = None,
  validation: Validation | None = None,
  best: Best | None = None,
  reported: int = 0,
  precise: int = 0,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> tuple[TrainState, Record]:
  """Trains a chunk of n models to the end of its schedule (Algorithm 1).

  It goes on from what the task saved of the chunk, or from the models and the
  record that `begin` gives. Rows int32 [n, T, B] are of the whole schedule;
  `phases` are as in `PopulationTrainer.train`; `best` says which models to end
  with, if not the last. `on_steps` is called with the
  steps done since the last call, over all n; it was told of the first
  `reported` ones already. Over the last `precise` batches, if any, the trained
  models' running batch statistics are computed anew, before the evaluation at
  the schedule's end.
  """
  count = len(chunk.indices)
  points = validation.steps if validation else ()
  looks = best.steps if best else ()
  if chunk.step:
    like = trainer.shapes_at(chunk.step, phases)
    if best:
      (saved, kept), history = task.restore(chunk, (like, like.variables))
      history = dict(history)
      best.found = history.pop("best")
      best.variables = trainer.place(kept, like.variables)
    else:
      saved, history = task.restore(chunk, like)
    states = trainer.place(saved, like)
    if chunk.step > reported:
      on_steps((chunk.step - reported) * count)
  else:
    states, history = begin()
  people = validation.own.shape[1] if validation else 1
  record = Record.restored(history, count, people)
  done = record.losses.shape[1]

  def evaluate(states: TrainState) -> None:
    nonlocal record
    if validation:
      own, general = validation.accuracy(trainer, states)
      record = record.after(individual=own[:, None], general=general[:, None])

  def on_block(block: Block) -> None:
    if block.finished:
      on_steps(block.finished * count)
    if block.step in points:
      evaluate(block.states)
    if best and block.step in looks:
      best.look(trainer, block.states, block.step)
    task.keeper.check(lambda: save(block))

  def save(block: Block) -> None:
    states: Any = block.states
    arrays = record.after(losses=block.losses()).saved()
    if best:
      states = states, best.variables
      arrays["best"] = best.found
    task.save(chunk, block.step, states, arrays)

  # A checkpoint may have been written before its step's evaluation.
  if record.general.shape[1] < sum(point <= done for point in points):
    evaluate(states)
  if best and best.variables is None:
    best.look(trainer, states, done)
  states, losses = trainer.train(
    states,
    rows,
    start=done,
    phases=phases,
    points=[*points, *looks],
    on_block=on_block,
  )
  if best:
    states = states.replace(**best.variables)
  if precise:
    _, trainable, *_ = phases[-1] if phases else (0, None)
    states = trainer.precise_batch_stats(
      states, last_batches(rows, precise), trainable
    )
    # Curves end with the models that are given.
    if validation and rows.shape[1] in points:
      record = record.ended(*validation.accuracy(trainer, states))
  return states, record.after(losses=losses)


def last_batches(rows: np.ndarray, count: int) -> np.ndarray:
  """The last so many batches with data of rows [n, T, B]; padding first."""
  order = np.argsort((rows != PADDING).any(axis=2), axis=1, kind="stable")
  return np.take_along_axis(rows, order[:, -count:, None], axis=1)


def begun(
  trainer: PopulationTrainer, variables: Mapping[str, Any], people: int
) -> tuple[TrainState, Record]:
  """A model that was trained elsewhere, as `run_one` would have given it.

  Its optimiser is fresh; k people go on with it.
  """
  expected = trainer.shapes_of_one.variables
  if fault := interface.mismatch(dict(variables), expected):
    raise ValueError(f"the base model doesn't suit the network: {fault}.")
  # Whatever mappings it is of, such as Flax's frozen ones.
  own = jax.tree.unflatten(
    jax.tree.structure(expected), jax.tree.leaves(variables)
  )
  # `share` gives everybody a key.
  state = state_of(trainer.learner, own, jax.random.key(0))
  one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)
  return one, Record.restored({}, 1, people)


def run_one(
  trainer: PopulationTrainer,
  task: Task,
  chunk: Chunk,
  rows: np.ndarray,
  seed: int,
  *,
  validation: Validation | None = None,
  precise: int = 0,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> tuple[TrainState, Record]:
  """Trains one model that several go on with, and keeps it; see `run`.

  Its state comes as NumPy arrays with a leading axis of 1, keys as
  `distributed.gather` gives them. The rows are int32 [T, B], the chunk is the
  only one of `task.plan(1, 1)`. `on_steps` isn't told of a finished model.
  """
  key = individual_key(jax.random.key(seed), SHARED)
  states, record = run(
    trainer,
    task,
    chunk,
    rows[None],
    lambda: (trainer.create(key[None]), {}),
    validation=validation,
    reported=len(rows) if chunk.step == len(rows) else 0,
    precise=precise,
    on_steps=on_steps,
  )
  if chunk.step < len(rows):
    task.save(chunk, len(rows), states, record.saved())
  return without_fillers(states, 1), record
