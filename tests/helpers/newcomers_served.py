"""The scripts for new people, in this process, and the people."""

import jax
import numpy as np
import pytest
from absl import flags

from personalization_jax.runs import saved_models
from personalization_jax.runs.saved_models import Description

NEW = 4  # no run has seen writers from this one on


def run(script, *arguments):
  """The script in this process, with these flags and otherwise defaults."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["script"])
  script.FLAGS.unparse_flags()
  for name in script.FLAGS:
    script.FLAGS[name].unparse()
  script.main(script.FLAGS(["script", *arguments]))


def sentence(script, *arguments):
  """What the script says to a mistake."""
  with pytest.raises(SystemExit) as stopped:
    run(script, *arguments)
  message = str(stopped.value.code)
  assert message.startswith("error: ")
  assert "\n" not in message
  return message


def write_npz(path, population, people, *, leave_out=(), count=None):
  """`count` samples of each of these people, or all."""
  rows = np.concatenate(
    [np.flatnonzero(population.individuals == one)[:count] for one in people]
  )
  arrays = {
    name: getattr(population, name)[rows]
    for name in ("images", "labels", "individuals")
    if name not in leave_out
  }
  np.savez(path, **arrays)
  return str(path)


def save_model(folder, **about):
  """A model of digits with arbitrary weights; by default Fig. 4's."""
  kind = {} if "hidden" in about else {"width": 1 / 16}
  description = Description(10, (16, 16, 1), **kind, **about)
  rng = np.random.default_rng(0)
  variables = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
      + (path[-1].key in ("scale", "var"))
    ),
    description.shapes(),
  )
  saved_models.save_one(folder, {"batch_stats": {}, **variables}, description)
  return folder
