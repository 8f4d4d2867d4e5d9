"""What trains every model: a network, its optimiser and its loss (JAX)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import optax
from flax import linen as nn

from personalization_jax.methods import Method
from personalization_jax.methods.method import (
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
  """What is trained and how; `methods.method` has the types and defaults.

  Programs are compiled for a learner: one that is made again has its own.
  """

  # Of samples [B, ...] gives logits [B, classes]; see `networks.interface`.
  model: nn.Module
  optimizer: optax.GradientTransformation
  loss: Loss = cross_entropy  # of each sample, in nats for a classifier
  predict: Predict = by_model  # gives scores; the highest is the answer
  trainable: Trainable | None = None  # which parameters; None for all
  # Whether states keep the model that they began with, for loss and predict.
  reference: bool = False
  # Whether there may be batches of padding alone, which then leave the model
  # alone. Without them a step is less to compile.
  empty_batches: bool = True
  # Of `make_learner`'s Adam; None of any other optimiser, one put in its place
  # by `dataclasses.replace` too.
  learning_rate: float | None = dataclasses.field(default=None, init=False)

  def answering(self, method: Method) -> Learner:
    """The learner that trains as a method says; itself if that says nothing."""
    answers = {
      name: getattr(method, name)
      for name in ("loss", "predict", "reference")
      if getattr(method, name)
    }
    return _answering(self, **answers) if answers else self


# The same one for the same answers: programs are compiled for it.
_answering = functools.lru_cache(maxsize=128)(dataclasses.replace)


def make_learner(
  settings: Settings, num_classes: int, model: nn.Module | None = None
) -> Learner:
  """The model with Adam, by default Fig. 4's network (section IV).

  Another model has its own width, precision and initial weights, and is called
  as `networks.interface` says.
  """
  if model is None:
    classifier.check_width(settings.width)
    model = classifier.Classifier(
      num_classes,
      settings.width,
      jnp.dtype(settings.precision),
      initializer=settings.initializer,
    )
  learner = Learner(model, optax.adam(settings.learning_rate))
  object.__setattr__(learner, "learning_rate", float(settings.learning_rate))
  return learner


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
