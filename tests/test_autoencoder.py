"""Fig. 5's auto-encoder, and that latents are of the row alone."""

import functools

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from personalization_jax import (
  autoencoder,
  autoencoder_model,
  figures,
  population_training,
  randomness,
  schedules,
  training,
)

SHAPE = (8, 8, 1)
TRAIN, HELD_OUT = np.arange(400), np.arange(400, 500)


TRACES: list[str] = []


class Counted(autoencoder.AutoEncoder):
  """Notes each time it is traced."""

  def encode(self, *args, **kwargs):
    TRACES.append("encode")
    return super().encode(*args, **kwargs)


@pytest.fixture(scope="module")
def images():
  """500 bars of 8x8: where, how long and how bright differ."""
  rng = np.random.default_rng(0)
  images = np.zeros((500, *SHAPE), np.uint8)
  for image in images:
    row, start, length = rng.integers([0, 0, 3], [6, 4, 6])
    image[row : row + 2, start : start + length] = rng.integers(120, 256)
  return images


@pytest.fixture(scope="module")
def learner():
  return training.Learner(Counted(width=1 / 8), optax.adam(1e-2))


@pytest.fixture(scope="module")
def fresh(learner):
  return autoencoder.create(learner, jax.random.key(0), SHAPE)


def copy(state):
  return jax.tree.map(jnp.copy, state)


@functools.partial(jax.jit, static_argnums=0)
def forward(learner, state, batch, mask):
  return learner.model.apply(
    {"params": state.params, "batch_stats": state.batch_stats},
    batch,
    mask,
    train=True,
    mutable=["batch_stats"],
  )


def plain(state):
  return state.replace(key=jax.random.key_data(state.key))


def batches(epochs):
  return schedules.global_batches(
    TRAIN, 64, epochs, seed=0, individual=randomness.SHARED
  )


@pytest.fixture(scope="module")
def trained(learner, fresh, images):
  return autoencoder.train(learner, copy(fresh), images, batches(12))


def shapes(image_shape, width=1.0):
  model = autoencoder.AutoEncoder(width=width)
  images = jnp.zeros((2, *image_shape))
  output, variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), images
  )
  assert output.shape == images.shape
  assert output.dtype == jnp.float32
  return {
    "/".join(path[:-1]): leaf.shape
    for path, leaf in flax.traverse_util.flatten_dict(
      variables["params"]
    ).items()
    if path[-1] == "kernel"
  }


@pytest.mark.parametrize(
  ("size", "flat"), [(8, 128), (16, 128), (32, 128), (64, 512), (128, 2048)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_kernels_are_fig_5_s(size, flat, channels):
  assert shapes((size, size, channels)) == {
    "encoder/layer_0": (3, 3, channels, 16),
    "encoder/layer_1": (3, 3, 16, 32),
    "encoder/layer_2": (3, 3, 32, 64),
    "encoder/layer_3": (3, 3, 64, 128),
    "encoder/layer_4": (3, 3, 128, 128),
    "encoder/latents": (flat, 16),
    "decoder/start": (16, 512),
    "decoder/layer_0": (3, 3, 128, 128),
    "decoder/layer_1": (3, 3, 128, 64),
    "decoder/layer_2": (3, 3, 64, 32),
    "decoder/layer_3": (3, 3, 32, 16),
    "decoder/layer_4": (3, 3, 16, channels),
  }


def test_width_multiplies_channels_but_not_latents():
  quarter = shapes((16, 16, 1), width=0.25)
  assert quarter["encoder/layer_3"] == (3, 3, 16, 32)
  assert quarter["encoder/latents"] == (32, 16)
  assert quarter["decoder/start"] == (16, 128)
  assert quarter["decoder/layer_4"] == (3, 3, 4, 1)
  # Where the classifier's 32 channels leave one, so do these 16.
  assert shapes((16, 16, 1), width=1 / 32)["decoder/layer_4"] == (3, 3, 1, 1)


@pytest.mark.parametrize(
  ("size", "factors"),
  [
    (8, (2, 2, 1, 1)),
    (16, (2, 2, 2, 1)),
    (32, (2, 2, 2, 2)),
    (64, (4, 2, 2, 2)),
    (256, (16, 2, 2, 2)),
  ],
)
def test_upsampling_ends_at_the_image(size, factors):
  assert autoencoder.upsampling(size) == factors


def test_layers_stand_in_fig_5_s_order(learner, fresh, images):
  """ReLU before batch normalisation, which the last layer lacks."""
  _, updates = forward(learner, fresh, *batch_of(images, [1, 1, 0, 1, 1]))
  stats = updates["batch_stats"]
  assert set(stats["encoder"]) == {f"norm_{k}" for k in range(5)}
  assert set(stats["decoder"]) == {f"norm_{k}" for k in range(4)}
  for half in stats.values():
    for norm in half.values():
      assert norm["mean"].min() >= 0  # as of what a ReLU gives


def test_nearest_neighbours_are_repeated():
  small = np.arange(8.0).reshape(1, 2, 2, 2)
  np.testing.assert_array_equal(
    autoencoder_model._enlarge(jnp.asarray(small), 3),
    small.repeat(3, 1).repeat(3, 2),
  )


def batch_of(images, mask):
  return images[: len(mask)].astype(np.float32) / 255, np.array(mask, bool)


def test_loss_is_the_mean_square_over_rows_and_pixels(learner, fresh, images):
  """And padding counts neither in it nor in batch statistics."""
  batch, mask = batch_of(images, [1, 1, 1, 1, 1])
  reconstructed, updates = forward(learner, fresh, batch, mask)
  squares = np.square(batch - np.asarray(reconstructed))
  rows = np.full((1, 64), -1)
  rows[0, [3, 10, 11, 40, 63]] = np.arange(5)
  state, losses = autoencoder.train(learner, copy(fresh), images, rows)
  np.testing.assert_allclose(losses, [squares.sum() / (5 * 64)], rtol=1e-5)
  chex.assert_trees_all_close(
    state.batch_stats, updates["batch_stats"], rtol=1e-4, atol=1e-6
  )


def test_what_stands_in_padding_does_not_matter(learner, fresh, images):
  others = images.copy()
  others[0] = 255  # the image that stands where there is none
  rows = np.full((2, 64), -1)
  rows[:, 10:17] = np.arange(14).reshape(2, 7) + 1
  one, other = (
    autoencoder.train(learner, copy(fresh), store, rows)[0]
    for store in (images, others)
  )
  chex.assert_trees_all_equal(plain(one), plain(other))


def test_steps_of_padding_alone_change_nothing(learner, fresh, images):
  rows = np.full((3, 64), -1)
  rows[0], rows[2, :9] = np.arange(64), np.arange(64, 73)
  with_gap, losses = autoencoder.train(learner, copy(fresh), images, rows)
  without, _ = autoencoder.train(learner, copy(fresh), images, rows[[0, 2]])
  np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
  chex.assert_trees_all_equal(plain(with_gap), plain(without))


def test_training_beats_the_mean_image_on_held_out_rows(
  learner, trained, images
):
  state, losses = trained
  error = autoencoder.reconstruction_error(
    learner, state, images, HELD_OUT, TRAIN
  )
  scaled = images / 255.0
  mean = np.square(scaled[HELD_OUT] - scaled[TRAIN].mean(axis=0)).mean()
  np.testing.assert_allclose(error.mean_image, mean, rtol=1e-4)
  reconstructed = autoencoder.reconstruct(learner, state, images, HELD_OUT)
  own = np.square(scaled[HELD_OUT] - reconstructed).mean()
  np.testing.assert_allclose(error.model, own, rtol=1e-4)
  assert error.model < 0.6 * error.mean_image
  assert losses[-7:].mean() < 0.3 * losses[0]


def test_no_output_is_dead(learner, images):
  """Every pixel passes gradient on at first, and ink is drawn after."""
  for seed in range(4):
    state = autoencoder.create(learner, jax.random.key(seed), SHAPE)
    first, _ = forward(learner, state, *batch_of(images, [1, 1, 1, 1, 1]))
    assert (first > 0).all()
    state, _ = autoencoder.train(learner, state, images, batches(12))
    drawn = autoencoder.reconstruct(learner, state, images, HELD_OUT)
    brightest = drawn.max(axis=(1, 2, 3))
    assert brightest.min() > 0
    assert brightest.mean() > 0.3


def test_latents_are_of_the_row_alone(learner, trained, images):
  state, _ = trained
  everything = autoencoder.encode(learner, state, images, np.arange(500))
  assert everything.shape == (500, 16)
  assert everything.dtype == np.float32
  assert everything.std(axis=0).min() > 0
  order = np.random.default_rng(0).permutation(500)[:300]
  some = autoencoder.encode(learner, state, images, order)
  np.testing.assert_allclose(some, everything[order], rtol=1e-5, atol=1e-5)
  alone = autoencoder.encode(learner, state, images, np.array([7]))
  np.testing.assert_allclose(alone, everything[[7]], rtol=1e-5, atol=1e-5)
  none = autoencoder.encode(learner, state, images, np.array([], int))
  assert none.shape == (0, 16)


def test_the_same_key_gives_the_same_bits(learner, fresh, trained, images):
  again, losses = autoencoder.train(learner, copy(fresh), images, batches(12))
  np.testing.assert_array_equal(losses, trained[1])
  chex.assert_trees_all_equal(plain(again), plain(trained[0]))
  other = autoencoder.create(learner, jax.random.key(1), SHAPE)
  assert not np.array_equal(
    other.params["encoder"]["layer_0"]["kernel"],
    fresh.params["encoder"]["layer_0"]["kernel"],
  )


def test_the_store_may_lie_on_every_device(learner, fresh, images):
  mesh = population_training.make_mesh()
  assert mesh.size > 1
  everywhere = jax.device_put(images, jax.NamedSharding(mesh, jax.P()))
  latents = autoencoder.encode(learner, fresh, everywhere, np.arange(3))
  np.testing.assert_array_equal(
    latents, autoencoder.encode(learner, fresh, images, np.arange(3))
  )


def test_progress_adds_up(learner, fresh, images):
  steps = []
  autoencoder.train(
    learner, copy(fresh), images, batches(12), on_steps=steps.append
  )
  assert sum(steps) == 84
  assert max(steps) <= 50  # as many as a block has, or fewer if they are slow
  state, losses = autoencoder.train(
    learner, copy(fresh), images, np.empty((0, 64), int), on_steps=steps.append
  )
  assert len(losses) == 0
  assert state.step == 0


def test_one_compilation_whatever_the_number_of_rows_and_steps(
  learner, fresh, images
):
  # A learner that no other test has had programs compiled for.
  learner = training.Learner(learner.model, optax.adam(1e-2))
  before = autoencoder._train_block._cache_size()

  def run(num_rows, epochs):
    state, _ = autoencoder.train(learner, copy(fresh), images, batches(epochs))
    autoencoder.encode(learner, state, images, np.arange(num_rows))

  run(300, 1)
  traces = len(TRACES)
  # More than a block: its second begins with a state that was trained before.
  run(500, 9)
  run(5, 2)
  assert len(TRACES) == traces > 0
  assert autoencoder._train_block._cache_size() == before + 1


@pytest.mark.parametrize(
  "shape", [(4, 4, 1), (28, 28, 1), (16, 8, 1), (16, 16, 2), (0, 0, 1)]
)
def test_other_images_are_refused(learner, shape):
  message = f"are {shape[0]}x{shape[1]} with {shape[2]} channels, but must"
  with pytest.raises(ValueError, match=message):
    autoencoder.create(learner, jax.random.key(0), shape)


@pytest.mark.parametrize("row", [-1, 500])
def test_rows_that_are_none_are_refused(learner, fresh, images, row):
  for evaluate in (autoencoder.encode, autoencoder.reconstruct):
    with pytest.raises(ValueError, match=rf"in 0\.\.499, but hold {row}"):
      evaluate(learner, fresh, images, np.array([3, row]))
  with pytest.raises(ValueError, match=r"in -1\.\.499, but hold 500"):
    autoencoder.train(learner, fresh, images, np.array([[3, 500]]))
  with pytest.raises(ValueError, match="there are 0 and 1"):
    autoencoder.reconstruction_error(learner, fresh, images, [], [0])


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_no_width_is_refused(width):
  with pytest.raises(ValueError, match=f"width={width} must be above 0"):
    autoencoder.make_learner(width=width)


def test_bfloat16_gives_float32_latents_near_those_of_float32(
  learner, trained, images
):
  half = training.Learner(
    learner.model.clone(dtype=jnp.bfloat16), optax.identity()
  )
  rows = np.arange(20)
  low, full = (
    autoencoder.encode(one, trained[0], images, rows) for one in (half, learner)
  )
  assert low.dtype == np.float32
  np.testing.assert_allclose(low, full, atol=0.05 * np.abs(full).max())


def test_reconstructions_stand_below_their_originals(images):
  figure = figures.reconstructions(images[:20], 1 - images[:20] / 255.0)
  page = np.asarray(figure.axes[0].images[0].get_array())
  # White ink is shown dark; the second is the first's negative.
  np.testing.assert_array_equal(page[:8, :8], 255 - images[0, ..., 0])
  np.testing.assert_array_equal(page[9:17, :8], images[0, ..., 0])
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert names == ["Original"] * 2 + ["Reconstruction"] * 2


def test_latent_map_shows_where_people_differ_most():
  rng = np.random.default_rng(0)
  latents = rng.normal(size=(12, 5)) * [0.01, 9, 0.01, 3, 0.01]
  roles = np.arange(12) < 4
  axes = figures.latent_map(latents, roles, [f"p{k}" for k in range(12)])
  writers, individuals = (np.asarray(c.get_offsets()) for c in axes.collections)
  assert (len(writers), len(individuals)) == (8, 4)
  drawn = np.concatenate([individuals, writers])
  centred = latents - latents.mean(axis=0)
  for component, axis in ((0, 1), (1, 3)):
    correlation = np.corrcoef(drawn[:, component], centred[:, axis])[0, 1]
    assert correlation > 0.95
  assert [text.get_text() for text in axes.texts][:2] == ["p0", "p1"]


def test_neighbours_are_named_by_group(images):
  labels = np.arange(500) % 10
  figure = figures.neighbours(
    images, labels, np.arange(500) // 50, 3, [5, 1], [7], samples=1
  )
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  kinds = ("Person 3", "Near: person 5", "Near: person 1", "Far: person 7")
  assert names == list(kinds)
  assert len(figure.axes[0].lines) == 2


def test_chosen_samples_stand_beside_their_sample(images):
  chosen = np.array([[7, 8], [9, -1]])
  figure = figures.chosen_samples(images, np.array([3, 4]), chosen)
  page = np.asarray(figure.axes[0].images[0].get_array())
  for top, left, row in ((0, 0, 3), (0, 12, 7), (0, 21, 8), (9, 12, 9)):
    np.testing.assert_array_equal(
      page[top : top + 8, left : left + 8], 255 - images[row, ..., 0]
    )
  assert (page[9:17, 21:29] == 235).all()


@pytest.mark.parametrize(
  ("draw", "message"),
  [
    (
      lambda i: figures.reconstructions(i[:2], i[:3]),
      r"but are \[2, 8, 8, 1\] and \[3,",
    ),
    (lambda i: figures.reconstructions(i[:0], i[:0]), "an image at least"),
    (lambda i: figures.latent_map(np.ones((2, 3)), [0, 1]), r"\[2, 3\]"),
    (lambda i: figures.latent_map(np.ones((3, 3)), [0, 1]), "but is of 2"),
    (
      lambda i: figures.latent_map(np.full((3, 3), np.nan), [0, 1, 1]),
      "finite",
    ),
    (lambda i: figures.chosen_samples(i, [1], np.ones((2, 1), int)), "k, m"),
    (
      lambda i: figures.chosen_samples(i, [1], np.array([[500]])),
      r"in 0\.\.499",
    ),
  ],
)
def test_figures_name_bad_input(images, draw, message):
  with pytest.raises(ValueError, match=message):
    draw(images)
