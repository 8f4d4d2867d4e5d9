"""Where the images are while models train on them: on devices, or on the host.

Both give a block of batches as rows and the arrays that these rows are rows of.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from personalization_jax import distributed
from personalization_jax.datasets.splits import PADDING


class DeviceStore:
  """All images [N, ...] and labels [N] on every device, sent once."""

  layout = (PartitionSpec(), PartitionSpec())

  def __init__(self, mesh: Mesh, images: Any, labels: Any):
    """Sends them to the devices of the mesh."""
    arrays = (images, labels)
    self.arrays = distributed.put(
      arrays, arrays, NamedSharding(mesh, PartitionSpec())
    )

  def block(self, rows: np.ndarray) -> tuple[np.ndarray, jax.Array, jax.Array]:
    """Rows as they are, images and labels."""
    return (rows, *self.arrays)

  def block_like(
    self, shape: tuple[int, int, int]
  ) -> tuple[jax.Array, jax.Array]:
    """Images and labels as `block` gives them for rows of a shape."""
    return self.arrays


class HostStore:
  """All images on the host; each block's go to the devices that need them."""

  def __init__(
    self,
    mesh: Mesh,
    spec: PartitionSpec,
    images: np.ndarray,
    labels: np.ndarray,
  ):
    """Keeps images [N, ...], perhaps a memory map, and labels [N].

    `spec` divides a leading axis among the devices of the mesh.
    """
    self.layout = (spec, spec)
    self._sharding = NamedSharding(mesh, spec)
    self._devices = mesh.size
    self._images = images
    self._labels = labels

  def block(self, rows: np.ndarray) -> tuple[np.ndarray, jax.Array, jax.Array]:
    """What a block needs of the store, each row once on each device.

    Args:
      rows: int32 [n, T, B], rows of the whole store, -1 for padding; the
        devices share n evenly.

    Returns:
      The same rows as rows of what the device gets, int32 [n, T, B]; and its
      images and labels, with a leading axis that is divided among the devices.
      Its size depends on the shape of `rows` alone.
    """
    by_device = rows.reshape(self._devices, -1)
    size = self._size(rows.shape)
    needed = np.zeros((self._devices, size), np.int64)
    local = np.full_like(by_device, PADDING)
    for device, own in enumerate(by_device):
      there = own != PADDING
      distinct = np.union1d(own[there], [0])
      needed[device, : len(distinct)] = distinct
      local[device, there] = np.searchsorted(distinct, own[there])
    # Another process's devices get theirs from that process.
    images, labels = (
      self._send(array, needed.reshape(-1))
      for array in (self._images, self._labels)
    )
    return local.reshape(rows.shape), images, labels

  def block_like(
    self, shape: tuple[int, int, int]
  ) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Images and labels as `block` gives them, but for their content."""
    rows = self._devices * self._size(shape)
    images, labels = (
      jax.ShapeDtypeStruct(
        (rows, *array.shape[1:]), array.dtype, sharding=self._sharding
      )
      for array in (self._images, self._labels)
    )
    return images, labels

  def _size(self, shape: tuple[int, ...]) -> int:
    """How many rows of the store a device gets for a block of rows."""
    # Row 0 stands in for padding in either store.
    return min(math.prod(shape) // self._devices + 1, len(self._images))

  def _send(self, array: np.ndarray, rows: np.ndarray) -> jax.Array:
    def part(index: Any) -> np.ndarray:
      return np.ascontiguousarray(array[rows[index[0]]])

    return jax.make_array_from_callback(
      (len(rows), *array.shape[1:]), self._sharding, part
    )
