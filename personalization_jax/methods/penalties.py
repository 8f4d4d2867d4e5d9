"""Losses that hold a person's model near D_G's, or near its answers.

    L2-SP         CE + L/2 sum (theta - theta_G)^2
    EWC           CE + L/2 sum F (theta - theta_G)^2
    distillation  CE - L sum_c p_G(c | x) log p(c | x)

CE is cross-entropy in nats, theta_G the parameters of D_G's model, F the
diagonal of the Fisher information on D_G, L the strength.

Sources: Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer
Learning with Convolutional Networks" (2018), arXiv 1802.01483, whose penalty is
also that of Ditto (Li et al. 2021, arXiv 2012.04221) with a finished global
model; Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
networks" (2017), arXiv 1612.00796; Hinton, Vinyals and Dean, "Distilling the
Knowledge in a Neural Network" (2015), arXiv 1503.02531.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from personalization_jax.methods.answers import cross_entropy
from personalization_jax.networks import interface


@dataclasses.dataclass(frozen=True)
class L2SP:
  """Cross-entropy and half the squared distance to D_G's model.

  Attributes:
    strength: what that is multiplied by; 0 for cross-entropy itself.
  """

  strength: float

  def __post_init__(self) -> None:
    """Rejects what is no strength."""
    _check("strength", self.strength)

  def __call__(
    self, logits: Array, labels: Array, params: Any, reference: Any
  ) -> Array:
    """Each sample's loss [B]; the reference has `params`."""
    losses = cross_entropy(logits, labels, params, reference)
    if not self.strength:
      return losses
    squares = self._squares(params, reference)
    return losses + self.strength / 2 * optax.tree.sum(squares)

  def _squares(self, params: Any, reference: Any) -> Any:
    """What is summed of each parameter."""
    return _squares(params, reference["params"])


@dataclasses.dataclass(frozen=True)
class EWC(L2SP):
  """As `L2SP`, each square weighted by the parameter's Fisher information.

  The reference has `fisher` beside `params`.
  """

  def _squares(self, params: Any, reference: Any) -> Any:
    squares = super()._squares(params, reference)
    return jax.tree.map(jnp.multiply, reference["fisher"], squares)


@dataclasses.dataclass(frozen=True)
class Distillation:
  """Cross-entropy to the labels, and to what D_G's model answers.

  The latter is at temperature 1, and by its entropy larger than the divergence
  from D_G's model: gradients are the same.

  Attributes:
    weight: what that is multiplied by; 0 for cross-entropy itself.
  """

  weight: float

  def __post_init__(self) -> None:
    """Rejects what is no weight."""
    _check("weight", self.weight)

  def __call__(
    self, logits: Array, labels: Array, params: Any, reference: Any
  ) -> Array:
    """Each sample's loss [B]; the reference has `logits` [B, C]."""
    losses = cross_entropy(logits, labels, params, reference)
    if not self.weight:
      return losses
    taught = jax.nn.softmax(jax.lax.stop_gradient(reference["logits"]))
    return losses + self.weight * optax.softmax_cross_entropy(logits, taught)


def fisher_diagonal(
  model: nn.Module,
  variables: Any,
  samples: Array,
  labels: Array,
  mask: Array,
  together: int | None = None,
) -> Any:
  """A batch's part of the empirical Fisher information's diagonal.

      sum over rows of (d log p(label | sample) / d theta)^2

  as in evaluation. Summed over the batches of D_G and divided by its number of
  rows, it is what `EWC` takes as `fisher`.

  Args:
    model: the network.
    variables: its `params` and `batch_stats`.
    samples: float32 [B, ...].
    labels: int32 [B], the true classes.
    mask: bool [B], False where a row is padding.
    together: of how many samples the gradients are computed, and in memory, at
      once; None for all. A CPU is fastest with 1.

  Returns:
    A tree like the parameters.

  Source: Kirkpatrick et al. 2017, equation 3, with the data's own labels.
  """
  key = jax.random.key(0)  # for dropout that can't be switched off
  together = min(together or len(samples), len(samples))

  def log_likelihood(params: Any, sample: Array, label: Array) -> Array:
    of = {**variables, "params": params}
    logits = interface.apply(model, of, sample[None], key)
    return jax.nn.log_softmax(logits[0])[label]

  def add(total: Any, part: tuple[Array, Array, Array]) -> tuple[Any, None]:
    samples, labels, mask = part
    found = jax.vmap(jax.grad(log_likelihood), (None, 0, 0))(
      variables["params"], samples, labels
    )

    def added(total: Array, each: Array) -> Array:
      real = mask.reshape(-1, *[1] * total.ndim)
      return total + jnp.where(real, each**2, 0.0).sum(axis=0)

    return jax.tree.map(added, total, found), None

  def in_parts(array: Array) -> Array:
    padding = [(0, -len(array) % together)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, padding).reshape(-1, together, *array.shape[1:])

  nothing = jax.tree.map(jnp.zeros_like, variables["params"])
  parts = in_parts(samples), in_parts(labels), in_parts(mask)
  total, _ = jax.lax.scan(add, nothing, parts)
  return total


def _squares(params: Any, others: Any) -> Any:
  return jax.tree.map(lambda one, other: (one - other) ** 2, params, others)


def _check(name: str, value: Any) -> None:
  """Rejects what isn't a finite number of 0 or more."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    raise ValueError(f"{name}={value!r} must be a number.")
  if not 0 <= float(value) < math.inf:
    raise ValueError(f"{name}={value} must be finite and 0 or more.")
