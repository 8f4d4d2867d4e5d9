"""kNN-Per, against a plain NumPy oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.one_person import MODEL, State, data, log_softmax, state

from personalization_jax.methods import knn, mix
from personalization_jax.methods.knn import Memory, Neighbours
from personalization_jax.networks import interface


def oracle(features, memory, count, num_classes):
  """One sample after another, one neighbour after another."""
  known = [
    (np.float64(key), label)
    for key, label, real in zip(memory.features, memory.labels, memory.mask)
    if real
  ]
  found = np.zeros((len(features), num_classes))
  for votes, sample in zip(found, np.float64(features)):
    distances = [((sample - key) ** 2).sum() for key, _ in known]
    order = sorted(range(len(known)), key=lambda row: (distances[row], row))
    for row in order[:count]:
      votes[known[row][1]] += np.exp(-distances[row] / len(sample))
    votes /= votes.sum()
  return found


def memory(rows, padding=2, seed=0, values=None):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(rows + padding, 4)).astype(np.float32)
  if values is not None:
    # Of a few whole numbers, most are as far as another.
    features = rng.integers(0, values, features.shape).astype(np.float32)
  features[rows:] = 0
  labels = rng.integers(0, 3, rows + padding)
  return Memory(features, labels, np.arange(rows + padding) < rows, 0.5)


probabilities = jax.jit(knn.probabilities, static_argnums=(2, 3))


@pytest.mark.parametrize("count", [1, 3, 9, 50])
@pytest.mark.parametrize("values", [None, 2], ids=["apart", "ties"])
def test_neighbours_are_the_oracle_s(count, values):
  """Whole numbers have exact distances, so that ties are ties."""
  there = memory(9, values=values)
  asked = memory(12, padding=0, seed=1, values=values).features
  found = probabilities(there, asked, count, 3)
  wanted = oracle(asked, there, count, 3)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
  if count == 1:
    assert ((found == 0) | (found == 1)).all()


def test_of_equally_near_rows_the_first_are_taken():
  features = np.array([[3, 0], [1, 0], [-1, 0], [0, 1], [1, 0]], np.float32)
  there = Memory(features, np.array([0, 1, 2, 1, 0]), np.ones(5, bool), 0)
  found = probabilities(there, np.zeros((1, 2), np.float32), 2, 3)
  np.testing.assert_allclose(found, [[0, 0.5, 0.5]])
  last = Memory(*(each[::-1] for each in there[:3]), 0)
  found = probabilities(last, np.zeros((1, 2), np.float32), 2, 3)
  np.testing.assert_allclose(found, [[0.5, 0.5, 0]])


def test_far_neighbours_still_have_a_say_and_nobody_s_has_none():
  there = memory(5)
  far = np.full((1, 4), 1e3, np.float32)
  assert probabilities(there, far, 3, 3).sum() == pytest.approx(1)
  nobody = there._replace(mask=np.zeros_like(there.mask))
  assert not probabilities(nobody, far, 3, 3).any()


def general(person, samples):
  found = interface.logits_and_features(
    MODEL, person.reference, samples, person.key
  )
  return log_softmax(found[0]), np.asarray(found[1])


@functools.cache
def fitted(count=3, padding=2, validation=30):
  neighbours, person = Neighbours(count), state()
  own = data(8, padding)
  checked = data(validation, padding, seed=1)
  found = jax.jit(functools.partial(neighbours.fit, MODEL))(
    person, own, checked
  )
  return person.replace(answer=found), own, checked


def test_what_is_remembered_are_the_global_model_s_features():
  person, (samples, labels, mask), _ = fitted()
  there = person.answer
  _, features = general(person, samples[mask])
  np.testing.assert_allclose(there.features[mask], features, rtol=1e-5)
  np.testing.assert_array_equal(there.labels, labels)
  np.testing.assert_array_equal(there.mask, mask)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_weights_and_answers_are_by_hand(count):
  person, _, (samples, labels, mask) = fitted(count)
  there = jax.device_get(person.answer)
  of_model, features = general(person, samples[mask])
  nearest = np.log(np.maximum(oracle(features, there, count, 3), knn.FLOOR))
  rows = np.arange(mask.sum()), labels[mask]
  means = [
    np.log(w * np.exp(nearest[rows]) + (1 - w) * np.exp(of_model[rows])).mean()
    for w in np.arange(11) / 10
  ]
  assert there.weight == np.float32(np.argmax(means) / 10)
  asked, *_ = data(6, seed=2)
  predict = jax.jit(functools.partial(Neighbours(count).predict, MODEL))
  of_model, features = general(person, asked)
  nearest = np.maximum(oracle(features, there, count, 3), knn.FLOOR)
  for weight in (there.weight, np.float32(0.3), np.float32(1)):
    changed = person.replace(answer=there._replace(weight=weight))
    scores = predict(changed, asked)
    wanted = weight * nearest + (1 - weight) * np.exp(of_model)
    np.testing.assert_allclose(scores, np.log(wanted), rtol=1e-4, atol=1e-5)
    assert np.isfinite(scores).all()


def test_padding_changes_nothing():
  one, other = fitted(padding=0)[0], fitted(padding=5)[0]
  assert one.answer.weight == other.answer.weight
  samples, *_ = data(6, seed=2)
  predict = jax.jit(functools.partial(Neighbours(3).predict, MODEL))
  np.testing.assert_allclose(
    predict(one, samples), predict(other, samples), rtol=1e-5
  )


def test_without_data_the_global_model_answers():
  neighbours, person = Neighbours(3), state()
  samples, *_ = data(6, seed=2)
  wanted, _ = general(person, samples)
  for own, checked in ((data(0, 2), data(4)), (data(4), data(0, 2))):
    found = jax.jit(functools.partial(neighbours.fit, MODEL))(
      person, own, checked
    )
    assert found.weight == 0
    scores = neighbours.predict(MODEL, person.replace(answer=found), samples)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-6)


def test_many_rows_are_the_same_in_parts(monkeypatch):
  monkeypatch.setattr(mix, "_TOGETHER", 4)
  fit = jax.jit(functools.partial(Neighbours(3).fit, MODEL))
  found = fit(state(), data(8, 2), data(30, 2, seed=1))
  whole = fitted()[0].answer
  assert found.weight == whole.weight
  np.testing.assert_allclose(
    found.features[:8], whole.features[:8], rtol=1e-5, atol=1e-6
  )


def test_people_are_mapped_beside_one_reference():
  neighbours, person = Neighbours(3), state()
  people = [data(8, 2), data(6, 4, seed=5)]
  checked = data(30, seed=1)
  together = jax.tree.map(lambda *some: np.stack(some), *people)

  def fit(own):
    there = State(person.variables, person.reference, person.key)
    return neighbours.fit(MODEL, there, own, checked).weight

  found = jax.jit(jax.vmap(fit))(together)
  np.testing.assert_array_equal(found, [jax.jit(fit)(own) for own in people])


def test_neighbours_are_told_apart_by_their_count():
  assert Neighbours(3) == Neighbours(3) != Neighbours(4)
  assert hash(Neighbours(3)) == hash(Neighbours(3))
  assert knn.neighbours(3).fit == knn.neighbours(3).fit
  assert knn.neighbours(3).fit != knn.neighbours(4).fit


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_no_neighbours_are_rejected(count):
  with pytest.raises(ValueError, match="count="):
    Neighbours(count)


def test_features_of_other_widths_scale_distances():
  """By the number of features, as the authors' code does."""
  there = Memory(
    jnp.asarray([[0.0] * 8, [2.0] * 8]), jnp.arange(2), jnp.ones(2, bool), 0
  )
  found = probabilities(there, jnp.zeros((1, 8)), 2, 2)
  np.testing.assert_allclose(found[0, 1] / found[0, 0], np.exp(-4), rtol=1e-5)
