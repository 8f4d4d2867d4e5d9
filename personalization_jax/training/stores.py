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
from personalization_jax.distributed import AXIS


class DeviceStore:
  """All images [N, ...] and labels [N] on every device, sent once."""

  layout = (PartitionSpec(), PartitionSpec())

  def __init__(self, mesh: Mesh, images: Any, labels: Any):
    """Sends them to the devices of the mesh."""
    arrays = (images, labels)
    self.arrays = distributed.put(
      arrays, arrays, NamedSharding(mesh, PartitionSpec())
    )

  def block(self, rows: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """Rows as they are, images and labels."""
    return (rows, *self.arrays)

  def block_like(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Images and labels as `block` gives them for rows of a shape."""
    return self.arrays


class HostStore:
  """All images on the host; each block's go to the devices that need them."""

  layout = (PartitionSpec(AXIS), PartitionSpec(AXIS))

  def __init__(self, mesh: Mesh, images: Any, labels: Any):
    """Keeps images [N, ...], perhaps a memory map, and labels [N]."""
    self._sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    self._devices = mesh.size
    self._arrays = np.asarray(images), np.asarray(labels)

  def block(self, rows: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """Sends each device the samples of its individuals' rows [n, T, B], once.

    Returns these rows as rows of what the device got, and its images and labels
    as arrays that are divided among the devices. How many there are depends on
    the shape of `rows` alone.
    """
    by_device = rows.reshape(self._devices, -1)
    needed = np.zeros((self._devices, self._size(rows.shape)), np.int64)
    local = np.full_like(by_device, PADDING)
    for device, own in enumerate(by_device):
      there = own != PADDING
      distinct = np.union1d(own[there], [0])
      needed[device, : len(distinct)] = distinct
      local[device, there] = np.searchsorted(distinct, own[there])
    sent = needed.reshape(-1)

    def send(array: np.ndarray) -> jax.Array:
      def chosen(index: Any) -> np.ndarray:
        return np.ascontiguousarray(array[sent[index[0]]])

      # Another process's devices get theirs from that process.
      return jax.make_array_from_callback(
        (len(sent), *array.shape[1:]), self._sharding, chosen
      )

    images, labels = map(send, self._arrays)
    return local.reshape(rows.shape), images, labels

  def block_like(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Images and labels as `block` gives them, but for their content."""
    count = self._devices * self._size(shape)
    images, labels = (
      jax.ShapeDtypeStruct(
        (count, *array.shape[1:]), array.dtype, sharding=self._sharding
      )
      for array in self._arrays
    )
    return images, labels

  def _size(self, shape: tuple[int, ...]) -> int:
    """How many rows of the store a device gets for a block of rows."""
    # Row 0 stands in for padding in either store.
    return min(math.prod(shape) // self._devices + 1, len(self._arrays[0]))
