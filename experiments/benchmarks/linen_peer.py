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
from flax.training import train_state

from experiments.benchmarks.work import Task
from personalization_jax.networks import classifier


class PlainClassifier(nn.Module):
  """Fig. 4 by `nn.Conv` and `nn.max_pool`; its variables are `Classifier`'s."""

  num_classes: int
  width: float = 1.0  # factor on every channel count of Fig. 4
  dtype: Any = jnp.float32  # of activations

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Logits float32 [B, num_classes] of images float [B, H, W, C]."""
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, momentum=0.9
    )
    of_type = {"dtype": self.dtype}
    for index, layer in enumerate(classifier.FIG_4):
      channels, size = int(layer.channels * self.width), (layer.size,) * 2
      x = nn.Conv(channels, size, name=f"layer_{index}", **of_type)(x)
      x = norm(name=f"norm_{index}", **of_type)(nn.relu(x))
      if layer.pool:
        window = (2, 2) if layer is not classifier.FIG_4[-1] else x.shape[1:3]
        x = nn.max_pool(x, window, window)
      if layer.dropout:
        x = nn.Dropout(layer.dropout, deterministic=not train)(x)
    x = x.reshape(len(x), -1)
    name = f"layer_{len(classifier.FIG_4)}"
    x = nn.Dense(self.num_classes, name=name, **of_type)(x)
    return x.astype(jnp.float32)


class TrainState(train_state.TrainState):
  """One individual's."""

  batch_stats: Any
  key: jax.Array


def train_step(
  state: TrainState, rows: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[TrainState, jax.Array]:
  """One step of one individual on rows [B]: the state after, and the loss."""
  key, dropout = jax.random.split(state.key)

  def loss_fn(params: Any) -> tuple[jax.Array, Any]:
    logits, updates = state.apply_fn(
      {"params": params, "batch_stats": state.batch_stats},
      images[rows].astype(jnp.float32) / 255.0,
      True,
      mutable=["batch_stats"],
      rngs={"dropout": dropout},
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, labels[rows]
    )
    return losses.mean(), updates["batch_stats"]

  (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
    state.params
  )
  state = state.apply_gradients(grads=gradients)
  return state.replace(batch_stats=batch_stats, key=key), loss


def first_state(task: Task, key: jax.Array) -> TrainState:
  """An individual's, with the model that everybody starts from."""
  width, dtype = task.settings.width, jnp.dtype(task.settings.precision)
  model = PlainClassifier(task.store.num_classes, width, dtype)
  return TrainState.create(
    apply_fn=model.apply,
    params=task.params,
    tx=optax.adam(task.settings.learning_rate),
    batch_stats=task.batch_stats,
    key=key,
  )


def serve(task: Task) -> Callable[[], np.ndarray]:
  """What a worker process runs, compiled: losses [individuals, T]."""
  step = jax.jit(jax.vmap(train_step, in_axes=(0, 0, None, None)))
  store = jnp.asarray(task.store.images), jnp.asarray(task.store.labels)
  batches = jnp.asarray(task.rows.swapaxes(0, 1))
  keys = jax.random.split(jax.random.key(0), len(task.rows))
  first = jax.vmap(lambda key: first_state(task, key))(keys)

  def run() -> np.ndarray:
    state, losses = first, []
    for batch in batches:
      state, loss = step(state, batch, *store)
      losses.append(loss)
    return np.stack(losses, axis=1)

  run()
  return run
