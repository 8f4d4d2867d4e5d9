"""The figures of a run of `experiments.table1`."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from personalization_jax import autoencoder, figures, tables
from personalization_jax.latent_space import LatentSpace
from personalization_jax.methods import Method
from personalization_jax.personalization import Study
from personalization_jax.result import Result


def draw(
  study: Study,
  methods: Sequence[Method],
  finished: Sequence[Result],
  space: LatentSpace | None,
  folder: pathlib.Path,
) -> list[pathlib.Path]:
  """Draws everything that a run can show.

  Args:
    study: the population and its split.
    methods: what was trained.
    finished: its results, of all seeds.
    space: the latent space, if one was needed.
    folder: where the figures go.

  Returns:
    The files written.
  """
  pages = _of_results(study, methods, finished)
  pages["handwriting"] = figures.handwriting(
    study.population.images,
    study.population.labels,
    study.population.individuals,
    study.split.individuals[:8],
    classes=min(10, study.population.num_classes),
  )
  if space is not None:
    pages |= _of_latent_space(study, methods, space)
  return [
    figures.save(page, folder / f"{name}.png") for name, page in pages.items()
  ]


def _of_results(
  study: Study, methods: Sequence[Method], finished: Sequence[Result]
) -> dict[str, Any]:
  # Who diverged in one method is shown in none: figures compare people.
  shown = ~np.any([result.diverged for result in finished], axis=0)
  # Curves are one seed's.
  firsts = {result.method: result for result in reversed(finished)}
  if not shown.any():
    return {}
  accuracies = {
    method: (own[shown], general[shown])
    for method, (own, general) in tables.accuracies(
      finished, study.population.labels
    ).items()
  }
  batches = study.batches
  sources = {method.spec: batches.sources(method) for method in methods}
  # Behind the end of an individual's own schedule there is padding.
  people = range(len(study.split.individuals))
  losses = {
    method.spec: firsts[method.spec].losses[
      shown,
      : min(len(batches.sources(method, index)) for index in people),
    ]
    for method in methods
  }
  drawn = {
    "trade_off": figures.trade_off(accuracies),
    "distribution_individual": figures.distribution(accuracies),
    "distribution_global": figures.distribution(accuracies, of="global"),
    "schedules": figures.schedules(sources),
    "training_curves": figures.training_curves(losses),
  }
  curves = {
    method: (
      result.curve_steps,
      result.individual_curve[shown],
      result.global_curve[shown],
    )
    for method, result in reversed(firsts.items())
    if len(result.curve_steps)
  }
  for name, half in tables.halves(accuracies).items():
    baseline = tables.baseline_of(half)
    if baseline is not None and len(half) > 1:
      file = "gains" if name == tables.SHAPING else "gains_grouping"
      drawn[file] = figures.gains({m: accuracies[m] for m in half}, baseline)
  pages = {name: axes.figure for name, axes in drawn.items()}
  if curves:
    pages["validation_curves"] = figures.validation_curves(curves, sources)
  return pages


def _of_latent_space(
  study: Study, methods: Sequence[Method], space: LatentSpace
) -> dict[str, Any]:
  population, split, groups = study.population, study.split, study.groups
  shown = split.global_test[:32]
  people = np.concatenate([split.individuals, split.global_people])
  means, present = groups.class_means(people)
  # The mean over the classes that a person has.
  places = means.sum(axis=1) / present.sum(axis=1, keepdims=True)
  ranked = groups.candidates[groups.nearest(groups.num_candidates)[0]]
  pages: dict[str, Any] = {
    "reconstructions": figures.reconstructions(
      population.images[shown],
      autoencoder.reconstruct(
        space.learner, space.state, population.images, shown
      ),
    ),
    "latent_map": figures.latent_map(
      places, np.arange(len(people)) < len(split.individuals)
    ).figure,
    "neighbours": figures.neighbours(
      population.images,
      population.labels,
      population.individuals,
      int(split.individuals[0]),
      ranked[:3],
      ranked[-3:],
      classes=min(10, population.num_classes),
    ),
  }
  for method in methods:
    if method.group is not None and method.group.kind == "sg":
      own, chosen = groups.by_sample(method.group, 0)
      picked = np.linspace(0, len(own) - 1, 8).astype(int)
      pages["chosen_samples"] = figures.chosen_samples(
        population.images, own[picked], chosen[picked][:, :12]
      )
      break
  return pages
