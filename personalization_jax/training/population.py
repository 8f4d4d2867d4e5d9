"""Training and evaluating everybody's models, over all devices (JAX).

The functions of `training`, mapped over individuals by `programs`. Individuals
exchange nothing. They go in chunks of `devices x individuals_per_device`, so
that memory is bounded by that and not by the population.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from personalization_jax import distributed
from personalization_jax.checkpoints import files
from personalization_jax.datasets.splits import PADDING
from personalization_jax.distributed import AXIS
from personalization_jax.training.pace import Pace
from personalization_jax.training.programs import Programs, planned_bytes
from personalization_jax.training.step import Learner, TrainState
from personalization_jax.training.stores import DeviceStore, HostStore

# Called at each end of a block with the steps done, the states (donated to the
# next block, so not to be kept), and a function that gives the losses so far.
OnBlock = Callable[[int, TrainState, Callable[[], np.ndarray]], None]
# Steps in one compiled scan.
BLOCK_STEPS = 50
# Images classified at once.
_PREDICTED = 256


def individual_key(root: jax.Array, individual: int) -> jax.Array:
  """An individual's key: it depends on nobody else."""
  return jax.random.fold_in(root, np.uint32(individual))


def individual_keys(
  root: jax.Array, individuals: Iterable[int] | np.ndarray
) -> jax.Array:
  """The keys [n] of n individuals, from their ids."""
  return jnp.stack([individual_key(root, int(each)) for each in individuals])


@dataclasses.dataclass(eq=False)
class PopulationTrainer:
  """The compiled training and evaluation of a population.

  Attributes:
    learner: network and optimiser, the same for everybody.
    images: uint8 [N, H, W, C] or float32 [N, ...], the store.
    labels: int32 [N].
    mesh: where individuals go.
    individuals_per_device: how many models are on a device at once.
    side_by_side: how many of them one operation computes (`vmap`); the others
      of a device follow one after another. By default all of them, but one on
      a CPU: there `vmap` turns convolutions into grouped ones, which are many
      times slower, and one at a time gives each individual the same bits
      whoever else is trained.
    store: "device" puts the images on every device once; "host" keeps them in
      this process's memory and sends each device, block by block, the rows that
      its individuals need: for a D_G that no device holds.
    block_steps: steps in one compiled scan, at most.
    block_seconds: about how long a block may take; slow models get fewer steps
      in each call of the same program. Between blocks the host looks at the
      clock, saves, and stops if it is asked to.
  """

  learner: Learner
  images: Any
  labels: Any
  mesh: Mesh
  individuals_per_device: int = 1
  side_by_side: int | None = None
  store: str = "device"
  block_steps: int = BLOCK_STEPS
  block_seconds: float = 3.0

  def __post_init__(self) -> None:
    """Puts the store where it is to be."""
    if self.individuals_per_device < 1:
      raise ValueError(
        f"individuals_per_device={self.individuals_per_device} must be at"
        " least 1."
      )
    if self.side_by_side is None:
      self.side_by_side = 1 if self.on_cpu else self.individuals_per_device
    self._source: DeviceStore | HostStore
    if self.store == "device":
      self._source = DeviceStore(self.mesh, self.images, self.labels)
      self.images, self.labels = self._source.arrays
    elif self.store == "host":
      self._source = HostStore(
        self.mesh, P(AXIS), np.asarray(self.images), np.asarray(self.labels)
      )
    else:
      raise ValueError(f"store={self.store!r} must be 'device' or 'host'.")
    self._programs = Programs(
      self.learner,
      self.mesh,
      self.side_by_side,
      self.images.shape[1:],
      self._source.layout,
    )

  @functools.cached_property
  def store_digest(self) -> str:
    """Of the content of the store, `files.digest` of images and labels."""
    arrays = (self.images, self.labels)
    return files.digest([distributed.own_copy(array) for array in arrays])

  @property
  def chunk(self) -> int:
    """How many individuals are trained at once."""
    return self.mesh.size * self.individuals_per_device

  def one_per_device(self) -> PopulationTrainer:
    """A trainer for a single model: fillers would be trained for nothing."""
    if self.individuals_per_device == 1:
      return self
    return self.with_individuals_per_device(1)

  def with_individuals_per_device(self, count: int) -> PopulationTrainer:
    """The same training of so many models on a device at once."""
    return dataclasses.replace(
      self,
      individuals_per_device=count,
      side_by_side=min(self.side_by_side or 1, count),
    )

  def chunks(self, num_individuals: int) -> Iterator[slice]:
    """Slices of a population that are trained one after another."""
    for start in range(0, num_individuals, self.chunk):
      yield slice(start, min(start + self.chunk, num_individuals))

  def create(self, keys: jax.Array) -> TrainState:
    """Fresh models.

    Args:
      keys: typed keys [n], n at most `chunk`.

    Returns:
      States with a leading axis of `chunk`; those behind n are fillers.
    """
    return self._programs.create(self._put_keys(keys))

  def share(self, state: TrainState, keys: jax.Array) -> TrainState:
    """Copies one trained model to individuals (TL's start).

    Args:
      state: states with a leading axis, of which the first is copied.
      keys: typed keys [n], from which the individuals go on.

    Returns:
      States with a leading axis of `chunk`.
    """
    one = distributed.gather(state).replace(key=None)
    one = jax.tree.map(lambda leaf: leaf[0], one)
    return self._programs.share(self._put_keys(keys), one)

  def place(self, states: Any) -> TrainState:
    """States that were saved, back onto the devices.

    Args:
      states: NumPy arrays with a leading axis of n, at most `chunk`, keys as
        `hosts.gather` gives them.

    Returns:
      States with a leading axis of `chunk`.
    """
    count = len(states.step)
    self._check_count(count)
    index = np.minimum(np.arange(self.chunk), count - 1)
    filled = jax.tree.map(lambda leaf: leaf[index], states)
    return distributed.put(filled, self.shapes, self._by_individual)

  def train(
    self,
    states: TrainState,
    rows: np.ndarray,
    *,
    frozen_layers: int = 0,
    on_steps: Callable[[int], None] = lambda steps: None,
    on_block: OnBlock = lambda steps, states, losses: None,
  ) -> tuple[TrainState, np.ndarray]:
    """Trains a chunk through a schedule.

    Args:
      states: from `create` or `share`; consumed.
      rows: int32 [n, T, B], each individual's rows of the store, -1 for
        padding.
      frozen_layers: so many first layers stay as they are.
      on_steps: called with the number of steps done since the last call.
      on_block: called at each end of a block; what it raises ends training.

    Returns:
      The states, and losses float32 [n, T], NaN where a step was padding.
    """
    self._check_count(len(rows))
    count, num_steps, batch_size = rows.shape
    train = self._programs.train(frozen_layers)
    losses: list[tuple[jax.Array, int]] = []

    def losses_so_far() -> np.ndarray:
      blocks = [np.empty((count, 0), np.float32)]
      for block, steps in losses:
        blocks.append(distributed.gather(block)[:count, :steps])
      return np.concatenate(blocks, axis=1)

    pace = self._pace
    pace.begin()
    done = 0
    while done < num_steps:
      steps = min(pace.steps(), num_steps - done)
      padded = np.full(
        (self.chunk, self.block_steps, batch_size), PADDING, np.int32
      )
      padded[:count, :steps] = rows[:, done : done + steps]
      block, images, labels = self._source.block(padded)
      states, block_losses = train(
        states, self._put(block), self._to_all(steps), images, labels
      )
      pace.started()
      losses.append((block_losses, steps))
      done += steps
      if len(losses) > 1:
        # One block behind, so that the device never waits for the host.
        self._wait(*losses[-2], pace, on_steps)
      on_block(done, states, losses_so_far)
    if losses:
      self._wait(*losses[-1], pace, on_steps)
    return states, losses_so_far()

  @functools.cached_property
  def _pace(self) -> Pace:
    return Pace(self.block_steps, self.block_seconds)

  def _wait(
    self,
    losses: jax.Array,
    steps: int,
    pace: Pace,
    on_steps: Callable[[int], None],
  ) -> None:
    losses.block_until_ready()
    pace.ended(steps)
    on_steps(steps)

  def planned_bytes(self, batch_size: int) -> int | None:
    """Bytes that training takes at most of each device, as XLA plans it.

    Args:
      batch_size: samples in a batch.

    Returns:
      The states, a copy of them that is being saved, the store or what a block
      needs of it, and all that a step makes on the way; see
      `programs.planned_bytes`.
    """
    return planned_bytes(self.lower_train(batch_size), on_cpu=self.on_cpu)

  def lower_train(
    self, batch_size: int, frozen_layers: int = 0
  ) -> jax.stages.Lowered:
    """The program that trains, before it is compiled.

    Args:
      batch_size: samples in a batch.
      frozen_layers: so many first layers stay as they are.

    Returns:
      The very program that `train` calls for batches of this size.
    """
    shape = (self.chunk, self.block_steps, batch_size)
    rows, images, labels = self._block_like(shape)
    train = self._programs.train(frozen_layers)
    return train.lower(self._states_like, rows, self._to_all(0), images, labels)

  def lower_predict(
    self, num_rows: int, batch_size: int = _PREDICTED
  ) -> jax.stages.Lowered:
    """The program that predicts, before it is compiled.

    Args:
      num_rows: of each individual.
      batch_size: images classified at once.

    Returns:
      The very program that `predict` calls for so many rows.
    """
    batches = self._batches_together(math.ceil(num_rows / batch_size))
    return self._programs.predict.lower(
      self._states_like, *self._block_like((self.chunk, batches, batch_size))
    )

  def _batches_together(self, batches: int) -> int:
    """The whole store serves all batches at once, a part of it so many."""
    return batches if self.store == "device" else self.block_steps

  def _block_like(
    self, shape: tuple[int, int, int]
  ) -> tuple[jax.ShapeDtypeStruct, Any, Any]:
    """A block's rows, images and labels, but for their content."""
    rows = jax.ShapeDtypeStruct(shape, np.int32, sharding=self._by_individual)
    return (rows, *self._source.block_like(shape))

  @property
  def _states_like(self) -> TrainState:
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=self._by_individual
      ),
      self.shapes,
    )

  def finite(self, states: TrainState) -> np.ndarray:
    """Whose parameters and running statistics are all finite.

    Args:
      states: from `train`.

    Returns:
      Bool [chunk].
    """
    return np.asarray(
      distributed.gather(
        self._programs.finite(states.params, states.batch_stats)
      )
    )

  def predict(
    self, states: TrainState, rows: np.ndarray, *, batch_size: int = _PREDICTED
  ) -> np.ndarray:
    """Classifies each individual's rows with that individual's model.

    Args:
      states: from `train`.
      rows: int32 [n, R], rows of the store, -1 for padding; any R.
      batch_size: images classified at once; the last batch is padded.

    Returns:
      int32 [n, R], predicted classes, -1 where a row was padding or the model
      gave no finite numbers.
    """
    self._check_count(len(rows))
    count, num_rows = rows.shape
    batches = math.ceil(num_rows / batch_size)
    together = self._batches_together(batches)
    flat = []
    for start in range(0, batches, max(1, together)):
      some = rows[:, start * batch_size : (start + together) * batch_size]
      padded = np.full((self.chunk, together * batch_size), PADDING, np.int32)
      padded[:count, : some.shape[1]] = some
      block, images, labels = self._source.block(
        padded.reshape(self.chunk, together, batch_size)
      )
      predictions = self._programs.predict(
        states, self._put(block), images, labels
      )
      flat.append(distributed.gather(predictions).reshape(self.chunk, -1))
    return np.concatenate(flat, axis=1)[:count, :num_rows]

  def _check_count(self, count: int) -> None:
    if not 1 <= count <= self.chunk:
      raise ValueError(
        f"{count} individuals don't fit a chunk of {self.chunk}; see"
        " `PopulationTrainer.chunks`."
      )

  @functools.cached_property
  def shapes(self) -> TrainState:
    """The shapes and dtypes of the states of a whole chunk."""
    return self._programs.shapes(self.chunk)

  def _put_keys(self, keys: jax.Array) -> jax.Array:
    """Keys [n] on their devices, the last one again for fillers."""
    self._check_count(len(keys))
    missing = self.chunk - len(keys)
    return self._put(jnp.concatenate([keys, jnp.repeat(keys[-1:], missing)]))

  def _put(self, array: Any) -> Any:
    return distributed.put(array, array, self._by_individual)

  def _to_all(self, number: int) -> jax.Array:
    scalar = np.int32(number)
    return distributed.put(scalar, scalar, NamedSharding(self.mesh, P()))

  @property
  def on_cpu(self) -> bool:
    """Whether its devices are a CPU's, and their memory the host's."""
    return bool(self.mesh.devices.flat[0].platform == "cpu")

  @property
  def _by_individual(self) -> NamedSharding:
    return NamedSharding(self.mesh, P(AXIS))
