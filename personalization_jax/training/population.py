"""Training and evaluating everybody's models, over all devices (JAX).

The functions of `step`, each of one individual, under `vmap` on a device and
`shard_map` over the mesh. Individuals exchange nothing. They go in chunks of
`devices x individuals_per_device`, so that this bounds memory, not the size of
the population.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from personalization_jax import distributed
from personalization_jax.checkpoints import files
from personalization_jax.datasets.splits import PADDING
from personalization_jax.distributed import AXIS
from personalization_jax.methods.answers import Trainable
from personalization_jax.training import step
from personalization_jax.training.learner import Learner
from personalization_jax.training.step import (
  AnsweringState,
  Answers,
  TrainState,
)
from personalization_jax.training.stores import DeviceStore, HostStore

# Steps in one compiled loop.
BLOCK_STEPS = 50
# Images classified at once; the last ones are filled up with padding.
PREDICTED = 256
# What kernels take of a CPU device beside XLA's plan: 8 to 20 MiB, measured
# from width 0.125 and batches of 32 to width 1 and batches of 128.
_OF_CPU_KERNELS = 24 * 2**20


def individual_key(root: jax.Array, individual: int) -> jax.Array:
  """An individual's key: it depends on nobody else."""
  return jax.random.fold_in(root, np.uint32(individual))


def individual_keys(root: jax.Array, individuals: Iterable[int]) -> jax.Array:
  """The keys [n] of n individuals, from their ids."""
  return jnp.stack([individual_key(root, int(each)) for each in individuals])


def without_fillers(states: Any, count: int) -> Any:
  """NumPy copies of the first so many models; all processes must call it."""
  return jax.tree.map(lambda leaf: leaf[:count], distributed.gather(states))


class Phase(NamedTuple):
  """Some steps of a schedule; `Method.phases` gives the first two."""

  end: int  # the schedule's steps when it is over
  trainable: Trainable | None = None  # what it trains; None for all
  learner: Learner | None = None  # with its optimiser; None for the trainer's


class Block(NamedTuple):
  """Where the training of a chunk is at the end of a block of steps."""

  step: int  # steps of the schedule that are done
  # Steps that the devices completed since the last block; they lag one block
  # behind until training stops at a point or at its end.
  finished: int
  states: TrainState  # the next block consumes them
  # Of the steps since training began here, float32 [n, t].
  losses: Callable[[], np.ndarray]


@dataclasses.dataclass(eq=False)
class PopulationTrainer:
  """The compiled training and evaluation of a population."""

  learner: Learner  # network and optimiser, the same for everybody
  images: Any  # uint8 [N, H, W, C] or float32 [N, ...], the store
  labels: Any  # int32 [N]; None where samples are their own
  mesh: Mesh  # where individuals go
  individuals_per_device: int = 1  # how many models are on a device at once
  # How many of them one operation computes (`vmap`); the others of a device
  # follow one after another. By default (None, 0) all, but one on a CPU: there
  # `vmap` turns convolutions into grouped ones, which are many times slower,
  # and one at a time gives each individual the same bits whoever else is
  # trained.
  side_by_side: int | None = None
  # "device" puts the images on every device once; "host" keeps them in this
  # process's memory and sends each device, block by block, the rows that its
  # individuals need: for a D_G that no device holds.
  store: str = "device"
  block_steps: int = BLOCK_STEPS  # in one compiled loop, at most
  # About how long a block may take; slow models get fewer steps in each call of
  # the same program. Between blocks the host looks at the clock, saves, and
  # stops if it is asked to.
  block_seconds: float = 3.0
  # D_G's model, `params` and `batch_stats`, for learners that want it.
  base: Any = None

  def __post_init__(self) -> None:
    """Puts the store where it is to be."""
    if self.individuals_per_device < 1:
      raise ValueError(
        f"individuals_per_device={self.individuals_per_device} must be at"
        " least 1."
      )
    if not self.side_by_side:
      self.side_by_side = 1 if self.on_cpu else self.individuals_per_device
    self._source: DeviceStore | HostStore
    if self.store == "device":
      self._source = DeviceStore(self.mesh, self.images, self.labels)
      self.images, self.labels = self._source.arrays
    elif self.store == "host":
      self._source = HostStore(self.mesh, self.images, self.labels)
    else:
      raise ValueError(f"store={self.store!r} must be 'device' or 'host'.")
    if self.base is not None:
      self.base = self._to_all(self.base)
    self._pace = Pace(self.block_steps, self.block_seconds)

  @functools.cached_property
  def store_digest(self) -> str:
    """The `files.digest` of images and labels."""
    arrays = (self.images, self.labels)
    return files.digest([distributed.own_copy(array) for array in arrays])

  @property
  def chunk_size(self) -> int:
    """How many individuals are trained at once."""
    return self.mesh.size * self.individuals_per_device

  @property
  def on_cpu(self) -> bool:
    """Whether its devices are a CPU's, and their memory the host's."""
    return bool(self.mesh.devices.flat[0].platform == "cpu")

  def with_individuals_per_device(self, count: int) -> PopulationTrainer:
    """The same training of so many models on a device at once."""
    if self.individuals_per_device == count:
      return self
    return dataclasses.replace(
      self,
      individuals_per_device=count,
      side_by_side=min(self.side_by_side or 1, count),
    )

  def chunks(self, num_individuals: int) -> Iterator[slice]:
    """Slices of a population that are trained one after another."""
    for start in range(0, num_individuals, self.chunk_size):
      yield slice(start, min(start + self.chunk_size, num_individuals))

  def create(self, keys: jax.Array) -> TrainState:
    """Fresh models of keys [n]: states [chunk_size], fillers after n."""
    create = self._program(step.create_state, 1, static=(self._shape,))
    return create(self._put_keys(keys))

  def share(
    self, state: TrainState, keys: jax.Array, pick: np.ndarray | None = None
  ) -> TrainState:
    """Copies these models to people with keys [n] (TL's start).

    `pick` int [n] says which each goes on with; by default the first.
    """
    models = distributed.gather(state).replace(key=None)
    if pick is None:
      one = jax.tree.map(lambda leaf: leaf[0], models)
      share = self._program(step.continue_as, 1, (P(),))
      return share(self._put_keys(keys), one)
    missing = self.chunk_size - len(keys)
    filled = np.append(pick, np.repeat(pick[-1:], missing))
    own = jax.tree.map(lambda leaf: self._put(leaf[filled]), models)
    return self._program(step.continue_as, 2)(self._put_keys(keys), own)

  def place(self, states: Any, like: Any = None) -> Any:
    """Puts saved states, NumPy arrays [n, ...], back: states [chunk_size].

    They are a tree as `like`, by default `shapes`.
    """
    count = len(jax.tree.leaves(states)[0])
    self._check_count(count)
    index = np.minimum(np.arange(self.chunk_size), count - 1)
    filled = jax.tree.map(lambda leaf: leaf[index], states)
    like = self.shapes if like is None else like
    return distributed.put(filled, like, self._by_individual)

  def train(
    self,
    states: TrainState,
    rows: np.ndarray,
    *,
    start: int = 0,
    phases: Sequence[tuple[Any, ...]] | None = None,
    points: Iterable[int] = (),
    on_block: Callable[[Block], None] = lambda block: None,
  ) -> tuple[TrainState, np.ndarray]:
    """Trains a chunk through what is left of a schedule, from step `start` on.

    The states are consumed; rows int32 [n, T, B] are of the whole schedule, -1
    for padding, and `phases` as in `Phase`, by default one. A block
    ends at each of the `points`. `on_block` is called at each end of a block;
    what it raises ends training. Losses are float32 [n, T - start], NaN in
    steps of padding.
    """
    count, num_steps, _ = rows.shape
    course = [Phase(*phase) for phase in phases or [(num_steps,)]]
    stops = sorted({*points, *(phase.end for phase in course)})
    before = _learner_at(course, start)
    losses: list[tuple[jax.Array, int]] = []

    def losses_so_far() -> np.ndarray:
      blocks = [np.empty((count, 0), np.float32)]
      for block, steps in losses:
        blocks.append(distributed.gather(block)[:count, :steps])
      return np.concatenate(blocks, axis=1)

    done, waited = start, 0
    self._pace.begin()
    while done < num_steps:
      stop = next(stop for stop in stops if stop > done)
      phase = next(phase for phase in course if phase.end > done)
      if phase.learner is not before:
        before = phase.learner
        states = self._program(step.go_on, 1, learner=before)(states)
      steps = min(self._pace.steps(), stop - done)
      block, *store = self._block(
        rows[:, done : done + steps], self.block_steps
      )
      states, block_losses = self._train(phase.trainable, phase.learner)(
        states, block, self._to_all(np.int32(steps)), *store
      )
      self._pace.started()
      losses.append((block_losses, steps))
      done += steps
      finished = 0
      # One block behind, so that the device never waits for the host.
      while waited < len(losses) - (done < stop):
        losses[waited][0].block_until_ready()
        self._pace.ended(losses[waited][1])
        finished += losses[waited][1]
        waited += 1
      on_block(Block(done, finished, states, losses_so_far))
      if done == stop:
        self._pace.begin()  # the time of an evaluation isn't training's
    return states, losses_so_far()

  def where(self, first: np.ndarray, one: Any, other: Any = None) -> Any:
    """A copy of what states have: one's where `first` [n], or the other's."""
    chosen = np.resize(first, self.chunk_size)  # fillers take anybody's
    other = one if other is None else other
    return self._program(_where, 3)(self._put(chosen), one, other)

  def finite(self, states: TrainState) -> np.ndarray:
    """Whose parameters and running statistics are all finite, bool [chunk]."""
    found = self._program(_finite, 1)(states)
    return np.asarray(distributed.gather(found))

  def precise_batch_stats(
    self,
    states: TrainState,
    rows: np.ndarray,
    trainable: Trainable | None = None,
  ) -> TrainState:
    """The same models with running statistics over rows int32 [n, T, B].

    Layers before the first that `trainable` trains keep theirs. The last batch
    of everybody must have data.
    """
    found = self._program(
      step.precise_batch_stats,
      2,
      self._layout,
      trainable=None if self.learner.lean else trainable,
    )(states, *self._block(rows, rows.shape[1]))
    return states.replace(batch_stats=found)

  def fit(
    self, states: TrainState, own: np.ndarray, validation: np.ndarray
  ) -> TrainState:
    """The models with what their answers need, of rows [n, R] and [n, V]."""
    longest = max(own.shape[1], validation.shape[1])
    both = [
      np.pad(
        rows, ((0, 0), (0, longest - rows.shape[1])), constant_values=PADDING
      )
      for rows in (own, validation)
    ]
    block = self._block(np.stack(both, axis=1), 2)
    answer = self._program(step.fit, 2, self._layout)(states, *block)
    return _with_answer(states, answer)

  def variables(self, states: TrainState, count: int) -> dict[str, Any]:
    """Whole models of the first so many states, and their answers (NumPy)."""
    kept = {"params": states.params, "batch_stats": states.batch_stats}
    if states.answer is not None:
      kept["answer"] = states.answer
    if self.learner.lean:
      whole = self._program(step.in_use, 1, (P(),))
      kept["params"] = whole(states, self.base).params
    return dict(without_fillers(kept, count))

  def predict(self, states: TrainState, rows: np.ndarray) -> Answers:
    """What each individual's own model answers about their rows [n, R]: [n, R].

    Rows may be padding (-1).
    """
    answers: Answers = self._evaluate(step.predict_rows, states, rows)
    return answers

  def log_probabilities(
    self, states: TrainState, rows: np.ndarray
  ) -> np.ndarray:
    """Of every class, for rows [n, R] as `predict` takes: float32 [n, R, C]."""
    found: np.ndarray = self._evaluate(step.log_probabilities, states, rows)
    return found

  def _evaluate(
    self, function: Callable[..., Any], states: TrainState, rows: np.ndarray
  ) -> Any:
    """Arrays [n, R, ...] of a function of models and their rows."""
    count, num_rows = rows.shape
    batches = math.ceil(num_rows / PREDICTED)
    missing = batches * PREDICTED - num_rows
    padded = np.pad(rows, ((0, 0), (0, missing)), constant_values=PADDING)
    padded = padded.reshape(count, batches, PREDICTED)
    together = self._batches_together(batches)
    program = self._program(function, 2, self._layout)
    found = []
    # Without rows, what nothing gives has its shape all the same.
    for start in range(0, max(1, batches), max(1, together)):
      block = self._block(padded[:, start : start + together], together)
      found.append(distributed.gather(program(states, *block)))
    return jax.tree.map(
      lambda *arrays: np.concatenate(
        [each[:count].reshape(count, -1, *each.shape[3:]) for each in arrays],
        axis=1,
      )[:, :num_rows],
      *found,
    )

  def lower_train(
    self, batch_size: int, trainable: Trainable | None = None
  ) -> jax.stages.Lowered:
    """The very program that `train` calls, before it is compiled."""
    rows, *store = self._block_like(self.block_steps, batch_size)
    num_steps = self._to_all(jax.ShapeDtypeStruct((), np.int32))
    return self._train(trainable).lower(self.shapes, rows, num_steps, *store)

  def lower_fit(self, num_rows: int) -> jax.stages.Lowered:
    """The very program that `fit` calls for so many rows of each."""
    block = self._block_like(2, num_rows)
    return self._program(step.fit, 2, self._layout).lower(self.shapes, *block)

  def lower_predict(self, num_rows: int, fitted: int = 1) -> jax.stages.Lowered:
    """The very program that `predict` calls for so many rows of each.

    Where a learner fits its answers, it did so to `fitted` rows of each.
    """
    batches = self._batches_together(math.ceil(num_rows / PREDICTED))
    block = self._block_like(batches, PREDICTED)
    program = self._program(step.predict_rows, 2, self._layout)
    states = self.shapes
    if self.learner.fit is not None:
      # Of one chunk already.
      answer = jax.tree.map(self._placed, self.lower_fit(fitted).out_info)
      states = _with_answer(states, answer)
    return program.lower(states, *block)

  @property
  def has_batch_stats(self) -> bool:
    """Whether models keep running statistics of their batches."""
    return bool(jax.tree.leaves(self.shapes_of_one.batch_stats))

  @functools.cached_property
  def shapes_of_one(self) -> TrainState:
    """The shapes and dtypes of one model's state."""
    state: TrainState = jax.eval_shape(self._create_one, jax.random.key(0))
    return state

  def _create_one(self, key: jax.Array) -> TrainState:
    state = step.create_state(self.learner, key, self._shape)
    if self.learner.lean:
      state = step.continue_as(self.learner, key, state)
    return state

  @functools.cached_property
  def shapes(self) -> TrainState:
    """The shapes, dtypes and shardings of the states of a whole chunk."""
    return self._like(self.shapes_of_one)

  def shapes_at(
    self, done: int, phases: Sequence[tuple[Any, ...]] | None
  ) -> TrainState:
    """As `shapes`, of states that so many steps of these phases were taken."""
    course = [Phase(*phase) for phase in phases or []]
    learner = _learner_at(course, done) if course else None
    if learner is None:
      return self.shapes
    go_on = functools.partial(step.go_on, learner)
    return self._like(jax.eval_shape(go_on, self.shapes_of_one))

  def _like(self, one: TrainState) -> TrainState:
    like: TrainState = jax.tree.map(
      lambda leaf: self._placed(leaf, self.chunk_size), one
    )
    return like

  def _placed(self, leaf: Any, *people: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
      (*people, *leaf.shape), leaf.dtype, sharding=self._by_individual
    )

  @property
  def _shape(self) -> tuple[int, ...]:
    """A sample's."""
    return tuple(self.images.shape[1:])

  def _train(
    self, trainable: Trainable | None, learner: Learner | None = None
  ) -> jax.stages.Wrapped:
    """States [n] (consumed), a block -> states [n] and losses [n, T]."""
    lean = (learner or self.learner).lean  # it says itself what is trained
    return self._program(
      step.train_on_rows,
      2,
      (P(), *self._layout),
      trainable=None if lean else trainable,
      donated=(0,),
      learner=learner,
    )

  def _program(
    self, *function: Any, learner: Learner | None = None, **options: Any
  ) -> jax.stages.Wrapped:
    return _program(
      learner or self.learner,
      self.mesh,
      self.side_by_side,
      *function,
      **options,
    )

  @property
  def _layout(self) -> tuple[P, ...]:
    """Of images, labels and base over the mesh."""
    return (*self._source.layout, P())

  def _batches_together(self, batches: int) -> int:
    """The whole store serves all batches at once, a selection of it so many."""
    return batches if self.store == "device" else self.block_steps

  def _block(self, rows: np.ndarray, steps: int) -> tuple[Any, ...]:
    """Rows [n, t, B] as a block of so many steps, images, labels and base."""
    self._check_count(len(rows))
    shape = (self.chunk_size, steps, rows.shape[2])
    padded = np.full(shape, PADDING, np.int32)
    padded[: len(rows), : rows.shape[1]] = rows
    block, images, labels = self._source.block(padded)
    return self._put(block), images, labels, self.base

  def _block_like(self, steps: int, batch_size: int) -> tuple[Any, ...]:
    """As `_block`, but for the content."""
    shape = (self.chunk_size, steps, batch_size)
    rows = jax.ShapeDtypeStruct(shape, np.int32, sharding=self._by_individual)
    return (rows, *self._source.block_like(shape), self.base)

  def _check_count(self, count: int) -> None:
    if not 1 <= count <= self.chunk_size:
      raise ValueError(
        f"{count} individuals don't fit a chunk of {self.chunk_size}; see"
        " `PopulationTrainer.chunks`."
      )

  def _put_keys(self, keys: jax.Array) -> jax.Array:
    """Keys [n] on their devices, the last one again for fillers."""
    self._check_count(len(keys))
    missing = self.chunk_size - len(keys)
    return self._put(jnp.concatenate([keys, jnp.repeat(keys[-1:], missing)]))

  def _put(self, array: Any) -> Any:
    return distributed.put(array, array, self._by_individual)

  def _to_all(self, array: Any) -> Any:
    return distributed.put(array, array, NamedSharding(self.mesh, P()))

  @property
  def _by_individual(self) -> NamedSharding:
    return NamedSharding(self.mesh, P(AXIS))


def _with_answer(states: TrainState, answer: Any) -> AnsweringState:
  """States, or their shapes, with what `fit` found."""
  given = {name: getattr(states, name) for name in vars(states)}
  return AnsweringState(**{**given, "answer": answer})


def _learner_at(course: Sequence[Phase], done: int) -> Learner | None:
  """Whose optimiser's state there is when so many steps are done."""
  phase = next((p for p in course if p.end >= done), course[-1])
  return phase.learner


@functools.lru_cache(maxsize=256)
def _program(
  learner: Learner,
  mesh: Mesh,
  side_by_side: int,
  function: Callable[..., Any],
  num_mapped: int,
  shared: tuple[P, ...] = (),
  *,
  static: tuple[Any, ...] = (),
  trainable: Trainable | None = None,
  donated: tuple[int, ...] = (),
) -> jax.stages.Wrapped:
  """A function of a learner and of one individual, for all individuals.

  Trainers of one learner share them: they are compiled once. After the learner
  the function takes num_mapped trees of one individual, then arrays that all of
  a device share, lying over the mesh as `shared` says, then static ones.
  """
  if trainable is not None:
    learner = dataclasses.replace(learner, trainable=trainable)

  def on_device(*args: Any) -> Any:
    mapped, others = args[:num_mapped], args[num_mapped:]
    return jax.lax.map(
      lambda one: function(learner, *one, *others, *static),
      mapped,
      batch_size=None if side_by_side == 1 else side_by_side,
    )

  on_device.__name__ = function.__name__  # as profilers call it
  mapped = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(P(AXIS),) * num_mapped + shared,
    out_specs=P(AXIS),
    # A scan in a model of one's own (an RNN's, say) begins with constants,
    # which the check would refuse: they don't vary over the mesh.
    check_vma=False,
  )
  return jax.jit(mapped, donate_argnums=donated)


def _finite(learner: Learner, state: TrainState) -> jax.Array:
  """Whether all that a person has of their own is finite, bool []."""
  del learner
  finite = state.step >= 0  # of nothing: a person may share all with D_G's
  for leaf in jax.tree.leaves((state.params, state.batch_stats)):
    finite &= jnp.isfinite(leaf).all()
  return finite


def _where(learner: Learner, first: jax.Array, one: Any, other: Any) -> Any:
  """A tree's leaves, or another's."""
  del learner
  return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def planned_bytes(
  program: jax.stages.Lowered | jax.stages.Compiled, *, on_cpu: bool
) -> int | None:
  """Bytes that a program takes at most of each device; None if XLA won't tell.

  It is compiled for that, and is there when it is called. What goes in, what
  comes out and all that is made on the way counts.
  """
  if isinstance(program, jax.stages.Lowered):
    program = program.compile()
  plan = program.memory_analysis()
  if not plan:
    return None
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
    + (_OF_CPU_KERNELS if on_cpu else 0)
  )


class Pace:
  """How many steps go into a block, so that it takes about so many seconds."""

  def __init__(self, most: int, seconds: float):
    """Starts with few steps, of at most so many."""
    self._most = most
    self._seconds = seconds
    self._steps = min(most, 5)
    self.begin()

  def begin(self) -> None:
    """Starts the clock anew; what is known of the speed stays."""
    self._begin: float | None = None
    self._done = 0

  def steps(self) -> int:
    """For the next block; the same on every process."""
    return int(distributed.from_first(np.int32(self._steps)))

  def started(self) -> None:
    """A block was handed to the devices (its program is compiled by now)."""
    if self._begin is None:
      self._begin = time.monotonic()

  def ended(self, steps: int) -> None:
    """The oldest block under way, of so many steps, ended."""
    assert self._begin is not None
    self._done += steps
    seconds = max((time.monotonic() - self._begin) / self._done, 1e-6)
    # Growing slowly, since the first blocks tell little.
    most = min(self._most, 2 * self._steps + 5)
    self._steps = max(1, min(most, round(self._seconds / seconds)))
