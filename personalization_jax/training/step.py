"""Training and evaluating one individual's model: pure functions (JAX).

Nothing here knows of a population; `population_training` maps these functions
over individuals.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from personalization_jax.networks import classifier, interface


class TrainState(flax.struct.PyTreeNode):
  """One model in training.

  Attributes:
    step: int32 [], steps of the schedule gone by.
    params: the network's parameters.
    batch_stats: its running means and variances.
    opt_state: the optimiser's state.
    key: the key of this individual's dropout; a step uses fold_in(key, step).
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  key: jax.Array


@dataclasses.dataclass(frozen=True)
class Learner:
  """What is trained and how: a network and its optimiser.

  Attributes:
    model: a Linen module of samples [B, ...] that gives logits [B, classes];
      `own_model` says how it is called.
    optimizer: an optax transformation.
    learning_rate: of the Adam that `with_adam` gave it; None of any other
      optimiser, one put in its place by `dataclasses.replace` too.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  learning_rate: float | None = dataclasses.field(
    default=None, init=False, compare=False
  )

  @classmethod
  def with_adam(cls, model: nn.Module, learning_rate: float) -> Learner:
    """The model with Adam (section IV)."""
    learner = cls(model, optax.adam(learning_rate))
    object.__setattr__(learner, "learning_rate", float(learning_rate))
    return learner


def continue_as(state: TrainState, key: jax.Array) -> TrainState:
  """A trained model that another individual goes on with (TL's start).

  Args:
    state: the model.
    key: the individual's key, as for `create_state`.

  Returns:
    The state, with the dropout that `create_state` gives this individual.
  """
  _, dropout_key = jax.random.split(key)
  return state.replace(key=dropout_key)


def create_state(
  learner: Learner, key: jax.Array, image_shape: tuple[int, ...]
) -> TrainState:
  """A model at step 0.

  Args:
    learner: network and optimiser.
    key: the individual's key; it determines the initial weights and all
      dropout.
    image_shape: a sample's, for instance (H, W, C).

  Returns:
    The state.
  """
  init_key, dropout_key = jax.random.split(key)
  variables = interface.init(
    learner.model, init_key, jnp.zeros((1, *image_shape), jnp.float32)
  )
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=learner.optimizer.init(params),
    key=dropout_key,
  )


def gather(
  images: jax.Array, labels: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Fetches a batch from the store.

  Args:
    images: uint8 [N, H, W, C] or float32 [N, ...], the store.
    labels: int32 [N].
    rows: int32 [B], -1 where there is none.

  Returns:
    Samples float32 [B, ...], those of uint8 in 0..1; labels int32 [B]; and
    bool [B], False where a row was padding (sample and label are then
    meaningless).
  """
  index = jnp.maximum(rows, 0)
  return as_input(images[index]), labels[index], rows >= 0


def as_input(images: jax.Array) -> jax.Array:
  """Samples as models see them.

  Args:
    images: uint8 in 0..255, or float32.

  Returns:
    float32 of the same shape: 0..1 for uint8, floats as they are.
  """
  if images.dtype != jnp.uint8:
    return images
  return images.astype(jnp.float32) / 255.0


def loss_fn(
  params: Any,
  learner: Learner,
  batch_stats: Any,
  images: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  key: jax.Array,
  frozen_layers: int,
) -> tuple[jax.Array, Any]:
  """Mean softmax cross-entropy over the rows that are no padding.

  Args:
    params: the network's parameters.
    learner: network and optimiser.
    batch_stats: running statistics.
    images: float32 [B, ...].
    labels: int32 [B].
    mask: bool [B].
    key: this step's dropout key.
    frozen_layers: so many first layers don't train.

  Returns:
    The loss [] in nats and the new batch statistics.
  """
  logits, batch_stats = interface.apply_in_training(
    learner.model,
    {"params": params, "batch_stats": batch_stats},
    images,
    mask,
    key,
    frozen_layers,
  )
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  total = jnp.where(mask, losses, 0.0).sum()
  return total / jnp.maximum(mask.sum(), 1), batch_stats


def train_step(
  learner: Learner,
  state: TrainState,
  images: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  *,
  frozen_layers: int = 0,
) -> tuple[TrainState, jax.Array]:
  """One step of one individual's model on one batch.

  A batch of padding alone moves `step` on and leaves all else untouched, or
  the optimiser's momentum would go on without data.

  Args:
    learner: network and optimiser.
    state: the model before.
    images: float32 [B, ...].
    labels: int32 [B].
    mask: bool [B], False where a row is padding.
    frozen_layers: so many first layers stay as they are.

  Returns:
    The model after, and the mean loss [] over the batch's rows, in nats.

  Source: section II ("trained using gradient descent based on batches").
  """
  key = jax.random.fold_in(state.key, state.step)
  (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
    state.params,
    learner,
    state.batch_stats,
    images,
    labels,
    mask,
    key,
    frozen_layers,
  )
  updates, opt_state = learner.optimizer.update(
    gradients, state.opt_state, state.params
  )
  if frozen_layers:
    # Momentum gathered before would move frozen layers without a gradient.
    updates = jax.tree.map(
      lambda update, moves: update if moves else jnp.zeros_like(update),
      updates,
      classifier.trainable(updates, frozen_layers),
    )
  moved = state.replace(
    params=optax.apply_updates(state.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
  )
  has_data = mask.any()
  state = jax.tree.map(
    lambda new, old: (
      new
      if jnp.issubdtype(new.dtype, jax.dtypes.prng_key)
      else jnp.where(has_data, new, old)
    ),
    moved,
    state,
  )
  return state.replace(step=state.step + 1), loss


def train_on_rows(
  learner: Learner,
  state: TrainState,
  rows: jax.Array,
  num_steps: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  frozen_layers: int = 0,
) -> tuple[TrainState, jax.Array]:
  """Steps through a block of a schedule, one compiled loop.

  Args:
    learner: network and optimiser.
    state: the model before.
    rows: int32 [T, B], rows of the store, -1 for padding.
    num_steps: int32 [], how many of the T steps there are; the rest isn't
      computed. It isn't mapped over individuals, so it stays a branch.
    images: uint8 [N, H, W, C] or float32 [N, ...], the store.
    labels: int32 [N].
    frozen_layers: so many first layers stay as they are.

  Returns:
    The model after num_steps steps and the losses float32 [T], NaN where no
    row was trained on.
  """

  # A loop of num_steps turns: a scan that skips the rest by `lax.cond` would
  # copy the state into and out of the branch in every step.
  def step(
    index: jax.Array, carry: tuple[TrainState, jax.Array]
  ) -> tuple[TrainState, jax.Array]:
    state, losses = carry
    state, loss = train_step(
      learner,
      state,
      *gather(images, labels, rows[index]),
      frozen_layers=frozen_layers,
    )
    loss = jnp.where((rows[index] >= 0).any(), loss, jnp.nan)
    return state, losses.at[index].set(loss)

  # Made from the rows, so that they vary over the mesh as the state does.
  losses = jnp.nan * rows[:, 0].astype(jnp.float32)
  return jax.lax.fori_loop(0, num_steps, step, (state, losses))


def eval_step(
  learner: Learner, state: TrainState, images: jax.Array
) -> jax.Array:
  """Classifies a batch.

  Args:
    learner: network and optimiser.
    state: a model.
    images: float32 [B, ...].

  Returns:
    int32 [B], the most probable class, -1 where there is none because a number
    isn't finite.
  """
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  logits = interface.apply(learner.model, variables, images, state.key)
  classes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return jnp.where(jnp.isfinite(logits).all(axis=-1), classes, -1)


def predict_rows(
  learner: Learner,
  state: TrainState,
  rows: jax.Array,
  images: jax.Array,
  labels: jax.Array,
) -> jax.Array:
  """Classifies rows of the store, batch by batch.

  Args:
    learner: network and optimiser.
    state: a model.
    rows: int32 [T, B], -1 for padding.
    images: uint8 [N, H, W, C] or float32 [N, ...], the store.
    labels: int32 [N].

  Returns:
    int32 [T, B], the most probable class, -1 where a row was padding.
  """

  def predict(rows: jax.Array) -> jax.Array:
    batch, _, mask = gather(images, labels, rows)
    return jnp.where(mask, eval_step(learner, state, batch), -1)

  return jax.lax.map(predict, rows)
