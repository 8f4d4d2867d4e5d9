"""Bytes and counts of a study's arrays, from shapes alone (host)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from personalization_jax.methods import Method
from personalization_jax.study import Study
from personalization_jax.training.learner import Learner
from personalization_jax.training.step import in_use


def bytes_of(tree: Any) -> int:
  """Bytes of a tree of arrays, or of their shapes."""
  leaves = jax.tree.leaves(tree)
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def megabytes(size: int) -> str:
  """A number of bytes for people."""
  return f"{math.ceil(size / 2**20):,} MiB"


def longest(study: Study, methods: Sequence[Method]) -> int:
  """Steps of the longest schedule."""
  return max((study.batches.length(method) for method in methods), default=0)


def num_tested(study: Study) -> int:
  """How many samples a model classifies at most."""
  split = study.split
  own = split.validation.shape[1] + split.test.shape[1]
  return own + len(split.global_test)


def need_latents(methods: Sequence[Method]) -> bool:
  """Whether a method measures similarity in a latent space."""
  return any(method.needs_latents for method in methods)


def num_fitted(study: Study) -> int:
  """How many rows `Method.fit` is given of each of its two sets."""
  return max(study.split.train.shape[1], study.split.validation.shape[1])


def answer_bytes(study: Study, method: Method) -> int:
  """Of what one person's answers need beside their model."""
  if method.fit is None:
    return 0
  learner, one = study.trainer.learner, study.trainer.shapes_of_one
  whole = Learner(learner.model, learner.optimizer, reference=True)
  state = jax.eval_shape(
    functools.partial(in_use, whole), one, dict(one.variables)
  )
  rows = num_fitted(study)
  data = (
    jax.ShapeDtypeStruct((rows, *study.population.sample_shape), np.float32),
    jax.ShapeDtypeStruct((rows,), np.int32),
    jax.ShapeDtypeStruct((rows,), bool),
  )
  fit = functools.partial(method.fit, learner.model)
  return bytes_of(jax.eval_shape(fit, state, data, data))
