"""Losses towards the global model, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.one_person import MODEL, data, variables
from helpers.tiny import Tiny

from personalization_jax.methods.answers import cross_entropy
from personalization_jax.methods.penalties import (
  EWC,
  L2SP,
  Distillation,
  fisher_diagonal,
)
from personalization_jax.networks import interface


@functools.cache
def case():
  """Logits, labels, parameters and a reference with all there can be."""
  samples, labels, _ = data(6)
  own, general = variables(1), variables(2)
  key = jax.random.key(0)
  logits, taught = (
    interface.apply(MODEL, each, samples, key) for each in (own, general)
  )
  rng = np.random.default_rng(4)
  fisher = jax.tree.map(
    lambda leaf: jnp.asarray(rng.random(leaf.shape), jnp.float32),
    general["params"],
  )
  reference = {**general, "logits": taught, "fisher": fisher}
  return logits, labels, own["params"], reference


def leaves(tree):
  return [np.float64(leaf) for leaf in jax.tree.leaves(tree)]


def test_l2sp_adds_half_the_squared_distance():
  logits, labels, params, reference = case()
  found = L2SP(0.3)(logits, labels, params, reference)
  away = zip(leaves(params), leaves(reference["params"]))
  pull = 0.15 * sum(((one - other) ** 2).sum() for one, other in away)
  wanted = cross_entropy(logits, labels, params, None) + pull
  assert found.shape == (6,)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_ewc_weighs_the_distance_by_the_fisher_information():
  logits, labels, params, reference = case()
  found = EWC(0.3)(logits, labels, params, reference)
  pull = 0.15 * sum(
    (fisher * (one - other) ** 2).sum()
    for fisher, one, other in zip(
      *map(leaves, (reference["fisher"], params, reference["params"]))
    )
  )
  wanted = cross_entropy(logits, labels, params, None) + pull
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_ewc_with_a_fisher_of_ones_is_l2sp():
  logits, labels, params, reference = case()
  ones = {**reference, "fisher": jax.tree.map(jnp.ones_like, params)}
  np.testing.assert_array_equal(
    EWC(0.7)(logits, labels, params, ones),
    L2SP(0.7)(logits, labels, params, reference),
  )


def test_distillation_adds_cross_entropy_to_the_global_answers():
  logits, labels, params, reference = case()
  found = Distillation(2.0)(logits, labels, params, reference)
  taught = np.exp(jax.nn.log_softmax(reference["logits"]))
  added = -2.0 * (taught * jax.nn.log_softmax(logits)).sum(axis=-1)
  wanted = cross_entropy(logits, labels, params, None) + added
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_distillation_pulls_to_the_global_answers_and_leaves_them_alone():
  logits, labels, params, reference = case()

  def added(logits, taught):
    there = {**reference, "logits": taught}
    losses = Distillation(1.0)(logits, labels, params, there)
    return (losses - cross_entropy(logits, labels, params, None)).sum()

  taught = reference["logits"]
  to_own, to_taught = jax.grad(added, (0, 1))(logits, taught)
  wanted = jax.nn.softmax(logits) - jax.nn.softmax(taught)
  np.testing.assert_allclose(to_own, wanted, atol=1e-6)
  assert not to_taught.any()
  np.testing.assert_allclose(
    jax.grad(added)(taught, taught), np.zeros((6, 3)), atol=1e-6
  )


@pytest.mark.parametrize("loss", [L2SP, EWC, Distillation])
def test_a_strength_of_0_is_cross_entropy_program_and_all(loss):
  logits, labels, params, reference = case()
  programs = [
    str(jax.make_jaxpr(function)(logits, labels, params, reference))
    for function in (loss(0.0), loss(0), cross_entropy)
  ]
  assert programs[0] == programs[1] == programs[2]


@pytest.mark.parametrize("loss", [L2SP, EWC, Distillation])
def test_losses_are_told_apart_by_their_strength(loss):
  assert loss(0.5) == loss(0.5) != loss(0.25)
  assert hash(loss(0.5)) == hash(loss(0.5))
  for wrong in (-1, float("inf"), float("nan"), True, "0.5", None):
    with pytest.raises(ValueError, match=r"(strength|weight)="):
      loss(wrong)


def by_loop(model, there, samples, labels, mask):
  """One row after another."""
  total = jax.tree.map(np.zeros_like, there["params"])

  @jax.jit
  def gradient(sample, label):
    def log_likelihood(params):
      of = {**there, "params": params}
      logits = interface.apply(model, of, sample[None], jax.random.key(0))
      return -cross_entropy(logits, label[None], params, None)[0]

    return jax.grad(log_likelihood)(there["params"])

  for sample, label, real in zip(samples, labels, mask):
    if real:
      total = jax.tree.map(
        lambda there, new: there + np.square(new),
        total,
        gradient(sample, label),
      )
  return total


@pytest.mark.parametrize("together", [None, 1, 2, 100])
def test_the_fisher_information_is_a_sum_over_rows(together):
  there, rows = variables(2), data(5, padding=2)
  found = jax.jit(functools.partial(fisher_diagonal, MODEL, together=together))(
    there, *rows
  )
  wanted = by_loop(MODEL, there, *rows)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7),
    found,
    wanted,
  )


def test_batch_normalisation_is_as_in_evaluation():
  """Each sample's gradient is then its own, whatever the batch."""
  model = Tiny()
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.random((3, 16, 16, 1)), jnp.float32)
  there = jax.jit(interface.init, static_argnums=0)(
    model, jax.random.key(0), images
  )
  stats = jax.tree.map(lambda leaf: leaf + 0.3, there["batch_stats"])
  there = {**there, "batch_stats": stats}
  rows = images, jnp.arange(3), jnp.array([True, False, True])
  found = jax.jit(functools.partial(fisher_diagonal, model))(there, *rows)
  assert jax.tree.structure(found) == jax.tree.structure(there["params"])
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
    found,
    by_loop(model, there, *rows),
  )
