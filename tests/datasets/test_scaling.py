"""Samples on the scale of D_G's training data, and nobody else's."""

import dataclasses
import math

import numpy as np
import pytest

import personalization_jax as pj
from personalization_jax.datasets import Population, splits, variations
from personalization_jax.datasets.scaling import kind_of
from personalization_jax.networks import MLP
from personalization_jax.training import identities, latent_space
from personalization_jax.training.learner import make_learner

RNG = np.random.default_rng(0)
SHAPES = {"vectors": (6,), "sequences": (5, 6), "images": (4, 4, 3)}


def population_of(shape, dtype=np.float32, seed=0):
  """Twelve people of 10 samples; features of very different sizes."""
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(120, *shape)) * 10.0 ** np.arange(shape[-1])
  if dtype == np.uint8:
    images = rng.integers(0, 200, (120, *shape))
  elif len(shape) < 3:
    images[..., 2] = 7
    images[..., 3] = 0.1  # its mean isn't 0.1 in floats
    images[..., 4] = 0
  individuals = np.repeat(np.arange(12), 10)
  return Population.from_arrays(
    images.astype(dtype), np.arange(120) % 3, individuals
  )


def split_of(population, seed=0):
  return pj.split(population, 4, 8, seed=seed)


def slowly(population, split):
  """Mean and spread along the last axis, number by number."""
  known = population.images[split.global_train].reshape(
    -1, population.images.shape[-1]
  )
  if known.dtype == np.uint8:
    known = known / 255
  found = []
  for column in known.T.tolist():
    mean = math.fsum(column) / len(column)
    variance = math.fsum((x - mean) ** 2 for x in column) / len(column)
    constant = min(column) == max(column)
    found.append((mean, 1.0 if constant else math.sqrt(variance)))
  return np.array(found).T


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [*((shape, np.float32) for shape in SHAPES.values()), ((4, 4, 3), np.uint8)],
)
def test_samples_are_scaled_by_d_g_s_training_rows(shape, dtype):
  population = population_of(shape, dtype)
  split = split_of(population)
  scaled = pj.standardise(
    population, split, "images" if len(shape) == 3 else "features"
  )
  mean, spread = slowly(population, split)
  np.testing.assert_allclose(scaled.scaling.mean, mean, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(scaled.scaling.spread, spread, rtol=1e-9)
  seen = population.images / 255 if dtype == np.uint8 else population.images
  assert scaled.images.dtype == np.float32
  np.testing.assert_allclose(
    scaled.images, (seen - mean) / spread, rtol=1e-5, atol=1e-6
  )
  again = scaled.scaling.apply(population.images)
  np.testing.assert_array_equal(again, scaled.images)
  # Results are of the samples as they came.
  assert scaled.fingerprint() == population.fingerprint()


def test_what_is_constant_up_to_rounding_is_0():
  """At 7 it would outweigh all that is scaled."""
  population = population_of((6,))
  scaled = pj.standardise(population, split_of(population))
  np.testing.assert_allclose(scaled.images[:, 2:5], 0, atol=1e-12)
  assert scaled.scaling.spread[2:5] == (1, 1, 1)


def test_small_signals_on_large_offsets_are_scaled():
  """Such as times of a quarter of an hour, in seconds since 1970."""
  population = population_of((6,))
  images = population.images.copy()
  images[:, 5] = 1.6e9 + np.arange(120) * 128
  scaled = pj.standardise(
    dataclasses.replace(population, images=images), split_of(population)
  )
  assert 0.5 < scaled.images[:, 5].std() < 2


def test_nobody_else_s_samples_decide_the_scale():
  population = population_of((6,))
  split = split_of(population)
  others = np.setdiff1d(np.arange(len(population)), split.global_train)
  images = population.images.copy()
  images[others] *= 1e3
  changed = dataclasses.replace(population, images=images)
  first, second = (
    pj.standardise(each, split).scaling for each in (population, changed)
  )
  assert first == second
  seeds = (pj.standardise(population, split_of(population, k)) for k in (0, 1))
  assert len({each.scaling for each in seeds}) == 2


@pytest.mark.parametrize(
  ("images", "kind"),
  [
    (RNG.normal(size=(4, 3)), "features"),
    (RNG.random((4, 3)), "features"),
    (RNG.random((4, 5, 3)), "features"),
    (RNG.random((4, 8, 8, 1)), "none"),
    (RNG.random((4, 8, 8, 1)) - 1, "none"),
    (2 * RNG.random((4, 8, 8, 1)), "images"),
    (RNG.random((4, 8, 8, 1)) - 1.5, "images"),
    (RNG.integers(0, 255, (4, 8, 8, 1), np.uint8), "none"),
  ],
)
def test_auto_leaves_images_that_have_a_scale(images, kind):
  population = Population.from_arrays(images, [0, 1, 0, 1], [0, 0, 1, 1])
  assert kind_of(population) == kind
  assert kind_of(population, "none") == "none"
  split = splits.split(population, np.array([0]), np.array([1]))
  found = pj.standardise(population, split)
  assert (found is population) == (kind == "none")


def test_a_scale_that_can_t_be_had_gets_one_sentence():
  population = population_of((6,))
  split = split_of(population)
  images = population_of((4, 4, 3), np.uint8)
  nobody = splits.split(population, np.arange(12), np.empty(0, np.int32))
  broken = population.images.copy()
  broken[37, 1] = np.nan
  broken = dataclasses.replace(population, images=broken)
  scaled = pj.standardise(population, split)
  for arguments, sentence in (
    ((population, split, "all"), "'all' must be 'auto', 'none', 'features'"),
    ((population, split, "images"), r"shape \[6\]: take 'features'"),
    ((images, split, "features"), r"shape \[4, 4, 3\]: take 'images'"),
    ((population, nobody), "split has no D_G: take 'none'"),
    ((broken, split), "row 37 of images, of individual 3,.*fill .* or leave"),
    ((scaled, split), "standardised before: give them as they came"),
  ):
    with pytest.raises(ValueError, match=sentence):
      pj.standardise(*arguments)
  assert pj.standardise(population, nobody, "none") is population
  with pytest.raises(ValueError, match="row 37 of images, of individual 3"):
    pj.Study(broken, split, model=MLP(3))


def test_other_samples_have_another_fingerprint():
  population = population_of((4, 4, 3), np.uint8)
  scaled = pj.standardise(population, split_of(population), "images")
  for changed in (
    scaled.take(np.arange(60)),
    variations.resize(scaled, 2),
    variations.flips(scaled),
  ):
    assert changed.fingerprint() != scaled.fingerprint()
    assert changed.scaling == scaled.scaling


def test_the_scale_decides_a_training_and_none_changes_nothing():
  population = population_of((6,))
  split, settings = split_of(population), pj.Settings()
  learner = make_learner(settings, 3, MLP(3))
  raw, scaled, other = (
    identities.of_study(each, split, settings, learner, 0)
    for each in (
      population,
      pj.standardise(population, split),
      pj.standardise(population, split_of(population, 1)),
    )
  )
  assert len({raw, scaled, other}) == 3


@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_groups_are_found_in_the_same_space_scaled_or_not(shape):
  population = population_of(shape)
  split = split_of(population)
  raw, scaled = (
    latent_space.standardised(each, split).latents
    for each in (population, pj.standardise(population, split))
  )
  np.testing.assert_allclose(scaled, raw, rtol=1e-4, atol=1e-4)
  assert np.abs(raw).max() > 1


def test_an_auto_encoder_refuses_standardised_images():
  images = RNG.integers(0, 255, (120, 16, 16, 1), np.uint8)
  population = population_of((6,))
  population = dataclasses.replace(population, images=images)
  split = split_of(population)
  latent_space.check(population)
  scaled = pj.standardise(population, split, "images")
  with pytest.raises(ValueError, match="standardised: take standardise='none'"):
    latent_space.check(scaled)
  # Left as they are, these would be refused as well.
  population = dataclasses.replace(population, images=images.astype(np.float32))
  scaled = pj.standardise(population, split)
  with pytest.raises(ValueError, match="as standardised: give images in "):
    latent_space.check(scaled)
