"""What trains every model: a network, its optimiser and its loss (JAX)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from personalization_jax.methods import Method
from personalization_jax.methods.answers import (
  Fit,
  Loss,
  Predict,
  Trainable,
  by_model,
  cross_entropy,
)
from personalization_jax.networks import classifier, interface
from personalization_jax.settings import Personal, Settings


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
  fit: Fit | None = None  # what predict needs beside the model
  trainable: Trainable | None = None  # which parameters; None for all
  # Whether a state holds what is trained alone: all else is D_G's model's.
  lean: bool = False
  # Whether loss, fit and predict are given D_G's model.
  reference: bool = False
  # Whether the optimiser's state begins anew where it could go on.
  fresh: bool = False
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
      for name in ("loss", "predict", "fit", "reference")
      if getattr(method, name)
    }
    if method.is_lean:
      answers |= {"lean": True, "trainable": method.trainable or nothing}
    return _replaced(self, **answers) if answers else self

  def personal(self, settings: Settings, method: Method) -> Learner:
    """The learner of D_I's batches after D_G; itself if it trains as before.

    Raises a ValueError for an optimiser of one's own whose learning rate would
    have to change.
    """
    own = settings.personal
    if method.learning_rate is not None:
      own = dataclasses.replace(own, learning_rate=method.learning_rate)
    if own == Personal():
      return self
    rate = own.learning_rate or self.learning_rate
    if rate is None:
      raise ValueError(
        f"method {method.spec!r} trains D_I's batches by {own.optimizer}, whose"
        " learning rate isn't known, since the optimiser is one of your own:"
        " give it (Settings(personal=Personal(learning_rate=...)))."
      )
    optimizer = _optimizer(own.optimizer, rate, own.weight_decay)
    return _replaced(self, optimizer=optimizer, fresh=own.fresh)


# The same one for the same answers: programs are compiled for it.
_replaced = functools.lru_cache(maxsize=128)(dataclasses.replace)


@functools.lru_cache(maxsize=128)
def _optimizer(
  name: str, rate: float, decay: float
) -> optax.GradientTransformation:
  """Adam or SGD with decoupled weight decay; the same for the same numbers."""
  first = optax.scale_by_adam() if name == "adam" else optax.identity()
  decays = [optax.add_decayed_weights(decay)] if decay else []
  return optax.chain(first, *decays, optax.scale_by_learning_rate(rate))


def nothing(params: Any) -> Any:
  """Trains nothing: a tree of False."""
  return jax.tree.map(lambda _: False, params)


def make_learner(
  settings: Settings,
  num_classes: int,
  model: nn.Module | None = None,
  optimizer: optax.GradientTransformation | None = None,
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
  if optimizer is not None:
    return Learner(model, optimizer)
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
