"""Trains what people begin with in place of D_G's model (JAX)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from personalization_jax.checkpoints.chunks import Chunk
from personalization_jax.checkpoints.keeper import History, Task
from personalization_jax.datasets import splits
from personalization_jax.datasets.splits import PADDING
from personalization_jax.methods import clusters
from personalization_jax.methods.batches import Batches
from personalization_jax.methods.clusters import Clusters
from personalization_jax.methods.reptile import Reptile
from personalization_jax.randomness import SHARED
from personalization_jax.training import phases
from personalization_jax.training.evaluation import Record, Validation
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import (
  Block,
  PopulationTrainer,
  individual_key,
  without_fillers,
)
from personalization_jax.training.step import Answers, TrainState

Start = Reptile | Clusters


class Starts(NamedTuple):
  """K models of D_G, and which of them each of S people begins with."""

  # NumPy arrays [K, ...], keys as `distributed.gather` gives them.
  states: TrainState
  # Of K models and all people; each has as many steps as D_G's own phase, with
  # losses of NaN where a model wasn't trained.
  record: Record
  pick: np.ndarray  # int32 [S], 0 <= pick < K

  def model(self, index: int) -> TrainState:
    """One of the K models, as `phases.run_one` gives it: [1, ...]."""
    return jax.tree.map(lambda leaf: leaf[index : index + 1], self.states)

  def history(self, people: range) -> History:
    """What m of the people begin with; see `Record.of`."""
    taken = self.pick[list(people)]
    return {
      "losses": self.record.losses[taken],
      "individual": self.record.individual[taken, :, list(people)][..., None],
      "general": self.record.general[taken],
    }


def check(start: Start, batches: Batches) -> None:
  """Raises a ValueError for a start that this split has no data for."""
  split = batches.split
  if not len(split.global_train):
    raise ValueError(
      f"{start} is trained on D_G's writers, but there are none."
    )
  if start.count == 1:
    return
  writers = len(np.unique(_writers(batches)))
  if start.count > writers:
    raise ValueError(
      f"{start.count} clusters are more than the {writers} writers of D_G."
    )
  if not (split.validation != PADDING).any():
    raise ValueError(
      "people choose among clusters by validation data: a validation_fraction"
      " above 0 is needed, and enough samples."
    )


def num_steps(chunk: Chunk, batches: Batches) -> int:
  """Steps that `begin` will tell `on_steps` of, in all; 0 if it is trained."""
  steps = batches.num_shared_steps
  return steps if chunk.step < steps else 0


def begin(
  start: Start,
  trainer: PopulationTrainer,
  task: Task,
  chunk: Chunk,
  batches: Batches,
  *,
  validation: Validation,
  precise: int = 0,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> Starts:
  """Trains what everybody begins with, and keeps it; see `phases.run_one`.

  Args:
    start: what is trained; `check` has found nothing wrong with it.
    trainer: of D_G's model; what is trained goes on with its optimiser.
    task: what keeps it.
    chunk: the only one of `task.plan(start.count, start.count)`.
    batches: of the split.
    validation: as for D_G's own phase: of one model, int32 [1, S, R].
    precise: over how many of the last batches, if any, running batch
      statistics are computed anew; of clusters, at most their last round's.
    on_steps: called with the steps done since the last call, `num_steps` in
      all. Several models are told as if one was trained.

  Returns:
    The models at the end of D_G's own phase.
  """
  about: dict[str, Any] = {"precise": precise, "on_steps": on_steps}
  if isinstance(start, Clusters):
    training = _Rounds(start, trainer, task, chunk, batches, validation)
    return training.run(**about)
  seed, steps = batches.settings.seed, batches.num_shared_steps
  rows = start.rows(
    batches.split.global_train,
    batches.groups.population.individuals,
    batches.settings.batch_size,
    steps,
    seed=seed,
  )
  learner = _adapting(trainer.learner, start, steps)
  states, record = phases.run_one(
    dataclasses.replace(
      trainer.with_individuals_per_device(1), learner=learner
    ),
    task,
    chunk,
    rows,
    seed,
    validation=validation,
    **about,
  )
  people = np.zeros(len(batches.split.individuals), np.int32)
  # As an episode begins: slow parameters, and a fresh optimiser.
  states = states.replace(opt_state=states.opt_state.inner)
  return Starts(states, record, people)


# The same one for the same steps: programs are compiled for it.
@functools.lru_cache(maxsize=32)
def _adapting(learner: Learner, start: Reptile, steps: int) -> Learner:
  optimizer = start.optimizer(learner.optimizer, steps)
  return dataclasses.replace(learner, optimizer=optimizer)


def _writers(batches: Batches) -> np.ndarray:
  """The person of each of D_G's training rows [n]."""
  return batches.groups.population.individuals[batches.split.global_train]


@dataclasses.dataclass(eq=False)
class _Rounds:
  """The training of clusters, which is kept between rounds."""

  start: Clusters
  trainer: PopulationTrainer
  task: Task
  chunk: Chunk
  batches: Batches
  validation: Validation

  def __post_init__(self) -> None:
    here = math.ceil(self.start.count / self.trainer.mesh.size)
    self.trainer = self.trainer.with_individuals_per_device(
      min(here, self.trainer.individuals_per_device)
    )
    settings = self.batches.settings
    self._length = self.batches.num_shared_steps // settings.epochs
    self._epochs = self.batches.shared_rows().reshape(settings.epochs, -1)

  def run(self, precise: int, on_steps: Callable[[int], None]) -> Starts:
    """All rounds that are left, and everybody's choice."""
    done, end = self.chunk.step, self.batches.num_shared_steps
    if done:
      states, history = self.task.restore(self.chunk, self.trainer.shapes)
      if done < end:
        on_steps(done)
    else:
      states, history = self._create(), {}
    people = self.validation.own.shape[1]
    record = Record.restored(history, self.start.count, people)
    while done < end:
      before = self.chunk._replace(step=done), states, record.saved()
      states, record = self._round(before, record, precise, on_steps)
      done += self._length
      if done < end:
        after = self.chunk._replace(step=done), states, record.saved()
        self.task.keeper.check(functools.partial(self._save, *after))
      else:
        self.task.save(self.chunk, done, states, record.saved())
    return Starts(states, record, self._pick(states))

  def _create(self) -> TrainState:
    """Fresh models, the first as D_G's own."""
    seed = self.batches.settings.seed
    key = individual_key(jax.random.key(seed), SHARED)
    others = range(1, self.start.count)
    keys = jnp.stack([key, *(jax.random.fold_in(key, k) for k in others)])
    trainer = self.trainer
    return _joined(
      [
        without_fillers(trainer.create(keys[own]), len(keys[own]))
        for own in trainer.chunks(len(keys))
      ]
    )

  def _save(self, chunk: Chunk, states: TrainState, history: History) -> None:
    """Keeps the models between rounds, once; fresh ones need no keeping."""
    if chunk.step > self.chunk.step:
      self.task.save(chunk, chunk.step, states, history)
      self.chunk = chunk

  def _round(
    self,
    before: tuple[Chunk, TrainState, History],
    record: Record,
    precise: int,
    on_steps: Callable[[int], None],
  ) -> tuple[TrainState, Record]:
    """Assigns D_G's writers, and trains every model for an epoch over its own.

    Models are trained for as many steps as the longest of their chunk needs;
    all then stand where D_G's own model would. A run that stops within a round
    keeps what was before it.
    """
    chunk, states, _ = before
    done, length = chunk.step, self._length
    rows = self._rows(done // length, states)
    points = [p - done for p in self.validation.steps if 0 < p - done <= length]
    is_last = done + length == self.batches.num_shared_steps
    steps = (rows != PADDING).any(axis=2).sum(axis=1)
    chunks = [*self.trainer.chunks(len(rows))]
    total = sum(steps[own].max() * len(steps[own]) for own in chunks)
    trained = told = 0

    def on_block(block: Block, count: int) -> None:
      nonlocal trained, told
      trained += block.finished * count
      if more := length * trained // total - told:
        on_steps(int(more))
      told += more
      self.task.keeper.check(functools.partial(self._save, *before))

    found = []
    for own in chunks:
      found.append(
        self._train(
          jax.tree.map(lambda leaf, own=own: leaf[own], states),
          rows[own],
          points,
          precise if is_last else 0,
          functools.partial(on_block, count=len(rows[own])),
        )
      )
    states, more = _joined(found)
    at = np.full(len(rows), done + length, np.int32)
    return states.replace(step=at), record.after(**more)

  def _train(
    self,
    states: TrainState,
    rows: np.ndarray,
    points: list[int],
    precise: int,
    on_block: Callable[[Block], None],
  ) -> tuple[TrainState, dict[str, np.ndarray]]:
    """A round of a chunk of n models, rows [n, T, B], and their new record."""
    trainer, count = self.trainer, len(rows)
    own = np.repeat(self.validation.own, count, axis=0)
    validation = self.validation._replace(own=own)
    there = (rows != PADDING).any(axis=2)
    steps = int(there.sum(axis=1).max())
    looks: list[tuple[np.ndarray, np.ndarray]] = []

    def at_block(block: Block) -> None:
      if block.step in points:
        looks.append(validation.accuracy(trainer, block.states))
      on_block(block)

    placed = trainer.place(states)
    losses = np.full(there.shape, np.nan, np.float32)
    if steps:
      placed, losses[:, :steps] = trainer.train(
        placed,
        rows[:, :steps],
        points=[point for point in points if point <= steps],
        on_block=at_block,
      )
    if missing := len(points) - len(looks):
      looks += [validation.accuracy(trainer, placed)] * missing
    more = {"losses": losses}
    after = without_fillers(placed, count)
    if precise and steps:
      last = phases.last_batches(rows, min(precise, steps))
      anew = without_fillers(trainer.precise_batch_stats(placed, last), count)
      # A model without rows keeps its own.
      idle = ~there.any(axis=1)
      for new, old in zip(*map(jax.tree.leaves, (anew, after))):
        new[idle] = old[idle]
      after = anew
      if rows.shape[1] in points:
        looks[-1] = validation.accuracy(trainer, trainer.place(after))
    if looks:
      individual, general = (np.stack(each, axis=1) for each in zip(*looks))
      more |= {"individual": individual, "general": general}
    return after, more

  def _rows(self, number: int, states: TrainState) -> np.ndarray:
    """The rows int32 [K, T, B] of a round, which begins with these models."""
    writers, place = np.unique(_writers(self.batches), return_inverse=True)
    settings, split = self.batches.settings, self.batches.split
    if number == 0:
      models = self.start.first(len(writers), seed=settings.seed)
    elif self.start.count == 1:
      models = np.zeros(len(writers), np.int32)
    else:
      answers = self._answers(states, split.global_train)
      losses = [
        np.bincount(place, -each) / np.bincount(place)
        for each in answers.log_probability
      ]
      models = clusters.assign(np.stack(losses))
    epoch = self._epochs[number]
    epoch = epoch[epoch != PADDING]
    individuals = self.batches.groups.population.individuals
    of_epoch = np.searchsorted(writers, individuals[epoch])
    return self.start.rows(epoch, models[of_epoch], settings.batch_size)

  def _pick(self, states: TrainState) -> np.ndarray:
    """The model of each person, int32 [S], by their validation rows.

    Who has none, among others who do, chooses by training rows.
    """
    split = self.batches.split
    parts = map(split.parts, range(len(split.individuals)))
    rows = splits.pad(
      [valid if len(valid) else train for train, valid, _ in parts]
    )
    if self.start.count == 1:
      return np.zeros(len(rows), np.int32)
    found = self._answers(states, rows.ravel())
    predictions, log_probability, _ = (
      array.reshape(-1, *rows.shape) for array in found
    )
    there = rows != PADDING
    right = predictions == self.batches.groups.population.labels[rows]
    losses = np.where(there, -log_probability, 0).sum(axis=2)
    return clusters.choose(
      (right & there).sum(axis=2), losses / there.sum(axis=1)
    )

  def _answers(self, states: TrainState, rows: np.ndarray) -> Answers:
    """What all models answer about the same rows [R]: arrays [K, R]."""
    found = []
    for own in self.trainer.chunks(self.start.count):
      some = jax.tree.map(lambda leaf, own=own: leaf[own], states)
      placed = self.trainer.place(some)
      all_rows = np.broadcast_to(rows, (len(some.step), len(rows)))
      found.append(self.trainer.predict(placed, all_rows))
    return _joined(found)


def _joined(parts: list[Any]) -> Any:
  """Trees of arrays [n, ...] as one."""
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
