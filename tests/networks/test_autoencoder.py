"""Fig. 5's network: its layers, and their sizes and order."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from personalization_jax.networks import autoencoder


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


def test_layers_stand_in_fig_5_s_order():
  """ReLU before batch normalisation, which the last layer lacks."""
  model = autoencoder.AutoEncoder(width=1 / 8)
  rng = np.random.default_rng(0)
  images = rng.random((5, 8, 8, 1), np.float32)
  mask = np.array([1, 1, 0, 1, 1], bool)
  # Drawn here: the network's own variables take long to compile.
  variables = jax.tree.map_with_path(
    lambda path, leaf: np.float32(
      (path[0].key == "params") * rng.normal(size=leaf.shape)
    ),
    jax.eval_shape(model.init, jax.random.key(0), images),
  )
  apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
  _, updates = jax.jit(apply)(variables, images, mask)
  stats = updates["batch_stats"]
  assert set(stats["encoder"]) == {f"norm_{k}" for k in range(5)}
  assert set(stats["decoder"]) == {f"norm_{k}" for k in range(4)}
  for half in stats.values():
    for norm in half.values():
      assert norm["mean"].min() >= 0  # as of what a ReLU gives


def test_nearest_neighbours_are_repeated():
  small = np.arange(8.0).reshape(1, 2, 2, 2)
  np.testing.assert_array_equal(
    autoencoder._enlarge(jnp.asarray(small), 3),
    small.repeat(3, 1).repeat(3, 2),
  )
