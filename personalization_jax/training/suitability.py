"""Whether a study's data and model suit its methods, before any training."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from flax import linen as nn

from personalization_jax import checks
from personalization_jax.datasets import Population, splits
from personalization_jax.datasets.splits import PADDING, Split
from personalization_jax.methods.batches import Batches
from personalization_jax.methods.method import Method
from personalization_jax.networks import classifier, interface
from personalization_jax.training import identities, starts
from personalization_jax.training.learner import check_last_layers
from personalization_jax.training.population import PopulationTrainer


def check_data(
  population: Population, split: Split, model: nn.Module | None, eval_every: int
) -> None:
  """Rejects samples that can't be trained or evaluated on."""
  if population.num_classes < 2:
    raise ValueError(
      "labels hold one class alone; there must be at least two classes."
    )
  splits.check(split, population)
  population.check_finite()
  checks.whole_number("eval_every", eval_every, 0)
  if eval_every and not (
    split.validation.shape[1] and len(split.global_validation)
  ):
    raise ValueError(
      f"eval_every={eval_every} needs data to evaluate on: a"
      " validation_fraction above 0, and enough samples."
    )
  if model is None or isinstance(model, classifier.Classifier):
    classifier.check_samples(population.sample_shape)
  else:
    interface.check(model, population.sample_shape, population.num_classes)


def check_method(
  method: Method,
  batches: Batches,
  trainer: PopulationTrainer,
  has_base: bool = False,
) -> None:
  """Rejects a method that can't be trained on these batches by this trainer.

  `has_base` tells that a saved model has D_G's place.
  """
  split, groups = batches.split, batches.groups
  if has_base and method.lack:
    raise ValueError(
      f"method {method.spec!r} can't begin with a saved model alone:"
      f" {method.lack}."
    )
  if method.baseline and len(split.individuals) < 2:
    raise ValueError(
      "method 'baseline' trains on another individual's data, so"
      " num_individuals must be at least 2, in every fold of people, too."
    )
  if method.group is not None:
    groups.check(method.group)
  if split.global_includes_individuals:
    _check_includes(method, groups.among_individuals)
  with checks.naming(f"method {method.spec!r}"):
    _check_answers(method, batches, trainer, has_base)
    if method.last_layers:
      check_last_layers(
        trainer.learner.model, method.last_layers, trainer.shapes.params
      )
    if method.schedule is not None:
      once, again = (batches.sources(method) for _ in range(2))
      if not np.array_equal(once, again):
        raise ValueError(
          "its schedule differs from call to call: draw its random numbers"
          " from a generator with a seed of its own."
        )


def _check_answers(
  method: Method, batches: Batches, trainer: PopulationTrainer, has_base: bool
) -> None:
  """Rejects what can't be trained, or chosen, otherwise than the paper's."""
  split, learner = batches.split, trainer.learner
  if method.start is not None:
    starts.check(method.start, batches)
  if method.needs_global_model and not (len(split.global_train) or has_base):
    raise ValueError("it needs a model of D_G, but there are no data of D_G.")
  chosen = method.fit is not None or method.best
  if chosen and not (split.validation != PADDING).any(axis=1).all():
    raise ValueError(
      "it chooses for each person on validation data, which not everybody"
      " has: a validation_fraction above 0 is needed, and enough samples."
    )
  if method.own_statistics and not trainer.has_batch_stats:
    raise ValueError(
      "it computes batch statistics anew, but"
      f" {type(learner.model).__name__} has none."
    )
  if method.late:
    learner.personal(batches.settings, method)
  trainable = method.trainable
  params = trainer.shapes_of_one.params
  if trainable and not any(jax.tree.leaves(trainable(params))):
    raise ValueError("it trains no parameter of this model.")
  if method.fit is not None:  # what it needs of the model, by tracing
    identities.of_answers(
      # As shapes are.
      dataclasses.replace(learner.answering(method), lean=False),
      trainer.images.shape[1:],
    )


def _check_includes(method: Method, among_individuals: bool) -> None:
  """Rejects what D_G can't serve where it includes the individuals' rows."""
  included = "D_G includes already (global_includes_individuals)"
  if method.baseline:
    raise ValueError(
      f"method {method.spec!r} adds another individual's data to D_G, which"
      f" {included}: compare with 'global'."
    )
  group = method.group
  if group and not (group.kind == "ig" and among_individuals):
    raise ValueError(
      f"method {method.spec!r} would enlarge a person's data with their own"
      f" rows, which {included}."
    )
