"""The same work as a JAX user would write it first: the peer without us.

Linen's own layers, `vmap` over individuals, one compiled step called from a
Python loop. (In a `lax.scan` XLA's CPU kernels are several times slower still.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.benchmarks.work import Work
from personalization_jax.networks import classifier


class PlainClassifier(nn.Module):
  """Fig. 4 by `nn.Conv` and `nn.max_pool`; its variables are `Classifier`'s.

  Attributes:
    num_classes: number of classes.
    width: factor on every channel count of Fig. 4.
    dtype: what activations are computed in.
  """

  num_classes: int
  width: float = 1.0
  dtype: Any = jnp.float32

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


class VmappedLinen:
  """Trains everybody at once.

  Args:
    work: what is done; all individuals go side by side.
    images: uint8 [N, H, W, C], the store.
    labels: int32 [N].
    rows: int32 [individuals, T, B].
  """

  def __init__(
    self, work: Work, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
  ):
    self._images, self._labels = jnp.asarray(images), jnp.asarray(labels)
    self._rows = jnp.asarray(rows)
    self._model = PlainClassifier(
      int(labels.max()) + 1, work.width, jnp.dtype(work.precision)
    )
    self._optimizer = optax.adam(work.settings().learning_rate)
    variables = jax.jit(self._model.init, static_argnums=2)(
      jax.random.key(0), jnp.zeros((1, *images.shape[1:])), False
    )
    self.params, self.batch_stats = (
      variables["params"],
      variables["batch_stats"],
    )
    self._step = jax.jit(jax.vmap(self.step, in_axes=(0, 0, None, None)))

  def __call__(self) -> np.ndarray:
    """Losses float32 [individuals, T]."""
    individuals, steps, _ = self._rows.shape
    state = (
      self.params,
      self.batch_stats,
      self._optimizer.init(self.params),
      jax.random.key(1),
    )
    state = jax.vmap(
      lambda index: (*state[:3], jax.random.fold_in(state[3], index))
    )(jnp.arange(individuals))
    losses = []
    for step in range(steps):
      state, loss = self._step(
        state, self._rows[:, step], self._images, self._labels
      )
      losses.append(loss)
    return np.stack(losses, axis=1)

  def step(
    self,
    state: Any,
    rows: jax.Array,
    images: jax.Array,
    labels: jax.Array,
  ) -> tuple[Any, jax.Array]:
    """One step of one individual.

    Args:
      state: parameters, batch statistics, optimiser's state and a key.
      rows: int32 [B].
      images: uint8 [N, H, W, C], the store.
      labels: int32 [N].

    Returns:
      The state after, and the loss [].
    """
    params, batch_stats, opt_state, key = state
    key, dropout = jax.random.split(key)
    batch = images[rows].astype(jnp.float32) / 255.0

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
      logits, updates = self._model.apply(
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
    updates, opt_state = self._optimizer.update(gradients, opt_state)
    params = optax.apply_updates(params, updates)
    return (params, batch_stats, opt_state, key), loss


def serve(
  work: Work, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> Callable[[], float]:
  """What a worker process runs.

  Args:
    work: see `VmappedLinen`.
    images: see there.
    labels: see there.
    rows: see there.

  Returns:
    A function that does the work and returns its seconds.
  """
  peer = VmappedLinen(work, images, labels, rows)

  def run() -> float:
    start = time.perf_counter()
    peer()
    return time.perf_counter() - start

  run()  # compiles
  return run
