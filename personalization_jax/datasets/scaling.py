"""Scales of samples: what a population's are measured in (NumPy, host)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # each holds the other
  from personalization_jax.datasets.population import Population
  from personalization_jax.datasets.splits import Split

KINDS = ("auto", "none", "features", "images")


class Scaling(NamedTuple):
  """What samples [N, ..., F] were scaled by: (x - mean) / spread."""

  mean: tuple[float, ...]  # [F], along the last axis
  spread: tuple[float, ...]  # [F]
  dtype: str = "float32"  # of the samples as they came; "uint8" as 0..1

  def apply(self, images: np.ndarray) -> np.ndarray:
    """Samples [..., F] as they came, uint8 as 0..1, on this scale: float32."""
    scaled = _as_seen(images)
    scaled -= self.mean
    scaled /= self.spread
    return scaled.astype(np.float32)


def moments(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of columns [N, F], float64 [F] each.

  The deviation of a column that is constant up to float32's rounding is 0.
  """
  known = known.astype(np.float64)
  mean, spread = known.mean(axis=0), known.std(axis=0)
  varies = spread > 1e-7 * np.abs(known).max(axis=0)
  return mean, np.where(varies, spread, 0.0)


def kind_of(population: Population, kind: str = "auto") -> str:
  """How samples are standardised: "none", "features" or "images"."""
  if kind not in KINDS:
    raise ValueError(
      f"standardise={kind!r} must be {', '.join(map(repr, KINDS))}."
    )
  images = population.images
  own = "images" if population.holds_images else "features"
  if kind == "none" or kind == own:
    return kind
  if kind != "auto":
    raise ValueError(
      f"standardise={kind!r} can't act on samples of shape"
      f" {list(population.sample_shape)}: take {own!r}, or 'none'."
    )
  if own == "images" and (
    images.dtype == np.uint8 or -1 <= images.min() <= images.max() <= 1
  ):
    return "none"
  return own


def standardise(
  population: Population, split: Split, kind: str = "auto"
) -> Population:
  """Gives each feature, or each channel, mean 0 and deviation 1.

  Mean and standard deviation are of D_G's training rows alone, over all axes
  but the last: nobody's test data are in them. What is constant there has that
  constant taken off, and isn't divided: it is 0 but where others differ.

  Args:
    population: N samples [..., F], as they came.
    split: of this population.
    kind: "features" for samples that are no images, "images" for images, whose
      channels are scaled (uint8 ones as 0..1), or "none". "auto" leaves images
      that are uint8 or lie in -1..1, and scales all else.

  Returns:
    The population with float32 samples, `scaling`, which new people's samples
    need too, and the fingerprint of the samples as they came; or the very
    population if nothing is to be scaled.

  Raises:
    ValueError: if there is no such kind for these samples, they aren't finite,
      they were standardised before, or split has no D_G.
  """
  kind = kind_of(population, kind)
  if kind == "none":
    return population
  population.check_finite()
  if population.scaling is not None:
    raise ValueError(
      "the samples were standardised before: give them as they came."
    )
  if not len(split.global_train):
    raise ValueError(
      f"standardise={kind!r} takes the mean and spread of D_G's training data,"
      " but split has no D_G: take 'none', or a split with people in D_G."
    )
  images = population.images
  known = _as_seen(images[split.global_train])
  mean, spread = moments(known.reshape(-1, images.shape[-1]))
  scaling = Scaling(
    tuple(mean.tolist()),
    tuple(np.where(spread > 0, spread, 1.0).tolist()),
    images.dtype.name,
  )
  return dataclasses.replace(
    population,
    images=scaling.apply(images),
    scaling=scaling,
    origin=population.fingerprint(),
  )


def _as_seen(images: np.ndarray) -> np.ndarray:
  """A float64 copy of samples as models see them: uint8 as 0..1."""
  seen = images.astype(np.float64)
  if images.dtype == np.uint8:
    seen /= 255
  return seen
