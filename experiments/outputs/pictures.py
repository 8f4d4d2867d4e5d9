"""The figures of a run of `experiments.table1`."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from personalization_jax import figures
from personalization_jax.analysis import tables
from personalization_jax.analysis.result import Result
from personalization_jax.datasets import Population
from personalization_jax.methods import Method
from personalization_jax.study import Study
from personalization_jax.training import latent_space
from personalization_jax.training.latent_space import LatentSpace

# What a run says of several folds of people.
OF_FOLDS = (
  "All numbers are of {} folds, each with a global model of its own; figures of"
  " training, of people's data and of the latent space are of the first fold"
  " alone. Individual fairness is left out: people of two folds share no latent"
  " space."
)
# File -> title and what it shows, in the order of the report.
# fmt: off
CAPTIONS = {
  "trade_off": ("Individuals and the public",
    "What each method gives individuals, mean acc(D_I), against what it costs"
    " the public, mean acc(D_G); bars: one standard error of the mean."),
  "distribution_individual": ("Accuracy on the individuals' own data",
    "Every individual's acc(D_I) by each method: a dot for each, a box of"
    " quartiles with whiskers to the extremes, a diamond at the mean."),
  "distribution_global": ("Accuracy on global data",
    "Every individual's model on D_G's test data, acc(D_G), by each method: a"
    " dot for each, a box of quartiles, a diamond at the mean."),
  "gains": ("Who gains by shaping",
    "Each individual's change of acc(D_I) against the baseline, in percentage"
    " points, from the largest loss to the largest gain; hollow points are"
    " hurt."),
  "gains_grouping": ("Who gains by data grouping",
    "Each individual's change of acc(D_I) against the random group, in"
    " percentage points, from the largest loss to the largest gain; hollow"
    " points are hurt."),
  "gains_compared": ("Who gains",
    "Each individual's change of acc(D_I) against the method that the run was"
    " asked to compare with, in percentage points, from the largest loss to the"
    " largest gain; hollow points are hurt."),
  "choice": ("Who is hurt, and whom a choice spares",
    "The share of individuals whose own model is worse on test data than the"
    " model of D_G alone (global): hollow if everyone gets the method's model,"
    " filled if everyone gets the better of the two on validation data."),
  "schedules": ("Schedules",
    "Which steps of training take their batch from D_G and which from D_I, by"
    " each method."),
  "training_curves": ("Training",
    "The training loss by step, over individuals, of each method."),
  "validation_curves": ("Accuracy on the way",
    "Accuracy on validation data of D_I and of D_G by step, means over"
    " individuals with their quartiles, of each method, and below them its"
    " schedule."),
  "handwriting": ("The individuals' data",
    "Samples of the first individuals, a row for each, by class."),
  "reconstructions": ("The auto-encoder",
    "Samples of D_G's test data above, and below them what the auto-encoder"
    " makes of them."),
  "latent_map": ("People in latent space",
    "Individuals and the people of D_G at their mean in latent space (the"
    " auto-encoder's for images, standardised features for all else), on its"
    " first two principal components."),
  "neighbours": ("The nearest and the farthest",
    "An individual's samples, and those of the writers whose class means are"
    " nearest and farthest in latent space, among whom IG chooses."),
  "chosen_samples": ("Samples chosen by SG",
    "Samples of an individual, and beside each the samples of D_G that it chose"
    " as the most similar ones."),
  "group_agreement": ("Groups and the hidden factors",
    "How well the groups agree with the writers' hidden factors, by the"
    " auto-encoder's latent space, by raw pixels, and by random choice."),
}
# fmt: on


def draw(
  study: Study,
  methods: Sequence[Method],
  finished: Sequence[Result],
  space: LatentSpace | None,
  folder: pathlib.Path,
  form: str,
  baseline: str | None = None,
  num_folds: int = 1,
) -> list[pathlib.Path]:
  """Draws everything that a run can show, and returns the files.

  Samples are shown if they are images of one channel or three. `finished` has
  the results of all seeds; `space` is the latent space, if one was needed, and
  `form` the files' format. Gains are against `baseline`, by default against
  each half's own. Of several folds the study is the first.
  """
  of_study = _of_training(study, methods, finished)
  of_study |= _of_people(study, methods, space)
  if num_folds > 1:
    for page in of_study.values():
      page.get_figure(root=True).suptitle(f"Fold 1 of {num_folds}", fontsize=8)
  pages = _of_results(study, finished, baseline) | of_study
  return [
    figures.save(page, folder / f"{name}.{form}")
    for name, page in pages.items()
  ]


def _shown(finished: Sequence[Result]) -> np.ndarray:
  """Whom figures show, bool [S]: who diverged in one method is in none."""
  # They compare people.
  return ~np.any([result.diverged for result in finished], axis=0)


def _of_results(
  study: Study, finished: Sequence[Result], baseline: str | None
) -> dict[str, Any]:
  """Of everybody's accuracies."""
  shown = _shown(finished)
  if not shown.any():
    return {}
  means = tables.accuracies(finished, study.population.labels)
  accuracies = {m: (own[shown], of[shown]) for m, (own, of) in means.items()}
  pages: dict[str, Any] = {
    "trade_off": figures.trade_off(accuracies),
    "distribution_individual": figures.distribution(accuracies),
    "distribution_global": figures.distribution(accuracies, of="global"),
  }
  if baseline is not None:
    if len(accuracies) > 1:
      pages["gains_compared"] = figures.gains(accuracies, baseline)
    return pages
  for name, half in tables.halves(accuracies).items():
    own = tables.baseline_of(half)
    if own is not None and len(half) > 1:
      file = "gains" if name == tables.SHAPING else "gains_grouping"
      pages[file] = figures.gains({m: accuracies[m] for m in half}, own)
  return pages


def _of_training(
  study: Study, methods: Sequence[Method], finished: Sequence[Result]
) -> dict[str, Any]:
  """Of how the individuals of this study were trained."""
  # Those of other folds come after them.
  people = np.flatnonzero(_shown(finished)[: len(study.split.individuals)])
  if not people.size:
    return {}
  # Curves are one seed's.
  firsts = {result.method: result for result in reversed(finished)}
  sources = {m.spec: study.batches.sources(m) for m in methods}
  losses = {m: firsts[m].losses[people, : len(sources[m])] for m in sources}
  diverged = {m: firsts[m].diverged[people] for m in sources}
  # After the end of an individual's own schedule there is padding.
  lengths = {
    m.spec: np.array(
      [len(study.batches.sources(m, k)) for k in people.tolist()]
    )
    for m in methods
  }
  pages: dict[str, Any] = {
    "schedules": figures.schedules(sources),
    "training_curves": figures.training_curves(
      losses, lengths=lengths, diverged=diverged
    ),
  }
  curves = {}
  for method, one in reversed(firsts.items()):
    own, general = one.individual_curve[people], one.global_curve[people]
    # Other folds may have been evaluated after other steps.
    its = ~np.isnan(general).all(axis=0)
    if its.any():
      curves[method] = one.curve_steps[its], own[:, its], general[:, its]
  if curves:
    pages["validation_curves"] = figures.validation_curves(curves, sources)
  return pages


def _pictures(population: Population) -> np.ndarray | None:
  """Samples as uint8 [N, H, W, 1 or 3]; None if they are no such images."""
  images = population.images
  if not population.holds_images or images.shape[3] not in (1, 3):
    return None
  if images.dtype == np.uint8:
    return images
  # From the least number of all to the largest.
  low, high = float(images.min()), float(images.max())
  shares = (images.astype(np.float64) - low) / max(high - low, 1e-30)
  return np.rint(255 * shares).astype(np.uint8)


def _of_people(
  study: Study, methods: Sequence[Method], space: LatentSpace | None
) -> dict[str, Any]:
  population, split, groups = study.population, study.split, study.groups
  pages: dict[str, Any] = {}
  pictures = _pictures(population)
  about = (population.labels, population.individuals)
  shown_as: dict[str, Any] = {
    "classes": min(10, population.num_classes),
    "names": population.individual_names,
    "class_names": population.label_names,
  }
  if pictures is not None:
    pages["handwriting"] = figures.handwriting(
      pictures, *about, split.individuals[:8], **shown_as
    )
  if space is None:
    return pages
  if trained := space.autoencoder:
    shown, images = split.global_test[:32], population.images
    drawn = latent_space.evaluate(
      "images", trained.model, trained.variables, images, shown
    )
    pages["reconstructions"] = figures.reconstructions(images[shown], drawn)
  people = np.concatenate([split.individuals, split.global_people])
  means, present = groups.class_means(people)
  # The mean over the classes that a person has.
  places = means.sum(axis=1) / present.sum(axis=1, keepdims=True)
  # A map has two axes, and says nothing of fewer people.
  if len(people) > 2 and places.shape[1] > 1:
    is_individual = np.arange(len(people)) < len(split.individuals)
    pages["latent_map"] = figures.latent_map(places, is_individual)
  if pictures is None:
    return pages
  ranked = groups.candidates[groups.nearest(groups.num_candidates)[0]]
  # Of few candidates nobody is both near and far.
  near = min(3, -(-len(ranked) // 2))
  person, far = int(split.individuals[0]), ranked[near:][-3:]
  pages["neighbours"] = figures.neighbours(
    pictures, *about, person, ranked[:near], far, **shown_as
  )
  asked = (method.group for method in methods if method.group)
  if sg := next((group for group in asked if group.kind == "sg"), None):
    own, chosen = groups.by_sample(sg, 0)
    picked = np.linspace(0, len(own) - 1, 8).astype(int)
    pages["chosen_samples"] = figures.chosen_samples(
      pictures, own[picked], chosen[picked][:, :12]
    )
  return pages
