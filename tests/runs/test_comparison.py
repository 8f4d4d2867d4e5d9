"""The library's face, as a notebook uses it."""

import jax
import numpy as np
import pytest
from helpers.tiny import TINY

import personalization_jax as pj
from personalization_jax.analysis import metrics
from personalization_jax.networks.mlp import MLP

SETTINGS = pj.Settings(epochs=1, batch_size=16, learning_rate=5e-3)
MODEL = TINY.model


@pytest.fixture(scope="module")
def parts(people):
  return pj.split(people, 3, 4, validation_fraction=0.2, seed=2)


@pytest.fixture(scope="module")
def study(people, parts):
  return pj.Study(people, parts, SETTINGS, model=MODEL, eval_every=4)


@pytest.fixture(scope="module")
def found(study):
  return [
    study.personalize(spec) for spec in ("baseline", "global", "random:20")
  ]


@pytest.fixture(scope="module")
def adjusted(people, parts):
  """In one call, without a study, and with everybody's parameters."""
  return pj.personalize(
    people,
    parts,
    "tl:3",
    SETTINGS,
    model=MODEL,
    keep_models=True,
  )


def test_every_name_of_the_face_is_there():
  for name in pj.__all__:
    assert getattr(pj, name).__doc__
    assert name in dir(pj)
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    _ = pj.nothing


def test_one_call_gives_what_a_study_gives(people, parts, study, found):
  for result in found[:2]:
    again = pj.personalize(
      people, parts, result.method, SETTINGS, trainer=study.trainer
    )
    np.testing.assert_array_equal(again.losses, result.losses)
    np.testing.assert_array_equal(
      again.individual_predictions, result.individual_predictions
    )
    assert again.models is None
    assert not again.individual_curve.size


def test_models_that_are_asked_for_give_the_predictions(people, adjusted):
  apply = jax.jit(MODEL.apply)
  for place in range(3):
    own = jax.tree.map(lambda leaf, k=place: leaf[k], adjusted.models)
    rows = adjusted.global_rows
    logits = apply(own, people.images[rows] / np.float32(255))
    np.testing.assert_array_equal(
      np.argmax(logits, axis=1), adjusted.global_predictions[place]
    )


def test_a_result_says_whether_all_share_one_model(found, adjusted):
  for result in (*found, adjusted):
    own = result.global_predictions
    assert result.one_model is (result.method == "global")
    assert (own == own[0]).all() or not result.one_model


def test_groups_find_their_latent_space_by_themselves(people):
  features = people.images.reshape(len(people.images), -1) / 255
  vectors = pj.Population.from_arrays(
    features, people.labels, people.individuals
  )
  study = pj.Study(vectors, pj.split(vectors, 3, 4), SETTINGS, model=MLP(3))
  assert study.groups.latents is None
  assert study.personalize("ig:2").method == "ig:2"
  assert study.groups.latents is not None


def test_a_comparison_tests_against_the_baseline_one_names(people, found):
  by_method = {result.method: result for result in found}
  own = {
    method: result.individual_accuracy(people.labels)[0]
    for method, result in by_method.items()
  }
  expected = metrics.significance(own, "global")
  records = pj.compare(found, people, "global").records()
  for record in records:
    method = record["method"]
    assert record["individual_mean"] == pytest.approx(own[method].mean())
    if method != "global":
      assert record["p_individual_wilcoxon"] == expected[method].wilcoxon
  shown = pj.compare(found, people)
  assert "| baseline |" in shown._repr_markdown_() == repr(shown)
  assert str(pj.compare(found[:1], people)).startswith("Shaping")


def test_a_comparison_of_nothing_or_of_others_is_refused(people, study, found):
  with pytest.raises(ValueError, match="nothing to compare"):
    pj.compare([], people)
  with pytest.raises(ValueError, match="baseline='tl:3' must be one of"):
    pj.compare(found, people, "tl:3")
  others = pj.personalize(
    people,
    pj.split(people, 2, 4, seed=5),
    "global",
    SETTINGS,
    trainer=study.trainer,
  )
  with pytest.raises(ValueError, match="other individuals"):
    pj.compare([found[0], others], people)


def test_curves_are_accuracies_of_the_models_on_the_way(people, study, found):
  """The last point is the final model's, and so is every run's that ends."""
  labels = people.labels
  for result in found:
    assert result.curve_steps[-1] == result.losses.shape[1]
    assert list(result.curve_steps[:-1]) == list(
      range(4, result.losses.shape[1], 4)
    )
    final, _ = result.validation_accuracy(labels)
    np.testing.assert_allclose(result.individual_curve[:, -1], final)
  # Behind four steps stands what a run of four steps gives.
  shorter, longer = (
    pj.personalize(
      people,
      study.split,
      method,
      SETTINGS,
      eval_every=2,
      trainer=study.trainer,
    )
    for method in ("local:4", "local:6")
  )
  np.testing.assert_array_equal(
    longer.individual_curve[:, 1], shorter.individual_curve[:, -1]
  )
  np.testing.assert_array_equal(
    longer.global_curve[:, 1], shorter.global_curve[:, -1]
  )


def test_curves_need_validation_data(people):
  split = pj.split(people, 3, 4, seed=2)
  with pytest.raises(ValueError, match="validation_fraction"):
    pj.Study(people, split, SETTINGS, model=MODEL, eval_every=4)
