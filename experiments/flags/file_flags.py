"""The flags that say how to read a file of people, of several scripts."""

from __future__ import annotations

from typing import NamedTuple

from absl import flags

from personalization_jax.datasets import pixels

flags.disclaim_key_flags()  # they are those of the module that calls `define`


class FileFlags(NamedTuple):
  """The arguments of `npz.load` by these names, once `values.of` has them."""

  image_key: flags.FlagHolder[str]
  label_key: flags.FlagHolder[str]
  individual_key: flags.FlagHolder[str]
  layout: flags.FlagHolder[str]
  pad: flags.FlagHolder[bool]


def define(flag_values: flags.FlagValues = flags.FLAGS) -> FileFlags:
  """Defines them where a script's flags are."""
  # fmt: off
  return FileFlags(
    flags.DEFINE_string("image_key", "images",
        "The npz file's array of samples.", flag_values=flag_values),
    flags.DEFINE_string("label_key", "labels",
        "The npz file's array of classes.", flag_values=flag_values),
    flags.DEFINE_string("individual_key", "individuals",
        "The npz file's array of whose each sample is.",
        flag_values=flag_values),
    flags.DEFINE_enum("layout", "auto", pixels.LAYOUTS,
        "The axes of a sample: an image's channels come last, first, or have no"
        " axis (grey); features are anything, kept as it is. auto finds it"
        " out, or asks.", flag_values=flag_values),
    flags.DEFINE_bool("pad", False,
        "Bring images that aren't square into the middle of a square of zeros.",
        flag_values=flag_values),
  )
  # fmt: on
