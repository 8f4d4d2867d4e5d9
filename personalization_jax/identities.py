"""What decides a training, as digests: what is kept of another one isn't taken.

Digests are the same in every process, on whatever devices.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from personalization_jax import files, models, own_model
from personalization_jax.batches import Batches
from personalization_jax.methods import Method
from personalization_jax.settings import Settings
from personalization_jax.splits import Split
from personalization_jax.training import Learner

# What a function is called differs from process to process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# These of `Settings` decide through the learner, or not at all.
_OF_THE_LEARNER = ("learning_rate", "width", "precision")
# Whose fields say all that they compute.
_PACKAGE_S_MODELS = (models.Classifier, models.MLP)
_BATCH = 3


def of_data(fingerprint: str, split: Split) -> str:
  """Of the samples and what each of them is for.

  Args:
    fingerprint: of the population.
    split: its parts.

  Returns:
    A digest.
  """
  parts = [getattr(split, field.name) for field in dataclasses.fields(split)]
  return files.digest([fingerprint, *parts])


def of_study(
  data: str,
  settings: Settings,
  learner: Learner,
  sample_shape: tuple[int, ...],
  eval_every: int,
) -> str:
  """Of all that decides the numbers of every method.

  Args:
    data: from `of_data`.
    settings: how models are trained.
    learner: network and optimiser.
    sample_shape: of one sample.
    eval_every: steps between two evaluations on validation data.

  Returns:
    A digest.
  """
  own = {
    field.name: getattr(settings, field.name)
    for field in dataclasses.fields(settings)
    if field.name not in _OF_THE_LEARNER
  }
  return files.digest(
    [data, own, of_learner(learner, sample_shape), eval_every]
  )


def of_learner(learner: Learner, sample_shape: tuple[int, ...]) -> str:
  """Of a network and its optimiser.

  What isn't this package's is known by what it computes, step by step, with
  all its constants; so another version of JAX may make it another one.

  Args:
    learner: network and optimiser.
    sample_shape: of one sample.

  Returns:
    A digest.
  """
  model, optimizer = learner.model, learner.optimizer
  samples = jax.ShapeDtypeStruct((_BATCH, *sample_shape), jnp.float32)
  mask = jax.ShapeDtypeStruct((_BATCH,), bool)
  key = jax.eval_shape(lambda: jax.random.key(0))

  def init(key: Any, samples: Any) -> Any:
    return own_model.init(model, key, samples)

  def evaluate(variables: Any, samples: Any, key: Any) -> Any:
    return own_model.apply(model, variables, samples, key)

  def train(variables: Any, samples: Any, mask: Any, key: Any) -> Any:
    return own_model.apply_in_training(model, variables, samples, mask, key, 0)

  variables = {"batch_stats": {}, **jax.eval_shape(init, key, samples)}
  parts: list[Any] = [_ADDRESS.sub("", repr(model))]
  if type(model) not in _PACKAGE_S_MODELS:
    parts += _program(init, key, samples)
    parts += _program(evaluate, variables, samples, key)
    parts += _program(train, variables, samples, mask, key)
  if learner.learning_rate is not None:
    parts.append(learner.learning_rate)
  else:
    params = variables["params"]
    state = jax.eval_shape(optimizer.init, params)
    parts += _program(optimizer.init, params)
    parts += _program(optimizer.update, params, state, params)
  return files.digest(parts)


def of_method(study: str, method: Method, batches: Batches) -> str:
  """Of one method's training: its fields, its schedule and its groups.

  Args:
    study: from `of_study`.
    method: the method; its group must be there to be found.
    batches: of the study.

  Returns:
    A digest.
  """
  fields = {
    field.name: getattr(method, field.name)
    for field in dataclasses.fields(method)
    if field.name != "schedule"  # its sources are what it is
  }
  rows = [] if method.group is None else batches.groups.rows(method.group)
  return files.digest([study, fields, batches.sources(method), *rows])


def _program(function: Callable[..., Any], *shapes: Any) -> list[Any]:
  """What a function computes, and the constants that it does so with."""
  closed = jax.make_jaxpr(function)(*shapes)
  return [_ADDRESS.sub("", str(closed)), *_constants(closed)]


def _constants(program: Any) -> Iterator[np.ndarray]:
  """Of a jaxpr and of those in it, which don't print theirs."""
  yield from map(np.asarray, getattr(program, "consts", ()))
  for equation in getattr(program, "jaxpr", program).eqns:
    for part in jax.tree.leaves(list(equation.params.values())):
      if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
        yield from _constants(part)
