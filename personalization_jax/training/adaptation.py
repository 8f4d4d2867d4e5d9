"""New people's models from one that is there already (transfer learning).

The second phase of transfer learning alone, for people who were in no run:
batches of D_I, from a saved model and a fresh optimiser.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from personalization_jax import checks, distributed, schedules
from personalization_jax.analysis import metrics
from personalization_jax.datasets import Population, splits
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.networks import classifier, interface
from personalization_jax.runs import saved_models
from personalization_jax.training.population import (
  Block,
  PopulationTrainer,
  individual_keys,
)
from personalization_jax.training.step import Learner, TrainState, as_input


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
  """Some people's models, and what they answer on data held out.

  Attributes:
    individuals: int32 [n], ids.
    variables: `params` and `batch_stats`, NumPy arrays with a leading axis of
      n.
    rows: int32 [n, R], the rows held out, -1 for padding.
    before: int32 [n, R], classes that the base model predicts for them.
    after: int32 [n, R], classes that each person's own model predicts.
    losses: float32 [n, T], training loss of each step in nats.
    diverged: bool [n], whose model isn't finite and must not be used.
  """

  individuals: np.ndarray
  variables: dict[str, Any]
  rows: np.ndarray
  before: np.ndarray
  after: np.ndarray
  losses: np.ndarray
  diverged: np.ndarray

  def accuracies(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy before and after, float64 [n] each, on the rows held out.

    Args:
      labels: int32 [N], the store's.

    Returns:
      Both; NaN after for who diverged.
    """
    before, _ = metrics.accuracy(self.before, labels, self.rows)
    after, _ = metrics.accuracy(self.after, labels, self.rows)
    return before, np.where(self.diverged, np.nan, after)

  def variables_of(self, place: int) -> dict[str, Any]:
    """One person's model.

    Args:
      place: in `individuals`.

    Returns:
      Its `params` and `batch_stats`, NumPy arrays.
    """
    return jax.tree.map(lambda leaf: leaf[place], self.variables)


def adapt(
  learner: Learner,
  variables: Mapping[str, Any],
  population: Population,
  split: Split,
  steps: int,
  *,
  mesh: Mesh,
  batch_size: int = 32,
  last_layers: int | None = None,
  seed: int = 0,
  individuals_per_device: int = 1,
  side_by_side: int | None = None,
  on_steps: Callable[[int], None] = lambda steps: None,
  check_programs: Callable[
    [PopulationTrainer, Mapping[str, jax.stages.Lowered]], None
  ] = lambda trainer, programs: None,
) -> Iterator[Adapted]:
  """Makes a model for every individual of a split from one base model.

  What a person gets depends on the seed and on that person alone, and is what
  TL gives from the same base with a fresh optimiser.

  Args:
    learner: network and optimiser, as the base model was made for.
    variables: `params` and `batch_stats` of the base model.
    population: the store.
    split: everybody's `train` rows, and `test` rows that are held out.
    steps: TL's n.
    mesh: where; see `distributed.make_mesh`.
    batch_size: samples in a batch.
    last_layers: train so many last layers alone; None trains all.
    seed: of the order of samples and of dropout.
    individuals_per_device: see `PopulationTrainer`.
    side_by_side: likewise.
    on_steps: called as training goes on with the number of training steps
      done since the last call, summed over individuals.
    check_programs: called before training with the trainer and its programs,
      not yet compiled; what it raises ends all.

  Yields:
    The individuals' models in the split's order, as many at a time as are
    trained at once.

  Raises:
    ValueError: if a number is out of range, or the model doesn't suit the
      data.

  Source: section III-C; Algorithm 1, line 10.
  """
  checks.seed(seed)
  frozen_layers = check(learner, variables, steps, batch_size, last_layers)
  trainer = PopulationTrainer(
    learner,
    population.images,
    population.labels,
    mesh,
    individuals_per_device,
    side_by_side,
  )
  predicted = min(256, max(1, split.test.shape[1]))
  check_programs(
    trainer,
    {
      "training": trainer.lower_train(batch_size, frozen_layers),
      "evaluation": trainer.lower_predict(split.test.shape[1], predicted),
    },
  )
  base = _base_state(trainer, variables)
  root = jax.random.key(seed)
  for chunk in trainer.chunks(len(split.individuals)):
    people = split.individuals[chunk]
    keys = individual_keys(root, people)
    rows = np.stack(
      [
        schedules.sample_rows(
          schedules.transfer_learning(0, steps),
          split.global_train,
          splits.without_padding(own),
          batch_size,
          seed=seed,
          individual=int(person),
        )
        for person, own in zip(people, split.train[chunk])
      ]
    )
    held_out = split.test[chunk]
    predict = functools.partial(
      trainer.predict,
      rows=held_out,
      batch_size=predicted,
    )
    states = trainer.share(base, keys)
    before = predict(states)
    states, losses = trainer.train(
      states,
      rows,
      phases=[(steps, frozen_layers)],
      on_block=functools.partial(_on_block, on_steps, len(people)),
    )
    after = predict(states)
    trained = distributed.gather(
      {"params": states.params, "batch_stats": states.batch_stats}
    )
    yield Adapted(
      individuals=people,
      variables=jax.tree.map(
        lambda leaf, rows=rows: leaf[: len(rows)], trained
      ),
      rows=held_out,
      before=before,
      after=after,
      losses=losses,
      diverged=~trainer.finite(states)[: len(people)]
      | ~np.isfinite(losses).all(axis=1)
      | ((after < 0) & (held_out != PADDING)).any(axis=1),
    )


def check(
  learner: Learner,
  variables: Mapping[str, Any],
  steps: int,
  batch_size: int,
  last_layers: int | None,
) -> int:
  """Refuses what `adapt` can't train with.

  Args:
    learner: as `adapt`'s.
    variables: likewise.
    steps: likewise.
    batch_size: likewise.
    last_layers: likewise.

  Returns:
    How many first layers stay as they are.

  Raises:
    ValueError: naming what is out of range.
  """
  checks.whole_number("steps", steps, 1)
  checks.whole_number("batch_size", batch_size, 1)
  if last_layers is None:
    return 0
  if not interface.takes_frozen_layers(learner.model):
    raise ValueError(
      f"last_layers={last_layers} needs a model that takes frozen_layers, which"
      f" {type(learner.model).__name__} doesn't."
    )
  there = classifier.count_layers(variables["params"])
  if not 1 <= last_layers <= there:
    raise ValueError(
      f"last_layers={last_layers} must lie in 1..{there}, the layers of the"
      " network."
    )
  return there - last_layers


def classify(
  learner: Learner,
  variables: Mapping[str, Any],
  images: np.ndarray,
  *,
  batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
  """The most probable class of each sample, and how probable it is.

  Args:
    learner: the network.
    variables: `params` and `batch_stats` of a model.
    images: uint8 [N, H, W, C], or floats [N, ...] that are used as they are.
    batch_size: samples classified at once; the last batch is padded.

  Returns:
    Classes int32 [N], -1 where the model gives no finite numbers, and the
    softmax's probabilities float32 [N].

  Raises:
    ValueError: if there are no samples, or batch_size is no number of them.
  """
  checks.whole_number("batch_size", batch_size, 1)
  if not len(images):
    raise ValueError("images holds no samples: there is nothing to classify.")

  @jax.jit
  def one_batch(
    variables: Any, images: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    logits = interface.apply(
      learner.model, variables, as_input(images), jax.random.key(0)
    )
    probabilities = jax.nn.softmax(logits)
    classes = jnp.where(
      jnp.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), -1
    )
    return classes, probabilities.max(axis=-1)

  size = min(batch_size, len(images))
  classes = np.empty(len(images), np.int32)
  probabilities = np.empty(len(images), np.float32)
  for start in range(0, len(images), size):
    batch = images[start : start + size]
    end = start + len(batch)
    padding = [(0, size - len(batch))] + [(0, 0)] * (images.ndim - 1)
    found = one_batch(dict(variables), np.pad(batch, padding))
    classes[start:end], probabilities[start:end] = (
      np.asarray(values)[: len(batch)] for values in found
    )
  return classes, probabilities


def _on_block(
  on_steps: Callable[[int], None], num_people: int, block: Block
) -> None:
  on_steps(block.finished * num_people)


def _base_state(
  trainer: PopulationTrainer, variables: Mapping[str, Any]
) -> TrainState:
  """The base model before its first step, with a leading axis of 1."""
  shapes = trainer.shapes
  fault = saved_models.mismatch(
    jax.tree.map(lambda leaf: np.asarray(leaf)[None], dict(variables)),
    jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype),
      {"params": shapes.params, "batch_stats": shapes.batch_stats},
    ),
  )
  if fault:
    raise ValueError(f"the base model doesn't suit the network: {fault}.")
  one = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=trainer.learner.optimizer.init(variables["params"]),
    key=jax.random.key(0),  # `share` gives everybody one
  )
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)
