"""Winograd's minimal filtering F(2x2, 3x3) as matrix products (JAX).

A 3x3 convolution takes 36 multiplications for each 2x2 tile of its output and
pair of channels. Transformed, it takes 16: the 4x4 tile of images that the
output tile depends on becomes 16 numbers, so does the kernel, and each of the
16 is a matrix product over channels. The weight gradient is the adjoint, with
the same transformation of images.

The larger F(4x4, 3x3) would take 9 multiplications, but loses digits (a
relative error of 1e-5 against 5e-7), and its longer sums cost more than it
saves.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks
(2016), sections 4.1 and 4.2.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from personalization_jax.networks.kernels.cpu import cache

_TILE = 2
_SIDE = 4  # of the images' tiles: _TILE and the kernel's border
# Rows of the three transformations: of images, kernels, and (turned) outputs.
_IMAGES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNELS = ((1.0, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1.0))
_OUTPUTS = ((1, 0), (1, 1), (1, -1), (0, -1))
_TURNED_OUTPUTS = tuple(zip(*_OUTPUTS))
# Numbers of a block in each of the 16 products, about: few enough that they
# stay in a core's cache between transformation and product.
_BLOCK_NUMBERS = 1 << 15
_MOST_IMAGES = 16


def convolve(images: Array, kernel: Array) -> Array:
  """[B, H, W, out channels] of the dtype of images; sums are float32."""
  batch, height, width, _ = images.shape
  outputs = kernel.shape[-1]
  basis = jnp.array(_KERNELS, _sums(images))
  transformed = jnp.einsum(
    "ai,bj,ijcd->abcd", basis, basis, kernel, precision="highest"
  )

  def of_block(block: Array) -> Array:
    products = [
      [
        jnp.matmul(tile.reshape(-1, tile.shape[-1]), transformed[i, j]).reshape(
          *tile.shape[:3], outputs
        )
        for j, tile in enumerate(row)
      ]
      for i, row in enumerate(_tiles(block))
    ]
    # A tile's two outputs in one direction, from its four products.
    columns = [
      [_sum(terms, column) for terms in _TURNED_OUTPUTS]
      for column in zip(*products)
    ]
    pixels = [
      jnp.stack([_sum(terms, row) for terms in _TURNED_OUTPUTS], axis=3)
      for row in zip(*columns)
    ]
    whole = jnp.stack(pixels, axis=2).astype(images.dtype)
    return whole.reshape(*block.shape[:3], outputs)

  whole = lax.map(of_block, _blocks(images, kernel.shape))
  whole = whole.reshape(-1, *whole.shape[2:])
  return whole[:batch, :height, :width]


def weight_gradient(images: Array, kernel: Array, cotangent: Array) -> Array:
  """As the kernel, of which only shape and dtype matter; sums are float32."""
  inputs, outputs = kernel.shape[2:]

  def add_block(
    totals: list[Array], block: tuple[Array, Array]
  ) -> tuple[list[Array], None]:
    some_images, some_cotangent = block
    count, height, width, _ = some_cotangent.shape
    corners = some_cotangent.astype(totals[0].dtype).reshape(
      count, height // _TILE, _TILE, width // _TILE, _TILE, outputs
    )
    # Turned in memory once, before its transformation makes it four times as
    # large; without the barrier XLA would turn each product's factor.
    corners = lax.optimization_barrier(
      corners.transpose(2, 4, 5, 0, 1, 3).reshape(_TILE, _TILE, outputs, -1)
    )
    rows = [
      [_sum(terms, corners[:, j]) for j in range(_TILE)] for terms in _OUTPUTS
    ]
    tiles = _tiles(some_images)
    products = [
      jnp.matmul(_sum(terms, rows[i]), tiles[i][j].reshape(-1, inputs))
      for i in range(_SIDE)
      for j, terms in enumerate(_OUTPUTS)
    ]
    return [a + b for a, b in zip(totals, products)], None

  dtype = _sums(images)
  zeros = jnp.zeros_like(kernel[0, 0].T, dtype=dtype)
  blocks = _blocks(images, kernel.shape), _blocks(cotangent, kernel.shape)
  totals, _ = lax.scan(add_block, [zeros] * _SIDE**2, blocks)
  products = jnp.stack(totals).reshape(_SIDE, _SIDE, outputs, inputs)
  basis = jnp.array(_KERNELS, dtype)
  gradient = jnp.einsum(
    "ai,bj,abdc->ijcd", basis, basis, products, precision="highest"
  )
  return gradient.astype(kernel.dtype)


def _sums(images: Array) -> jnp.dtype:
  return jnp.promote_types(images.dtype, jnp.float32)


def _blocks(array: Array, kernel_shape: Sequence[int]) -> Array:
  """[B, H, W, C] in blocks of as many images as the cache wants.

  A zero row or column follows where a side is odd.
  """
  odd = [(0, side % _TILE) for side in array.shape[1:3]]
  if any(map(any, odd)):
    array = jnp.pad(array, ((0, 0), *odd, (0, 0)))
  batch, height, width, _ = array.shape
  numbers = height * width // _TILE**2 * max(kernel_shape[2:])
  size = max(1, min(batch, _MOST_IMAGES, _BLOCK_NUMBERS // numbers))
  return cache.split(array, size)


def _tiles(images: Array) -> list[list[Array]]:
  """Each tile's transformation: 4 x 4 arrays [B, H / 2, W / 2, C]."""
  images = images.astype(_sums(images))
  batch, height, width, channels = images.shape
  down, across = height // _TILE, width // _TILE
  border = (1, _TILE - 1)
  padded = jnp.pad(images, ((0, 0), border, border, (0, 0))).reshape(
    batch, down + 1, _TILE, across + 1, _TILE, channels
  )
  rows = [
    padded[:, k // _TILE : k // _TILE + down, k % _TILE] for k in range(_SIDE)
  ]
  result = []
  for terms in _IMAGES:
    row = _sum(terms, rows)
    columns = [
      row[:, :, k // _TILE : k // _TILE + across, k % _TILE]
      for k in range(_SIDE)
    ]
    result.append([_sum(terms, columns) for terms in _IMAGES])
  return result


def _sum(signs: Sequence[int], arrays: Sequence[Array] | Array) -> Array:
  """Sums arrays, each as it is, negative, or not at all (1, -1, 0)."""
  signed = (
    array if sign > 0 else -array for sign, array in zip(signs, arrays) if sign
  )
  return functools.reduce(operator.add, signed)
