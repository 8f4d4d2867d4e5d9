"""The compiled programs of a chunk of individuals (JAX).

The functions of `training`, each of one individual, under `vmap` on a device
and `shard_map` over the mesh. Each is compiled when first called.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from personalization_jax.distributed import AXIS
from personalization_jax.networks import classifier
from personalization_jax.training import step as training_step
from personalization_jax.training.step import Learner, TrainState

# What kernels take of a CPU device beside XLA's plan: 8 to 20 MiB, measured
# from width 0.125 and batches of 32 to width 1 and batches of 128.
_OF_CPU_KERNELS = 24 * 2**20


def planned_bytes(program: jax.stages.Lowered, *, on_cpu: bool) -> int | None:
  """Bytes that a program takes at most of each device, as XLA plans it.

  It is compiled for that, and is there when it is called.

  Args:
    program: lowered for the arrays that it will be called with.
    on_cpu: whether it is a CPU's.

  Returns:
    What goes in, what comes out and all that is made on the way; on a CPU also
    what its kernels take beside that. None where XLA tells nothing.
  """
  plan = program.compile().memory_analysis()
  if not plan:
    return None
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
    + (_OF_CPU_KERNELS if on_cpu else 0)
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
  """What a chunk's individuals are made, trained and tested by.

  Attributes:
    learner: network and optimiser, the same for everybody.
    mesh: where individuals go.
    side_by_side: how many of a device one operation computes; see
      `PopulationTrainer`.
    image_shape: a sample's, for instance (H, W, C).
    layout: how images and labels lie over the mesh.
  """

  learner: Learner
  mesh: Mesh
  side_by_side: int
  image_shape: tuple[int, ...]
  layout: tuple[P, P]

  def shapes(self, count: int) -> TrainState:
    """The shapes and dtypes of the states of so many individuals."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    one = jax.eval_shape(
      jax.vmap(
        functools.partial(
          training_step.create_state, self.learner, image_shape=self.image_shape
        )
      ),
      keys,
    )
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype),
      one,
    )

  @functools.cached_property
  def create(self) -> Callable[..., TrainState]:
    """Keys [n] -> fresh states [n]; see `training.create_state`."""
    create = functools.partial(
      training_step.create_state, self.learner, image_shape=self.image_shape
    )
    return jax.jit(self._over_individuals(create, 1))

  @functools.cached_property
  def share(self) -> Callable[..., TrainState]:
    """Keys [n] and one state -> states [n]; see `training.continue_as`."""

    def share(key: jax.Array, one: TrainState) -> TrainState:
      return training_step.continue_as(one, key)

    return jax.jit(self._over_individuals(share, 1, P()))

  def train(self, frozen_layers: int) -> jax.stages.Wrapped:
    """Trains through a block of steps; see `training.train_on_rows`.

    Args:
      frozen_layers: so many first layers stay as they are; each number is a
        program of its own.

    Returns:
      A function of states [n] (consumed), rows int32 [n, T, B], the number of
      steps, images and labels, that gives states [n] and losses [n, T].
    """
    compiled = self._train_by_frozen_layers
    if frozen_layers not in compiled:

      def train(
        state: TrainState,
        rows: jax.Array,
        num_steps: jax.Array,
        images: jax.Array,
        labels: jax.Array,
      ) -> tuple[TrainState, jax.Array]:
        return training_step.train_on_rows(
          self.learner,
          state,
          rows,
          num_steps,
          images,
          labels,
          frozen_layers=frozen_layers,
        )

      compiled[frozen_layers] = jax.jit(
        self._over_individuals(train, 2, P(), *self.layout),
        donate_argnums=0,
      )
    return compiled[frozen_layers]

  @functools.cached_property
  def finite(self) -> Callable[..., jax.Array]:
    """Two trees of arrays [n, ...] -> bool [n], whose numbers are finite."""

    def finite(*trees: Any) -> jax.Array:
      leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trees)]
      return jnp.stack(leaves).all()

    return jax.jit(self._over_individuals(finite, 2))

  @functools.cached_property
  def predict(self) -> jax.stages.Wrapped:
    """Predicts the classes of rows; see `training.predict_rows`.

    A function of states [n], rows int32 [n, T, B], images and labels, that
    gives int32 [n, T, B].
    """
    predict = functools.partial(training_step.predict_rows, self.learner)
    return jax.jit(self._over_individuals(predict, 2, *self.layout))

  @functools.cached_property
  def _train_by_frozen_layers(self) -> dict[int, jax.stages.Wrapped]:
    return {}

  def _over_individuals(
    self,
    function: Callable[..., Any],
    num_mapped: int,
    *shared: P,
  ) -> Callable[..., Any]:
    """Maps a function of one individual: vmap inside shard_map.

    Args:
      function: takes num_mapped trees of one individual, then arrays that all
        individuals of a device share.
      num_mapped: see there.
      *shared: how each of these arrays lies over the mesh.

    Returns:
      A function of the same arguments with a leading individual axis on the
      mapped ones.
    """

    def on_device(*args: Any) -> Any:
      mapped, others = args[:num_mapped], args[num_mapped:]
      return jax.lax.map(
        lambda one: function(*one, *others),
        mapped,
        batch_size=None if self.side_by_side == 1 else self.side_by_side,
      )

    return jax.shard_map(
      on_device,
      mesh=self.mesh,
      in_specs=(P(AXIS),) * num_mapped + shared,
      out_specs=P(AXIS),
      # A scan in a model of one's own (an RNN's, say) begins with constants,
      # which the check would refuse: they don't vary over the mesh.
      check_vma=isinstance(self.learner.model, classifier.Classifier),
    )
