"""What the scripts for people who were in no run share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from experiments.runtime import console, processes
from personalization_jax.datasets import Population, new_people, npz
from personalization_jax.runs import saved_models
from personalization_jax.runs.saved_models import Description

Flag = flags.FlagHolder[str | None]


def run(
  main: Callable[[Sequence[str]], None], own_flags: flags.FlagValues
) -> None:
  """Runs a script as a program.

  Args:
    main: the script.
    own_flags: its flags. They are no part of absl's global ones, where other
      scripts have flags of the same names with other defaults.
  """
  for name in own_flags:
    flags.DEFINE_flag(own_flags[name], module_name=sys.argv[0])
  own_flags.mark_as_parsed()
  processes.use_compilation_cache()
  app.run(main)


def or_say_why(
  act: Callable[[], None], argv: Sequence[str], own_flags: flags.FlagValues
) -> None:
  """Acts; a user's mistake ends the process with a sentence.

  Args:
    act: the whole of a script.
    argv: the program's name, and what isn't a flag.
    own_flags: the script's.
  """
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step it takes
  try:
    if len(argv) > 1:
      raise ValueError(f"unexpected argument {argv[1]!r}; flags begin with --.")
    act()
  except (ValueError, OSError, ImportError, MemoryError) as error:
    sys.exit(f"error: {console.as_flag(error, list(own_flags))}")


def require(*needed: Flag) -> None:
  """Refuses to go on without these flags."""
  for flag in needed:
    if not flag.value:
      raise ValueError(f"--{flag.name} is missing.")


def load_model(flag: Flag) -> tuple[Description, dict[str, Any]]:
  """The model in a flag's folder: what it is, `params` and `batch_stats`."""
  try:
    description, params, batch_stats = saved_models.load(flag.value or "")
  except ValueError as error:
    raise ValueError(f"--{flag.name}: {error}") from error
  return description, {"params": params, "batch_stats": batch_stats}


def load_people(
  flag: Flag, description: Description, *, labelled: bool = True
) -> tuple[Population, frozenset[str]]:
  """The people in a flag's npz file.

  Args:
    flag: its value is the file.
    description: of the model that is to see them.
    labelled: whether there must be labels.

  Returns:
    Their samples, of the model's shape, and which arrays the file has; labels
    and individuals that it hasn't are 0, and originals all different.
  """
  path = flag.value or ""
  names = ("images", "labels", "individuals", "originals")
  required = 1 + labelled
  arrays = npz.load_arrays(
    path, names[:required], names[required:], name=f"--{flag.name}"
  )
  try:
    population = new_people.population_of(
      arrays,
      description.num_classes,
      description.sample_shape,
      is_fig_4=description.hidden is None,
      dtype=description.dtype,
    )
  except ValueError as error:
    raise ValueError(f"--{flag.name}={path}: {error}") from error
  return population, frozenset(arrays)
