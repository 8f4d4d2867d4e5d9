"""What a run's config.json tells beside its settings."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

_PACKAGES = (
    "personalization_jax", "jax", "jaxlib", "flax", "optax",
    "orbax-checkpoint", "numpy", "scipy",
)  # fmt: skip


def describe() -> dict[str, Any]:
  """Versions, device, command and commit, as JSON values."""
  devices = jax.devices()
  return {
    "command": sys.argv,
    "commit": _commit(),
    "python": platform.python_version(),
    "versions": {name: version(name) for name in _PACKAGES},
    "platform": devices[0].platform,
    "device": devices[0].device_kind,
    "num_devices": len(devices),
    "num_processes": jax.process_count(),
  }


def version(package: str) -> str | None:
  """Of an installed package; None if it isn't."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _commit() -> str | None:
  """The checkout's commit, marked if files differ from it."""
  try:
    return subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12"],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None
