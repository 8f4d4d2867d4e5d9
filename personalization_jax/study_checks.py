"""What a study refuses before it trains anything."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from flax import linen as nn

from personalization_jax import checks
from personalization_jax.checkpoints import files
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import Method
from personalization_jax.methods.batches import Batches
from personalization_jax.networks import classifier, interface
from personalization_jax.settings import Settings
from personalization_jax.training import identities
from personalization_jax.training.population import PopulationTrainer


def check_trainer(
  trainer: PopulationTrainer,
  population: Population,
  settings: Settings,
  model: nn.Module | None,
) -> None:
  """Refuses a trainer that another study's data or models belong to.

  Args:
    trainer: of an earlier study.
    population: the store.
    settings: how to train; they don't decide about an optimiser of one's own.
    model: everybody's; None for the trainer's own.

  Raises:
    ValueError: saying why.
  """
  if trainer.images.shape != population.images.shape:
    raise ValueError(
      f"trainer is of a population of shape {list(trainer.images.shape)}, but"
      f" this one has shape {list(population.images.shape)}."
    )
  if trainer.store_digest != files.digest(
    [population.images, population.labels]
  ):
    raise ValueError(
      "trainer is of a population with other samples or labels, so its models"
      " would be trained on those: a trainer serves one population alone."
    )
  its = trainer.learner.model
  if model is not None and model is not its:
    shape = population.sample_shape
    interface.check(model, shape, population.num_classes)
    if identities.of_model(model, shape) != identities.of_model(its, shape):
      raise ValueError(
        f"trainer is of {its!r}, but model is {model!r}, which computes"
        " otherwise."
      )
  has: dict[str, Any] = {}
  if model is None and isinstance(its, classifier.Classifier):
    has = {"width": its.width, "precision": np.dtype(its.dtype).name}
  if trainer.learner.learning_rate is not None:
    has["learning_rate"] = trainer.learner.learning_rate
  for name, value in has.items():
    if value != getattr(settings, name):
      raise ValueError(
        f"trainer trains with {name} {value}, but settings ask for"
        f" {getattr(settings, name)}."
      )


def check_groups(groups: Groups, population: Population, split: Split) -> None:
  """Refuses groups of another split: their rows would be other people's.

  Args:
    groups: what data grouping enlarges D_I with.
    population: the store.
    split: its parts.

  Raises:
    ValueError: saying what they are not of.
  """
  its = groups.population
  if its is not population and not all(
    np.array_equal(getattr(its, name), getattr(population, name))
    for name in ("labels", "individuals", "originals")
  ):
    raise ValueError("groups are of another population than the study's.")
  if groups.split is not split and not all(
    np.array_equal(
      getattr(groups.split, field.name), getattr(split, field.name)
    )
    for field in dataclasses.fields(split)
  ):
    raise ValueError("groups are of another split than the study's.")


def check_data(
  population: Population,
  split: Split,
  model: nn.Module | None,
  eval_every: int,
) -> None:
  """Refuses samples that can't be trained or evaluated on.

  Args:
    population: the store.
    split: its parts.
    model: everybody's; None for Fig. 4's network.
    eval_every: steps between two evaluations on validation data, 0 for none.

  Raises:
    ValueError: saying why.
  """
  if population.num_classes < 2:
    raise ValueError(
      "labels hold one class alone; there must be at least two classes."
    )
  _check_split(population, split)
  _check_finite(population)
  checks.whole_number("eval_every", eval_every, 0)
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
    interface.check(model, population.sample_shape, population.num_classes)


def check_method(
  method: Method, batches: Batches, trainer: PopulationTrainer
) -> None:
  """Refuses a method that can't be trained.

  Args:
    method: the method.
    batches: of the study, with its split and its groups.
    trainer: of its models.

  Raises:
    ValueError: saying why.
  """
  if method.baseline and len(batches.split.individuals) < 2:
    raise ValueError(
      "method 'baseline' trains on another individual's data, so"
      " num_individuals must be at least 2."
    )
  if method.group is not None:
    batches.groups.check(method.group)
  if method.last_layers:
    frozen_layers(method, trainer)
  if method.schedule is not None:
    _check_schedule(method, batches)


def frozen_layers(method: Method, trainer: PopulationTrainer) -> int:
  """How many first layers TL leaves as they are.

  Args:
    method: the method.
    trainer: of its models.

  Returns:
    The number, 0 for a method that trains all layers.

  Raises:
    ValueError: if these layers can't be trained alone.

  Source: section III-C, "fewer layers adjusted".
  """
  if not method.last_layers:
    return 0
  model = trainer.learner.model
  if not interface.takes_frozen_layers(model):
    raise ValueError(
      f"method {method.spec!r} trains the last layers alone, but model"
      f" {type(model).__name__} doesn't take frozen_layers."
    )
  try:
    there = classifier.count_layers(trainer.shapes.params)
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


def _check_split(population: Population, split: Split) -> None:
  """Refuses a split of another population."""
  parts = (split.train, split.validation, split.test)
  rows = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
  general = (split.global_train, split.global_validation, split.global_test)
  most = max(max(rows.max(initial=0), *(g.max(initial=0) for g in general)), 0)
  if most >= len(population):
    raise ValueError(
      f"split has row {most}, but the population has {len(population)}"
      " samples: split this very population."
    )
  writers = population.individuals[np.maximum(rows, 0)]
  wrong = (rows != PADDING) & (writers != split.individuals[:, None])
  if wrong.any():
    person = split.individuals[wrong.any(axis=1)][0]
    raise ValueError(
      f"split gives individual {person} samples that others have in this"
      " population: split this very population."
    )
  empty = (split.train == PADDING).all(axis=1)
  if empty.any():
    raise ValueError(
      f"individual {split.individuals[empty][0]} has nothing to train on."
    )


def _check_finite(population: Population) -> None:
  """Refuses float samples on which every model would diverge."""
  images = population.images
  with np.errstate(over="ignore"):  # models see them as float32
    ends = np.array([images.min(), images.max()]).astype(np.float32)
    if np.isfinite(ends).all():
      return
    samples = images.reshape(len(images), -1).astype(np.float32)
  finite = np.isfinite(samples).all(axis=1)
  row = int(np.argmin(finite))
  raise ValueError(
    f"samples must be finite, but row {row} of images, of individual"
    f" {population.individuals[row]}, holds NaN, infinity or a number"
    " too large for float32."
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
  classifier.check_image_size(height)


def _check_schedule(method: Method, batches: Batches) -> None:
  """Refuses a schedule of one's own that is none, or never twice the same."""
  try:
    once, again = (batches.sources(method) for _ in range(2))
  except ValueError as error:
    raise ValueError(f"method {method.spec!r}: {error}") from error
  if not np.array_equal(once, again):
    raise ValueError(
      f"method {method.spec!r} has a schedule that differs from call to call:"
      " draw its random numbers from a generator with a seed of its own."
    )
