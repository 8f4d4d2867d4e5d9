import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from personalization_jax.methods.answers import LastLayers
from personalization_jax.networks import classifier


def shapes(image_size, width=1.0, num_classes=30):
  model = classifier.Classifier(num_classes, width=width)
  images = jnp.zeros((1, image_size, image_size, 1))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  return {
    "/".join(path): leaf.shape
    for path, leaf in flax.traverse_util.flatten_dict(
      variables["params"]
    ).items()
  }


@pytest.mark.parametrize("image_size", classifier.IMAGE_SIZES)
def test_kernels_are_fig_4_s(image_size):
  kernels = [
    shape for name, shape in shapes(image_size).items() if "kernel" in name
  ]
  assert kernels == [
    (3, 3, 1, 32),
    (3, 3, 32, 64),
    (3, 3, 64, 128),
    (3, 3, 128, 128),
    (3, 3, 128, 128),
    (1, 1, 128, 128),
    (1, 1, 128, 256),
    (256, 30),
  ]


def test_nothing_of_fig_4_is_ignored(monkeypatch):
  """Wherever a layer's field changes, the network changes."""

  def program():
    model = classifier.Classifier(5, width=1 / 32)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    images = jnp.zeros((2, 16, 16, 1))
    return str(jax.make_jaxpr(lambda: model.init(rngs, images, train=True))())

  programs = [program()]
  for index, change in (
    (0, {"pool": True}),
    (0, {"dropout": 0.1}),
    (2, {"size": 5}),
    (4, {"channels": 64}),
    (6, {"pool": False}),
  ):
    layers = list(classifier.FIG_4)
    layers[index] = layers[index]._replace(**change)
    with monkeypatch.context() as patch:
      patch.setattr(classifier, "FIG_4", tuple(layers))
      programs.append(program())
  assert len(set(programs)) == len(programs)


def test_width_multiplies_channels():
  full, quarter = shapes(16), shapes(16, width=0.25)
  assert full.keys() == quarter.keys()
  for name, shape in full.items():
    if name.startswith("norm"):
      assert quarter[name] == (shape[0] // 4,)


@pytest.mark.parametrize("width", [0.0, -1.0, 0.03, float("nan")])
def test_width_without_channels_is_refused(width):
  with pytest.raises(ValueError, match=r"width=.*at least 0\.03125"):
    classifier.check_width(width)
  classifier.check_width(1 / 32)


def initial(initializer):
  """Kernels and biases of each layer, and its fan in."""
  about = {} if initializer is None else {"initializer": initializer}
  model = classifier.Classifier(5, width=1 / 4, **about)
  init = jax.jit(model.init, static_argnames="train")
  params = init(jax.random.key(3), jnp.zeros((1, 16, 16, 1)))["params"]
  layers = [params[name] for name in sorted(params) if "layer" in name]
  return [
    (np.asarray(x["kernel"]), np.asarray(x["bias"]), x["kernel"][..., 0].size)
    for x in layers
  ]


def assert_within(values, bound):
  """Of a uniform distribution within +-bound."""
  assert np.abs(values).max() <= bound
  if values.size > 200:
    assert np.abs(values).max() > 0.97 * bound
    np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.1)


def test_the_default_is_pytorch_s():
  for own, named in zip(initial(None), initial("pytorch"), strict=True):
    jax.tree.map(np.testing.assert_array_equal, own, named)


def test_flax_s_weights_are_truncated_normal():
  for kernel, bias, fan_in in initial("lecun_normal"):
    assert not bias.any()
    if kernel.size > 200:
      np.testing.assert_allclose(kernel.std(), fan_in**-0.5, rtol=0.1)
      assert np.abs(kernel).max() <= 2 * fan_in**-0.5 / 0.879


def test_keras_s_weights_are_uniform_by_both_fans():
  for kernel, bias, fan_in in initial("glorot_uniform"):
    fan_out = kernel.size // kernel.shape[-2]
    assert_within(kernel, (6 / (fan_in + fan_out)) ** 0.5)
    assert not bias.any()


def test_pytorch_s_weights_and_biases_are_uniform_by_fan_in():
  layers = initial("pytorch")
  for kernel, bias, fan_in in layers:
    assert_within(kernel, fan_in**-0.5)
    assert_within(bias, fan_in**-0.5)
  every = [bias * fan_in**0.5 for _, bias, fan_in in layers]
  assert_within(np.concatenate(every), 1)


def test_other_initial_weights_are_refused():
  with pytest.raises(ValueError, match="initializer='he' must be one of 'lec"):
    initial("he")


@pytest.mark.parametrize("image_size", [8, 20, 28, 128, 0])
def test_other_image_sizes_are_refused(image_size):
  with pytest.raises(ValueError, match=f"image_size={image_size} must be one"):
    classifier.check_image_size(image_size)


@pytest.fixture(scope="module")
def small():
  """A model, random variables (its own take long to compile), and images."""
  model = classifier.Classifier(5, width=1 / 16)
  images = jax.random.uniform(jax.random.key(1), (6, 16, 16, 1))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key == "kernel":
      fan_in = np.prod(leaf.shape[:-1])
      return jnp.asarray(rng.normal(size=leaf.shape) / fan_in**0.5, leaf.dtype)
    return jnp.asarray(rng.uniform(0.5, 1, leaf.shape), leaf.dtype)

  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return model, jax.tree_util.tree_map_with_path(draw, shapes), images


def test_padding_does_not_enter_batch_statistics(small):
  model, variables, images = small

  @jax.jit
  def run(images, mask):
    return model.apply(
      variables,
      images,
      mask,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(7)},
    )

  mask = jnp.arange(6) < 4
  changed = images.at[4:].set(9.0)
  logits, stats = run(images, mask)
  others, other_stats = run(changed, mask)
  np.testing.assert_array_equal(logits[:4], others[:4])
  jax.tree.map(np.testing.assert_array_equal, stats, other_stats)
  _, unmasked = run(changed, jnp.ones(6, bool))
  first = "norm_0"
  assert not np.allclose(
    unmasked["batch_stats"][first]["mean"],
    stats["batch_stats"][first]["mean"],
    rtol=1e-3,
  )


def test_evaluation_is_row_by_row(small):
  model, variables, images = small
  apply = jax.jit(model.apply)
  together = apply(variables, images)
  alone = jnp.concatenate([apply(variables, i[None]) for i in images])
  np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_bfloat16_gives_float32_logits_near_those_of_float32(small):
  model, variables, images = small
  half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images)
  assert half.dtype == jnp.float32
  full = jax.jit(model.apply)(variables, images)
  np.testing.assert_allclose(half, full, atol=0.05 * np.abs(full).max())


@pytest.mark.parametrize("frozen", [3, 7])
def test_frozen_layers_get_no_gradient_and_keep_statistics(small, frozen):
  model, variables, images = small

  def loss(params):
    logits, updates = model.apply(
      {**variables, "params": params},
      images,
      train=True,
      frozen_layers=frozen,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(7)},
    )
    return (logits**2).sum(), updates["batch_stats"]

  gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
  moves = LastLayers(8 - frozen)(gradients)
  flat = flax.traverse_util.flatten_dict(moves)
  assert {path[0] for path, moved in flat.items() if not moved} == {
    f"{kind}_{layer}" for layer in range(frozen) for kind in ("layer", "norm")
  }
  for path, gradient in flax.traverse_util.flatten_dict(gradients).items():
    if not flat[path] or path[-1] == "kernel":
      assert np.any(gradient) == flat[path], path
  for layer in range(7):
    same = np.array_equal(
      stats[f"norm_{layer}"]["mean"],
      variables["batch_stats"][f"norm_{layer}"]["mean"],
    )
    assert same == (layer < frozen)
