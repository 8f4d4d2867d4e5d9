"""Devices and processes: the mesh, the first process, agreement (JAX)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

AXIS = "individual"


def make_mesh(devices: Any = None) -> Mesh:
  """A mesh of one axis, `individual`, over given devices or all."""
  return Mesh(np.asarray(jax.devices() if devices is None else devices), AXIS)


def default_individuals_per_device(mesh: Mesh) -> int:
  """1 on a CPU, where more gain nothing and delay checkpoints; else 8."""
  return 1 if mesh.devices.flat[0].platform == "cpu" else 8


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def from_first(values: Any) -> np.ndarray:
  """The first process's 32-bit numbers; all must call it."""
  return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(values)))


def text_from_first(text: str) -> str:
  """The first process's text; all must call it."""
  letters = np.frombuffer(text.encode("utf-32-le"), np.int32)
  count = int(from_first(np.int32(len(letters))))
  given = letters if is_first() else np.zeros(count, np.int32)
  return from_first(given).astype(np.int32).tobytes().decode("utf-32-le")


def highest(value: int) -> int:
  """The highest of all processes' 32-bit numbers; all must call it."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.process_allgather(np.int32(value)).max())


def wait_for_all(name: str) -> None:
  """Returns when all processes are here; all must call it."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def gather(tree: Any) -> Any:
  """NumPy copies of arrays, keys as uint32 [..., 2]; all must call it."""

  def one(leaf: Any) -> np.ndarray:
    leaf = _numbers(leaf)
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
      return np.array(jax.device_get(leaf))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

  return jax.tree.map(one, tree)


def own_copy(array: Any) -> np.ndarray:
  """A replicated array's copy on this host."""
  if isinstance(array, jax.Array):
    array = array.addressable_data(0)
  return np.asarray(array)


def put(tree: Any, like: Any, sharding: Sharding) -> Any:
  """Puts arrays, equal on all processes, onto all devices; keys as `like`.

  Shapes alone, of a plan for devices that may not be here, stay shapes.
  """

  def one(leaf: Any, like: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
      return leaf
    numbers = _numbers(leaf)
    if sharding.is_fully_addressable:
      there = jax.device_put(numbers, sharding)
    else:
      local = np.asarray(numbers)
      there = jax.make_array_from_callback(
        local.shape, sharding, lambda index: local[index]
      )
    return _wrap(there) if _is_key(like) else there

  return jax.tree.map(one, tree, like)


@jax.jit
def copy(tree: Any) -> Any:
  """A copy on the devices that outlives a donation; keys as uint32."""
  return jax.tree.map(lambda leaf: jnp.copy(_numbers(leaf)), tree)


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers(leaf: Any) -> Any:
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


@jax.jit
def _wrap(numbers: jax.Array) -> jax.Array:
  return jax.random.wrap_key_data(numbers)
