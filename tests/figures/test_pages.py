"""Pages of images and latents: what stands where."""

import types

import numpy as np
import pytest
from helpers.bars import IMAGES

from experiments.outputs import pictures
from personalization_jax import figures


def test_reconstructions_stand_below_their_originals():
  figure = figures.reconstructions(IMAGES[:20], 1 - IMAGES[:20] / 255.0)
  page = np.asarray(figure.axes[0].images[0].get_array())
  # White ink is shown dark; the second is the first's negative.
  np.testing.assert_array_equal(page[:8, :8], 255 - IMAGES[0, ..., 0])
  np.testing.assert_array_equal(page[9:17, :8], IMAGES[0, ..., 0])
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert names == ["Original"] * 2 + ["Reconstruction"] * 2


def test_latent_map_shows_where_people_differ_most():
  rng = np.random.default_rng(0)
  latents = rng.normal(size=(12, 5)) * [0.01, 9, 0.01, 3, 0.01]
  roles = np.arange(12) < 4
  axes = figures.latent_map(latents, roles)
  writers, individuals = (np.asarray(c.get_offsets()) for c in axes.collections)
  assert (len(writers), len(individuals)) == (8, 4)
  drawn = np.concatenate([individuals, writers])
  centred = latents - latents.mean(axis=0)
  for component, axis in ((0, 1), (1, 3)):
    correlation = np.corrcoef(drawn[:, component], centred[:, axis])[0, 1]
    assert correlation > 0.95


def test_neighbours_are_named_by_group():
  labels = np.arange(500) % 10
  figure = figures.neighbours(
    IMAGES, labels, np.arange(500) // 50, 3, [5, 1], [7], samples=1
  )
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  kinds = ("Person 3", "Near: person 5", "Near: person 1", "Far: person 7")
  assert names == list(kinds)
  assert len(figure.axes[0].lines) == 2


@pytest.mark.parametrize(
  ("candidates", "near", "far"),
  [(1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 2), (5, 3, 2), (6, 3, 3), (9, 3, 3)],
)
def test_of_few_candidates_nobody_is_near_and_far(candidates, near, far):
  others = np.arange(candidates)[::-1] + 1
  means = np.random.default_rng(0).normal(size=(candidates + 1, 3, 4))
  individuals = np.arange(500) % (candidates + 1)
  study = types.SimpleNamespace(
    population=types.SimpleNamespace(
      images=IMAGES,
      holds_images=True,
      labels=np.arange(500) % 10,
      individuals=individuals,
      num_classes=10,
      individual_names=None,
      label_names=None,
    ),
    split=types.SimpleNamespace(
      individuals=np.array([0]), global_people=others, global_test=np.arange(9)
    ),
    groups=types.SimpleNamespace(
      candidates=others,
      num_candidates=candidates,
      nearest=lambda n: np.arange(n)[None],
      class_means=lambda _: (means, np.ones((candidates + 1, 3), bool)),
    ),
  )
  space = types.SimpleNamespace(autoencoder=None)
  page = pictures._of_people(study, (), space)["neighbours"]
  names = [label.get_text() for label in page.axes[0].get_yticklabels()]
  assert names == [
    "Person 0",
    *(f"Near: person {one}" for one in others[:near]),
    *(f"Far: person {one}" for one in others[candidates - far :]),
  ]


def test_people_are_called_by_their_names():
  people = np.arange(500) % 3
  about = IMAGES, np.arange(500) % 10, people
  names = ("ada", "bob$_{", "z" * 30)
  zoe = "z" * 23 + "\u2026"
  for page, called in (
    (figures.handwriting(*about, [2, 0], names=names), [zoe, "ada"]),
    (
      figures.neighbours(*about, 1, [0], [2], names=names),
      ["bob$_{", "ada", zoe],
    ),
  ):
    labels = page.axes[0].get_yticklabels()
    assert [label.get_text().split()[-1] for label in labels] == called
    page.canvas.draw()


def test_chosen_samples_stand_beside_their_sample():
  chosen = np.array([[7, 8], [9, -1]])
  figure = figures.chosen_samples(IMAGES, np.array([3, 4]), chosen)
  page = np.asarray(figure.axes[0].images[0].get_array())
  for top, left, row in ((0, 0, 3), (0, 12, 7), (0, 21, 8), (9, 12, 9)):
    np.testing.assert_array_equal(
      page[top : top + 8, left : left + 8], 255 - IMAGES[row, ..., 0]
    )
  assert (page[9:17, 21:29] == 235).all()


@pytest.mark.parametrize(
  ("draw", "message"),
  [
    (
      lambda i: figures.reconstructions(i[:2], i[:3]),
      r"reconstructed has shape \[3, 8, 8, 1\], but n .* is 2",
    ),
    (lambda i: figures.reconstructions(i[:0], i[:0]), "none of them 0"),
    (lambda i: figures.latent_map(np.ones((2, 3)), [0, 1]), r"\[2, 3\]"),
    (lambda i: figures.latent_map(np.ones((3, 3)), [0, 1]), "P .* is 3"),
    (
      lambda i: figures.latent_map(np.full((3, 3), np.nan), [0, 1, 1]),
      "finite",
    ),
    (
      lambda i: figures.neighbours(
        i, np.zeros(500), np.arange(500), 3, [5, 1], [1]
      ),
      "person 1 stands twice",
    ),
    (lambda i: figures.chosen_samples(i, [1], np.ones((2, 1), int)), "k, m"),
    (
      lambda i: figures.chosen_samples(i, [1], np.array([[500]])),
      r"in 0\.\.499",
    ),
  ],
)
def test_figures_name_bad_input(draw, message):
  with pytest.raises(ValueError, match=message):
    draw(IMAGES)
