"""Flags as arguments."""

from typing import Any

from absl import flags


def of(*those: flags.FlagHolder[Any]) -> dict[str, Any]:
  """Flag -> value; the library's arguments have the same names."""
  return {flag.name: flag.value for flag in those}
