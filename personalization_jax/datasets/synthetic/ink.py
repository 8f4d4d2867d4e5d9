"""The ink of one digit along its strokes (JAX)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def deform(amplitudes: jax.Array, num_points: int) -> jax.Array:
  """Displacements [P, 2] along the pen's path, of amplitudes [2 * K].

  As functions of the path and not of the place, they open and close gaps and
  loops, which is how one person's 4 comes to look like another's 9.
  """
  path = jnp.linspace(0.0, 1.0, num_points, dtype=jnp.float32)
  orders = jnp.arange(1, len(amplitudes) // 2 + 1, dtype=jnp.float32)
  modes = jnp.cos(jnp.pi * orders * path[:, None]) / orders  # [P, K]
  # Written out as a sum: too small for a matrix product, whose precision would
  # differ between devices.
  x, y = amplitudes.reshape(2, -1)
  return jnp.stack([(modes * x).sum(1), (modes * y).sum(1)], axis=1)


def place(points: jax.Array, factors: Mapping[str, jax.Array]) -> jax.Array:
  """Brings points [P, 2] from digit heights to sides of the image.

  They are stretched, slanted, turned and scaled, in this order.
  """
  x, y = points[:, 0] * factors["aspect"], points[:, 1]
  x = x - jnp.tan(factors["slant"]) * y
  cos, sin = jnp.cos(factors["rotation"]), jnp.sin(factors["rotation"])
  turned = jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
  return factors["size"] * turned


def fit(points: jax.Array, shift: jax.Array, reach: jax.Array) -> jax.Array:
  """Centres the bounding box of [P, 2] at shift [2], within reach of 0.

  Points are shrunk where they would go farther than the reach along x or y.
  """
  low, high = points.min(axis=0), points.max(axis=0)
  centre, half = (low + high) / 2, (high - low) / 2
  shrink = jnp.minimum(1.0, reach / half.max())
  room = reach - shrink * half
  return shrink * (points - centre) + jnp.clip(shift, -room, room)


def render(
  points: jax.Array, pen_down: jax.Array, radius: jax.Array, image_size: int
) -> jax.Array:
  """Ink [H, W] in 0..1 of a round pen of this radius along a polyline.

  A pixel's ink falls linearly over one pixel around the edge of the pen: the
  area that a straight edge would cover. Points [P, 2] and the radius are in
  sides of the image, from its centre; pen_down is bool [P - 1].
  """
  pixels = jnp.arange(image_size, dtype=jnp.float32)
  centres = (pixels + 0.5) / image_size - 0.5
  x, y = centres[None, None, :], centres[None, :, None]
  # Segments come first, [P - 1, H, W]: a minimum along the fastest axis would
  # not be vectorised, and takes a CPU nine times as long.
  start = points[:-1, :, None, None]
  step = points[1:, :, None, None] - start
  to_x, to_y = x - start[:, 0], y - start[:, 1]
  length_squared = jnp.maximum((step**2).sum(axis=1), 1e-12)
  along = (to_x * step[:, 0] + to_y * step[:, 1]) / length_squared
  along = jnp.clip(along, 0.0, 1.0)
  squared = (to_x - along * step[:, 0]) ** 2 + (to_y - along * step[:, 1]) ** 2
  squared = jnp.where(pen_down[:, None, None], squared, jnp.inf)
  distance = jnp.sqrt(squared.min(axis=0))
  return jnp.clip((radius - distance) * image_size + 0.5, 0.0, 1.0)
