"""What one method is of another one, where their mathematics says so."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_study import trainer_of

from personalization_jax.datasets import splits
from personalization_jax.methods import Method, masks, mix, parse_method
from personalization_jax.networks.kernels.convolution import Convolution
from personalization_jax.settings import Personal, Settings
from personalization_jax.study import Study
from personalization_jax.training import fisher

SETTINGS = Settings(epochs=2, batch_size=16, seed=4)
RATE = 1e-2  # of TINY's Adam


@pytest.fixture(scope="module")
def new_study(people):
  """Studies of three people, and three who make D_G, by one trainer."""

  def make(population=people, **about):
    chosen = splits.choose_people(people, 3, 4, seed=2)
    split = splits.split(people, *chosen, validation_fraction=0.25, seed=2)
    trainer = trainer_of(population, tiny=True)
    about = {"settings": SETTINGS, "trainer": trainer, **about}
    return Study(population, split, **about)

  return make


@pytest.fixture(scope="module")
def trained(new_study):
  """Each method's result, with its models, trained once."""
  study = new_study()
  return functools.cache(lambda spec: study.personalize(spec, keep_models=True))


def assert_same(one, other):
  """Losses, answers and parameters, byte for byte."""
  for name in (
    "losses",
    "individual_predictions", "individual_log_probability",
    "validation_predictions", "validation_log_probability",
    "global_predictions", "global_log_probability",
  ):  # fmt: skip
    np.testing.assert_array_equal(
      getattr(one, name), getattr(other, name), err_msg=name
    )
  chex.assert_trees_all_equal(one.models, other.models)


@pytest.mark.parametrize(
  "spec, same",
  [
    ("l2sp:5@0", "tl:5"),
    ("ewc:5@0", "tl:5"),
    ("distil:5@0", "tl:5"),
    ("ifca:1+tl:5", "tl:5"),
    ("lpft:5,0", "head:5"),
  ],
)
def test_one_method_is_another(trained, spec, same):
  assert_same(trained(spec), trained(same))


@pytest.mark.parametrize("spec", ["head:5", "bias:5", "adabn"])
def test_what_is_shared_is_as_good_as_ones_own(
  new_study, trained, monkeypatch, spec
):
  """Lean states, and the same parameters trained in whole states."""
  assert parse_method(spec).is_lean
  monkeypatch.setattr(Method, "is_lean", False)
  whole = new_study().personalize(spec, keep_models=True)
  assert_same(trained(spec), whole)


def test_the_head_is_the_last_layer(trained):
  assert_same(trained("head:5"), trained("tl:5:last=1"))


@pytest.mark.parametrize(
  "spec, mask",
  [
    ("head:5", masks.head),
    ("bias:5", masks.biases),
    ("bn:5", masks.batch_norm),
  ],
)
def test_a_mask_leaves_every_other_leaf_as_it_was(trained, spec, mask):
  own, general = (trained(each).models["params"] for each in (spec, "global"))
  one = jax.tree.map(lambda leaf: leaf[0], general)

  def check(mine, theirs, moves):
    for one, other in zip(mine, theirs):
      assert np.array_equal(one, other) != moves

  jax.tree.map(check, own, general, mask(one))


def distance(one, other):
  """Between the parameters of two results' models, at most."""
  both = (each.models["params"] for each in (one, other))
  gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), *both)
  return max(jax.tree.leaves(gaps))


@pytest.mark.slow
def test_a_pull_without_end_is_the_global_model(new_study, trained):
  """By SGD, whose steps are as long as gradients, at a rate of 1 / strength.

  Each step leaves a distance of the gradient of cross-entropy / strength.
  """
  settings = dataclasses.replace(
    SETTINGS, personal=Personal("sgd", learning_rate=1e-6)
  )
  study = new_study(settings=settings)
  held = study.personalize("l2sp:30@1000000", keep_models=True)
  general = trained("global")
  assert 0 < distance(held, general) < 1e-5
  np.testing.assert_array_equal(
    held.individual_predictions, general.individual_predictions
  )
  # At a rate that goes somewhere without it, too.
  held, free = (
    study.personalize(f"{spec}@lr=0.001", keep_models=True)
    for spec in ("l2sp:30@1000", "tl:30")
  )
  assert distance(held, general) < distance(free, general) / 5


def test_adam_stays_within_some_steps_of_what_it_is_pulled_to(trained):
  """Its steps are about as long as the rate, however strong the pull."""
  general = trained("global")
  assert distance(trained("l2sp:60@1000000"), general) < 5 * RATE
  assert distance(trained("tl:60"), general) > 10 * RATE


@pytest.mark.slow
def test_ewc_with_a_fisher_of_ones_is_l2sp(new_study, trained, monkeypatch):
  def ones(learner, variables, *_, **__):
    return jax.tree.map(jnp.ones_like, variables["params"])

  monkeypatch.setattr(fisher, "diagonal", ones)
  found = new_study().personalize("ewc:5@3", keep_models=True)
  assert_same(found, trained("l2sp:5@3"))


@pytest.mark.parametrize("weight, same", [(1, "tl:5"), (0, "global")])
def test_a_mixture_of_one_alone_is_that_one(
  new_study, trained, monkeypatch, weight, same
):
  monkeypatch.setattr(
    mix, "choose_weight", lambda *_: jnp.asarray(weight, jnp.float32)
  )
  rule = mix.Mixture()  # not the one that is compiled for other weights
  method = Method(
    "mixed", late=5, fit=rule.fit, predict=rule.predict, reference=True
  )
  found, alone = new_study().personalize(method), trained(same)
  for data in ("individual", "validation", "global"):
    np.testing.assert_array_equal(
      getattr(found, f"{data}_predictions"),
      getattr(alone, f"{data}_predictions"),
    )
    name = f"{data}_log_probability"  # a softmax twice
    np.testing.assert_allclose(
      getattr(found, name), getattr(alone, name), atol=1e-5
    )


def test_additions_of_full_rank_reach_what_all_parameters_do(trained):
  """Kernels can become whatever TL's do, on another path."""
  low, full = (
    trained(spec).losses[:, -30:].mean(axis=1)
    for spec in ("lora:150:1000", "tl:150")
  )
  start = trained("tl:150").losses[:, -150:-145].mean(axis=1)
  assert (full < start / 2).all()
  assert (low < full + 0.1 * start).all()


def test_own_statistics_are_those_of_all_own_rows(new_study, trained):
  """Batch by batch, each weighted by its rows."""
  study, found = new_study(), trained("adabn").models
  state, _ = study.global_phase()
  variables = jax.tree.map(lambda leaf: leaf[0], state.variables)
  convolve = jax.jit(Convolution(3).apply)
  for index, rows in enumerate(study.split.train):
    rows = rows[rows >= 0]
    means, variances = [], []
    for begin in range(0, len(rows), SETTINGS.batch_size):
      batch = study.population.images[rows[begin : begin + SETTINGS.batch_size]]
      layer = {"params": variables["params"]["layer_0"]}
      x, bias = convolve(layer, batch / np.float32(255))
      x = np.maximum(np.float64(x) + bias, 0)
      means.append(len(batch) * x.mean(axis=(0, 1, 2)))
      variances.append(len(batch) * x.var(axis=(0, 1, 2)))
    own = found["batch_stats"]["norm_0"]
    for name, parts in (("mean", means), ("var", variances)):
      np.testing.assert_allclose(
        own[name][index], sum(parts) / len(rows), rtol=1e-4, atol=1e-6
      )
  chex.assert_trees_all_equal(
    found["params"], trained("global").models["params"]
  )


def test_the_best_step_is_that_of_so_many_batches(trained):
  best = trained("tl:20@best")
  assert best.best_steps.dtype == np.int32
  assert len(set(best.best_steps)) > 1
  for person, steps in enumerate(best.best_steps):
    other = trained(f"tl:{steps}" if steps else "global")
    mine, its = (
      jax.tree.map(lambda leaf, person=person: leaf[person], each.models)
      for each in (best, other)
    )
    chex.assert_trees_all_equal(mine, its)
    for data in ("individual", "validation", "global"):
      name = f"{data}_predictions"
      np.testing.assert_array_equal(
        getattr(best, name)[person], getattr(other, name)[person]
      )


@pytest.fixture(scope="module")
def with_a_victim(people, new_study):
  """The same study of float samples; a person's can't be computed with."""
  images = people.images / np.float32(255)
  victim = new_study().split.individuals[1]
  broken = images.copy()
  broken[people.individuals == victim] *= np.float32(3e38)
  return [
    new_study(dataclasses.replace(people, images=each))
    for each in (images, broken)
  ]


@pytest.mark.parametrize(
  "spec",
  [
    "tl:5@best", "head:5", "knn:3", "ifca:2+tl:5",
    *(
      pytest.param(spec, marks=pytest.mark.slow)
      for spec in ("lora:5:2", "adabn", "mix:tl:5", "ewc:5@1", "reptile+tl:5")
    ),
  ],
)  # fmt: skip
def test_one_who_diverges_touches_nobody(with_a_victim, spec):
  whole, found = (study.personalize(spec) for study in with_a_victim)
  assert not whole.diverged.any()
  assert found.diverged.tolist() == [False, True, False]
  for name in (
    "losses", "individual_predictions", "individual_log_probability",
    "global_predictions", "validation_log_probability",
  ):  # fmt: skip
    one, other = (np.delete(getattr(r, name), 1, 0) for r in (whole, found))
    np.testing.assert_array_equal(one, other)
