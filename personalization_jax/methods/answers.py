"""What a method may answer: masks, losses and predictions, and the paper's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

from personalization_jax.networks import classifier, interface

# What is trained: from parameters to a tree of bools and `masks.LowRank`.
Trainable = Callable[[Any], Any]
# Against what: from logits [B, C], labels [B], parameters and the reference
# (see `Method.reference`) to each sample's loss [B] in nats.
Loss = Callable[[jax.Array, jax.Array, Any, Any], jax.Array]
# How it answers: from the model, its state (`params`, `batch_stats`,
# `reference`, `answer`) and samples [B, ...] to scores [B, C], of which the
# highest is the answer, and whose softmax are the probabilities.
Predict = Callable[[nn.Module, Any, jax.Array], jax.Array]
# What predicting needs beside the model, for one person: from the model, its
# state and two sets of samples [R, ...], labels [R] and masks [R], the person's
# training and validation data, to `state.answer`.
Fit = Callable[[nn.Module, Any, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class LastLayers:
  """Trains so many last layers alone (III-C)."""

  count: int

  def __call__(self, params: Any) -> Any:
    """Which parameters are trained."""
    first = classifier.count_layers(params) - self.count
    return jax.tree_util.tree_map_with_path(
      lambda path, _: classifier.layer_number(path[0].key) >= first, params
    )


def cross_entropy(
  logits: jax.Array, labels: jax.Array, params: Any, reference: Any
) -> jax.Array:
  """Softmax cross-entropy, float [B] in nats."""
  del params, reference
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def by_model(model: nn.Module, state: Any, samples: jax.Array) -> jax.Array:
  """The model's own logits, float [B, C]."""
  return interface.apply(model, state.variables, samples, state.key)
