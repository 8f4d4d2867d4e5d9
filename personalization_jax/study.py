"""From a method to everybody's models and their accuracy.

`Study.personalize` is the whole of the paper's experiment for one row of
Table I.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from personalization_jax import distributed
from personalization_jax.analysis import metrics
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.chunks import Chunk
from personalization_jax.checkpoints.keeper import History, Keeper, Task
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import Split
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import Method, parse_method
from personalization_jax.methods.batches import Batches
from personalization_jax.runs import saved_models
from personalization_jax.settings import Settings
from personalization_jax.training import (
  evaluation,
  fisher,
  identities,
  latent_space,
  phases,
  starts,
  suitability,
)
from personalization_jax.training.evaluation import Record, Validation
from personalization_jax.training.latent_space import (
  LatentSettings,
  LatentSpace,
)
from personalization_jax.training.learner import Learner, make_learner
from personalization_jax.training.population import (
  PopulationTrainer,
  individual_keys,
)
from personalization_jax.training.starts import Start, Starts
from personalization_jax.training.step import TrainState

# Batches that precise batch statistics are of, at most.
_PRECISE_BATCHES = 50


def make_trainer(
  population: Population,
  settings: Settings,
  *,
  model: nn.Module | None = None,
  mesh: Mesh | None = None,
  individuals_per_device: int | None = None,
  side_by_side: int | None = None,
  store: str = "device",
  optimizer: optax.GradientTransformation | None = None,
) -> PopulationTrainer:
  """What trains the models of a study, or of several of one population.

  Args:
    population: the store.
    settings: width, precision, initial weights and learning rate; with a
      model, the learning rate alone.
    model: what everybody's model is: any Flax Linen module that gives logits
      [B, num_classes] of samples [B, ...], called as `networks.interface` says;
      by default Fig. 4's network.
    mesh: where; by default on all devices.
    individuals_per_device: models on a device at once; by default what
      `distributed.default_individuals_per_device` says.
    side_by_side: see `PopulationTrainer`.
    store: likewise; "device" or "host".
    optimizer: in the place of Adam with the settings' learning rate.

  Returns:
    The trainer, with the store in its place; nothing is compiled yet.
  """
  mesh = distributed.make_mesh() if mesh is None else mesh
  return PopulationTrainer(
    make_learner(settings, population.num_classes, model, optimizer),
    population.images,
    population.labels,
    mesh,
    individuals_per_device or distributed.default_individuals_per_device(mesh),
    side_by_side,
    store,
  )


@dataclasses.dataclass(eq=False, repr=False)
class Study:
  """One split of one population, and models trained on it.

  The phase on D_G that transfer learning shares is trained when first needed
  and kept. Nothing of a study is to be assigned: make another one.

  Attributes:
    population: the store.
    split: what each of its samples is for.
    settings: how to train; by default the paper's.
    model: see `make_trainer`.
    optimizer: likewise.
    trainer: from `make_trainer`, by default with all its defaults. Another
      study's of the same population and settings but for the seed serves this
      one too, with its compiled programs. One whose learner has an optimiser of
      one's own trains by that, whatever learning rate is set.
    keeper: saves what is under way, and the model of D_G alone, for later
      processes; by default they are in memory only.
    models_dir: where `saved_models` keeps everybody's final parameters; None
      keeps none.
    factory: "module:Class" that made a model of one's own
      (`networks.factories`), for whoever reads saved models; without it they
      have parameters alone.
    eval_every: steps between two evaluations on validation data, for the
      curves of a `Result`; 0 evaluates at the end alone.
    keep_probabilities: whether results hold the probabilities of all classes
      for the tests on D_I.
    base: `params` and `batch_stats` of a model that was trained elsewhere, for
      people without a D_G: TL's first phase, which others go on from with a
      fresh optimiser. By default D_G's own model is trained.
    latents: float32 [N, D], a latent space of one's own for SG and IG; by
      default what `find_groups` finds.
    precise_batch_stats: whether trained models' running batch statistics are
      computed anew, with the final parameters, over up to 50 of the last
      batches: of TL's late ones, else of those after ES's early ones. Running
      ones lag behind a short training.
    among_individuals: whether IG chooses among the other individuals; see
      `Groups`.
    groups: what data grouping enlarges D_I with.

  Raises:
    ValueError: if split or trainer aren't of this population, the trainer isn't
      of these settings, samples or base don't suit the network, it has no batch
      statistics to be precise, or the keeper has a folder and couldn't tell the
      network from another one.
  """

  population: Population
  split: Split
  settings: Settings = dataclasses.field(default_factory=Settings)
  _: dataclasses.KW_ONLY
  model: dataclasses.InitVar[nn.Module | None] = None
  optimizer: dataclasses.InitVar[optax.GradientTransformation | None] = None
  trainer: PopulationTrainer = None  # type: ignore[assignment]
  keeper: Keeper = None  # type: ignore[assignment]
  models_dir: pathlib.Path | None = None
  factory: str | None = None
  eval_every: int = 0
  keep_probabilities: bool = False
  base: Mapping[str, Any] | None = None
  latents: np.ndarray | None = None
  precise_batch_stats: bool = False
  among_individuals: bool = False
  groups: Groups = dataclasses.field(init=False)

  def __post_init__(
    self,
    model: nn.Module | None,
    optimizer: optax.GradientTransformation | None,
  ) -> None:
    """Checks what it is given; nothing is trained yet."""
    population, split, settings = self.population, self.split, self.settings
    if self.trainer is not None:
      if optimizer is not None:
        raise ValueError(
          "optimizer can't be set beside trainer, which has one already: give"
          " it to make_trainer."
        )
      identities.check_trainer(self.trainer, population, settings, model)
      model = self.trainer.learner.model
    suitability.check_data(population, split, model, self.eval_every)
    if self.models_dir is not None:
      names = map(population.name_of, split.individuals)
      self._folders = files.folder_names(names)
    self.eval_every = int(self.eval_every)
    self.groups = Groups(
      population,
      split,
      seed=settings.seed,
      latents=self.latents,
      among_individuals=self.among_individuals,
    )
    self.trainer = self.trainer or make_trainer(
      population, settings, model=model, optimizer=optimizer
    )
    if self.precise_batch_stats and not self.trainer.has_batch_stats:
      raise ValueError(
        "precise_batch_stats=True can't act:"
        f" {type(self.trainer.learner.model).__name__} has no batch statistics."
      )
    self.keeper = self.keeper or Keeper()
    if self.keeper.folder is not None:  # or what nothing can be kept of
      identities.of_learner(self.trainer.learner, population.sample_shape)
    self._global_phase: tuple[TrainState, Record] | None = None
    self._starts: dict[Start, Starts] = {}
    if self.base is not None:
      if len(split.global_train):
        raise ValueError("base has D_G's place, but split has data of D_G too.")
      self._global_phase = phases.begun(
        self.trainer, self.base, len(split.individuals)
      )

  @property
  def batches(self) -> Batches:
    """The rows of everybody's batches."""
    return Batches(self.split, self.settings, self.groups)

  def find_groups(
    self,
    settings: LatentSettings | None = None,
    *,
    on_steps: Callable[[int], None] = lambda steps: None,
  ) -> LatentSpace:
    """Finds the latent space that SG and IG measure similarity in.

    Args:
      settings: of the auto-encoder; by default epochs, batch size, width and
        seed of the classifier. Samples that are no images need none: their
        standardised features are the space.
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
    space = latent_space.fit(
      self.population,
      self.split,
      settings,
      keeper=self.keeper,
      on_steps=on_steps,
    )
    self.latents = space.latents
    self.groups = dataclasses.replace(self.groups, latents=space.latents)
    return space

  def check(self, method: Method) -> None:
    """Raises a ValueError for a method that this study can't train."""
    has_base = self.base is not None
    suitability.check_method(method, self.batches, self.trainer, has_base)

  def num_steps(self, methods: Sequence[Method]) -> int:
    """Training steps that these methods take, summed over individuals."""
    own = sum(
      method.late if method.shares_global_phase else self.batches.length(method)
      for method in methods
    )
    shared = 0
    if any(
      method.needs_global_model
      or (method.shares_global_phase and method.start is None)
      for method in methods
    ):
      _, chunk = self._global_task
      steps = self.batches.num_shared_steps
      if self._global_phase is None and chunk.step < steps:
        shared = steps
    for start in {method.start for method in methods}:
      if start is not None and start not in self._starts:
        _, chunk = self._start_task(start)
        shared += starts.num_steps(chunk, self.batches)
    return own * len(self.split.individuals) + shared

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
      ValueError: if the method can't be trained on this split; the keeper's
        folder holds another training of its name; or keep_models is asked for
        and some are trained already.
      keeper.Stopped: if the keeper was asked to stop.

    Source: section IV, Table I.
    """
    if isinstance(method, str):
      method = parse_method(method)
    self.check(method)
    if method.needs_latents and self.groups.latents is None:
      self.find_groups()
    task = self._task(method)
    trainer: PopulationTrainer | None = None
    chunks = task.plan(len(self.split.individuals), self.trainer.chunk_size)
    if keep_models and any(chunk.is_finished for chunk in chunks):
      raise ValueError(
        f"method {method.spec!r} was trained before, at least in part:"
        " models_dir keeps such parameters, keep_models can't."
      )
    shared = self.batches.num_shared_steps if method.shares_global_phase else 0
    length = self.batches.length(method)
    validation = self._validation(
      [length, shared], self.split.validation[:, None]
    )
    models: list[Any] = []
    for chunk in chunks:
      indices = list(chunk.indices)
      if chunk.is_finished:
        on_steps((length - shared) * len(indices))
        continue
      self.keeper.check()
      trainer = trainer or self._trainer_of(method, on_steps)
      rows = np.stack([self.batches.rows(method, index) for index in indices])
      own = self.split.validation[indices]
      looks = self.batches.looks(method)
      best = phases.Best(looks, self.population.labels, own)
      states, record = phases.run(
        trainer,
        task,
        chunk,
        rows,
        functools.partial(self._begin, trainer, method, chunk, on_steps),
        phases=self._phases(method, length),
        validation=validation._replace(own=validation.own[indices]),
        best=best if method.best else None,
        reported=shared,
        precise=self._num_precise(self.batches.last_phase(method)),
        on_steps=on_steps,
      )
      if method.own_statistics:
        states = trainer.precise_batch_stats(
          states, self.batches.own_rows(method, indices)
        )
      if method.fit is not None:
        states = trainer.fit(states, self.split.train[indices], own)
      self._save_models(method, indices, trainer, states)
      arrays = evaluation.final(
        trainer,
        self.split,
        indices,
        states,
        rows,
        record,
        probabilities=self.keep_probabilities,
      )
      if method.best:
        arrays["best_steps"] = best.found[:, 0].astype(np.int32) - shared
      task.finish(chunk, arrays)
      if keep_models:
        models.append(trainer.variables(states, len(indices)))
    joined: dict[str, Any] = _joined(_alike(task.results(chunks)))
    for name, rows in (
      ("individual", self.split.test),
      ("validation", self.split.validation),
      ("global", self.split.global_test),
    ):
      joined[f"{name}_rows"] = rows
      joined[f"{name}_labels"] = metrics.at_rows(self.population.labels, rows)
    train = metrics.at_rows(self.population.labels, self.split.train)
    joined["train_size"], joined["train_classes"] = metrics.sizes(train)
    if keep_models:
      joined["models"] = _joined(models)
    return Result(
      method=method.spec,
      seed=self.settings.seed,
      individuals=self.split.individuals,
      individual_names=self.population.names_of(self.split.individuals),
      curve_steps=np.asarray(validation.steps, np.int32),
      one_model=method.one_model,
      **joined,
    )

  def forget(self, method: Method) -> None:
    """Removes what was kept of a method under way: its result is safe."""
    distributed.wait_for_all("forget")  # others may still be reading
    self.keeper.forget(method.spec)

  def global_phase(
    self, on_steps: Callable[[int], None] = lambda steps: None
  ) -> tuple[TrainState, Record]:
    """The model that D_G alone gives; trained once, then kept.

    Its state as `phases.run_one` gives it, and its record with everybody's
    accuracy.

    Source: Algorithm 1, line 9.
    """
    if self._global_phase is None:
      self._global_phase = phases.run_one(
        self.trainer.with_individuals_per_device(1),
        *self._global_task,
        self.batches.shared_rows(),
        self.settings.seed,
        validation=self._validation(
          [self.batches.num_shared_steps], self.split.validation[None]
        ),
        precise=self._num_precise(self.batches.num_shared_steps),
        on_steps=on_steps,
      )
    return self._global_phase

  def start(
    self, start: Start, on_steps: Callable[[int], None] = lambda steps: None
  ) -> Starts:
    """What a method's training begins with in D_G's place; trained once."""
    if start not in self._starts:
      self._starts[start] = starts.begin(
        start,
        self.trainer,
        *self._start_task(start),
        self.batches,
        validation=self._validation(
          [self.batches.num_shared_steps], self.split.validation[None]
        ),
        precise=self._num_precise(self.batches.num_shared_steps),
        on_steps=on_steps,
      )
    return self._starts[start]

  @functools.cached_property
  def _fisher(self) -> Any:
    """The diagonal of the Fisher information on D_G of its model."""
    state, _ = self.global_phase()
    return fisher.diagonal(
      self.trainer.learner,
      jax.tree.map(lambda leaf: leaf[0], state.variables),
      self.population.images,
      self.population.labels,
      self.split.global_train,
      one_by_one=self.trainer.on_cpu,
    )

  def _begin(
    self,
    trainer: PopulationTrainer,
    method: Method,
    chunk: Chunk,
    on_steps: Callable[[int], None],
  ) -> tuple[TrainState, History]:
    """What training begins with: fresh models, or copies of D_G's model."""
    keys = individual_keys(
      jax.random.key(self.settings.seed),
      self.split.individuals[list(chunk.indices)],
    )
    if not method.shares_global_phase:
      return trainer.create(keys), {}
    if method.start is None:
      state, record = self.global_phase(on_steps)
      return trainer.share(state, keys), record.of(chunk.indices)
    start = self.start(method.start, on_steps)
    pick = start.pick[list(chunk.indices)]
    return (
      trainer.share(start.states, keys, pick),
      start.history(chunk.indices),
    )

  def _num_precise(self, steps: int) -> int:
    """Over how many batches of so many statistics are computed anew."""
    return min(steps, _PRECISE_BATCHES) if self.precise_batch_stats else 0

  def _learner_of(self, method: Method) -> Learner:
    """What a method's models begin to be trained by on D_I, and answer by."""
    learner = self.trainer.learner
    if method.shares_global_phase:
      learner = learner.personal(self.settings, method)
    return learner.answering(method)

  def _phases(self, method: Method, length: int) -> list[tuple[Any, ...]]:
    """A method's phases, as `PopulationTrainer.train` takes them."""
    found: list[tuple[Any, ...]] = list(method.phases(length))
    base = self.trainer.learner
    personal = base.personal(self.settings, method)
    if method.shares_global_phase or not method.late or personal is base:
      return found
    if len(found) == 1:
      found.insert(0, (length - method.late, None))
    own = personal.answering(method)
    return [found[0], *((*phase, own) for phase in found[1:])]

  def _trainer_of(
    self, method: Method, on_steps: Callable[[int], None]
  ) -> PopulationTrainer:
    """What trains as a method says, with D_G's model if it asks for that."""
    learner = self._learner_of(method)
    if learner is self.trainer.learner:
      return self.trainer
    base = None
    if method.needs_global_model:
      state, _ = self.global_phase(on_steps)
      base = jax.tree.map(lambda leaf: leaf[0], state.variables)
      if method.fisher:
        base["fisher"] = self._fisher
    return dataclasses.replace(self.trainer, learner=learner, base=base)

  def trainer_of(self, method: Method) -> PopulationTrainer:
    """What trains and tests a method's models; D_G's is trained if needed."""
    return self._trainer_of(method, lambda steps: None)

  def _validation(self, ends: Sequence[int], own: np.ndarray) -> Validation:
    """After these steps and every so many, if at all."""
    labels, general = self.population.labels, self.split.global_validation
    points: set[int] = set()
    if every := self.eval_every:
      points = {*range(every, max(ends), every), *ends} - {0}
    return Validation(sorted(points), labels, own, general)

  def _save_models(
    self,
    method: Method,
    indices: list[int],
    trainer: PopulationTrainer,
    states: TrainState,
  ) -> None:
    """Writes some individuals' models, if they are to be kept."""
    if self.models_dir is None:
      return
    model = self.trainer.learner.model
    folders = [self._folders[index] for index in indices]
    saved_models.save(
      self.models_dir,
      method.spec,
      folders,
      trainer.variables(states, len(folders)),
      saved_models.describe(model, self.population, self.factory),
      alone=method.predict is None,
      reference=trainer.base if method.reference else None,
    )

  def _task(self, method: Method) -> Task:
    """What keeps a method's training, told from all others."""
    return self.keeper.task(
      method.spec,
      lambda: identities.of_method(
        self._identity, method, self.batches, self.trainer.learner
      ),
    )

  @functools.cached_property
  def _global_task(self) -> tuple[Task, Chunk]:
    """What keeps the phase on D_G, and how far an earlier process came."""
    steps = self.batches.num_shared_steps
    task = self.keeper.task(
      "global_phase", lambda: files.digest([self._identity, steps])
    )
    (chunk,) = task.plan(1, 1)
    return task, chunk

  def _start_task(self, start: Start) -> tuple[Task, Chunk]:
    """What keeps a start, and how far an earlier process came."""
    steps = self.batches.num_shared_steps
    task = self.keeper.task(
      start.name, lambda: files.digest([self._identity, start, steps])
    )
    (chunk,) = task.plan(start.count, start.count)
    return task, chunk

  @functools.cached_property
  def _identity(self) -> str:
    """What decides this study's numbers, as a digest."""
    found = identities.of_study(
      self.population,
      self.split,
      self.settings,
      self.trainer.learner,
      self.eval_every,
    )
    if self.precise_batch_stats:
      found = files.digest([found, "precise_batch_stats"])
    if self.base is None:
      return found
    return files.digest([found, *map(np.asarray, jax.tree.leaves(self.base))])


def personalize(
  population: Population,
  split: Split,
  method: Method | str,
  settings: Settings | None = None,
  *,
  keep_models: bool = False,
  **about: Any,
) -> Result:
  """Trains and tests everybody by one method: `Study.personalize` in one call.

  `about` is what else a `Study` takes. For several methods make one `Study`,
  which trains what they share once and compiles once.
  """
  study = Study(population, split, settings or Settings(), **about)
  return study.personalize(method, keep_models=keep_models)


def _alike(
  parts: Sequence[Mapping[str, np.ndarray]],
) -> list[dict[str, np.ndarray]]:
  """What all parts have: older versions finished theirs with fewer arrays."""
  names = [name for name in parts[0] if all(name in part for part in parts)]
  return [{name: part[name] for name in names} for part in parts]


def _joined(parts: Sequence[Any]) -> Any:
  """Trees of arrays [n, ...] as one."""
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
