"""Rendered handwriting of any number of writers (drawn in JAX, kept in NumPy).

People differ by hidden factors that are known here: slant, rotation, aspect,
size, pen, roundness, which allograph of a digit they use, and their own form
of every digit. Everyone is mostly consistent, so what is ambiguous between
writers is clear within one: the setting of the paper's section I, with as
many individuals as wanted and nothing to download.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from personalization_jax import checks
from personalization_jax.datasets.population import Population
from personalization_jax.datasets.synthetic import ink, strokes

# Own allograph with this probability, any of the digit's otherwise.
CONSISTENCY = 0.9
# A form is this many cosines along the pen's path, for x and for y.
NUM_MODES = 4


class _Spread(NamedTuple):
  """How one factor varies."""

  mean: float  # of all people
  between: float  # standard deviation between people
  within: float  # standard deviation between the drawings of one person


# Normal and cut off at two standard deviations, which keeps drawings legible.
_SPREADS = {
  "slant": _Spread(0.22, 0.16, 0.05),
  "rotation": _Spread(0.0, 0.06, 0.03),
  "aspect": _Spread(1.0, 0.15, 0.05),
  "size": _Spread(0.72, 0.06, 0.03),
  "stroke_width": _Spread(0.085, 0.018, 0.006),
  "curvature": _Spread(0.9, 0.25, 0.1),
}
# The same for the first cosine of a form, in digit heights.
_FORM = _Spread(0.0, 0.04, 0.02)
_POSITION_JITTER = 0.02  # Standard deviation, in sides of the image.
_MARGIN = 0.47  # A drawing's ink stays this close to the centre.
_FACTOR_BLOCK = 64  # Writers whose factors are drawn by one call.
_BLOCK = 512  # Images drawn by one call.
_RENDER_BATCH = 64  # Those drawn at once, which bounds the memory.

_SKELETONS = strokes.skeletons(48)
NUM_DIGITS, NUM_ALLOGRAPHS = _SKELETONS[0].shape[:2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WriterFactors:
  """What makes M writers write as they do: float32 [M] but for the last two."""

  slant: Any  # lean of uprights to the right, in radians
  rotation: Any  # clockwise turn of the whole digit, in radians
  aspect: Any  # factor on the width
  size: Any  # height of an upright digit, in sides of the image
  stroke_width: Any  # in sides of the image
  curvature: Any  # 0 draws chords, 1 smooth curves, more exaggerates
  allographs: Any  # int32 [M, 10], which way of writing each digit
  # float32 [M, 10, 2 * NUM_MODES], personal departure of each digit from its
  # allograph: amplitudes, in their own standard deviations, of cosines along
  # the pen's path, first those of x, then those of y.
  forms: Any

  def parts(self) -> dict[str, np.ndarray]:
    """Style [M, 6], allographs [M, 10, A] and forms [M, 10, 2 * NUM_MODES].

    Scalars and forms less their mean, divided by their standard deviation
    before the cut-off at two of them; allographs one-hot.
    """
    style = [
      (np.asarray(getattr(self, name)) - spread.mean) / spread.between
      for name, spread in _SPREADS.items()
    ]
    one_hot = np.eye(NUM_ALLOGRAPHS)[np.asarray(self.allographs)]
    forms = np.asarray(self.forms)
    return {"style": np.stack(style, 1), "allographs": one_hot, "forms": forms}


def sample_factors(key: jax.Array, num_writers: int) -> WriterFactors:
  """The hidden factors of writers 0 .. num_writers - 1, as NumPy arrays.

  A writer's factors depend on the typed key and on the writer's id alone.
  """
  # Blocks of one size, so that every count of writers runs the same compiled
  # code and rounds alike to the last bit.
  blocks = [
    jax.device_get(_factor_block(key, np.uint32(first)))
    for first in range(0, num_writers, _FACTOR_BLOCK)
  ]
  return jax.tree.map(lambda *b: np.concatenate(b)[:num_writers], *blocks)


def make_population(
  num_writers: int,
  *,
  samples_per_writer: int = 100,
  image_size: int = 32,
  seed: int = 0,
) -> tuple[Population, WriterFactors]:
  """Draws the handwriting of a population, white ink on black.

  A writer's drawings depend on the other arguments and the writer's id alone,
  not on the number of writers: on one device, to the last bit. The digits run
  on from one writer to the next, so that everyone has nearly as many of each,
  and are then shuffled.

  Args:
    num_writers: M; ids are 0 .. M - 1.
    samples_per_writer: drawings of each writer, at least 2.
    image_size: side of the images in pixels, at least 8.
    seed: chooses the population.

  Returns:
    The population, uint8 [M * samples_per_writer, image_size, image_size, 1]
    of ten classes, writer after writer, and its writers' hidden factors.

  Raises:
    ValueError: if an argument is too small, or if there are fewer than ten
      drawings in all, which cannot show every digit.
  """
  checks.whole_number("num_writers", num_writers, 1)
  checks.whole_number("samples_per_writer", samples_per_writer, 2)
  checks.whole_number("image_size", image_size, 8)
  checks.seed(seed)
  # NumPy's integers would bring types of their own into compiled code.
  num_writers, samples_per_writer, image_size = map(
    int, (num_writers, samples_per_writer, image_size)
  )
  if num_writers * samples_per_writer < NUM_DIGITS:
    raise ValueError(
      f"{num_writers} writers with {samples_per_writer} samples each cannot"
      f" show all {NUM_DIGITS} digits; ask for {NUM_DIGITS} drawings or more"
      " in all."
    )
  factor_key, order_key, drawing_key = jax.random.split(
    jax.random.key(int(seed)), 3
  )
  factors = sample_factors(factor_key, num_writers)
  labels = np.asarray(
    _shuffled_digits(order_key, num_writers, samples_per_writer)
  ).ravel()
  rows = np.arange(len(labels), dtype=np.int32)
  writers, samples = divmod(rows, samples_per_writer)
  # As with the factors: blocks of one size, the last one filled up.
  images = []
  for block in np.resize(rows, (math.ceil(len(rows) / _BLOCK), _BLOCK)):
    writer = writers[block]
    own = jax.tree.map(lambda x, w=writer: x[w], factors)
    drawing = (writer, samples[block], labels[block], own)
    images.append(np.asarray(_draw_block(drawing_key, drawing, image_size)))
  population = Population.from_arrays(
    np.concatenate(images)[: len(labels), ..., None],
    labels,
    writers,
    num_classes=NUM_DIGITS,
  )
  return population, factors


@jax.jit
def _factor_block(key: jax.Array, first_writer: jax.Array) -> WriterFactors:
  """Factors of the _FACTOR_BLOCK writers from first_writer on."""

  def draw(writer):
    normal_key, allograph_key = jax.random.split(
      jax.random.fold_in(key, writer)
    )
    # One draw for all: random bits are most of the compilation's time.
    num_scalars, form_shape = len(_SPREADS), (NUM_DIGITS, 2 * NUM_MODES)
    normals = _cut_normal(normal_key, num_scalars + math.prod(form_shape))
    return WriterFactors(
      **{
        name: spread.mean + spread.between * scalar
        for (name, spread), scalar in zip(_SPREADS.items(), normals)
      },
      allographs=_any_allograph(allograph_key, NUM_DIGITS),
      forms=normals[num_scalars:].reshape(form_shape),
    )

  ids = first_writer + jnp.arange(_FACTOR_BLOCK, dtype=jnp.uint32)
  return jax.vmap(draw)(ids)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _shuffled_digits(
  key: jax.Array, num_writers: int, num_samples: int
) -> jax.Array:
  """Digits int32 [M, S]: 0 to 9 over and over, shuffled within writers."""
  writers = jnp.arange(num_writers, dtype=jnp.int32)

  def draw(writer):
    # The remainder first, lest the product leaves int32.
    first = writer % NUM_DIGITS * (num_samples % NUM_DIGITS)
    digits = first + jnp.arange(num_samples, dtype=jnp.int32)
    own_key = jax.random.fold_in(key, writer)
    return jax.random.permutation(own_key, digits % NUM_DIGITS)

  return jax.vmap(draw)(writers)


@functools.partial(jax.jit, static_argnums=2)
def _draw_block(key: jax.Array, drawings: Any, image_size: int) -> jax.Array:
  """Draws uint8 [_BLOCK, H, W] of (writers, samples, digits, factors)."""

  def draw(drawing):
    writer, sample, digit, factors = drawing
    own_key = jax.random.fold_in(jax.random.fold_in(key, writer), sample)
    return _draw_digit(own_key, factors, digit, image_size)

  return jax.lax.map(draw, drawings, batch_size=_RENDER_BATCH)


def _draw_digit(
  key: jax.Array, factors: WriterFactors, digit: jax.Array, image_size: int
) -> jax.Array:
  """Draws a digit once, as one writer (factors without M) would: uint8."""
  normal_key, own_key, stray_key = jax.random.split(key, 3)
  num_scalars, num_amplitudes = len(_SPREADS), 2 * NUM_MODES
  normals = _cut_normal(normal_key, num_scalars + num_amplitudes + 2)
  jitter, form_jitter, shift = jnp.split(
    normals, [num_scalars, num_scalars + num_amplitudes]
  )
  drawn = {
    name: getattr(factors, name) + spread.within * z
    for (name, spread), z in zip(_SPREADS.items(), jitter)
  }
  allograph = jnp.where(
    jax.random.bernoulli(own_key, jnp.float32(CONSISTENCY)),
    factors.allographs[digit],
    _any_allograph(stray_key),
  )
  chords, curves, pen_down = (
    jnp.asarray(every)[digit, allograph] for every in _SKELETONS
  )
  points = chords + drawn["curvature"] * (curves - chords)
  form = _FORM.between * factors.forms[digit] + _FORM.within * form_jitter
  points = ink.place(points + ink.deform(form, len(points)), drawn)
  radius = drawn["stroke_width"] / 2
  shift *= _POSITION_JITTER
  points = ink.fit(points, shift, _MARGIN - radius)
  inked = ink.render(points, pen_down, radius, image_size)
  return jnp.round(255 * inked).astype(jnp.uint8)


def _any_allograph(key: jax.Array, *shape: int) -> jax.Array:
  return jax.random.randint(key, shape, 0, NUM_ALLOGRAPHS, jnp.int32)


def _cut_normal(key: jax.Array, count: int) -> jax.Array:
  """Standard normals [count], cut off at two standard deviations."""
  return jax.random.truncated_normal(key, -2, 2, (count,), jnp.float32)
