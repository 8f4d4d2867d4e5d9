"""What trains every model: a network, its optimiser and its loss (JAX)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import optax
from flax import linen as nn

from personalization_jax.methods import Method
from personalization_jax.methods.answers import (
  Loss,
  Predict,
  Trainable,
  by_model,
  cross_entropy,
)
from personalization_jax.networks import classifier, interface
from personalization_jax.settings import Settings


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
  """What is trained and how; `methods.answers` has the types and defaults.

  Programs are compiled for a learner: one that is made again has its own.

  Attributes:
    model: a Linen module of samples [B, ...] that gives logits [B, classes];
      `networks.interface` says how it is called.
    optimizer: an optax transformation.
    loss: of each sample, in nats for a classifier.
    predict: gives scores, of which the highest is the answer.
    trainable: which parameters are trained; None for all.
    empty_batches: whether there may be batches of padding alone, which then
      leave the model alone. Without them a step is less to compile.
    reference: whether states keep the model that they began with, which loss
      and predict are then given.
    learning_rate: of the Adam that `with_adam` gave it; None of any other
      optimiser, one put in its place by `dataclasses.replace` too.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  loss: Loss = cross_entropy
  predict: Predict = by_model
  trainable: Trainable | None = None
  reference: bool = False
  empty_batches: bool = True
  learning_rate: float | None = dataclasses.field(default=None, init=False)

  @classmethod
  def with_adam(cls, model: nn.Module, learning_rate: float) -> Learner:
    """The model with Adam (section IV)."""
    learner = cls(model, optax.adam(learning_rate))
    object.__setattr__(learner, "learning_rate", float(learning_rate))
    return learner

  def answering(self, method: Method) -> Learner:
    """The learner that trains as a method says; itself if that says nothing."""
    answers = {
      name: getattr(method, name)
      for name in ("loss", "predict", "reference")
      if getattr(method, name)
    }
    return _answering(self, **answers) if answers else self


@functools.lru_cache(maxsize=128)
def _answering(learner: Learner, **answers: Any) -> Learner:
  """The same one for the same answers: programs are compiled for it."""
  return dataclasses.replace(learner, **answers)


def make_learner(
  settings: Settings, num_classes: int, model: nn.Module | None = None
) -> Learner:
  """The model with Adam, by default Fig. 4's network (section IV).

  Another model has its own width and precision, and is called as
  `networks.interface` says.
  """
  if model is None:
    classifier.check_width(settings.width)
    model = classifier.Classifier(
      num_classes=num_classes,
      width=settings.width,
      dtype=jnp.dtype(settings.precision),
    )
  return Learner.with_adam(model, settings.learning_rate)


def check_last_layers(model: nn.Module, last_layers: int, params: Any) -> None:
  """Rejects a number of last layers that can't be trained alone."""
  if not interface.takes_frozen_layers(model):
    raise ValueError(
      f"last_layers={last_layers} needs a model that takes frozen_layers, which"
      f" {type(model).__name__} doesn't."
    )
  there = classifier.count_layers(params)
  if not 1 <= last_layers <= there:
    raise ValueError(
      f"last_layers={last_layers} must lie in 1..{there}, the layers of the"
      " network."
    )
