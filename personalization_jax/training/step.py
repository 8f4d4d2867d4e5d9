"""Training and evaluating one individual's model: pure functions (JAX).

Nothing here knows of a population; `population` maps these functions over
individuals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from personalization_jax.methods import masks
from personalization_jax.networks import classifier, interface
from personalization_jax.training.learner import Learner

# Of a batch in a running statistic: with less, rounding can't be told from it.
_LEAST_SHARE = 1e-5


class TrainState(flax.struct.PyTreeNode):
  """One model in training."""

  step: jax.Array  # int32 [], steps of the schedule gone by
  params: Any  # the network's
  batch_stats: Any  # its running means and variances
  opt_state: Any  # the optimiser's
  key: jax.Array  # of this individual's dropout; a step uses fold_in(key, step)
  reference = None
  answer = None

  @property
  def variables(self) -> dict[str, Any]:
    """What the network is applied with: `params` and `batch_stats`."""
    return {"params": self.params, "batch_stats": self.batch_stats}


class AnsweringState(TrainState):
  """One model, and what its answers need beside it (`Method.fit`)."""

  answer: Any = None
  reference: Any = None  # D_G's model, inside a program alone


class Answers(NamedTuple):
  """What models answer about rows: arrays [..., B].

  Probabilities are the softmax of the scores, by their natural logarithm. For
  padding, and where scores aren't finite, they are NaN and predictions -1.
  """

  predictions: Any  # int32, the classes with the highest score
  log_probability: Any  # float32, of the true class
  log_confidence: Any  # float32, of the predicted class


def create_state(
  learner: Learner, key: jax.Array, image_shape: tuple[int, ...]
) -> TrainState:
  """A model of samples of a shape, such as (H, W, C), at step 0.

  The individual's key determines the initial weights and all dropout.
  """
  init_key, dropout_key = jax.random.split(key)
  variables = interface.init(
    learner.model, init_key, jnp.zeros((1, *image_shape), jnp.float32)
  )
  return state_of(learner, variables, dropout_key)


def state_of(
  learner: Learner, variables: Mapping[str, Any], key: jax.Array
) -> TrainState:
  """A model with these variables at step 0, and a fresh optimiser."""
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=learner.optimizer.init(params),
    key=key,
  )


def continue_as(
  learner: Learner, key: jax.Array, state: TrainState
) -> TrainState:
  """A trained model that another individual goes on with (TL's start).

  The key gives the dropout that `create_state` would give this individual. A
  lean learner's state holds what is trained alone.
  """
  own_key, dropout_key = jax.random.split(key)
  state = state.replace(key=dropout_key)
  if not learner.lean:
    return go_on(learner, state)
  assert learner.trainable is not None
  mask = learner.trainable(state.params)
  kept = jax.tree.map(lambda trained: trained is True, mask)

  def like_parameters(part: Any) -> bool:
    """Whether the optimiser keeps this of each parameter."""
    return _same_trees(part, state.params)

  def select(part: Any) -> Any:
    if not like_parameters(part):
      return part
    return jax.tree.map(lambda leaf, keep: leaf if keep else None, part, kept)

  of_own = jax.tree.map(select, state.opt_state, is_leaf=like_parameters)
  own = masks.own_of(state.params, mask, own_key)
  return go_on(learner, state.replace(params=own, opt_state=of_own))


def go_on(learner: Learner, state: TrainState) -> TrainState:
  """The state for a learner's optimiser: it goes on if it is of the same kind.

  Of Adam's, the moments go on whatever follows them.
  """
  old, fresh = state.opt_state, learner.optimizer.init(state.params)
  if not learner.fresh:
    if _same_trees(old, fresh):
      fresh = old
    elif isinstance(old, tuple) and isinstance(fresh, tuple):
      adam = isinstance(old[0], optax.ScaleByAdamState)
      if adam and _same_trees(old[0], fresh[0]):
        fresh = (old[0], *fresh[1:])
  return state.replace(opt_state=fresh)


def _same_trees(one: Any, other: Any) -> bool:
  structures: list[Any] = [jax.tree.structure(tree) for tree in (one, other)]
  return bool(structures[0] == structures[1])


def in_use(learner: Learner, state: TrainState, base: Any) -> AnsweringState:
  """A model as `fit` and `predict` are given it: whole, with its reference."""
  given = {name: getattr(state, name) for name in state.__dataclass_fields__}
  given["params"] = whole(learner, state.params, base)
  given["reference"] = base if learner.reference else None
  return AnsweringState(**given)


def whole(learner: Learner, params: Any, base: Any) -> Any:
  """All parameters, where a state has its own alone."""
  return masks.merged(params, base["params"]) if learner.lean else params


def gather(
  images: jax.Array, labels: jax.Array | None, rows: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Fetches rows int32 [B] from the store: samples, labels, and a mask.

  The mask is False where a row is padding; sample and label are meaningless
  there. Without labels each sample is its own, as an auto-encoder's.
  """
  index = jnp.maximum(rows, 0)
  samples = as_input(images[index])
  return samples, samples if labels is None else labels[index], rows >= 0


def in_batches(
  function: Callable[[np.ndarray], Any], array: np.ndarray, size: int
) -> Any:
  """What a function of `size` rows at once gives for all of [N, ...]: NumPy.

  The last batch is padded with zeros, so that one program serves all.
  """
  found = []
  for start in range(0, max(1, len(array)), size):
    batch = array[start : start + size]
    padding = [(0, size - len(batch))] + [(0, 0)] * (array.ndim - 1)
    found.append(jax.device_get(function(np.pad(batch, padding))))
  return jax.tree.map(lambda *some: np.concatenate(some)[: len(array)], *found)


def as_input(images: jax.Array) -> jax.Array:
  """Samples as models see them: uint8 in 0..1, floats as they are."""
  if images.dtype != jnp.uint8:
    return images
  return images.astype(jnp.float32) / 255.0


def loss_fn(
  params: Any,
  learner: Learner,
  state: TrainState,
  images: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  key: jax.Array,
  frozen_layers: int,
  base: Any = None,
) -> tuple[jax.Array, Any]:
  """Mean loss [] over a batch's real rows, and the new batch statistics."""
  params = whole(learner, params, base)
  logits, batch_stats = interface.apply_in_training(
    learner.model,
    {**state.variables, "params": params},
    images,
    mask,
    key,
    frozen_layers,
  )
  reference = None
  if learner.reference:
    answers = interface.apply(learner.model, base, images, key)
    reference = {**base, "logits": answers}
  losses = learner.loss(logits, labels, params, reference)
  total = jnp.where(mask, losses, 0.0).sum()
  return total / jnp.maximum(mask.sum(), 1), batch_stats


def train_step(
  learner: Learner,
  state: TrainState,
  images: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  base: Any = None,
) -> tuple[TrainState, jax.Array]:
  """One step of one individual's model on one batch, as `gather` gives it.

  Gives the model after, and the mean loss [] over the real rows, in nats; base
  is D_G's model, `params` and `batch_stats`, for learners that want it. A batch
  of padding alone moves `step` on and leaves all else untouched, or the
  optimiser's momentum would go on without data.

  Source: section II ("altered using gradient descent based on batches").
  """
  trainable = _trainable(learner, state.params, base)
  frozen = _frozen_layers(learner, trainable)
  key = jax.random.fold_in(state.key, state.step)
  (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
    state.params, learner, state, images, labels, mask, key, frozen, base
  )
  updates, opt_state = learner.optimizer.update(
    gradients, state.opt_state, state.params
  )
  if trainable is not None and not learner.lean:
    # Momentum gathered before would move them without a gradient.
    updates = jax.tree.map(
      lambda update, moves: update if moves else jnp.zeros_like(update),
      updates,
      trainable,
    )
  moved = state.replace(
    params=optax.apply_updates(state.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
  )
  if learner.empty_batches:
    has_data = mask.any()
    moved = jax.tree.map(
      lambda new, old: (
        new
        if jnp.issubdtype(new.dtype, jax.dtypes.prng_key)
        else jnp.where(has_data, new, old)
      ),
      moved,
      state,
    )
  return moved.replace(step=state.step + 1), loss


def train_on_rows(
  learner: Learner,
  state: TrainState,
  rows: jax.Array,
  num_steps: jax.Array,
  images: jax.Array,
  labels: jax.Array | None,
  base: Any = None,
) -> tuple[TrainState, jax.Array]:
  """Takes num_steps [] of a block's steps, rows int32 [T, B], in one loop.

  Gives the model after them and the losses float32 [T], NaN where no row was
  trained on. Images, labels and rows are those of `gather`.
  """

  # A loop of num_steps turns, which isn't mapped over individuals: a scan that
  # skips the rest by `lax.cond` would copy the state in and out in every step.
  def step(
    index: jax.Array, carry: tuple[TrainState, jax.Array]
  ) -> tuple[TrainState, jax.Array]:
    state, losses = carry
    state, loss = train_step(
      learner, state, *gather(images, labels, rows[index]), base
    )
    loss = jnp.where((rows[index] >= 0).any(), loss, jnp.nan)
    return state, losses.at[index].set(loss)

  # Made from the rows, so that they vary over the mesh as the state does.
  losses = jnp.nan * rows[:, 0].astype(jnp.float32)
  return jax.lax.fori_loop(0, num_steps, step, (state, losses))


def precise_batch_stats(
  learner: Learner,
  state: TrainState,
  rows: jax.Array,
  images: jax.Array,
  labels: jax.Array | None,
  base: Any = None,
) -> Any:
  """Running statistics of the parameters as they are now, over rows [T, B].

  They are the mean over the batches, weighted by their rows, of each batch's
  own. Layers that aren't trained keep theirs. The last batch must have data.

  A batch whose own statistic is b makes m r + (1 - m) b of a running one r.
  From r = 0 and another r follow m and b, so any model's can be found.

  Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.
  """
  trainable = _trainable(learner, state.params, base)
  frozen = _frozen_layers(learner, trainable)
  params = whole(learner, state.params, base)
  zeros = jax.tree.map(jnp.zeros_like, state.batch_stats)
  num_batches = len(rows)
  own_key, _ = jax.random.split(state.key)

  def after(index: Any, batch_stats: Any) -> tuple[Any, jax.Array]:
    """Running statistics after a batch, and its number of rows."""
    samples, _, mask = gather(images, labels, rows[index])
    # No step's, and the same whatever padding comes before.
    key = jax.random.fold_in(own_key, num_batches - index)
    variables = {"params": params, "batch_stats": batch_stats}
    _, moved = interface.apply_in_training(
      learner.model, variables, samples, mask, key, frozen
    )
    return moved, mask.sum()

  def add(index: Any, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
    total, count = carry
    moved, own = after(index, zeros)
    total = jax.tree.map(
      lambda there, new: there + jnp.where(own > 0, own * new, 0), total, moved
    )
    return total, count + own

  total, count = jax.lax.fori_loop(0, num_batches, add, (zeros, 0))
  of_last, _ = after(num_batches - 1, zeros)
  # As large as what is added to it, or rounding would hide the momentum.
  probe = jax.tree.map(lambda last: 1 + jnp.abs(last), of_last)
  of_probe, _ = after(num_batches - 1, probe)

  def precise(old: Any, total: Any, last: Any, probe: Any, after: Any) -> Any:
    own_share = 1 - (after - last) / probe
    moves = own_share > _LEAST_SHARE
    mean = total / count / jnp.where(moves, own_share, 1)
    return jnp.where(moves, mean, old).astype(old.dtype)

  return jax.tree.map(
    precise, state.batch_stats, total, of_last, probe, of_probe
  )


def predict_rows(
  learner: Learner,
  state: TrainState,
  rows: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  base: Any = None,
) -> Answers:
  """What the model answers about rows [T, B] of the store: [T, B]."""
  state = in_use(learner, state, base)

  def predict(rows: jax.Array) -> Answers:
    batch, truth, mask = gather(images, labels, rows)
    scores = learner.predict(learner.model, state, batch)
    classes = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    known = mask & jnp.isfinite(scores).all(axis=-1)
    both = jnp.stack([truth, classes], axis=-1)
    logs = jnp.take_along_axis(_log_softmax(scores), both, axis=-1)
    of_truth, of_answer = jnp.where(known[:, None], logs, jnp.nan).T
    return Answers(jnp.where(known, classes, -1), of_truth, of_answer)

  return jax.lax.map(predict, rows)


def log_probabilities(
  learner: Learner,
  state: TrainState,
  rows: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  base: Any = None,
) -> jax.Array:
  """As `Answers.log_probability`, of every class: float32 [T, B, C]."""
  state = in_use(learner, state, base)

  def predict(rows: jax.Array) -> jax.Array:
    batch, _, mask = gather(images, labels, rows)
    scores = learner.predict(learner.model, state, batch)
    known = mask & jnp.isfinite(scores).all(axis=-1)
    return jnp.where(known[:, None], _log_softmax(scores), jnp.nan)

  return jax.lax.map(predict, rows)


def fit(
  learner: Learner,
  state: TrainState,
  rows: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  base: Any = None,
) -> Any:
  """What `learner.fit` gives of rows [2, R], to train on and to validate on."""

  def data(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Zeros for padding: what is found may be kept, and holds nobody else's."""
    samples, classes, mask = gather(images, labels, rows)
    real = mask.reshape(-1, *[1] * (samples.ndim - 1))
    return jnp.where(real, samples, 0), jnp.where(mask, classes, 0), mask

  own, validation = map(data, rows)
  assert learner.fit is not None
  state = in_use(learner, state, base)
  return learner.fit(learner.model, state, own, validation)


def _log_softmax(scores: jax.Array) -> jax.Array:
  return jax.nn.log_softmax(scores.astype(jnp.float32), axis=-1)


def _trainable(learner: Learner, params: Any, base: Any) -> Any:
  """What of the whole model is trained, as a tree; None for all."""
  if learner.trainable is None:
    return None
  return learner.trainable(base["params"] if learner.lean else params)


def _frozen_layers(learner: Learner, trainable: Any) -> int:
  """Leading layers without a trained parameter: they need no gradient."""
  if trainable is None or not interface.takes_frozen_layers(learner.model):
    return 0
  layers = [
    classifier.layer_number(name)
    for name, trained in trainable.items()
    if any(jax.tree.leaves(trained))
  ]
  return min(layers, default=0)
