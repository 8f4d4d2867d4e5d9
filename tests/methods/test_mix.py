"""MAPPER's mixture, against logarithms by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.one_person import MODEL, State, data, log_softmax, state

from personalization_jax.methods import mix
from personalization_jax.methods.answers import by_model
from personalization_jax.networks import interface


def by_hand(own, general, labels, mask):
  """The best of eleven weights in float64, the smallest of equal ones."""
  rows = np.arange(len(labels))[mask]
  chosen = rows, labels[mask]
  own, general = (np.exp(np.float64(each))[chosen] for each in (own, general))
  means = [
    np.log(weight * own + (1 - weight) * general).sum().round(9)
    for weight in np.arange(11) / 10
  ]
  return np.argmax(means) / 10


def logs(seed, count=12):
  rng = np.random.default_rng(seed)
  return log_softmax(2 * rng.normal(size=(2, count, 3))).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_the_weight_is_the_likeliest(seed):
  own, general = logs(seed)
  labels = np.random.default_rng(seed).integers(0, 3, 12)
  mask = np.arange(12) < 4 + seed % 8
  found = jax.jit(mix.choose_weight)(own, general, labels, mask)
  assert found == np.float32(by_hand(own, general, labels, mask))


def test_weights_between_are_among_the_likeliest():
  found = {
    float(mix.choose_weight(*logs(seed), np.zeros(12, int), np.ones(12, bool)))
    for seed in range(20)
  }
  assert {0.0, 1.0} < found


def test_of_equally_good_weights_the_smallest_is_taken():
  own, _ = logs(0)
  labels, mask = np.zeros(12, int), np.ones(12, bool)
  assert mix.choose_weight(own, own, labels, mask) == 0
  nobody = np.zeros(12, bool)
  assert mix.choose_weight(*logs(0), labels, nobody) == 0


def test_padding_chooses_nothing():
  own, general = logs(3)
  labels = np.full(12, -1)
  labels[:5] = 2
  mask = np.arange(12) < 5
  alone = mix.choose_weight(own[:5], general[:5], labels[:5], mask[:5])
  own[5:], general[5:] = np.nan, np.inf
  assert mix.choose_weight(own, general, labels, mask) == alone


def test_a_model_that_diverged_does_not_hide_in_a_mixture():
  own, general = logs(0)
  own[3] = np.nan
  weight = mix.choose_weight(own, general, np.zeros(12, int), np.ones(12, bool))
  assert np.isnan(weight)
  assert np.isnan(mix.mixed(own, general, weight)).all()


def test_a_mixture_is_of_probabilities():
  own, general = logs(1)
  general[0] = [0, -200, -200]
  own[0] = [-200, -1, -0.459]
  for weight in np.arange(11) / 10:
    found = mix.mixed(own, general, np.float32(weight))
    wanted = weight * np.exp(np.float64(own))
    wanted += (1 - weight) * np.exp(np.float64(general))
    np.testing.assert_allclose(found, np.log(wanted), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(mix.mixed(own, general, 0.0), general)
  np.testing.assert_array_equal(mix.mixed(own, general, 1.0), own)


@functools.cache
def fitted(mixture, padding=2):
  fit = jax.jit(functools.partial(mixture.fit, MODEL))
  return fit(state(), data(6, padding), data(9, padding, seed=1))


def test_answers_lie_between_ones_own_and_the_global_model_s():
  mixture, person = mix.Mixture(), state()
  samples, *_ = data(7, seed=2)
  predict = jax.jit(functools.partial(mixture.predict, MODEL))
  for weight, variables in ((0, person.reference), (1, person.variables)):
    answer = mix.Mixed(jnp.float32(weight), None)
    logits = interface.apply(MODEL, variables, samples, person.key)
    np.testing.assert_allclose(
      predict(person.replace(answer=answer), samples),
      log_softmax(logits),
      rtol=1e-5,
      atol=1e-6,
    )


def test_fitting_chooses_on_validation_data_alone():
  person = state()
  samples, labels, mask = data(9, seed=1)
  own, general = (
    log_softmax(interface.apply(MODEL, variables, samples, person.key))
    for variables in (person.variables, person.reference)
  )
  wanted = np.float32(by_hand(own, general, labels, mask))
  assert fitted(mix.Mixture()).weight == wanted
  assert fitted(mix.Mixture(), padding=0).weight == wanted


def test_many_rows_are_the_same_in_parts(monkeypatch):
  monkeypatch.setattr(mix, "_TOGETHER", 4)
  samples, *_ = data(9)

  def twice(part):
    assert len(part) <= 4
    return {"sum": part.sum(axis=1), "rows": 2 * part}

  found = jax.jit(functools.partial(mix.in_parts, twice))(samples)
  np.testing.assert_array_equal(found["rows"], 2 * samples)
  np.testing.assert_allclose(found["sum"], samples.sum(axis=1), rtol=1e-5)


class Shifted:
  """An inner method that learns which class its person writes most."""

  @staticmethod
  def fit(model, state, own, validation):
    _, labels, mask = own
    return (jax.nn.one_hot(labels, 3) * mask[:, None]).sum(axis=0)

  @staticmethod
  def predict(model, state, samples):
    return by_model(model, state, samples) + state.answer


def test_an_inner_method_is_fitted_and_answers():
  mixture = mix.Mixture(Shifted.predict, Shifted.fit)
  found = fitted(mixture)
  _, labels, _ = data(6)
  # Their padding has labels too.
  np.testing.assert_array_equal(found.inner, np.bincount(labels, minlength=3))
  samples, *_ = data(7, seed=2)
  person = state().replace(answer=found._replace(weight=1.0))
  logits = by_model(MODEL, person, samples) + found.inner
  np.testing.assert_allclose(
    mixture.predict(MODEL, person, samples), log_softmax(logits), rtol=1e-5
  )


def test_people_are_mapped():
  mixture, people = mix.Mixture(), [state(1, 2), state(4, 2)]
  keys = jnp.stack([person.key for person in people])
  own = jax.tree.map(
    lambda *some: jnp.stack(some), *(person.variables for person in people)
  )
  validation = data(9, seed=1)

  @jax.jit
  @jax.vmap
  def fit(variables, key):
    person = State(variables, people[0].reference, key)
    return mixture.fit(MODEL, person, None, validation).weight

  alone = jax.jit(lambda one: mixture.fit(MODEL, one, None, validation).weight)
  np.testing.assert_array_equal(
    fit(own, keys), [alone(person) for person in people]
  )


def test_the_same_mixture_is_one_object_and_its_methods_are_equal():
  one, other = (mix.mixture(Shifted.predict, Shifted.fit) for _ in range(2))
  assert one.predict == other.predict and hash(one.fit) == hash(other.fit)
  assert mix.Mixture() == mix.Mixture()
  assert hash(mix.Mixture()) == hash(mix.Mixture())
