"""Everybody's final parameters, for readers that don't know this package.

    MODELS/model.json            what all of them are: `Description`
    MODELS/METHOD/INDIVIDUAL/    one Orbax checkpoint
      sha256.json                the digests of its files

Each holds dictionaries of arrays, `params` and `batch_stats`, which Orbax and
Flax read, for images / 255 or float samples as they are. If model.json has
`scaling`, models want (x - scaling["mean"]) / scaling["spread"] of such samples
x [..., F], along their last axis.

    variables = orbax.checkpoint.StandardCheckpointer().restore(folder)
    variables = flax.training.checkpoints.restore_checkpoint(folder, None)

A model that `save_one` wrote has a model.json of its own. So has one of a
method that doesn't answer by the model alone (`knn:10`, `mix:tl:300`): it names
the `method`, and `answer.npz` holds what answers need beside the model, which
`load_whole` reads.

    method              the spec again
    answer/0, /1, ...   the arrays of what the method's `fit` found
    layout              JSON: where they stand in it, by their numbers
    reference/...       `params` and `batch_stats` of D_G's model, if needed
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from flax import traverse_util

from personalization_jax import checks, distributed
from personalization_jax.checkpoints import files
from personalization_jax.datasets import Population
from personalization_jax.networks import interface
from personalization_jax.networks.description import Description

DESCRIPTION = "model.json"
DIGESTS = "sha256.json"
ANSWER = "answer.npz"
# Bytes of a model's files beside its numbers.
OVERHEAD = 64 * 2**10


def describe(
  model: nn.Module, population: Population, factory: str | None = None
) -> Description | None:
  """What these people's models are; None if only their parameters can be told.

  `factory` is "module:Class" of a model that isn't this package's.
  """
  scaling, shape = population.scaling, population.sample_shape
  about: dict[str, Any] = {
    "dtype": np.dtype((scaling or population.images).dtype).name,
    "label_names": population.label_names,
    "label_values": population.label_values,
    "white": population.white,
    "scaling": scaling and (scaling.mean, scaling.spread),
  }
  if factory is None:
    return Description.of(model, shape, **about)
  about["factory"] = factory
  return Description(population.num_classes, shape, **about)


def save(
  folder: pathlib.Path,
  method: str,
  people: Sequence[str],
  kept: Mapping[str, Any],
  description: Description | None,
  *,
  alone: bool = True,
  reference: Mapping[str, Any] | None = None,
) -> None:
  """Writes whole models, trees of arrays [n, ...], by people's folders.

  All processes must call it. A method that isn't to be answered by the model
  `alone` has an `answer` beside it, or the `reference` that all share.
  """
  home = folder.absolute() / files.safe_name(method)
  for place, person in enumerate(people):
    own = jax.tree.map(lambda leaf, place=place: leaf[place], dict(kept))
    _write(home / person, own, None if alone else method, reference)
    if not alone and distributed.is_first() and description is not None:
      text = dataclasses.replace(description, method=method).to_json()
      files.write_atomically(home / person / DESCRIPTION, text)
  if distributed.is_first() and description is not None:
    files.write_atomically(folder / DESCRIPTION, description.to_json())


def save_one(
  path: str | os.PathLike[str],
  variables: Mapping[str, Any],
  description: Description,
  reference: Mapping[str, Any] | None = None,
) -> None:
  """Writes one model with its own description, over what is there.

  For a description that names a method, see `save`.
  """
  path = pathlib.Path(path).absolute()
  _write(path, variables, description.method, reference)
  files.write_atomically(path / DESCRIPTION, description.to_json())


def load(path: str | os.PathLike[str]) -> tuple[Description, Any, Any]:
  """A model's description, params and batch_stats, as NumPy arrays.

  Raises a ValueError as `load_whole` does, and for a model that these alone
  would take for another one.
  """
  description, variables = load_whole(path)
  if description.method is not None:
    raise ValueError(
      f"{path} answers by method {description.method!r}, not by its parameters"
      " alone: saved_models.load_whole reads all of it, and"
      " experiments.predict answers by it."
    )
  return description, variables["params"], variables["batch_stats"]


def load_whole(
  path: str | os.PathLike[str],
) -> tuple[Description, dict[str, Any]]:
  """A model's description, and all that it answers by, as NumPy arrays.

  That is `params` and `batch_stats`. If the description names a method, its
  `predict` needs `answer` and `reference` as well; each may be None. Tuples in
  the answer have become lists.

  Raises a ValueError for a folder that is missing, has no description, isn't as
  it was written, or has arrays of other shapes or that aren't finite.
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
      " is models/METHOD/INDIVIDUAL of a run that saves models, or what"
      " experiments.personalize wrote."
    )
  description = _description(path)
  _check_files(path)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      restored = checkpointer.restore(path)
  except Exception as error:  # Orbax and TensorStore each raise their own
    raise ValueError(
      f"{path} can't be read as an Orbax checkpoint"
      f" ({checks.first_line(error)})."
    ) from error
  variables = jax.tree.map(np.asarray, restored)
  shapes = description.shapes()
  fault = interface.mismatch(variables, shapes)
  method, beside = None, dict[str, Any]()
  if (path / ANSWER).is_file():
    method, beside = _unpacked(path / ANSWER)
    if beside["reference"] is not None:
      fault = fault or interface.mismatch(beside["reference"], shapes)
  if method != description.method:
    fault = f"its method is {method!r}, not {description.method!r}"
  if fault:
    raise ValueError(
      f"{path} isn't the model that {DESCRIPTION} describes: {fault}."
    )
  variables = {**variables, **beside}
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
    why = "holds numbers that aren't finite: its training diverged"
    raise ValueError(f"{path} {why}.")
  return description, variables


def _write(
  path: pathlib.Path,
  variables: Mapping[str, Any],
  method: str | None,
  reference: Mapping[str, Any] | None,
) -> None:
  """Writes a model, and what the answers of a method need beside it."""
  answer = variables.get("answer")
  everything = jax.tree.leaves((variables, reference))
  model = {name: variables[name] for name in variables if name != "answer"}
  # Where a disk fills, each of Orbax's threads ends in a traceback of its own.
  files.check_space(path, OVERHEAD + sum(leaf.nbytes for leaf in everything))
  with files.writing(path), ocp.StandardCheckpointer() as checkpointer:
    # The format without a version is the one that Flax reads too.
    checkpointer.save(path, model, force=True)
    checkpointer.wait_until_finished()
  if distributed.is_first():
    if method is not None:
      files.write_atomically(path / ANSWER, _packed(method, answer, reference))
    content = json.dumps(files.digests(path), indent=1)
    files.write_atomically(path / DIGESTS, content)


def _packed(
  method: str, answer: Any, reference: Mapping[str, Any] | None
) -> bytes:
  """The file of what answers need beside the model."""
  leaves, structure = jax.tree.flatten(answer)
  places = jax.tree.unflatten(structure, range(len(leaves)))
  layout = json.dumps(places, default=jax.tree.leaves)
  arrays = {"method": np.array(method), "layout": np.array(layout)}
  arrays |= {f"answer/{place}": leaf for place, leaf in enumerate(leaves)}
  if reference is not None:
    both = {name: reference[name] for name in ("params", "batch_stats")}
    arrays |= traverse_util.flatten_dict({"reference": both}, sep="/")
  content = io.BytesIO()
  np.savez(content, **jax.device_get(arrays))
  return content.getvalue()


def _unpacked(path: pathlib.Path) -> tuple[str, dict[str, Any]]:
  """The method, and its answer and reference; None for one that isn't there."""
  with np.load(path) as file:
    arrays = dict(file)
  tree = traverse_util.unflatten_dict(arrays, sep="/")
  places = json.loads(str(arrays["layout"]))
  answer = jax.tree.map(lambda place: tree["answer"][str(place)], places)
  reference = tree.get("reference")
  if reference is not None:
    reference = {"batch_stats": {}, **reference}
  return str(arrays["method"]), {"answer": answer, "reference": reference}


def _description(path: pathlib.Path) -> Description:
  """The model's own description, or else its run's."""
  own, of_run = (place / DESCRIPTION for place in (path, path.parent.parent))
  file = own if own.is_file() else of_run
  if not file.is_file():
    raise ValueError(
      f"nothing says what the model in {path} is: {DESCRIPTION} is missing"
      " there and two folders above it."
    )
  try:
    return Description.from_json(file.read_text())
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
    raise ValueError(f"{file} describes no saved model ({error}).") from error


def _check_files(path: pathlib.Path) -> None:
  """Rejects a checkpoint that isn't as it was written."""
  try:
    expected = dict(json.loads((path / DIGESTS).read_text()))
  except (OSError, ValueError, TypeError):
    expected = {DIGESTS: ""}
  found = files.digests(path)
  for name, digest in expected.items():
    if found.get(name) != digest:
      raise ValueError(
        f"{path} is damaged: {name} is missing or isn't as it was written."
      )
