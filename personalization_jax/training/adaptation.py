"""New people's models from one that is there already (transfer learning).

The second phase of transfer learning alone, for people who were in no run:
batches of D_I, from a saved model and a fresh optimiser.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from personalization_jax import checks, schedules
from personalization_jax.analysis import metrics
from personalization_jax.datasets import splits
from personalization_jax.datasets.splits import Split
from personalization_jax.methods.answers import LastLayers
from personalization_jax.networks import interface
from personalization_jax.training import evaluation
from personalization_jax.training.learner import Learner, check_last_layers
from personalization_jax.training.population import (
  Block,
  PopulationTrainer,
  individual_keys,
  without_fillers,
)
from personalization_jax.training.step import TrainState, as_input, in_batches


class Adapted(NamedTuple):
  """Some people's models, and what they answer on data held out."""

  individuals: np.ndarray  # int32 [n], ids
  variables: dict[str, Any]  # `params` and `batch_stats`, NumPy arrays [n, ...]
  rows: np.ndarray  # int32 [n, R], the rows held out, -1 for padding
  before: np.ndarray  # int32 [n, R], classes that the base model predicts
  after: np.ndarray  # int32 [n, R], classes that each person's own predicts
  losses: np.ndarray  # float32 [n, T], training loss of each step in nats
  diverged: np.ndarray  # bool [n], whose model isn't finite: not to be used

  def accuracies(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Before and after, float64 [n], by the store's labels; NaN if diverged."""
    truth = metrics.at_rows(labels, self.rows)
    before, _ = metrics.accuracy(self.before, truth)
    after, _ = metrics.accuracy(self.after, truth)
    return before, np.where(self.diverged, np.nan, after)

  def variables_of(self, place: int) -> dict[str, Any]:
    """One person's `params` and `batch_stats`, by place in `individuals`."""
    return jax.tree.map(lambda leaf: leaf[place], self.variables)


def adapt(
  trainer: PopulationTrainer,
  variables: Mapping[str, Any],
  split: Split,
  steps: int,
  *,
  batch_size: int = 32,
  last_layers: int | None = None,
  seed: int = 0,
  on_steps: Callable[[int], None] = lambda steps: None,
) -> Iterator[Adapted]:
  """Makes a model for every individual of a split from one base model.

  What a person gets depends on the seed and on that person alone, and is what
  TL(`steps`) gives from the same base, `params` and `batch_stats`, with a fresh
  optimiser. Programs are compiled once for a learner, however often and for
  whomever it adapts. The trainer is of these people's store, with the base
  model's network; the split's `test` rows are held out. `last_layers` trains so
  many last layers alone, None all. `on_steps` is called with the training steps
  done since the last call, summed over individuals.

  Yields models in the split's order, as many as are trained at once.

  Source: section III-C; Algorithm 1, line 10.
  """
  checks.seed(seed)
  trainable = check(
    trainer.learner.model, variables, steps, batch_size, last_layers
  )
  base = _base_state(trainer, variables)
  root = jax.random.key(seed)
  for chunk in trainer.chunks(len(split.individuals)):
    people, held_out = split.individuals[chunk], split.test[chunk]
    rows = np.stack(
      [
        schedules.individual_batches(
          splits.without_padding(own),
          batch_size,
          steps,
          seed=seed,
          individual=int(person),
        )
        for person, own in zip(people, split.train[chunk])
      ]
    )
    predict = functools.partial(
      trainer.predict, rows=held_out, batch_size=_tested_at_once(split)
    )

    def on_block(block: Block, count: int = len(people)) -> None:
      on_steps(block.finished * count)

    states = trainer.share(base, individual_keys(root, people))
    before = predict(states)
    states, losses = trainer.train(
      states, rows, phases=[(steps, trainable)], on_block=on_block
    )
    after = predict(states)
    yield Adapted(
      individuals=people,
      variables=without_fillers(states.variables, len(people)),
      rows=held_out,
      before=before,
      after=after,
      losses=losses,
      diverged=evaluation.not_finite(trainer, states, rows, losses)
      | evaluation.unanswered(after, held_out),
    )


def lower(
  trainer: PopulationTrainer,
  split: Split,
  *,
  batch_size: int = 32,
  last_layers: int | None = None,
) -> dict[str, jax.stages.Lowered]:
  """The very programs that `adapt` calls, by what they are for."""
  trainable = LastLayers(last_layers) if last_layers else None
  return {
    "training": trainer.lower_train(batch_size, trainable),
    "evaluation": trainer.lower_predict(
      split.test.shape[1], _tested_at_once(split)
    ),
  }


def check(
  model: nn.Module,
  variables: Mapping[str, Any],
  steps: int,
  batch_size: int,
  last_layers: int | None,
) -> LastLayers | None:
  """Rejects what `adapt` can't train with; gives what it trains."""
  checks.whole_number("steps", steps, 1)
  checks.whole_number("batch_size", batch_size, 1)
  if last_layers is None:
    return None
  check_last_layers(model, last_layers, variables["params"])
  return LastLayers(last_layers)


def classify(
  learner: Learner,
  variables: Mapping[str, Any],
  images: np.ndarray,
  *,
  batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
  """The most probable class of each sample, and how probable it is.

  Classes are int32 [N], -1 where the model gives no finite numbers, and
  probabilities float32 [N]. A learner's program is compiled once; so many
  samples are classified at once, and the last batch is padded.
  """
  checks.whole_number("batch_size", batch_size, 1)
  if not len(images):
    raise ValueError("images holds no samples: there is nothing to classify.")
  classes, probabilities = in_batches(
    functools.partial(_classify_batch, learner, dict(variables)),
    images,
    min(batch_size, len(images)),
  )
  return classes, probabilities


@functools.partial(jax.jit, static_argnames="learner")
def _classify_batch(
  learner: Learner, variables: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  logits = interface.apply(
    learner.model, variables, as_input(images), jax.random.key(0)
  )
  probabilities = jax.nn.softmax(logits)
  classes = jnp.where(
    jnp.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), -1
  )
  return classes, probabilities.max(axis=-1).astype(jnp.float32)


def _tested_at_once(split: Split) -> int:
  return min(256, max(1, split.test.shape[1]))


def _base_state(
  trainer: PopulationTrainer, variables: Mapping[str, Any]
) -> TrainState:
  """The base model before its first step, with a leading axis of 1."""
  expected = trainer.shapes_of_one.variables
  if fault := interface.mismatch(dict(variables), expected):
    raise ValueError(f"the base model doesn't suit the network: {fault}.")
  one = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=trainer.learner.optimizer.init(variables["params"]),
    key=jax.random.key(0),  # `share` gives everybody one
  )
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)
