"""kNN-Per: D_G's model mixed with a person's nearest training samples.

    p_knn(y | x) ~ sum over the K nearest (x_i, y_i) of
                   [y_i = y] exp(-|f(x) - f(x_i)|^2 / F)

f gives the F features that the last layer of D_G's model sees. Distance and
scale are those of the authors' code (github.com/omarfoq/knn-per, `client.py`).
A person's probabilities are w p_knn + (1 - w) p_global, where w is chosen for
each person on validation data; see `mix.choose_weight`.

Source: Marfoq, Neglia, Kameni and Vidal, "Personalized Federated Learning
through Local Memorization" (2022), arXiv 2111.09360.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from personalization_jax import checks
from personalization_jax.methods import mix
from personalization_jax.networks import interface

# A class without a neighbour has this probability, so that logarithms are
# finite.
FLOOR = 1e-7


class Memory(NamedTuple):
  """What a person's neighbours are looked for in."""

  features: Array  # float32 [R, F], of the training samples
  labels: Array  # int32 [R]
  mask: Array  # bool [R], False for padding
  weight: Array  # float32 [], of the neighbours, 0..1


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """Answers by D_G's model and by so many nearest training samples.

  Attributes:
    count: K; all of a person's samples where they have fewer.

  Raises:
    ValueError: if the count isn't a whole number of at least 1.
  """

  count: int

  def __post_init__(self) -> None:
    """Rejects what is no number of neighbours."""
    checks.whole_number("count", self.count, 1)

  def fit(
    self, model: nn.Module, state: Any, own: Any, validation: Any
  ) -> Memory:
    """Remembers the training samples, and chooses the neighbours' weight.

    Args:
      model: the network; its last layer must be a `flax.linen.Dense`.
      state: of one person, with `reference` and `key`.
      own: training samples [R, ...], labels int32 [R] and mask bool [R].
      validation: the same of the validation data.

    Returns:
      What `predict` reads as `state.answer`.
    """
    samples, labels, mask = map(jnp.asarray, own)
    _, features = mix.in_parts(
      lambda part: _general(model, state, part), samples
    )
    memory = Memory(features, labels, mask, jnp.zeros(()))
    samples, labels, mask = validation
    own_log, general_log = mix.in_parts(
      lambda part: self._logs(model, state, memory, part), samples
    )
    return memory._replace(
      weight=mix.choose_weight(own_log, general_log, labels, mask)
    )

  def predict(self, model: nn.Module, state: Any, samples: Array) -> Array:
    """The mixture's log probabilities, float32 [B, C]."""
    memory = Memory(*state.answer)
    return mix.mixed(*self._logs(model, state, memory, samples), memory.weight)

  def _logs(
    self, model: nn.Module, state: Any, memory: Memory, samples: Array
  ) -> tuple[Array, Array]:
    """Log probabilities [B, C] by neighbours and by D_G's model."""
    logits, features = _general(model, state, samples)
    nearest = probabilities(memory, features, self.count, logits.shape[1])
    return jnp.log(jnp.maximum(nearest, FLOOR)), jax.nn.log_softmax(logits)


# The same for the same count; see `mix.mixture`.
neighbours = functools.cache(Neighbours)


def probabilities(
  memory: Memory, features: Array, count: int, num_classes: int
) -> Array:
  """What the nearest neighbours of features [B, F] say, float32 [B, C].

  Of equally near ones the first rows are taken; padding never is. Without a row
  all are 0.
  """
  distances = squared_distances(features, memory.features)
  distances = jnp.where(memory.mask, distances, jnp.inf)
  nearest = jnp.argsort(distances, axis=1, stable=True)[:, :count]
  distances = jnp.take_along_axis(distances, nearest, axis=1)
  # By the nearest one's: far away, all of them would be 0 by rounding.
  exponents = (distances[:, :1] - distances) / features.shape[1]
  similar = jnp.where(memory.mask[nearest], jnp.exp(exponents), 0.0)
  classes = jax.nn.one_hot(memory.labels[nearest], num_classes)
  votes = (similar[:, :, None] * classes).sum(axis=1)
  return votes / jnp.maximum(similar.sum(axis=1, keepdims=True), FLOOR)


def squared_distances(one: Array, other: Array) -> Array:
  """Of each row of [B, F] to each of [R, F]: [B, R].

  Differences are squared and summed, not expanded into a matrix product: equal
  rows are then equally far, and near ones keep their digits.
  """
  return ((one[:, None] - other) ** 2).sum(axis=-1)


def _general(
  model: nn.Module, state: Any, samples: Array
) -> tuple[Array, Array]:
  """Logits [B, C] and features [B, F] of D_G's model."""
  return interface.logits_and_features(
    model, state.reference, samples, state.key
  )
