"""Where everybody's models are: a mesh of devices with one axis (JAX)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

AXIS = "individual"


def make_mesh(devices: Any = None) -> Mesh:
  """A mesh of one axis, `individual`, over all devices.

  Args:
    devices: the devices; all there are by default.

  Returns:
    The mesh.
  """
  return Mesh(np.asarray(jax.devices() if devices is None else devices), AXIS)


def default_individuals_per_device(mesh: Mesh) -> int:
  """How many models a device trains at once, if nobody says otherwise.

  Args:
    mesh: of the devices.

  Returns:
    1 on a CPU, where more bring nothing and delay checkpoints; 8 elsewhere.
  """
  return 1 if mesh.devices.flat[0].platform == "cpu" else 8
