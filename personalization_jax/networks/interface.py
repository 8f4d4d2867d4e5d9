"""Calling a model, the paper's or one's own: any Flax Linen module (JAX).

A model takes samples float32 [B, ...] and gives logits [B, num_classes]. Its
`__call__` may take three more options, by these names, and gets those it takes:

    mask           bool [B], False where a row is padding and must not count in
                   batch statistics; given in training alone, unless it has no
                   default
    train          True in training, False otherwise
    frozen_layers  number of leading layers that behave as in evaluation and
                   pass no gradient on; parameters are named by layer, `..._0`,
                   `..._1`

A model with batch statistics has to take `train`. The flag has no other name: a
`deterministic` or `is_training` with a default would keep it and train as in
evaluation, so such models are rejected. There is always a "dropout" key.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from personalization_jax import checks

OPTIONS = ("mask", "train", "frozen_layers")
_COLLECTIONS = ("params", "batch_stats")
# What other libraries, and Flax's layers, call `train` or its opposite.
OTHER_NAMES = (
  "training", "is_training", "deterministic", "use_running_average",
)  # fmt: skip
_CHECKED_BATCH = 3


def init(model: nn.Module, key: Array, samples: Array) -> Any:
  """Fresh "params" and, if there are any, "batch_stats"; samples [B, ...]."""
  rngs = {"params": key, "dropout": key}
  return model.init(rngs, samples, **_in_evaluation(model, samples))


def apply(
  model: nn.Module, variables: Any, samples: Array, key: Array
) -> Array:
  """Logits [B, num_classes] as in evaluation.

  The key is for a model whose dropout can't be switched off.
  """
  logits: Any = model.apply(
    variables, samples, rngs={"dropout": key}, **_in_evaluation(model, samples)
  )
  return logits


def features(model: nn.Module, variables: Any, samples: Array) -> Array:
  """What the model's last layer sees, float32 [B, F], as in evaluation.

  Raises:
    ValueError: if no `flax.linen.Dense` gives the model's logits.
  """
  key = jax.random.key(0)  # for dropout that can't be switched off
  _, found = logits_and_features(model, variables, samples, key)
  return found


def logits_and_features(
  model: nn.Module, variables: Any, samples: Array, key: Array
) -> tuple[Array, Array]:
  """`apply` and `features` in one call."""
  calls: list[tuple[Array, tuple[int, ...]]] = []

  def record(
    call: Callable[..., Any], args: Any, kwargs: Any, context: Any
  ) -> Any:
    output = call(*args, **kwargs)
    if isinstance(context.module, nn.Dense) and (
      context.method_name == "__call__"
    ):
      inputs = args[0] if args else kwargs["inputs"]
      calls.append((inputs, output.shape))
    return output

  with nn.intercept_methods(record):
    logits = apply(model, variables, samples, key)
  for inputs, shape in reversed(calls):
    if shape == logits.shape:
      return logits, inputs.astype(jnp.float32)
  raise ValueError(
    f"model {type(model).__name__} has no features: its last layer, which gives"
    " the logits, must be a flax.linen.Dense."
  )


def apply_in_training(
  model: nn.Module,
  variables: Any,
  samples: Array,
  mask: Array,
  key: Array,
  frozen_layers: int,
) -> tuple[Array, Any]:
  """Logits [B, num_classes] as in training, and the new batch_stats.

  Logits are meaningless where a row is padding (mask bool [B] is False). A
  model that doesn't take the mask sees the batch's own rows again there.
  """
  taken = _taken(model, mask=mask, train=True, frozen_layers=frozen_layers)
  if "mask" not in taken:
    samples = _repeated(samples, mask)
  logits, updates = model.apply(
    variables, samples, mutable=["batch_stats"], rngs={"dropout": key}, **taken
  )
  return logits, updates.get("batch_stats", {})


def takes_frozen_layers(model: nn.Module) -> bool:
  """Whether some of a model's layers can be trained alone."""
  return bool(_taken(model, frozen_layers=0))


def check(model: Any, sample_shape: tuple[int, ...], num_classes: int) -> None:
  """Rejects, by tracing, a model that can't be trained on such samples."""
  if not isinstance(model, nn.Module):
    kind = model if isinstance(model, type) else type(model)
    if is_of_nnx(kind):
      raise ValueError(
        f"model {kind.__name__} is an nnx.Module, not a Linen one: name its"
        " class (module:Class), or give"
        f" networks.bridge.linen_of({kind.__name__}, ...) with all that it is"
        " called with but rngs."
      )
    made = " (make one: MLP(5), not MLP)" if isinstance(model, type) else ""
    raise ValueError(
      f"model must be a Flax Linen module, but is {model!r}{made}."
    )
  name = f"model {type(model).__name__}"
  _check_parameters(name, model)
  shape = (_CHECKED_BATCH, *sample_shape)
  samples = jax.ShapeDtypeStruct(shape, jnp.float32)
  mask = jax.ShapeDtypeStruct(shape[:1], jnp.bool_)
  key = jax.eval_shape(lambda: jax.random.key(0))

  def trace(function: Any, *arguments: Any) -> Any:
    try:
      return jax.eval_shape(functools.partial(function, model), *arguments)
    except Exception as error:  # whatever the model's own code raises
      raise ValueError(
        f"{name} can't be called on samples of shape {list(shape)}"
        f" ({type(error).__name__}: {checks.first_line(error)})."
      ) from error

  variables = trace(init, key, samples)
  if unknown := sorted({*variables} - {*_COLLECTIONS}):
    raise ValueError(
      f"{name} keeps variables {unknown[0]!r}, but only params and batch_stats"
      " are trained and saved."
    )
  if not jax.tree.leaves(variables.get("params", {})):
    raise ValueError(f"{name} has no parameters to train.")
  if variables.get("batch_stats") and not _taken(model, train=False):
    raise ValueError(
      f"{name} has batch_stats but doesn't take `train`, which says when to use"
      " them and when to update them."
    )
  kept = {k: variables.get(k, {}) for k in _COLLECTIONS}
  tested = trace(apply, kept, samples, key)
  trained, batch_stats = trace(
    functools.partial(apply_in_training, frozen_layers=0),
    *(kept, samples, mask, key),
  )
  began: Any = jax.tree.structure(kept["batch_stats"])
  if began != jax.tree.structure(batch_stats):
    raise ValueError(f"{name} has other batch_stats in training than at first.")
  for logits in (tested, trained):
    found = getattr(logits, "shape", None)
    if found != (_CHECKED_BATCH, num_classes):
      gives = type(logits).__name__ if found is None else f"shape {list(found)}"
      raise ValueError(
        f"{name} gives {gives} for {_CHECKED_BATCH} samples, but must give"
        f" logits of shape [{_CHECKED_BATCH}, {num_classes}], one for each of"
        f" the {num_classes} classes."
      )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
      raise ValueError(
        f"{name} gives {logits.dtype}, but logits must be floats."
      )


def is_of_nnx(kind: type) -> bool:
  """Whether this is an `nnx.Module`'s class, told without loading nnx."""
  return any(base.__module__.startswith("flax.nnx") for base in kind.__mro__)


def _check_parameters(name: str, model: nn.Module) -> None:
  """Rejects a `__call__` that needs more than the options."""
  for p in _parameters(model):
    if p.name in OTHER_NAMES:
      raise ValueError(
        f"{name} takes {p.name!r}, which it isn't given here: name it `train`,"
        " which is True in training and False otherwise."
      )
    variadic = p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    if not (p.name in OPTIONS or p.default is not p.empty or variadic):
      raise ValueError(
        f"{name} can't be called without {p.name!r}: beside samples it gets"
        f" {', '.join(OPTIONS)} where it takes them, so all else needs a"
        " default."
      )


def mismatch(variables: Any, expected: Any) -> str | None:
  """Half a sentence on where two trees of arrays differ in shape or dtype."""

  def leaves(tree: Any) -> dict[str, str]:
    return {
      jax.tree_util.keystr(path, simple=True, separator="/"): (
        f"{leaf.dtype}{list(leaf.shape)}"
      )
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

  there, wanted = leaves(variables), leaves(expected)
  for name in {**wanted, **there}:
    if there.get(name) != wanted.get(name):
      return (
        f"{name} is {there.get(name, 'missing')} where"
        f" {wanted.get(name, 'nothing')} is expected"
      )
  return None


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
  """What `__call__` takes after the samples."""
  return list(inspect.signature(model.__call__).parameters.values())[1:]


def _taken(model: nn.Module, **options: Any) -> dict[str, Any]:
  """Those of the options that a model takes."""
  kinds = {p.name: p.kind for p in _parameters(model)}
  anything = inspect.Parameter.VAR_KEYWORD in kinds.values()
  return {n: option for n, option in options.items() if n in kinds or anything}


def _in_evaluation(model: nn.Module, samples: Array) -> dict[str, Any]:
  taken = _taken(model, train=False, frozen_layers=0)
  if any(p.name == "mask" and p.default is p.empty for p in _parameters(model)):
    taken["mask"] = jnp.ones(len(samples), bool)
  return taken


def _repeated(samples: Array, mask: Array) -> Array:
  """A batch whose padding is its own rows again, in turn.

  A padded row holds somebody else's sample: a model that can't tell it must not
  get it into its batch statistics.
  """
  real = jnp.argsort(~mask, stable=True)
  turn = (jnp.cumsum(~mask) - 1) % jnp.maximum(mask.sum(), 1)
  return samples[jnp.where(mask, jnp.arange(len(mask)), real[turn])]
