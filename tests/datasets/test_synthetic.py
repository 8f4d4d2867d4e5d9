"""Rendered handwriting: people differ, as their hidden factors say."""

import jax
import numpy as np
import pytest

from personalization_jax.datasets import synthetic
from personalization_jax.datasets.synthetic import strokes

NUM_WRITERS = 60


@pytest.fixture(scope="module")
def drawn():
  """Sixty writers, each digit about six times, at 16 pixels."""
  return synthetic.make_population(
    NUM_WRITERS, samples_per_writer=60, image_size=16, seed=3
  )


def writer_means(population, measure):
  """Mean over each writer's drawings of a measure of images [N, H, W]."""
  values = measure(population.images[..., 0] / 255.0)
  return values.reshape(NUM_WRITERS, -1).mean(axis=1)


def moments(images):
  """Second central moments yy, xy and xx of the ink, y downwards."""
  y, x = np.mgrid[: images.shape[1], : images.shape[2]]
  mass = images.sum((1, 2))
  y = y - ((images * y).sum((1, 2)) / mass)[:, None, None]
  x = x - ((images * x).sum((1, 2)) / mass)[:, None, None]
  return [(images * m).sum((1, 2)) / mass for m in (y * y, x * y, x * x)]


def lean(images):
  yy, xy, _ = moments(images)
  return -xy / yy  # Top to the right is positive.


def height(images):
  return (images.max(axis=2) > 0.5).sum(axis=1)


def width(images):
  return (images.max(axis=1) > 0.5).sum(axis=1)


@pytest.fixture(scope="module")
def sized():
  """The same two writers at two sizes."""
  return {
    size: synthetic.make_population(2, samples_per_writer=20, image_size=size)
    for size in (16, 64)
  }


@pytest.mark.parametrize("image_size", [16, 64])
def test_shapes_types_and_ink(sized, image_size):
  population, factors = sized[image_size]
  assert population.images.shape == (40, image_size, image_size, 1)
  assert population.images.dtype == np.uint8
  assert population.num_classes == 10
  np.testing.assert_array_equal(population.individuals, [0] * 20 + [1] * 20)
  images = population.images[..., 0]
  # White on black: every drawing has ink, most pixels have none, and the
  # outermost pixels hold no more than the margin lets in: nothing is cut off.
  assert (images.max((1, 2)) > 200).all()
  assert (images == 0).mean() > 0.6
  edge = np.ones((image_size, image_size), bool)
  edge[1:-1, 1:-1] = False
  assert images[:, edge].max() < 150
  assert factors.slant.shape == factors.size.shape == (2,)
  assert factors.allographs.dtype == np.int32
  assert factors.forms.dtype == factors.curvature.dtype == np.float32


def test_same_drawing_at_every_size(sized):
  small, large = sized[16][0], sized[64][0]
  pooled = large.images.reshape(40, 16, 4, 16, 4).mean((2, 4))
  np.testing.assert_array_equal(small.labels, large.labels)
  for image, coarse in zip(small.images[..., 0], pooled):
    assert np.corrcoef(image.ravel(), coarse.ravel())[0, 1] > 0.97


def test_same_seed_same_bits_other_seed_other_people(sized):
  first, factors = sized[16]
  few = {"samples_per_writer": np.int64(20), "image_size": np.int32(16)}
  again, factors_again = synthetic.make_population(np.int8(2), **few)
  np.testing.assert_array_equal(first.images, again.images)
  np.testing.assert_array_equal(first.labels, again.labels)
  jax.tree.map(np.testing.assert_array_equal, factors, factors_again)
  other, other_factors = synthetic.make_population(2, **few, seed=1)
  assert (first.images != other.images).any()
  assert (factors.slant != other_factors.slant).all()


def test_writer_is_independent_of_how_many_others_there_are(sized):
  few, few_factors = sized[16]
  # More writers than one block of factors.
  many, many_factors = synthetic.make_population(
    70, samples_per_writer=20, image_size=16
  )
  np.testing.assert_array_equal(few.images, many.images[:40])
  np.testing.assert_array_equal(few.labels, many.labels[:40])
  jax.tree.map(
    lambda few, many: np.testing.assert_array_equal(few, many[:2]),
    few_factors,
    many_factors,
  )


def test_everyone_is_someone_else():
  factors = synthetic.sample_factors(jax.random.key(0), 200)
  assert len(np.unique(factors.forms, axis=0)) == 200
  assert len(np.unique(factors.slant)) == 200


@pytest.mark.parametrize("samples", [13, 60])
def test_digits_are_balanced_and_shuffled(samples):
  population, _ = synthetic.make_population(
    10, samples_per_writer=samples, image_size=16
  )
  labels = population.labels.reshape(10, samples)
  counts = np.array([np.bincount(row, minlength=10) for row in labels])
  assert (counts.max(1) - counts.min(1) <= 1).all()
  np.testing.assert_array_equal(counts.sum(0), [samples] * 10)
  if samples == 60:
    assert len(np.unique(labels, axis=0)) == 10
    assert (np.diff(labels, axis=1) % 10 != 1).mean() > 0.5


def test_ten_drawings_are_enough():
  population, _ = synthetic.make_population(
    5, samples_per_writer=2, image_size=16
  )
  assert sorted(population.labels) == list(range(10))


def test_factors_change_the_drawing_as_they_say(drawn):
  population, factors = drawn
  names = ["slant", "rotation", "aspect", "size", "stroke_width"]
  design = np.stack([getattr(factors, name) for name in names], axis=1)
  design = (design - design.mean(0)) / design.std(0)

  def effects(measure):
    """Correlation-like effects of all factors, each with the others fixed."""
    values = writer_means(population, measure)
    values = (values - values.mean()) / values.std()
    return dict(zip(names, np.linalg.lstsq(design, values)[0]))

  leans = effects(lean)
  assert leans["slant"] > 0.7
  assert leans["rotation"] > 0.15  # Clockwise turns lean to the right too.
  assert effects(lambda images: images.sum((1, 2)))["stroke_width"] > 0.7
  assert effects(height)["size"] > 0.6
  assert effects(lambda x: width(x) / height(x))["aspect"] > 0.3


def test_same_allograph_is_drawn_more_alike(drawn):
  population, factors = drawn
  for digit in range(10):
    means = np.array(
      [
        population.images[
          (population.individuals == writer) & (population.labels == digit)
        ].mean(0)
        for writer in range(NUM_WRITERS)
      ]
    ).reshape(NUM_WRITERS, -1)
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    allograph = factors.allographs[:, digit]
    same = allograph[:, None] == allograph[None]
    others = ~np.eye(NUM_WRITERS, dtype=bool)
    assert distances[same & others].mean() < distances[~same].mean(), digit


def test_writers_are_mostly_true_to_themselves(drawn):
  population, _ = drawn
  images = population.images.reshape(len(population), -1) / 255.0
  for digit in range(10):
    rows = np.flatnonzero(population.labels == digit)
    flat, who = images[rows], population.individuals[rows]
    norms = (flat**2).sum(1)
    squared = norms[:, None] + norms[None] - 2 * flat @ flat.T
    same = who[:, None] == who[None]
    within = squared[same & ~np.eye(len(rows), dtype=bool)].mean()
    assert within < 0.75 * squared[~same].mean(), digit


def test_own_samples_teach_more_than_as_many_of_others(drawn):
  population, _ = drawn
  images = population.images.reshape(NUM_WRITERS, 60, -1) / 255.0
  labels = population.labels.reshape(NUM_WRITERS, 60)
  rng = np.random.default_rng(0)

  def accuracy(train_x, train_y, test_x, test_y):
    means = np.stack([train_x[train_y == c].mean(0) for c in range(10)])
    distances = ((test_x[:, None] - means[None]) ** 2).sum(-1)
    return (distances.argmin(1) == test_y).mean()

  gains = []
  for writer in range(NUM_WRITERS):
    # Three of each digit, from this writer and from everyone else.
    order = np.argsort(labels[writer], kind="stable").reshape(10, 6)
    own, test = order[:, :3].ravel(), order[:, 3:].ravel()
    rest = np.delete(np.arange(NUM_WRITERS), writer)
    other_x, other_y = images[rest].reshape(-1, 256), labels[rest].ravel()
    others = np.concatenate(
      [rng.choice(np.flatnonzero(other_y == c), 3, False) for c in range(10)]
    )
    exam = images[writer, test], labels[writer, test]
    gains.append(
      accuracy(images[writer, own], labels[writer, own], *exam)
      - accuracy(other_x[others], other_y[others], *exam)
    )
  gains = np.array(gains)
  assert gains.mean() > 0.1
  assert (gains > 0).mean() > 0.9


def test_parts_are_standardised():
  factors = synthetic.sample_factors(jax.random.key(7), 1000)
  parts = factors.parts()
  assert parts["style"].dtype == parts["forms"].dtype == np.float32
  one_hot = parts["allographs"]
  np.testing.assert_array_equal(one_hot.argmax(-1), factors.allographs)
  np.testing.assert_array_equal(one_hot.sum(-1), np.ones((1000, 10)))
  rest = np.hstack([parts["style"], parts["forms"].reshape(1000, 80)])
  assert rest.shape == (1000, 6 + 80)
  np.testing.assert_allclose(rest.mean(0), 0, atol=0.13)
  # A normal cut off at two standard deviations has one of 0.88.
  np.testing.assert_allclose(rest.std(0), 0.88, atol=0.08)
  assert np.abs(rest).max() <= 2 + 1e-4


def test_factors_are_a_pytree_of_writers():
  factors = synthetic.sample_factors(jax.random.key(0), 4)
  second = jax.tree.map(lambda x: x[1:2], factors)
  np.testing.assert_array_equal(second.forms, factors.forms[1:2])


def test_skeletons_are_smooth_where_chords_are_not():
  chords, curves, pen_down = strokes.skeletons(48)
  assert chords.shape == curves.shape == (10, 4, 48, 2)
  assert pen_down.shape == (10, 4, 47)
  assert np.abs(curves).max() < 0.6  # Digits of unit height.

  def turns(points):
    """Sharpest turn, in radians, within the first stroke."""
    steps = np.diff(points, axis=0)
    angles = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    return np.abs(np.diff(angles)).max()

  # A 0 in one stroke: its chords have corners, its curve has none.
  assert turns(chords[0, 0]) > 0.5
  assert turns(curves[0, 0]) < 0.45


@pytest.mark.slow
def test_double_precision_mode_draws_the_same(sized):
  plain, factors = sized[16]
  with jax.enable_x64(True):
    wide, wide_factors = synthetic.make_population(
      2, samples_per_writer=20, image_size=16
    )
  np.testing.assert_array_equal(plain.labels, wide.labels)
  np.testing.assert_allclose(plain.images * 1.0, wide.images, atol=1)
  assert wide_factors.forms.dtype == np.float32
  for part, values in wide_factors.parts().items():
    np.testing.assert_allclose(factors.parts()[part], values, atol=1e-4)


@pytest.mark.parametrize(
  ("num_writers", "arguments", "message"),
  [
    (0, {}, "num_writers=0 must be at least 1"),
    (-3, {}, "num_writers=-3 must be at least 1"),
    (2.5, {}, "num_writers=2.5 must be a whole number"),
    (2, {"samples_per_writer": 1}, "samples_per_writer=1 must be at least 2"),
    (2, {"samples_per_writer": "9"}, "samples_per_writer='9' must be a whole"),
    (2, {"image_size": 4}, "image_size=4 must be at least 8"),
    (2, {"seed": -1}, "seed=-1 must be 0 or more"),
    (2, {"seed": 2**32}, "seed=4294967296 must be below"),
    (2, {"samples_per_writer": 4}, "cannot show all 10 digits"),
  ],
)
def test_bad_arguments_are_named(num_writers, arguments, message):
  with pytest.raises(ValueError, match=message):
    synthetic.make_population(num_writers, **arguments)
