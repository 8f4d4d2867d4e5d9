"""Everybody's final parameters, for readers that don't know this package.

    MODELS/METHOD/INDIVIDUAL/    one Orbax checkpoint

Each holds plain dictionaries of arrays, `params` and `batch_stats`, which Orbax
and Flax read by themselves and `models.Classifier` applies to images / 255:

    variables = orbax.checkpoint.StandardCheckpointer().restore(folder)
    variables = flax.training.checkpoints.restore_checkpoint(folder, None)
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import jax
import orbax.checkpoint as ocp

from personalization_jax import files, hosts
from personalization_jax.training import TrainState


def save(
  folder: pathlib.Path,
  method: str,
  individuals: Sequence[int],
  states: TrainState,
) -> None:
  """Writes some individuals' models; with several processes all must call it.

  Args:
    folder: of all models.
    method: the method's spec.
    individuals: their ids [n].
    states: their trained states, with a leading axis of n or more.
  """
  kept = hosts.gather(
    {"params": states.params, "batch_stats": states.batch_stats}
  )
  with ocp.StandardCheckpointer() as checkpointer:
    for place, individual in enumerate(individuals):
      path = path_of(folder, method, individual)
      own = jax.tree.map(lambda leaf, place=place: leaf[place], kept)
      # The format without a version is the one that Flax reads too.
      checkpointer.save(path, own, force=True)
      checkpointer.wait_until_finished()


def path_of(folder: pathlib.Path, method: str, individual: int) -> pathlib.Path:
  """Where one individual's model is."""
  return folder.absolute() / files.safe_name(method) / str(int(individual))
