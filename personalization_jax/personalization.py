"""From a method to everybody's models and their accuracy.

`personalize` is the whole of the paper's experiment for one row of Table I.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from personalization_jax import (
  course,
  hosts,
  latent_space,
  metrics,
  models,
  own_model,
  saved_models,
)
from personalization_jax.batches import Batches
from personalization_jax.datasets import Population
from personalization_jax.groups import Groups
from personalization_jax.latent_space import LatentSettings, LatentSpace
from personalization_jax.meshes import default_individuals_per_device, make_mesh
from personalization_jax.methods import Method, parse_method
from personalization_jax.population_training import (
  PopulationTrainer,
  individual_key,
)
from personalization_jax.progress import Keeper, Piece, Task
from personalization_jax.randomness import SHARED
from personalization_jax.records import Record
from personalization_jax.result import Result
from personalization_jax.settings import Settings, make_learner
from personalization_jax.splits import PADDING, Split
from personalization_jax.training import TrainState


class Study:
  """One split of one population, and models trained on it.

  The phase on D_G that transfer learning shares is trained when first needed
  and kept.
  """

  def __init__(
    self,
    population: Population,
    split: Split,
    settings: Settings,
    *,
    mesh: Mesh | None = None,
    model: nn.Module | None = None,
    individuals_per_device: int | None = None,
    side_by_side: int | None = None,
    store: str = "device",
    trainer: PopulationTrainer | None = None,
    keeper: Keeper | None = None,
    models_dir: pathlib.Path | None = None,
    eval_every: int = 0,
    groups: Groups | None = None,
  ):
    """Checks the parts against each other and puts the store on the devices.

    Args:
      population: the store.
      split: its parts.
      settings: how to train.
      mesh: where; by default on all devices.
      model: what everybody's model is: any Flax Linen module that gives logits
        [B, num_classes] of samples [B, ...], called as `own_model` says; by
        default Fig. 4's network.
      individuals_per_device: models on a device at once; by default what
        `meshes.default_individuals_per_device` says.
      side_by_side: see `PopulationTrainer`.
      store: likewise, "device" or "host".
      trainer: of another study of the same population and settings but for the
        seed, whose compiled programs serve this one too; then what is about
        devices isn't asked.
      keeper: saves what is under way, and the model of D_G alone, for later
        processes; by default they are in memory only.
      models_dir: where `saved_models` keeps everybody's final parameters; None
        keeps none.
      eval_every: steps between two evaluations on validation data, for the
        curves of a `Result`; 0 evaluates at the end alone.
      groups: what data grouping enlarges D_I with; by default random groups
        alone, since SG and IG need a latent space.

    Raises:
      ValueError: if the samples don't suit the network.
    """
    if eval_every < 0:
      raise ValueError(f"eval_every={eval_every} must be 0 or more.")
    if eval_every and not (
      split.validation.shape[1] and len(split.global_validation)
    ):
      raise ValueError(
        f"eval_every={eval_every} needs data to evaluate on: a"
        " validation_fraction above 0, and enough samples."
      )
    if model is None:
      _check_images(population)
    else:
      own_model.check(model, population.sample_shape, population.num_classes)
    self.population = population
    self.split = split
    self.settings = settings
    if trainer is None:
      mesh = make_mesh() if mesh is None else mesh
      trainer = PopulationTrainer(
        make_learner(settings, population.num_classes, model),
        population.images,
        population.labels,
        mesh,
        individuals_per_device or default_individuals_per_device(mesh),
        side_by_side,
        store,
      )
    self.trainer = trainer
    self.batches = Batches(
      split,
      settings,
      groups or Groups(population, split, seed=settings.seed),
    )
    self.eval_every = eval_every
    self._root = jax.random.key(settings.seed)
    self._shared: tuple[TrainState, Record] | None = None
    self.keeper = keeper or Keeper()
    self.models_dir = models_dir
    self._shared_task = self.keeper.task("global_phase")

  @property
  def groups(self) -> Groups:
    """What data grouping enlarges D_I with."""
    return self.batches.groups

  @groups.setter
  def groups(self, groups: Groups) -> None:
    self.batches.groups = groups

  def find_groups(
    self,
    settings: LatentSettings | None = None,
    *,
    among_individuals: bool = False,
    on_steps: Callable[[int], None] = lambda steps: None,
  ) -> LatentSpace:
    """Finds the latent space that SG and IG measure similarity in.

    Args:
      settings: of the auto-encoder; by default epochs, batch size, width and
        seed of the classifier. Samples that are no images need none: their
        standardised features are the space.
      among_individuals: IG chooses among the other individuals.
      on_steps: called with the training steps done since the last call.

    Returns:
      The latent space, by which `groups` now chooses.

    Raises:
      ValueError: if there is no such space for these samples.

    Source: section III, data grouping.
    """
    if settings is None:
      own = self.settings
      settings = LatentSettings(
        own.epochs, own.batch_size, width=own.width, seed=own.seed
      )
    if self.population.holds_images:
      space = latent_space.fit(
        self.population,
        self.split,
        settings,
        keeper=self.keeper,
        on_steps=on_steps,
      )
    else:
      space = latent_space.standardised(self.population, self.split)
    self.groups = Groups(
      self.population,
      self.split,
      seed=self.settings.seed,
      latents=space.latents,
      among_individuals=among_individuals,
      mesh=make_mesh(jax.local_devices()),
    )
    return space

  def check(self, method: Method) -> None:
    """Refuses a method that this study can't train.

    Args:
      method: the method.

    Raises:
      ValueError: saying why.
    """
    if method.baseline and len(self.split.individuals) < 2:
      raise ValueError(
        "method 'baseline' trains on another individual's data, so"
        " num_individuals must be at least 2."
      )
    if method.group is not None:
      self.groups.check(method.group)
    if method.last_layers:
      self._frozen_layers(method)
    if method.schedule is not None:
      self._check_schedule(method)

  def num_steps(self, methods: Sequence[Method]) -> int:
    """Training steps that these methods take, summed over individuals."""
    own = [
      method.late if method.shares_global_phase else self.batches.length(method)
      for method in methods
    ]
    shares = any(method.shares_global_phase for method in methods)
    shared = (
      self.batches.num_shared_steps if shares and not self._has_shared else 0
    )
    return sum(own) * len(self.split.individuals) + shared

  def personalize(
    self,
    method: Method | str,
    *,
    keep_models: bool = False,
    on_steps: Callable[[int], None] = lambda steps: None,
  ) -> Result:
    """Trains one model for every individual and tests it on D_I and D_G.

    Args:
      method: what is trained on, and when, or its spec: "tl:300". SG and IG
        find their latent space first, unless `find_groups` was called.
      keep_models: whether the result holds everybody's parameters.
      on_steps: called as training goes on with the number of training steps
        done since the last call, summed over individuals.

    Returns:
      Every individual's predictions and losses.

    Raises:
      ValueError: if the method can't be trained on this split.
      progress.Stopped: if the keeper was asked to stop.

    Source: section IV; the shaping half of Table I.
    """
    if isinstance(method, str):
      method = parse_method(method)
    self.check(method)
    if method.needs_latents and not self.groups.has_latents:
      self.find_groups(among_individuals=self.groups.among_individuals)
    task = self.keeper.task(method.spec)
    pieces = task.plan(len(self.split.individuals), self.trainer.chunk)
    models: list[Any] = []
    for piece in pieces:
      if piece.step < 0 and keep_models:
        raise ValueError(
          f"method {method.spec!r} was trained in part by another process:"
          " models_dir keeps such parameters, keep_models can't."
        )
      if piece.step < 0:
        on_steps(
          self.num_steps([method])
          // len(self.split.individuals)
          * len(piece.indices)
        )
        continue
      self.keeper.check()
      part, states = self._personalize_piece(method, task, piece, on_steps)
      task.finish(piece, part)
      if keep_models:
        kept = hosts.gather((states.params, states.batch_stats))
        count = len(piece.indices)
        models.append(jax.tree.map(lambda leaf, n=count: leaf[:n], kept))
    parts = task.parts(pieces)
    joined = {
      name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return Result(
      method=method.spec,
      seed=self.settings.seed,
      individuals=self.split.individuals,
      individual_rows=self.split.test,
      validation_rows=self.split.validation,
      curve_steps=np.asarray(self.evaluation_steps(method), np.int32),
      global_rows=self.split.global_test,
      models=_joined(models) if keep_models else None,
      **joined,
    )

  def forget(self, method: Method) -> None:
    """Removes what was kept of a method under way: its result is safe."""
    hosts.wait_for_all("forget")  # others may still be reading
    self.keeper.task(method.spec).discard()

  def _personalize_piece(
    self,
    method: Method,
    task: Task,
    piece: Piece,
    on_steps: Callable[[int], None],
  ) -> tuple[dict[str, np.ndarray], TrainState]:
    """These individuals' part of a `Result`, and their models."""
    indices = list(piece.indices)
    rows = np.stack([self.batches.rows(method, index) for index in indices])
    states, record = self._begin(method, task, piece, on_steps)
    # The last k layers alone are a phase of its own, with its own compiled
    # step; without that option everything is one phase.
    late = rows.shape[1] - method.late if method.last_layers else rows.shape[1]
    frozen = self._frozen_layers(method)
    own = self.split.validation[indices]
    states, record = course.train(
      self.trainer,
      states,
      record,
      rows,
      phases=((late, 0), (rows.shape[1], frozen)),
      points=self.evaluation_steps(method),
      evaluate=functools.partial(self._validate, self.trainer, own[:, None]),
      on_steps=lambda steps: on_steps(steps * len(indices)),
      watch=functools.partial(task.watch, piece),
    )
    if self.models_dir is not None:
      people = self.split.individuals[indices].tolist()
      description = saved_models.Description.of(
        self.trainer.learner.model, self.population.sample_shape
      )
      saved_models.save(
        self.models_dir, method.spec, people, states, description
      )
    # One array for all tests, so that one compilation serves them.
    own = np.concatenate([own, self.split.test[indices]], axis=1)
    tested = _beside(own, self.split.global_test)
    predictions = self.trainer.predict(states, tested)
    trained = (rows != PADDING).any(axis=2)
    diverged = (
      ~self.trainer.finite(states)[: len(indices)]
      # Losses of padded steps are NaN by design.
      | (trained & ~np.isfinite(record.losses)).any(axis=1)
      | ((predictions < 0) & (tested != PADDING)).any(axis=1)
    )
    ends = [self.split.validation.shape[1], own.shape[1]]
    validation, individual, general = np.split(predictions, ends, axis=1)
    part = {
      "validation_predictions": validation,
      "individual_predictions": individual,
      "global_predictions": general,
      "losses": record.losses,
      "individual_curve": record.individual[..., 0],
      "global_curve": record.general,
      "diverged": diverged,
    }
    return part, states

  def _begin(
    self,
    method: Method,
    task: Task,
    piece: Piece,
    on_steps: Callable[[int], None],
  ) -> tuple[TrainState, Record]:
    """The models that training goes on with, and what was recorded before."""
    count = len(piece.indices)
    if piece.step:
      states, history = task.restore(piece, self.trainer.shapes)
      shared = (
        self.batches.num_shared_steps if method.shares_global_phase else 0
      )
      on_steps((piece.step - shared) * count)
      return self.trainer.place(states), Record.restored(history, count)
    keys = jnp.stack(
      [
        individual_key(self._root, int(self.split.individuals[index]))
        for index in piece.indices
      ]
    )
    if not method.shares_global_phase:
      return self.trainer.create(keys), Record.empty(count)
    state, record = self.global_phase(on_steps)
    return self.trainer.share(state, keys), record.of(piece.indices)

  def _validate(
    self, trainer: PopulationTrainer, own: np.ndarray, states: TrainState
  ) -> tuple[np.ndarray, np.ndarray]:
    """Validation accuracy on D_I [n, k] and on D_G [n].

    Args:
      trainer: of the models.
      own: int32 [n, k, R], validation rows of k people for each model.
      states: n models.
    """
    labels, general = self.population.labels, self.split.global_validation
    rows = own.reshape(len(own), -1)
    predictions = trainer.predict(states, _beside(rows, general))
    of_people, of_all = np.split(predictions, [rows.shape[1]], axis=1)
    flat = own.reshape(-1, own.shape[2])
    individual, _ = metrics.accuracy(
      of_people.reshape(flat.shape), labels, flat
    )
    return (
      individual.reshape(own.shape[:2]),
      metrics.accuracy(of_all, labels, general[None])[0],
    )

  def evaluation_steps(self, method: Method) -> list[int]:
    """Behind which steps a method's models are evaluated, if they are.

    Args:
      method: the method.

    Returns:
      Every `eval_every` steps, at the end, and where the shared phase ends.
    """
    ends = [self.batches.length(method)]
    if method.shares_global_phase:
      ends.append(self.batches.num_shared_steps)
    return course.evaluation_steps(ends, self.eval_every)

  def global_phase(
    self, on_steps: Callable[[int], None] = lambda steps: None
  ) -> tuple[TrainState, Record]:
    """The model that D_G alone gives; trained once, then kept.

    Args:
      on_steps: called with the training steps done since the last call.

    Returns:
      The state, NumPy arrays with a leading axis of 1, keys as `hosts.gather`
      gives them; and its record, with everybody's accuracy.

    Source: Algorithm 1, line 9.
    """
    if self._shared is None:
      task, piece = self._shared_task, self._shared_piece
      trainer = self.trainer.one_per_device()
      end, people = self.batches.num_shared_steps, len(self.split.individuals)
      record = Record.empty(1, people)
      if piece.step:
        one, history = task.restore(piece, trainer.shapes)
        record = Record.restored(history, 1, people)
      if not piece.step:
        states = trainer.create(individual_key(self._root, SHARED)[None])
      elif piece.step < end:
        states = trainer.place(one)
        on_steps(piece.step)
      if piece.step < end:
        own = self.split.validation[None]
        states, record = course.train(
          trainer,
          states,
          record,
          self.batches.shared_rows()[None],
          phases=((end, 0),),
          points=course.evaluation_steps([end], self.eval_every),
          evaluate=functools.partial(self._validate, trainer, own),
          on_steps=on_steps,
          watch=functools.partial(task.watch, piece),
        )
        task.save(piece, end, states, record.saved())
        one = hosts.gather(states)
      self._shared = jax.tree.map(lambda leaf: leaf[:1], one), record
    return self._shared

  def _check_schedule(self, method: Method) -> None:
    """Refuses a schedule of one's own that is none, or never twice the same."""
    try:
      once, again = (self.batches.sources(method) for _ in range(2))
    except ValueError as error:
      raise ValueError(f"method {method.spec!r}: {error}") from error
    if not np.array_equal(once, again):
      raise ValueError(
        f"method {method.spec!r} has a schedule that differs from call to call:"
        " draw its random numbers from a generator with a seed of its own."
      )

  def _frozen_layers(self, method: Method) -> int:
    """How many first layers TL leaves as they are."""
    if not method.last_layers:
      return 0
    model = self.trainer.learner.model
    if not own_model.takes_frozen_layers(model):
      raise ValueError(
        f"method {method.spec!r} trains the last layers alone, but model"
        f" {type(model).__name__} doesn't take frozen_layers."
      )
    try:
      there = models.count_layers(self.trainer.shapes.params)
    except ValueError as error:
      raise ValueError(
        f"method {method.spec!r} with model {type(model).__name__}: {error}"
      ) from error
    if method.last_layers > there:
      raise ValueError(
        f"method {method.spec!r} trains the last {method.last_layers} layers,"
        f" but the network has {there}."
      )
    return there - method.last_layers

  @functools.cached_property
  def _shared_piece(self) -> Piece:
    """How far an earlier process came with the model of D_G alone."""
    (piece,) = self._shared_task.plan(1, 1)
    return piece

  @property
  def _has_shared(self) -> bool:
    return (
      self._shared is not None
      or self._shared_piece.step == self.batches.num_shared_steps
    )


def _beside(own: np.ndarray, general: np.ndarray) -> np.ndarray:
  """Rows [n, R], and behind each line the same rows [Q]."""
  return np.concatenate(
    [own, np.broadcast_to(general, (len(own), len(general)))], axis=1
  )


def _check_images(population: Population) -> None:
  """Refuses samples that Fig. 4's network isn't made for."""
  if not population.holds_images:
    raise ValueError(
      "the paper's network takes images [H, W, C], but samples have shape"
      f" {list(population.sample_shape)}: give a model of your own, for"
      " instance models.MLP (--model=mlp)."
    )
  height, width, _ = population.sample_shape
  if height != width:
    raise ValueError(
      f"images must be square for the paper's network, but are"
      f" {height}x{width}."
    )
  models.check_image_size(height)


def _joined(pieces: Sequence[Any]) -> dict[str, Any]:
  """Models of several pieces as one tree with a leading axis."""
  params, batch_stats = jax.tree.map(
    lambda *leaves: np.concatenate(leaves), *pieces
  )
  return {"params": params, "batch_stats": batch_stats}
