"""From a method to everybody's models and their accuracy.

`personalize` is the whole of the paper's experiment for one row of Table I.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from personalization_jax import distributed, study_checks
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.keeper import Keeper, Piece, Task
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.distributed import (
  default_individuals_per_device,
  make_mesh,
)
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import Method, parse_method
from personalization_jax.methods.batches import Batches
from personalization_jax.runs import saved_models
from personalization_jax.settings import Settings, make_learner
from personalization_jax.training import evaluation, identities, latent_space
from personalization_jax.training.global_phase import GlobalPhase
from personalization_jax.training.individual_phase import IndividualTraining
from personalization_jax.training.latent_space import (
  LatentSettings,
  LatentSpace,
)
from personalization_jax.training.population import PopulationTrainer
from personalization_jax.training.record import Record
from personalization_jax.training.step import TrainState


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
        `distributed.default_individuals_per_device` says.
      side_by_side: see `PopulationTrainer`.
      store: likewise, "device" or "host".
      trainer: of another study of the same population and settings but for the
        seed, whose compiled programs serve this one too; then what is about
        devices isn't asked. One whose learner has an optimiser of one's own
        trains by that, whatever learning rate is set.
      keeper: saves what is under way, and the model of D_G alone, for later
        processes; by default they are in memory only.
      models_dir: where `saved_models` keeps everybody's final parameters; None
        keeps none.
      eval_every: steps between two evaluations on validation data, for the
        curves of a `Result`; 0 evaluates at the end alone.
      groups: what data grouping enlarges D_I with; by default random groups
        alone, since SG and IG need a latent space.

    Raises:
      ValueError: if split, groups or trainer aren't of this population, the
        trainer isn't of these settings, the samples don't suit the network, or
        the keeper has a folder and couldn't tell the network from another one.
    """
    if trainer is not None:
      study_checks.check_trainer(trainer, population, settings, model)
      model = trainer.learner.model
    study_checks.check_data(population, split, model, eval_every)
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
    if groups is None:
      groups = Groups(population, split, seed=settings.seed)
    study_checks.check_groups(groups, population, split)
    self.batches = Batches(split, settings, groups)
    self.eval_every = int(eval_every)
    self.keeper = keeper or Keeper()
    if self.keeper.folder is not None:  # or what nothing can be kept of
      identities.of_learner(trainer.learner, population.sample_shape)
    self.models_dir = models_dir
    self._global_phase = GlobalPhase(
      population, self.batches, self._global_task, eval_every
    )
    self._individuals = IndividualTraining(
      population, self.batches, self._global_phase, eval_every
    )

  @property
  def groups(self) -> Groups:
    """What data grouping enlarges D_I with."""
    return self.batches.groups

  @groups.setter
  def groups(self, groups: Groups) -> None:
    study_checks.check_groups(groups, self.population, self.split)
    self.batches.groups = groups

  def find_groups(
    self,
    settings: LatentSettings | None = None,
    *,
    among_individuals: bool | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
  ) -> LatentSpace:
    """Finds the latent space that SG and IG measure similarity in.

    Args:
      settings: of the auto-encoder; by default epochs, batch size, width and
        seed of the classifier. Samples that are no images need none: their
        standardised features are the space.
      among_individuals: whether IG chooses among the other individuals; by
        default what `groups` says. Their seed and mesh stay as well.
      on_steps: called with the training steps done since the last call.

    Returns:
      The latent space, by which `groups` now chooses.

    Raises:
      ValueError: if there is no such space for these samples.

    Source: section III, data grouping.
    """
    space = latent_space.fit(
      self.population,
      self.split,
      settings or LatentSettings.like(self.settings),
      keeper=self.keeper,
      on_steps=on_steps,
    )
    before = self.groups
    if among_individuals is None:
      among_individuals = before.among_individuals
    self.groups = Groups(
      self.population,
      self.split,
      seed=before.seed,
      latents=space.latents,
      among_individuals=among_individuals,
      mesh=before.mesh or make_mesh(jax.local_devices()),
    )
    return space

  def check(self, method: Method) -> None:
    """Refuses a method that this study can't train.

    Args:
      method: the method.

    Raises:
      ValueError: saying why.
    """
    study_checks.check_method(method, self.batches, self.trainer)

  def num_steps(self, methods: Sequence[Method]) -> int:
    """Training steps that these methods take, summed over individuals."""
    own = [
      method.late if method.shares_global_phase else self.batches.length(method)
      for method in methods
    ]
    shares = any(method.shares_global_phase for method in methods)
    due = shares and not self._global_phase.is_done
    shared = self.batches.num_shared_steps if due else 0
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
      ValueError: if the method can't be trained on this split; the keeper's
        folder holds another training of its name; or keep_models is asked for
        and some are trained already.
      progress.Stopped: if the keeper was asked to stop.

    Source: section IV; the shaping half of Table I.
    """
    if isinstance(method, str):
      method = parse_method(method)
    self.check(method)
    if method.needs_latents and not self.groups.has_latents:
      self.find_groups()
    task = self._task(method)
    pieces = task.plan(len(self.split.individuals), self.trainer.chunk)
    if keep_models and any(piece.step < 0 for piece in pieces):
      raise ValueError(
        f"method {method.spec!r} was trained before, at least in part:"
        " models_dir keeps such parameters, keep_models can't."
      )
    models: list[Any] = []
    for piece in pieces:
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
        kept = distributed.gather(
          {"params": states.params, "batch_stats": states.batch_stats}
        )
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
      curve_steps=np.asarray(
        self._individuals.evaluation_steps(method), np.int32
      ),
      global_rows=self.split.global_test,
      individual_labels=self._labels_of(self.split.test),
      validation_labels=self._labels_of(self.split.validation),
      global_labels=self._labels_of(self.split.global_test),
      one_model=method.one_model,
      models=jax.tree.map(lambda *leaves: np.concatenate(leaves), *models)
      if keep_models
      else None,
      **joined,
    )

  def _labels_of(self, rows: np.ndarray) -> np.ndarray:
    """The true classes of rows, -1 for padding."""
    return np.where(rows == PADDING, PADDING, self.population.labels[rows])

  def forget(self, method: Method) -> None:
    """Removes what was kept of a method under way: its result is safe."""
    distributed.wait_for_all("forget")  # others may still be reading
    self.keeper.forget(method.spec)

  def _personalize_piece(
    self,
    method: Method,
    task: Task,
    piece: Piece,
    on_steps: Callable[[int], None],
  ) -> tuple[dict[str, np.ndarray], TrainState]:
    """These individuals' part of a `Result`, and their models."""
    indices = list(piece.indices)
    states, rows, record = self._individuals.train(
      self.trainer, method, task, piece, on_steps
    )
    if self.models_dir is not None:
      people = self.split.individuals[indices].tolist()
      description = saved_models.Description.of(
        self.trainer.learner.model,
        self.population.sample_shape,
        dtype=self.population.images.dtype,
        label_names=self.population.label_names,
      )
      saved_models.save(
        self.models_dir, method.spec, people, states, description
      )
    part = evaluation.final(
      self.trainer, self.split, indices, states, rows, record
    )
    return part, states

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
    return self._global_phase.train(self.trainer, on_steps)

  def _task(self, method: Method) -> Task:
    """What keeps a method's training, told from all others."""
    identity = ""
    if self.keeper.folder is not None:
      identity = identities.of_method(self._identity(), method, self.batches)
    return self.keeper.task(method.spec, identity)

  def _global_task(self) -> Task:
    """What keeps the phase on D_G."""
    identity = ""
    if self.keeper.folder is not None:
      steps = self.batches.num_shared_steps
      identity = files.digest([self._identity(), steps])
    return self.keeper.task("global_phase", identity)

  def _identity(self) -> str:
    """What decides this study's numbers, as a digest."""
    return identities.of_study(
      self._data_identity,
      self.settings,
      self.trainer.learner,
      self.population.sample_shape,
      self.eval_every,
    )

  @functools.cached_property
  def _data_identity(self) -> str:
    return identities.of_data(self.population.fingerprint(), self.split)


def personalize(
  population: Population,
  split: Split,
  method: Method | str,
  settings: Settings | None = None,
  *,
  keep_models: bool = False,
  **about: Any,
) -> Result:
  """Trains one model for every individual by one method, and tests it.

  For several methods on one split make one `Study`, which trains what they
  share once and compiles once.

  Args:
    population: the store.
    split: its parts.
    method: or its spec, as on the command line: "tl:300", "es:40+sw:12".
    settings: how to train; by default the paper's.
    keep_models: whether the result holds everybody's parameters.
    **about: of `Study`: `model`, `mesh`, `individuals_per_device`,
      `eval_every` and others.

  Returns:
    Predictions, losses and, if asked for, curves and parameters.

  Raises:
    ValueError: if method, data and model don't fit.
  """
  study = Study(population, split, settings or Settings(), **about)
  return study.personalize(method, keep_models=keep_models)
