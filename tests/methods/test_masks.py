"""Masks of parameters, and partial trees."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.own_models import Flat

from personalization_jax.methods import masks
from personalization_jax.methods.answers import LastLayers
from personalization_jax.methods.masks import Factors, Low, LowRank
from personalization_jax.networks import MLP, Classifier, interface


class Normalised(nn.Module):
  """Flax's own names, and a normalisation without a scale."""

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
    x = nn.BatchNorm(use_running_average=not train, use_scale=False)(x)
    return nn.Dense(3)(nn.LayerNorm()(x))


class Named(nn.Module):
  """Names that don't tell an order."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3, name="out")(nn.relu(nn.Dense(4, name="first")(x)))


SHAPES = {Classifier: (16, 16, 1), Flat: (5, 5, 1)}


@functools.cache
def parameters(model):
  """Random ones, so that none is another."""
  shape = SHAPES.get(type(model), (6,))
  there = jax.eval_shape(
    functools.partial(interface.init, model),
    jax.random.key(0),
    jnp.zeros((1, *shape)),
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
    there["params"],
  )


FIG_4 = Classifier(3, width=1 / 32)
VECTORS = MLP(3, hidden=(5, 4))


@functools.partial(jax.jit, static_argnums=0)
def begun(rule, params, key):
  return masks.own_of(params, rule(params), key)


def names(mask):
  """The parameters that a mask doesn't leave alone."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, kind in jax.tree_util.tree_leaves_with_path(mask)
    if kind
  }


def every(*layers, leaves=("bias",)):
  return {f"{layer}/{leaf}" for layer in layers for leaf in leaves}


LAYERS = [f"layer_{index}" for index in range(8)]
NORMS = [f"norm_{index}" for index in range(7)]
BOTH = "kernel", "bias"


@pytest.mark.parametrize(
  ("rule", "model", "wanted"),
  [
    (masks.head, FIG_4, every("layer_7", leaves=BOTH)),
    (masks.head, VECTORS, every("layer_2", leaves=BOTH)),
    (masks.head, MLP(3, hidden=(2,) * 11), every("layer_11", leaves=BOTH)),
    (masks.head, Flat(), every("Dense_0", leaves=BOTH)),
    (masks.head, Normalised(), every("Dense_1", leaves=BOTH)),
    (masks.biases, FIG_4, every(*LAYERS, *NORMS)),
    (masks.biases, VECTORS, every("layer_0", "layer_1", "layer_2")),
    (masks.batch_norm, FIG_4, every(*NORMS, leaves=("scale", "bias"))),
    (
      masks.batch_norm,
      Normalised(),
      every("BatchNorm_0", "LayerNorm_0", leaves=("scale", "bias"))
      | {"BatchNorm_1/bias"},
    ),
    (Low(2), FIG_4, every(*LAYERS, leaves=("kernel",))),
    (Low(2), Flat(), every("Conv_0", "Dense_0", leaves=("kernel",))),
  ],
)
def test_a_mask_names_what_is_ones_own(rule, model, wanted):
  params = parameters(model)
  mask = rule(params)
  assert jax.tree.structure(mask) == jax.tree.structure(params)
  assert names(mask) == wanted


@pytest.mark.parametrize("model", [FIG_4, VECTORS])
def test_the_head_is_the_last_layer_of_models_named_by_layer(model):
  params = parameters(model)
  assert masks.head(params) == LastLayers(1)(params)


@pytest.mark.parametrize(
  ("rule", "params", "fault"),
  [
    (masks.batch_norm, {"layer_0": {"kernel": (3, 3), "bias": (3,)}}, "norm"),
    (masks.biases, {"layer_0": {"kernel": (3, 3)}}, "biases"),
    (Low(3), {"norm_0": {"scale": (3,)}}, "low rank"),
    (masks.head, {"Conv_0": {"kernel": (3, 3, 1, 1)}}, "head.*none"),
    (masks.head, {"kernel": (3, 3), "a": {"kernel": (3, 3)}}, "head"),
  ],
)
def test_a_mask_of_nothing_is_rejected_by_name(rule, params, fault):
  params = jax.tree.map(
    jnp.zeros, params, is_leaf=lambda node: isinstance(node, tuple)
  )
  with pytest.raises(ValueError, match=fault):
    rule(params)


def test_a_head_that_names_do_not_tell_is_rejected():
  with pytest.raises(ValueError, match=r"dense ones are: first, out\."):
    masks.head(parameters(Named()))


@pytest.mark.parametrize("rank", [0, 1.5, True])
def test_no_rank_is_rejected(rank):
  for kind in (Low, LowRank):
    with pytest.raises(ValueError, match="rank="):
      kind(rank)


def equal(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("model", [FIG_4, VECTORS])
@pytest.mark.parametrize(
  "rule", [masks.head, masks.biases, Low(2)], ids=["head", "biases", "low"]
)
def test_what_is_ones_own_begins_as_the_global_model(model, rule):
  params = parameters(model)
  own = begun(rule, params, jax.random.key(0))
  equal(jax.jit(masks.merged)(own, params), params)


def test_all_and_nothing():
  params = parameters(VECTORS)
  key = jax.random.key(0)
  nothing = masks.own_of(params, jax.tree.map(lambda _: False, params), key)
  assert not jax.tree.leaves(nothing)
  equal(masks.merged(nothing, params), params)
  whole = masks.own_of(params, jax.tree.map(lambda _: True, params), key)
  equal(whole, params)
  other = jax.tree.map(lambda leaf: leaf + 1, params)
  equal(masks.merged(whole, other), params)


@jax.jit
def moved(own):
  return jax.tree.map(lambda leaf: leaf + 0.5, own)


@pytest.mark.parametrize(
  "rule", [masks.head, masks.biases, masks.batch_norm, Low(2)]
)
def test_a_mask_leaves_all_else_as_it_was(rule):
  params = parameters(FIG_4)
  mask = rule(params)
  own = begun(rule, params, jax.random.key(0))
  after = jax.jit(masks.merged)(moved(own), params)
  changed = jax.tree.map(
    lambda new, old: not np.array_equal(new, old), after, params
  )
  assert names(changed) == names(mask)
  sizes = [sum(leaf.size for leaf in jax.tree.leaves(t)) for t in (own, params)]
  assert 0 < sizes[0] < sizes[1]


def test_a_low_rank_addition_is_a_product_in_the_kernel_s_shape():
  key, rng = jax.random.key(0), np.random.default_rng(0)
  for shape in ((6, 5), (3, 3, 2, 4)):
    kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
    factors = Factors.create(key, 2, kernel)
    rows = kernel.size // shape[-1]
    assert factors.down.shape == (rows, 2) and factors.down.any()
    assert factors.up.shape == (2, shape[-1]) and not factors.up.any()
    factors = factors.replace(up=rng.normal(size=factors.up.shape))
    added = np.asarray(factors.added_to(kernel) - kernel, np.float64)
    product = np.float64(factors.down) @ np.float64(factors.up)
    np.testing.assert_allclose(added, product.reshape(shape), atol=1e-5)
    assert np.linalg.matrix_rank(added.reshape(rows, -1), tol=1e-4) == 2


def test_the_first_factor_keeps_the_size_of_inputs():
  down = Factors.create(jax.random.key(0), 50, jnp.zeros((3, 3, 30, 60))).down
  assert down.std() * np.sqrt(3 * 3 * 30) == pytest.approx(1, rel=0.05)


def test_a_rank_is_at_most_the_matrix_s():
  for shape, rank in (((6, 5), 5), ((3, 3, 1, 40), 9), ((2, 7), 2)):
    factors = jax.eval_shape(
      lambda kernel: Factors.create(jax.random.key(0), 99, kernel),
      jnp.zeros(shape),
    )
    assert factors.down.shape[1] == factors.up.shape[0] == rank


def test_people_have_additions_of_their_own_beside_one_base():
  params = parameters(VECTORS)
  keys = jax.random.split(jax.random.key(0), 3)
  own = jax.jit(jax.vmap(lambda key: begun(Low(2), params, key)))(keys)
  kernel = own["layer_0"]["kernel"]
  assert kernel.down.shape == (3, 6, 2) and own["layer_0"]["bias"] is None
  assert len(np.unique(kernel.down)) == kernel.down.size
  own = jax.device_get(moved(own))
  together = jax.jit(jax.vmap(masks.merged, in_axes=(0, None)))(own, params)
  last = jax.tree.map(lambda leaf: leaf[2], own)
  jax.tree.map(
    lambda all_three, leaf: np.testing.assert_allclose(
      all_three[2], leaf, rtol=1e-5, atol=1e-6
    ),
    together,
    jax.jit(masks.merged)(last, params),
  )


def test_kernels_of_one_shape_have_other_additions():
  params = parameters(MLP(4, hidden=(4, 4, 4)))
  own = begun(Low(1), params, jax.random.key(0))
  first, second = (own[f"layer_{n}"]["kernel"].down for n in (1, 2))
  assert (first != second).all()


def test_gradients_reach_what_is_ones_own_alone():
  params = parameters(VECTORS)
  own = begun(Low(2), params, jax.random.key(0))
  samples = jnp.ones((2, 6))

  def total(own):
    there = {"params": masks.merged(own, params)}
    return VECTORS.apply(there, samples).sum()

  found = jax.jit(jax.grad(total))(own)
  assert jax.tree.structure(found) == jax.tree.structure(own)
  assert found["layer_2"]["kernel"].up.any()
  assert not found["layer_2"]["kernel"].down.any()  # as `up` is 0


def test_rules_are_told_apart_by_their_rank():
  assert Low(2) == Low(2) != Low(3) and hash(Low(2)) == hash(Low(2))
