"""MAPPER: a person's own model mixed with D_G's.

A person's probabilities are w own + (1 - w) general, where w is chosen for each
person on validation data.

Source: Mansour, Mohri, Ro and Suresh, "Three Approaches for Personalization
with Applications to Federated Learning" (2020), arXiv 2002.10619.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from personalization_jax.methods.answers import Predict, by_model
from personalization_jax.networks import interface

# What a person's own part may weigh. Divided here: XLA would round otherwise.
WEIGHTS = (np.arange(11) / 10).astype(np.float32)
# Samples of one person in one call of a network, at most.
_TOGETHER = 256


class Mixed(NamedTuple):
  """What a person's mixture is."""

  weight: Array  # float32 [], of the person's own part, 0..1
  inner: Any  # what the own part's `fit` found; None without one


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Answers by the trained model and by D_G's, weighted for each person.

  Attributes:
    predict_own: as `Method.predict`, of the person's own part; None for the
      trained model's logits.
    fit_own: as `Method.fit`, of the same; None if it needs none.
  """

  predict_own: Predict | None = None
  fit_own: Callable[..., Any] | None = None

  def fit(self, model: nn.Module, state: Any, own: Any, validation: Any) -> Any:
    """Chooses the weight, float32 [], on the validation data.

    Args:
      model: the network.
      state: of one person, with `variables`, `reference`, `key` and `replace`.
      own: training samples [R, ...], labels int32 [R] and mask bool [R].
      validation: the same of the validation data.

    Returns:
      What `predict` reads as `state.answer`.
    """
    inner = None
    if self.fit_own is not None:
      inner = self.fit_own(model, state, own, validation)
    samples, labels, mask = validation
    own_log, general_log = in_parts(
      lambda part: self._logs(model, state.replace(answer=inner), part), samples
    )
    return Mixed(choose_weight(own_log, general_log, labels, mask), inner)

  def predict(self, model: nn.Module, state: Any, samples: Array) -> Array:
    """The mixture's log probabilities, float32 [B, C]."""
    weight, inner = state.answer
    logs = self._logs(model, state.replace(answer=inner), samples)
    return mixed(*logs, weight)

  def _logs(
    self, model: nn.Module, state: Any, samples: Array
  ) -> tuple[Array, Array]:
    """Log probabilities [B, C] by the person's own part and by D_G's model."""
    own = (self.predict_own or by_model)(model, state, samples)
    general = interface.apply(model, state.reference, samples, state.key)
    return jax.nn.log_softmax(own), jax.nn.log_softmax(general)


# The same object for the same fields: bound methods of equal objects differ,
# but what is parsed again must be equal, and its programs compiled once.
mixture = functools.cache(Mixture)


def mixed(own_log: Array, general_log: Array, weight: Array) -> Array:
  """Logarithms [...] of w own + (1 - w) general, by theirs and weight [].

  A weight of 0 gives `general_log`, one of 1 `own_log`, bit by bit.
  """
  gain = _gain(own_log - general_log, weight)
  between = jnp.where(weight == 1, own_log, general_log + gain)
  return jnp.where(weight == 0, general_log, between)


def choose_weight(
  own_log: Array, general_log: Array, labels: Array, mask: Array
) -> Array:
  """The weight of a person's own part with the highest mean log likelihood.

  Args:
    own_log: finite log probabilities [R, C] by the person's own part.
    general_log: the same by D_G's model.
    labels: int32 [R], the classes.
    mask: bool [R], False where a row is padding.

  Returns:
    float32 [], one of `WEIGHTS`; the smallest of equally good ones, so 0
    without any row. Where a likelihood isn't a number, neither is the weight:
    a diverged model doesn't hide in the mixture.
  """
  rows = jnp.arange(len(labels))
  gap = own_log[rows, labels] - general_log[rows, labels]
  gap = jnp.where(mask, gap, 0.0)
  # Beyond general's likelihood, which is the same for all weights: what is
  # equally good is then equal, whatever rounding does.
  gains = jax.vmap(lambda weight: _gain(gap, weight).sum())(WEIGHTS)
  best = jnp.asarray(WEIGHTS)[jnp.argmax(gains)]
  return jnp.where(jnp.isnan(gains).any(), jnp.nan, best)


def in_parts(function: Callable[[Array], Any], samples: Array) -> Any:
  """A function of samples [B, ...], its arrays [R, ...] for R of them.

  It is called on a few hundred at once, so that memory doesn't grow with R.
  """
  count = len(samples)
  if count <= _TOGETHER:
    return function(samples)
  padding = [(0, -count % _TOGETHER)] + [(0, 0)] * (samples.ndim - 1)
  padded = jnp.pad(samples, padding)
  parts = padded.reshape(-1, _TOGETHER, *samples.shape[1:])
  found = jax.lax.map(function, parts)
  return jax.tree.map(
    lambda array: array.reshape(-1, *array.shape[2:])[:count], found
  )


def _gain(gap: Array, weight: Array) -> Array:
  """log(w e^gap + 1 - w), without overflow: 0 for w = 0, and gap for 1."""
  below = jnp.log1p(weight * jnp.expm1(gap))
  above = gap + jnp.log1p((1 - weight) * jnp.expm1(-gap))
  between = jnp.where(gap > 0, above, below)
  ends = jnp.where(weight == 0, 0.0, gap)
  return jnp.where((weight == 0) | (weight == 1), ends, between)
