"""One person's state and data, for methods that fit and predict."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from personalization_jax.networks import MLP, interface

MODEL = MLP(3, hidden=(5,))
FEATURES = 4


class State(NamedTuple):
  """What `Method.fit` and `Method.predict` are given."""

  variables: Any
  reference: Any
  key: Any
  answer: Any = None

  def replace(self, **changes):
    return self._replace(**changes)


@functools.cache
def variables(seed):
  samples = jnp.zeros((1, FEATURES))
  init = jax.jit(functools.partial(interface.init, MODEL))
  return {"batch_stats": {}, **init(jax.random.key(seed), samples)}


def state(own=1, general=2):
  return State(variables(own), variables(general), jax.random.key(3))


def data(count, padding=0, seed=0):
  """Samples, labels and a mask; padding has absurd samples."""
  rng = np.random.default_rng(seed)
  samples = rng.normal(size=(count, FEATURES)).astype(np.float32)
  labels = rng.integers(0, 3, count).astype(np.int32)
  return (
    np.pad(samples, ((0, padding), (0, 0)), constant_values=np.nan),
    np.pad(labels, (0, padding), constant_values=2),
    np.arange(count + padding) < count,
  )


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  logits = logits - logits.max(axis=-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
