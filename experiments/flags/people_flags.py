"""What the scripts for people who were in no run share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from experiments.flags import values
from experiments.flags.file_flags import FileFlags
from experiments.runtime import console, processes
from personalization_jax.datasets import Population, new_people, npz
from personalization_jax.runs import saved_models
from personalization_jax.runs.saved_models import Description

Flag = flags.FlagHolder[str | None]


def run(
  main: Callable[[Sequence[str]], None], own_flags: flags.FlagValues
) -> None:
  """Runs a script, with flags of its own, as a program.

  They are no part of absl's global ones before, where other scripts have flags
  of the same names with other defaults.
  """
  for name in own_flags:
    flags.DEFINE_flag(own_flags[name], module_name=sys.argv[0])
  own_flags.mark_as_parsed()
  processes.use_compilation_cache()
  app.run(main)


def or_say_why(
  act: Callable[[], None], own_flags: flags.FlagValues, argv: Sequence[str]
) -> None:
  """The whole of a script; a user's mistake ends it in a sentence."""
  try:
    console.begin(argv)
    processes.use_cpu_cores(0)
    act()
  except (ValueError, OSError, ImportError, MemoryError) as error:
    sys.exit(f"error: {console.as_flag(error, list(own_flags))}")


def load_model(flag: Flag) -> tuple[Description, dict[str, Any]]:
  """The model in a flag's folder: what it is, and what it answers by."""
  with console.of(f"--{flag.name}"):
    return saved_models.load_whole(flag.value or "")


def load_people(
  flag: Flag,
  description: Description,
  file: FileFlags,
  *,
  labelled: bool = True,
) -> tuple[Population, frozenset[str]]:
  """The people in a flag's npz file, with samples of a model's shape.

  Also what the file has of `Population.from_arrays`: labels and individuals
  that it hasn't are 0, and originals all different. With `labelled` it must
  have labels; an array that is named by another flag must be there as well.
  """
  path = flag.value or ""
  how = values.of(*file)
  layout = {name: how.pop(name) for name in (file.layout.name, file.pad.name)}
  keys = npz.keys_of(**how)
  required = ["images", "labels"][: 1 + labelled]
  given = [array for array, key in keys.items() if key != array]
  name = f"--{flag.name}"
  arrays = npz.load_arrays(path, keys, [*required, *given], name=name)
  with console.of(f"{name}={path}"):
    population = new_people.population_of(
      arrays,
      description.num_classes,
      description.sample_shape,
      is_fig_4=description.is_fig_4,
      dtype=description.dtype,
      label_names=description.label_names,
      label_values=description.label_values,
      white=description.white,
      **layout,
      say=tell,
    )
    if description.scaling is not None:
      population = new_people.scaled(
        population, description.scaling, description.dtype
      )
  npz.tell_unread(path, keys.values(), tell)
  return population, frozenset(arrays)


def tell(text: str) -> None:
  """Prints a note, beside what a script is asked for."""
  print(text, file=sys.stderr)
