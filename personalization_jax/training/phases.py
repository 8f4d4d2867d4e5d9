"""Through a schedule, with looks at validation data on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from personalization_jax.training.population import PopulationTrainer
from personalization_jax.training.record import Record
from personalization_jax.training.step import TrainState


def evaluation_steps(ends: Sequence[int], every: int) -> list[int]:
  """Behind which steps models are evaluated.

  Args:
    ends: steps that are among them, the last of the schedule too.
    every: steps from one to the next; 0 for no evaluation at all.

  Returns:
    Step numbers, ascending.
  """
  if not every:
    return []
  return sorted({*range(every, max(ends), every), *ends})


def train(
  trainer: PopulationTrainer,
  states: TrainState,
  record: Record,
  rows: np.ndarray,
  *,
  phases: Iterable[tuple[int, int]],
  points: Sequence[int],
  evaluate: Callable[[TrainState], tuple[np.ndarray, np.ndarray]],
  on_steps: Callable[[int], None],
  watch: Callable[..., None],
) -> tuple[TrainState, Record]:
  """Trains a chunk through what is left of a schedule.

  Args:
    trainer: how.
    states: with a leading axis of n or more; consumed.
    record: of the steps before.
    rows: int32 [n, T, B], of the whole schedule.
    phases: their ends, and how many first layers are frozen in each.
    points: from `evaluation_steps`.
    evaluate: gives the accuracies that `Record.evaluated` takes.
    on_steps: see `PopulationTrainer.train`.
    watch: given steps, states and a history, saves them now and then; see
      `progress.Task.watch`.

  Returns:
    States and record at the end of the schedule.
  """

  def caught_up(record: Record) -> Record:
    # A checkpoint may have been written before its step's evaluation.
    if record.evaluations == sum(point <= record.steps for point in points):
      return record
    return record.evaluated(*evaluate(states))

  def on_block(
    steps: int, states: TrainState, losses: Callable[[], np.ndarray]
  ) -> None:
    watch(
      record.steps + steps,
      lambda: states,
      lambda: record.trained(losses()).saved(),
    )

  for end, frozen_layers in phases:
    for stop in [*(point for point in points if point < end), end]:
      if stop < record.steps:
        continue
      record = caught_up(record)
      states, losses = trainer.train(
        states,
        rows[:, record.steps : stop],
        frozen_layers=frozen_layers,
        on_steps=on_steps,
        on_block=on_block,
      )
      record = record.trained(losses)
  return states, caught_up(record)
