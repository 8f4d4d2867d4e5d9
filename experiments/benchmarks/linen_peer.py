"""The same work as a JAX user would write it first: the peer without us.

Linen's own layers, `vmap` over individuals, one compiled step called from a
Python loop. (In a `lax.scan` XLA's CPU kernels are several times slower still.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.benchmarks.measuring import seconds
from experiments.benchmarks.work import Work, rows
from personalization_jax.datasets import Population
from personalization_jax.networks import classifier


class PlainClassifier(nn.Module):
  """Fig. 4 by `nn.Conv` and `nn.max_pool`; its variables are `Classifier`'s."""

  num_classes: int
  width: float = 1.0  # factor on every channel count of Fig. 4
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Logits float32 [B, num_classes] of images float [B, H, W, C]."""
    x = x.astype(self.dtype)
    last = len(classifier.FIG_4) - 1
    for index, layer in enumerate(classifier.FIG_4):
      x = nn.Conv(
        int(layer.channels * self.width),
        (layer.size, layer.size),
        dtype=self.dtype,
        name=f"layer_{index}",
      )(x)
      x = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        dtype=self.dtype,
        name=f"norm_{index}",
      )(nn.relu(x))
      if layer.pool:
        window = (2, 2) if index < last else x.shape[1:3]
        x = nn.max_pool(x, window, window)
      if layer.dropout:
        x = nn.Dropout(layer.dropout, deterministic=not train)(x)
    x = x.reshape(len(x), -1)
    name = f"layer_{last + 1}"
    x = nn.Dense(self.num_classes, dtype=self.dtype, name=name)(x)
    return x.astype(jnp.float32)


def train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  state: Any,
  rows: jax.Array,
  images: jax.Array,
  labels: jax.Array,
) -> tuple[Any, jax.Array]:
  """One step of one individual on rows [B]: the state after, and the loss."""
  params, batch_stats, opt_state, key = state
  key, dropout = jax.random.split(key)
  batch = images[rows].astype(jnp.float32) / 255.0

  def loss_fn(params: Any) -> tuple[jax.Array, Any]:
    logits, updates = model.apply(
      {"params": params, "batch_stats": batch_stats},
      batch,
      True,
      mutable=["batch_stats"],
      rngs={"dropout": dropout},
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, labels[rows]
    )
    return losses.mean(), updates["batch_stats"]

  (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
    params
  )
  updates, opt_state = optimizer.update(gradients, opt_state)
  params = optax.apply_updates(params, updates)
  return (params, batch_stats, opt_state, key), loss


def serve(work: Work, people: Population) -> Callable[[], float]:
  """What a worker process runs, compiled: it returns the work's seconds."""
  model = PlainClassifier(
    people.num_classes, work.width, jnp.dtype(work.precision)
  )
  optimizer = optax.adam(work.settings().learning_rate)
  own_step = functools.partial(train_step, model, optimizer)
  step = jax.jit(jax.vmap(own_step, in_axes=(0, 0, None, None)))
  store = jnp.asarray(people.images), jnp.asarray(people.labels)
  batches = jnp.asarray(rows(work, people).swapaxes(0, 1))
  images = jnp.zeros((1, *people.sample_shape))
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(0), images)
  params = variables["params"]
  first = (params, variables["batch_stats"], optimizer.init(params))
  keys = jax.random.split(jax.random.key(1), work.individuals)

  def run() -> np.ndarray:
    state = jax.vmap(lambda key: (*first, key))(keys)
    losses = []
    for batch in batches:
      state, loss = step(state, batch, *store)
      losses.append(loss)
    return np.stack(losses, axis=1)

  run()
  return lambda: seconds(run)
