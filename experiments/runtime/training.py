"""Trains the studies of a run of `experiments.table1`, one after another."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.flags import study_flags
from experiments.outputs import finished
from experiments.outputs.summary import Finished, Rows
from experiments.runtime import console
from experiments.runtime.console import say
from personalization_jax import distributed
from personalization_jax.analysis.remarks import of_autoencoder
from personalization_jax.analysis.result import Result
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.methods import Method
from personalization_jax.study import Study
from personalization_jax.training import latent_space
from personalization_jax.training.latent_space import LatentSpace


class Run(NamedTuple):
  """A run that nothing is wrong with, as far as can be told before training."""

  # Of a seed and a fold; made when its turn comes, or memory would hold all.
  make: Callable[[int, int], Study]
  methods: Sequence[Method]  # that are to be trained
  num_folds: int  # of people; 1 unless all take turns
  first: Study  # of the first seed and fold
  drawn: Study  # of the tables' first seed, which may be another one
  factors: WriterFactors | None  # how synthetic people write
  rows: Rows  # what the tables are to be of
  remarks: Sequence[str]  # what is remarkable about their people
  # What is finished; the first process alone reads it.
  results: dict[Finished, Result]
  made_with: Mapping[str, Any]  # versions, device, command and so on


def train_all(
  run: Run,
  methods: Sequence[Method],
  seeds: Sequence[int],
  workdir: pathlib.Path,
) -> tuple[dict[Finished, Result], LatentSpace | None]:
  """Trains and keeps what isn't finished, and forgets its checkpoints.

  Gives everything that is finished then, and the latent space of the figures.
  """
  results, space, count = run.results, None, run.num_folds
  drawn = run.drawn.settings.seed
  for seed in seeds:
    if len(seeds) > 1:
      say(f"Seed {seed}.")
    of_folds = []
    for fold in range(count):
      is_drawn = (seed, fold) == (drawn, 0)
      study = run.drawn if is_drawn else run.make(seed, fold)
      if count > 1:
        say(f"Fold {fold + 1} of {count}.")
      shown = run.rows.parsed if is_drawn else ()
      found = find_groups(study, [*methods, *shown])
      if is_drawn:
        space = found
      home = study_flags.home(workdir, seed, fold, count)
      of_fold, waiting = _unfinished(study, methods, home, run)
      with console.progress(study.num_steps(waiting), "training") as bar:
        for method in waiting:
          bar.set_description(method.spec)
          result = study.personalize(method, on_steps=bar.update)
          of_fold[method.spec] = result
          if distributed.is_first():
            population = study.population
            finished.save(home, result, population, workdir, run.made_with)
          study.forget(method)
      study.keeper.wait()
      of_folds.append(of_fold)
    for spec in of_folds[0]:
      if all(spec in of_fold for of_fold in of_folds):
        result = Result.joined([of_fold[spec] for of_fold in of_folds])
        results[spec, seed] = result
        if count > 1 and distributed.is_first():
          home, population = study_flags.home(workdir, seed), study.population
          finished.save(home, result, population, workdir, run.made_with)
  if drawn not in seeds:
    space = find_groups(run.drawn, run.rows.parsed)
    run.drawn.keeper.wait()
  return results, space


def find_groups(study: Study, methods: Sequence[Method]) -> LatentSpace | None:
  """Makes the latent space if a method needs it, and tells the study."""
  if not any(method.needs_latents for method in methods):
    return None
  settings = study_flags.latent_settings(study.settings.seed)
  images = study.population.holds_images
  steps = latent_space.num_steps(study.split, settings) if images else 0
  with console.progress(steps, "latent space") as bar:
    space = study.find_groups(settings, on_steps=bar.update)
  if trained := space.autoencoder:
    say(
      f"Auto-encoder: squared error {trained.error:.4f} a pixel on the test"
      f" data of D_G ({trained.error_of_mean:.4f} by the mean image)."
    )
    if worse := of_autoencoder(trained.error, trained.error_of_mean):
      say(worse)
  else:
    say(
      f"Latent space: {space.latents.shape[1]} features, standardised over D_G."
    )
  return space


def _unfinished(
  study: Study, methods: Sequence[Method], home: pathlib.Path, run: Run
) -> tuple[dict[str, Result], list[Method]]:
  """What is finished of this fold alone, by spec, and what is to be trained."""
  seed = study.settings.seed
  found: dict[str, Result] = {}
  missing = [m.spec for m in methods if (m.spec, seed) not in run.results]
  if distributed.is_first():
    for spec in missing:
      if result := finished.load(home, spec, seed, study.population):
        found[spec] = result
  # The others are told: the first process alone has read what is finished.
  there = distributed.from_first(
    np.array([m.spec not in missing or m.spec in found for m in methods], bool)
  )
  waiting = [method for method, is_there in zip(methods, there) if not is_there]
  for method in methods:
    if method not in waiting:
      study.forget(method)
  return found, waiting
