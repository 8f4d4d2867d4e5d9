"""The scripts for new people, in this process, and the people."""

import numpy as np
import pytest
from absl import flags

NEW = 4  # no run has seen writers from this one on
TRAIN = ("--steps=60", "--batch_size=16", "--learning_rate=5e-3")


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
  rows = np.flatnonzero(np.isin(population.individuals, people))[:count]
  arrays = {
    name: getattr(population, name)[rows]
    for name in ("images", "labels", "individuals")
    if name not in leave_out
  }
  np.savez(path, **arrays)
  return str(path)
