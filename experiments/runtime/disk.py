"""What a run needs of its disk, and what it took (host)."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import jax

from experiments.runtime import sizes
from experiments.runtime.sizes import bytes_of, megabytes
from personalization_jax.checkpoints import files
from personalization_jax.methods import Method
from personalization_jax.runs import saved_models
from personalization_jax.study import Study
from personalization_jax.training import latent_space
from personalization_jax.training.step import create_state

# Two checkpoints are kept while a third is written.
_CHECKPOINTS = 3
# Tables, figures, Orbax's own small files.
OTHER_FILES = 32 * 2**20


def need(
  study: Study,
  methods: Sequence[Method],
  *,
  save_models: bool = False,
  save_probabilities: bool = False,
  seeds: int = 1,
  folds: int = 1,
) -> int:
  """Bytes that a run takes at most at once, from shapes alone.

  Of several folds, predictions are kept twice: of each, and of all together.
  """
  shapes, chunk = study.trainer.shapes, study.trainer.chunk_size
  state = bytes_of(shapes) // chunk
  people, steps = len(study.split.individuals), sizes.longest(study, methods)
  # People's, and what several start from: D_G's model on every device, and the
  # auto-encoder.
  kept = min(chunk, people) + study.trainer.mesh.size + 1
  whole = bytes_of(shapes.variables) // chunk
  # Of `@best` two models each. Starts stay, each with what its optimiser has.
  twice = any(method.best for method in methods)
  checkpoints = kept * (state + twice * whole + 4 * steps)
  for start in {method.start for method in methods if method.start}:
    checkpoints += start.count * (state + whole + 4 * steps)
  if sizes.need_latents(methods) and study.population.holds_images:
    learner = latent_space.make_learner(width=study.settings.width)
    shape = study.population.sample_shape
    create = functools.partial(create_state, learner, image_shape=shape)
    own = bytes_of(jax.eval_shape(create, jax.random.key(0)))
    checkpoints += max(0, own - state)
  # A curve has two numbers, at every step at most.
  recorded = 4 * steps * (3 if study.eval_every else 1)
  # Of each sample a class and two probabilities; rows and true classes once.
  predictions = people * (16 * sizes.num_tested(study) + recorded + 20)
  if save_probabilities:
    each = study.split.test.shape[1] * study.population.num_classes
    predictions += 4 * people * each
  # What answers otherwise is saved with D_G's model beside it.
  models = sum(
    whole * (1 + (method.predict is not None))
    + sizes.answer_bytes(study, method)
    + saved_models.OVERHEAD
    for method in methods
  )
  return OTHER_FILES + seeds * folds * (
    _CHECKPOINTS * checkpoints
    + (1 + (folds > 1)) * (len(methods) + 1) * predictions
    + save_models * people * models
  )


def check(workdir: pathlib.Path, needed: int) -> None:
  """Rejects a run of so many bytes, all in all, that would fill its disk."""
  free = files.free_space(workdir)
  missing = needed - used(workdir)
  if missing > free:
    raise ValueError(
      f"--workdir={workdir} needs {megabytes(missing)} more, but its disk has"
      f" {megabytes(free)} free: make room or take another directory."
    )


def used(folder: pathlib.Path) -> int:
  """Bytes of all files below a folder; 0 if there is none."""
  return sum(
    path.stat().st_size for path in folder.rglob("*") if path.is_file()
  )
