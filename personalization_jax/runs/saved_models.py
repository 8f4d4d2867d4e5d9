"""Everybody's final parameters, for readers that don't know this package.

    MODELS/model.json            what all of them are: `Description`
    MODELS/METHOD/INDIVIDUAL/    one Orbax checkpoint
      sha256.json                the digests of its files

Each holds plain dictionaries of arrays, `params` and `batch_stats`, which Orbax
and Flax read by themselves and the network applies to images / 255, or to
float samples as they are:

    variables = orbax.checkpoint.StandardCheckpointer().restore(folder)
    variables = flax.training.checkpoints.restore_checkpoint(folder, None)

A model that `save_one` wrote has a model.json of its own in its folder.
`load` reads both kinds and refuses what it can't vouch for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from personalization_jax import checks, distributed
from personalization_jax.checkpoints import files
from personalization_jax.networks import MLP, classifier
from personalization_jax.settings import Settings
from personalization_jax.training.step import TrainState

DESCRIPTION = "model.json"
DIGESTS = "sha256.json"
# Bytes of a model's files beside its numbers.
OVERHEAD = 64 * 2**10
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Description:
  """What a saved model is: all that it takes to apply it.

  Attributes:
    num_classes: it tells the classes 0 .. num_classes - 1 apart.
    sample_shape: of what it was trained on: (H, W, C) of images, or (F,).
    width: factor on the channels of Fig. 4.
    precision: "float32" or "bfloat16", of activations; the parameters
      themselves are float32.
    hidden: None for Fig. 4's network; for `models.MLP` how wide its hidden
      layers are.
    momentum: of Fig. 4's running means and variances.
    dtype: of the samples it was trained on, "uint8" (seen as 0..1) or
      "float32"; None where a file of an older version doesn't say.
    label_names: what the classes are called; None if nobody says.
  """

  num_classes: int
  sample_shape: tuple[int, ...]
  width: float = 1.0
  precision: str = "float32"
  hidden: tuple[int, ...] | None = None
  momentum: float = 0.9
  dtype: str | None = None
  label_names: tuple[str, ...] | None = None

  def __post_init__(self) -> None:
    """Refuses what no model can be."""
    shape = tuple(self.sample_shape)
    hidden = None if self.hidden is None else tuple(self.hidden)
    numbers = (self.num_classes, *shape, *(hidden or ()))
    known = all(type(n) is int and 1 <= n < 2**31 for n in numbers)
    if not known or not shape:
      raise ValueError(
        f"num_classes={self.num_classes}, sample_shape={list(shape)} and"
        f" hidden={hidden} must be whole numbers from 1 to 2**31 - 1."
      )
    if hidden is None:
      if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(
          f"sample_shape={list(shape)} must be [H, W, C] and square."
        )
      classifier.check_image_size(shape[0])
    Settings(width=self.width, precision=self.precision)
    if not 0 <= self.momentum <= 1:
      raise ValueError(f"momentum={self.momentum} must lie in 0..1.")
    if self.dtype not in (None, "uint8", "float32"):
      raise ValueError(f"dtype={self.dtype!r} must be 'uint8' or 'float32'.")
    names = None if self.label_names is None else tuple(self.label_names)
    if names is not None and len(names) != self.num_classes:
      raise ValueError(
        f"label_names has {len(names)} names for {self.num_classes} classes."
      )
    object.__setattr__(self, "label_names", names)
    object.__setattr__(self, "sample_shape", shape)
    object.__setattr__(self, "hidden", hidden)

  @classmethod
  def of(
    cls,
    model: nn.Module,
    sample_shape: Sequence[int],
    *,
    dtype: Any = None,
    label_names: Sequence[str] | None = None,
  ) -> Description | None:
    """Describes a model of this package; there is none for any other.

    Args:
      model: `models.Classifier` or `models.MLP`. A subclass is another model:
        what it computes can't be told from its fields.
      sample_shape: of what it was trained on.
      dtype: likewise, NumPy's; None leaves it open.
      label_names: what its classes are called, if anybody knows.

    Returns:
      The description, or None.
    """
    about: dict[str, Any]
    if type(model) is MLP:
      about = {"hidden": tuple(model.hidden)}
    elif type(model) is classifier.Classifier:
      about = {"width": model.width, "momentum": model.momentum}
    else:
      return None
    return cls(
      model.num_classes,
      tuple(sample_shape),
      precision=jnp.dtype(model.dtype).name,
      dtype=None if dtype is None else np.dtype(dtype).name,
      label_names=None if label_names is None else tuple(label_names),
      **about,
    )

  def network(self) -> nn.Module:
    """The model that the parameters are of."""
    dtype = jnp.dtype(self.precision)
    if self.hidden is not None:
      return MLP(self.num_classes, self.hidden, dtype)
    return classifier.Classifier(
      self.num_classes, self.width, dtype, self.momentum
    )

  def to_json(self) -> str:
    """As it stands in model.json."""
    content = {"format": _FORMAT, **dataclasses.asdict(self)}
    return json.dumps(content, indent=1) + "\n"

  def shapes(self) -> dict[str, Any]:
    """Shapes and dtypes of `params` and `batch_stats`."""
    model = self.network()
    images = jnp.zeros((1, *self.sample_shape))
    return dict(jax.eval_shape(model.init, jax.random.key(0), images))


def save(
  folder: pathlib.Path,
  method: str,
  individuals: Sequence[int],
  states: TrainState,
  description: Description | None,
) -> None:
  """Writes some individuals' models; with several processes all must call it.

  Args:
    folder: of all models.
    method: the method's spec.
    individuals: their ids [n].
    states: their trained states, with a leading axis of n or more.
    description: what these models are, the same for all of the folder; None
      for a model that isn't this package's, which `load` can't read.
  """
  kept = distributed.gather(
    {"params": states.params, "batch_stats": states.batch_stats}
  )
  for place, individual in enumerate(individuals):
    own = jax.tree.map(lambda leaf, place=place: leaf[place], kept)
    _write(path_of(folder, method, individual), own)
  if distributed.is_first() and description is not None:
    files.write_atomically(folder / DESCRIPTION, description.to_json())


def save_one(
  path: str | os.PathLike[str],
  variables: Mapping[str, Any],
  description: Description,
) -> None:
  """Writes one model that says itself what it is.

  Args:
    path: its folder; what was there is replaced.
    variables: `params` and `batch_stats`, NumPy arrays.
    description: what the model is.
  """
  path = pathlib.Path(path).absolute()
  _write(path, dict(variables))
  files.write_atomically(path / DESCRIPTION, description.to_json())


def load(path: str | os.PathLike[str]) -> tuple[Description, Any, Any]:
  """Reads one model, and makes sure that it is what was saved.

  Args:
    path: a model's folder, from `save` or `save_one`.

  Returns:
    What it is, its params and its batch_stats: dictionaries of NumPy arrays.

  Raises:
    ValueError: naming the folder, if there is none, nobody says what it holds,
      it isn't as it was written, its arrays have other shapes than described,
      or numbers in it aren't finite.
  """
  path = pathlib.Path(path).absolute()
  if not path.is_dir():
    raise ValueError(f"{path} is no folder of a saved model.")
  if not (path / DIGESTS).is_file():
    inside = sorted(file.parent.name for file in path.glob(f"*/{DIGESTS}"))
    if inside:
      more = f" and {len(inside) - 8} more" if len(inside) > 8 else ""
      raise ValueError(
        f"{path} holds several models ({', '.join(inside[:8])}{more}): name the"
        " folder of one."
      )
    raise ValueError(
      f"{path} holds no saved model ({DIGESTS} is missing); the folder of one"
      " is models/METHOD/INDIVIDUAL of a run with --save_models, or what"
      " experiments.personalize wrote."
    )
  description = _description(path)
  if fault := _damage(path):
    raise ValueError(f"{path} is damaged: {fault}.")
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      restored = checkpointer.restore(path)
  except Exception as error:  # Orbax and TensorStore each raise their own
    raise ValueError(
      f"{path} can't be read as an Orbax checkpoint"
      f" ({checks.first_line(error)})."
    ) from error
  variables = jax.tree.map(np.asarray, restored)
  if fault := mismatch(variables, description.shapes()):
    raise ValueError(
      f"{path} isn't the model that {DESCRIPTION} describes: {fault}."
    )
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
    raise ValueError(
      f"{path} holds numbers that aren't finite: its training diverged."
    )
  return description, variables["params"], variables["batch_stats"]


def mismatch(variables: Any, expected: Any) -> str | None:
  """Where two trees of arrays differ in shape or dtype.

  Args:
    variables: a tree whose leaves have shape and dtype.
    expected: the tree that it should be like.

  Returns:
    Half a sentence, or None if they are alike.
  """
  there, wanted = _leaves(variables), _leaves(expected)
  for name in {**wanted, **there}:
    if there.get(name) != wanted.get(name):
      return (
        f"{name} is {there.get(name, 'missing')} where"
        f" {wanted.get(name, 'nothing')} is expected"
      )
  return None


def path_of(folder: pathlib.Path, method: str, individual: int) -> pathlib.Path:
  """Where one individual's model is."""
  return folder.absolute() / files.safe_name(method) / str(int(individual))


def _write(path: pathlib.Path, variables: dict[str, Any]) -> None:
  # Where a disk fills, each of Orbax's threads ends in a traceback of its own.
  files.check_space(
    path, OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
  )
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      # The format without a version is the one that Flax reads too.
      checkpointer.save(path, variables, force=True)
      checkpointer.wait_until_finished()
  except Exception as error:  # Orbax and TensorStore each raise their own
    raise files.explained(error, path) from error
  if distributed.is_first():
    content = json.dumps(files.digests(path), indent=1)
    files.write_atomically(path / DIGESTS, content)


def _description(path: pathlib.Path) -> Description:
  """The model's own description, or else its run's."""
  places = [folder / DESCRIPTION for folder in (path, path.parent.parent)]
  file = next((place for place in places if place.is_file()), None)
  if file is None:
    raise ValueError(
      f"nothing says what the model in {path} is: {DESCRIPTION} is missing"
      " there and two folders above it."
    )
  try:
    content = json.loads(file.read_text())
    if content.pop("format") != _FORMAT:
      raise ValueError(f"format isn't {_FORMAT}")
    return Description(**content)
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
    raise ValueError(f"{file} describes no saved model ({error}).") from error


def _damage(path: pathlib.Path) -> str | None:
  """Which of the checkpoint's files isn't as it was written."""
  try:
    expected = dict(json.loads((path / DIGESTS).read_text()))
  except (OSError, ValueError, TypeError):
    return f"{DIGESTS} can't be read"
  found = files.digests(path)
  for name, digest in expected.items():
    if name not in found:
      return f"{name} is missing"
    if found[name] != digest:
      return f"{name} isn't as it was written"
  return None


def _leaves(tree: Any) -> dict[str, str]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{leaf.dtype}{list(leaf.shape)}"
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
