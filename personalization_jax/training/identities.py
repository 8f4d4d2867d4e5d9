"""What decides a training, as digests: what is kept of another one isn't taken.

Digests are the same in every process, on whatever devices.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from personalization_jax.checkpoints import files
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import Split
from personalization_jax.methods import Method
from personalization_jax.methods.answers import by_model, cross_entropy
from personalization_jax.methods.batches import Batches
from personalization_jax.networks import MLP, Classifier, interface
from personalization_jax.settings import Personal, Settings
from personalization_jax.training.learner import Learner
from personalization_jax.training.population import PopulationTrainer
from personalization_jax.training.step import create_state, in_use

# What a function is called differs from process to process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
# A `Classifier`'s, which says nothing of it in digests of older versions.
_BY_DEFAULT = re.compile(r"^ *initializer = 'lecun_normal'\n", re.MULTILINE)
# These of `Settings` decide through the learner, or not at all.
_OF_THE_LEARNER = (
  "learning_rate", "width", "precision", "initializer", "personal",
)  # fmt: skip
# These of `Method` are what they compute.
_COMPUTED = ("schedule", "trainable", "loss", "predict", "fit", "reference")
# These are younger than runs that are to go on: they count where they are set.
_YOUNGER = (
  "then", "fisher", "own_statistics", "start", "best", "learning_rate",
  "steps",
)  # fmt: skip
# Whose fields say all that they compute.
_PACKAGE_S_MODELS = (Classifier, MLP)
_BATCH = 3


def of_study(
  population: Population,
  split: Split,
  settings: Settings,
  learner: Learner,
  eval_every: int,
) -> str:
  """The digest of all that decides the numbers of every method of a study."""
  data = files.digest([population.fingerprint(), *_fields(split).values()])
  if population.scaling is not None:
    data = files.digest([data, population.scaling])
  trained_by = of_learner(learner, population.sample_shape)
  own = _fields(settings, without=_OF_THE_LEARNER)
  return files.digest([data, own, trained_by, eval_every])


def of_learner(learner: Learner, sample_shape: tuple[int, ...]) -> str:
  """The digest of a network, its optimiser and its loss.

  What isn't this package's is known by what it computes, step by step, with
  all its constants; so another version of JAX may make it another one. What
  calls Python, which can do anything, raises a ValueError.
  """
  parts = _of_model(learner.model, sample_shape)
  if learner.learning_rate is not None:
    parts.append(learner.learning_rate)
  else:
    optimizer = learner.optimizer
    params = _shapes(learner.model, sample_shape)[0]["params"]
    state = jax.eval_shape(optimizer.init, params)
    parts += _program("optimizer", optimizer.init, params)
    parts += _program("optimizer", optimizer.update, params, state, params)
  return files.digest([*parts, *of_answers(learner, sample_shape)])


def of_model(model: nn.Module, sample_shape: tuple[int, ...]) -> str:
  """The digest of a network alone; see `of_learner`."""
  return files.digest(_of_model(model, sample_shape))


def of_method(
  study: str, method: Method, batches: Batches, learner: Learner
) -> str:
  """The digest of a study and a method's fields, schedule, group and answers.

  The group must be there to be found. An answer of one's own that calls Python
  raises a ValueError.
  """
  fields = _fields(method, without=(*_COMPUTED, *_YOUNGER))
  younger = {name: getattr(method, name) for name in _YOUNGER}
  fields |= {name: value for name, value in younger.items() if value}
  personal = batches.settings.personal
  if method.late and personal != Personal():
    fields["personal"] = personal
  rows = [] if method.group is None else batches.groups.rows(method.group)
  answers = dataclasses.replace(
    Learner(learner.model, learner.optimizer).answering(method),
    trainable=method.trainable,
    lean=False,  # as shapes are
  )
  shape = batches.groups.population.sample_shape
  computed = of_answers(answers, shape, fisher=method.fisher)
  if method.is_lean:
    computed.append("lean")  # what is kept of one under way
  return files.digest(
    [study, fields, batches.sources(method), *rows, *computed]
  )


def _fields(of: Any, without: Collection[str] = ()) -> dict[str, Any]:
  names = [field.name for field in dataclasses.fields(of)]
  return {name: getattr(of, name) for name in names if name not in without}


def _of_model(model: nn.Module, sample_shape: tuple[int, ...]) -> list[Any]:
  """A network's answers and gradients; see `of_learner`."""
  parts: list[Any] = [_BY_DEFAULT.sub("", _ADDRESS.sub("", repr(model)))]
  if type(model) in _PACKAGE_S_MODELS:
    return parts
  variables, samples, mask, key = _shapes(model, sample_shape)

  def train(variables: Any, samples: Any, mask: Any, key: Any) -> Any:
    def total(params: Any) -> Any:
      logits, batch_stats = interface.apply_in_training(
        model, {**variables, "params": params}, samples, mask, key, 0
      )
      return logits.sum(), (logits, batch_stats)

    return jax.value_and_grad(total, has_aux=True)(variables["params"])

  name = f"model {type(model).__name__}"
  init = functools.partial(interface.init, model)
  evaluate = functools.partial(interface.apply, model)
  parts += _program(name, init, key, samples)
  parts += _program(name, evaluate, variables, samples, key)
  parts += _program(name, train, variables, samples, mask, key)
  return parts


def of_answers(
  learner: Learner, sample_shape: tuple[int, ...], *, fisher: bool = False
) -> list[Any]:
  """What trainable, loss and predict compute; nothing of the paper's own."""
  if (learner.loss, learner.predict) == (cross_entropy, by_model) and not (
    learner.trainable or learner.reference or learner.fit
  ):
    return []
  create = functools.partial(create_state, learner, image_shape=sample_shape)
  _, samples, _, key = _shapes(learner.model, sample_shape)
  state = jax.eval_shape(create, key)
  params, labels = state.params, jax.ShapeDtypeStruct((_BATCH,), jnp.int32)

  def gradients(logits: Any, labels: Any, params: Any, reference: Any) -> Any:
    def total(logits: Any, params: Any) -> Any:
      return learner.loss(logits, labels, params, reference).sum()

    return jax.value_and_grad(total, argnums=(0, 1))(logits, params)

  own = functools.partial(by_model, learner.model)
  logits = jax.eval_shape(own, state, samples)
  trains = learner.trainable and jax.tree.leaves(learner.trainable(params))
  base = dict(state.variables) if learner.reference else None
  if fisher:
    base = {**state.variables, "fisher": params}
  state = jax.eval_shape(functools.partial(in_use, learner), state, base)
  reference = base and {**base, "logits": logits}
  given = logits, labels, params, reference
  parts = [
    ["answers", learner.reference, trains],
    *_program("loss", learner.loss, *given),
    *_program("loss", gradients, *given),
  ]
  if learner.fit is not None:
    mask = jax.ShapeDtypeStruct((_BATCH,), bool)
    fit = functools.partial(learner.fit, learner.model)
    data = samples, labels, mask
    parts += _program("fit", fit, state, data, data)
    state = state.replace(answer=jax.eval_shape(fit, state, data, data))
  predict = functools.partial(learner.predict, learner.model)
  return [*parts, *_program("predict", predict, state, samples)]


def _shapes(model: nn.Module, sample_shape: tuple[int, ...]) -> tuple[Any, ...]:
  """Of a model's variables, and of samples, their mask and a key."""
  samples = jax.ShapeDtypeStruct((_BATCH, *sample_shape), jnp.float32)
  mask = jax.ShapeDtypeStruct((_BATCH,), bool)
  key = jax.eval_shape(lambda: jax.random.key(0))
  init = functools.partial(interface.init, model)
  variables = {"batch_stats": {}, **jax.eval_shape(init, key, samples)}
  return variables, samples, mask, key


def _program(
  name: str, function: Callable[..., Any], *shapes: Any
) -> list[Any]:
  """What a function computes, and the constants that it does so with."""
  closed = jax.make_jaxpr(function)(*shapes)
  constants: list[np.ndarray] = []
  for jaxpr in _jaxprs(closed):
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
      # One without results, as for printing, decides nothing.
      if "callback" in equation.primitive.name and equation.outvars:
        raise ValueError(
          f"{name} computes by {equation.primitive.name}, so it can't be told"
          " from another one of its name: give the keeper no folder, and no"
          " model beside a trainer."
        )
    constants += map(np.asarray, getattr(jaxpr, "consts", ()))
  return [_ADDRESS.sub("", str(closed)), *constants]


def _jaxprs(program: Any) -> Iterator[Any]:
  """A jaxpr and those in it, which don't print their constants."""
  yield program
  for equation in getattr(program, "jaxpr", program).eqns:
    for part in jax.tree.leaves(list(equation.params.values())):
      if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
        yield from _jaxprs(part)


def check_trainer(
  trainer: PopulationTrainer,
  population: Population,
  settings: Settings,
  model: nn.Module | None,
) -> None:
  """Rejects a trainer of other data, another model or other settings."""
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
    asked, there = (of_model(m, shape) for m in (model, its))
    if asked != there:
      raise ValueError(
        f"trainer is of {its!r}, but model is {model!r}, which computes"
        " otherwise."
      )
  has: dict[str, Any] = {}
  if model is None and isinstance(its, Classifier):
    has = {
      "width": its.width,
      "precision": np.dtype(its.dtype).name,
      "initializer": its.initializer,
    }
  if trainer.learner.learning_rate is not None:
    has["learning_rate"] = trainer.learner.learning_rate
  for name, value in has.items():
    if value != getattr(settings, name):
      raise ValueError(
        f"trainer trains with {name} {value}, but settings ask for"
        f" {getattr(settings, name)}."
      )
