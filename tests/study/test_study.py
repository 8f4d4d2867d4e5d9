import functools

import flax.training.checkpoints
import jax
import numpy as np
import orbax.checkpoint
import pytest
from helpers.small_study import SETTINGS, make_study

from personalization_jax import schedules
from personalization_jax.checkpoints.keeper import Keeper
from personalization_jax.datasets import variations
from personalization_jax.methods import Method, parse_method, parse_methods
from personalization_jax.networks import classifier
from personalization_jax.runs import saved_models
from personalization_jax.study import Settings

# Fig. 4's network takes seconds to compile.
TINY_ONE = {"tiny": True}


@pytest.fixture(scope="module")
def study(people):
  return make_study(variations.flips(people), how=TINY_ONE)


def own_rows(study, index):
  return set(study.split.parts(index)[0].tolist())


def test_models_are_trained_on_training_rows_alone(study):
  """No leakage: every row of every batch belongs where it may come from."""
  general = set(study.split.global_train.tolist())
  for spec in ("es:4", "sw:2", "sw:1/2", "tl:5", "es:4+sw:2+tl:5"):
    method = parse_method(spec)
    for index in range(3):
      rows = study.batches.rows(method, index)
      for source, batch in zip(study.batches.sources(method), rows):
        allowed = own_rows(study, index) if source else general | {-1}
        assert set(batch.tolist()) <= allowed


def test_no_drawing_is_trained_on_and_tested(study):
  originals = study.population.originals
  tested = set(originals[study.split.global_test])
  for index in range(3):
    tested_here = tested | set(originals[study.split.parts(index)[2]])
    for method in parse_methods("shaping"):
      rows = study.batches.rows(method, index)
      assert not tested_here & set(originals[rows[rows >= 0]])


def test_the_baseline_is_trained_on_another_individual(study):
  """Section IV: on the union of D_G and D_I', with I' != I."""
  method = parse_method("baseline")
  general = set(study.split.global_train.tolist())
  pairs = []
  for index in range(3):
    rows = study.batches.rows(method, index)
    seen = set(rows[rows >= 0].tolist())
    others = [k for k in range(3) if own_rows(study, k) & seen]
    assert others != [index]
    assert len(others) == 1
    assert seen == general | own_rows(study, others[0])
    # Every sample of the union once an epoch.
    counts = np.unique(rows[rows >= 0], return_counts=True)[1]
    assert (counts == SETTINGS.epochs).all()
    pairs.append(others[0])
  assert sorted(pairs) == [0, 1, 2]


def test_transfer_learning_s_first_phase_is_everyone_s(study):
  method = parse_method("tl:5")
  first, second = (study.batches.rows(method, index) for index in range(2))
  np.testing.assert_array_equal(first[:-5], second[:-5])
  assert not np.array_equal(first[-5:], second[-5:])


def test_d_g_s_phase_is_trained_once(people, tmp_path):
  methods = parse_methods("tl:2,tl:4,tl:2:last=1")
  steps = []
  study = make_study(people, how=TINY_ONE, keeper=Keeper(tmp_path))
  expected = study.num_steps(methods)
  shared = SETTINGS.epochs * schedules.steps_per_epoch(
    len(study.split.global_train), SETTINGS.batch_size
  )
  assert expected == shared + 3 * (2 + 4 + 2)
  first = [study.personalize(m, on_steps=steps.append) for m in methods]
  assert sum(steps) == expected
  # Another process takes it from disk.
  later = make_study(people, devices=1, how=TINY_ONE, keeper=Keeper(tmp_path))
  assert later.num_steps(methods) == 3 * (2 + 4 + 2)
  steps.clear()
  second = [later.personalize(m, on_steps=steps.append) for m in methods]
  assert sum(steps) == 3 * (2 + 4 + 2)
  for one, other in zip(first, second):
    np.testing.assert_array_equal(one.losses, other.losses)
    np.testing.assert_array_equal(
      one.global_predictions, other.global_predictions
    )


@pytest.mark.parametrize("spec", ["sw:2", "tl:3"])
def test_more_individuals_change_nobody_s_result(people, spec):
  few = make_study(people, 2, devices=1, how=TINY_ONE).personalize(spec)
  how = {**TINY_ONE, "individuals_per_device": 2}
  many = make_study(people, 5, devices=4, how=how).personalize(spec)
  np.testing.assert_array_equal(few.individuals, many.individuals[:2])
  np.testing.assert_array_equal(few.losses, many.losses[:2])
  np.testing.assert_array_equal(
    few.global_predictions, many.global_predictions[:2]
  )


def test_every_test_row_is_scored(study):
  result = study.personalize(parse_method("tl:1"))
  rows = result.individual_rows
  assert (result.individual_predictions[rows >= 0] >= 0).all()
  assert (result.individual_predictions[rows < 0] == -1).all()
  assert (result.global_predictions >= 0).all()
  labels = study.population.labels
  _, sizes = result.individual_accuracy(labels)
  assert list(sizes) == [len(study.split.parts(k)[2]) for k in range(3)]
  _, sizes = result.global_accuracy(labels)
  assert (sizes == len(study.split.global_test)).all()


def test_probabilities_are_those_of_the_answers(people):
  """Of every class if asked for; and what else tables need is there."""
  study = make_study(people, how=TINY_ONE, keep_probabilities=True)
  result = study.personalize("tl:2")
  tested = result.individual_labels >= 0
  every = result.individual_log_probabilities
  assert every.shape == (*tested.shape, people.num_classes)
  assert np.isnan(every[~tested]).all()
  every, predictions = every[tested], result.individual_predictions[tested]
  np.testing.assert_allclose(np.exp(every).sum(axis=-1), 1, rtol=1e-5)
  np.testing.assert_array_equal(every.argmax(axis=-1), predictions)
  samples = np.arange(len(every))
  for name, classes in (
    ("log_probability", result.individual_labels[tested]),
    ("log_confidence", predictions),
  ):
    own = getattr(result, f"individual_{name}")
    assert np.isnan(own[~tested]).all()
    np.testing.assert_allclose(
      own[tested], every[samples, classes], rtol=1e-5, atol=1e-6
    )
    for data in ("global", "validation"):
      known = getattr(result, f"{data}_{name}")
      predicted = getattr(result, f"{data}_predictions")
      np.testing.assert_array_equal(np.isnan(known), predicted < 0)
  for index in range(3):
    own = people.labels[study.split.parts(index)[0]]
    assert result.train_size[index] == len(own)
    assert result.train_classes[index] == len({*own})
  plain = make_study(people, how=TINY_ONE).personalize("tl:2")
  assert plain.individual_log_probabilities is None
  np.testing.assert_array_equal(
    plain.global_predictions, result.global_predictions
  )


def test_what_cannot_be_trained_is_refused(people):
  study = make_study(people, 1)
  with pytest.raises(ValueError, match="num_individuals must be at least 2"):
    study.check(parse_method("baseline"))
  with pytest.raises(ValueError, match=r"last_layers=9 must lie in 1\.\.8"):
    study.check(parse_method("tl:3:last=9"))


def test_a_schedule_of_one_s_own_trains_as_the_same_one_of_the_paper(people):
  """Bit for bit, with batches of D_I before and after it too."""
  study = make_study(people, how=TINY_ONE)
  spec = "es:2+sw:2+tl:3"
  own = Method(
    "mine",
    early=2,
    late=3,
    schedule=functools.partial(schedules.sample_weighing, 2),
  )
  assert study.num_steps([own]) == study.num_steps([parse_method(spec)])
  mine, its = study.personalize(own), study.personalize(spec)
  assert mine.method == "mine"
  np.testing.assert_array_equal(mine.losses, its.losses)
  np.testing.assert_array_equal(
    mine.individual_predictions, its.individual_predictions
  )


def test_faulty_schedules_of_one_s_own_are_refused_before_training(people):
  study = make_study(people)
  wrong = Method("wrong", schedule=lambda epochs, steps: np.full(epochs, 7))
  with pytest.raises(ValueError, match=r"method 'wrong': .*step 0 holds 7"):
    study.personalize(wrong)
  random = np.random.default_rng(0)
  moody = Method(
    "moody", schedule=lambda epochs, steps: random.integers(0, 2, 50)
  )
  with pytest.raises(ValueError, match="'moody': its schedule differs"):
    study.personalize(moody)


@pytest.mark.parametrize(
  ("setting", "value"),
  [
    ("epochs", 0),
    ("batch_size", 0),
    ("learning_rate", 0.0),
    ("learning_rate", float("nan")),
    ("width", 0.0),
    ("precision", "float16"),
    ("initializer", "he"),
    ("seed", -1),
  ],
)
def test_settings_are_checked(setting, value):
  with pytest.raises(ValueError, match=f"{setting}='?{value}"):
    Settings(**{setting: value})


@pytest.mark.slow
def test_saved_models_are_read_by_orbax_and_flax_alone(people, tmp_path):
  """And give the run's predictions, with Fig. 4's network and nothing else."""
  study = make_study(people, models_dir=tmp_path)
  images, num_classes = study.population.images, study.population.num_classes
  result = study.personalize(parse_method("tl:2"))
  network = classifier.Classifier(num_classes, width=SETTINGS.width)
  apply = jax.jit(network.apply)
  for index, person in enumerate(result.individuals):
    folder = tmp_path / "tl-2" / str(person)
    by_orbax = orbax.checkpoint.StandardCheckpointer().restore(folder)
    by_flax = flax.training.checkpoints.restore_checkpoint(folder, target=None)
    jax.tree.map(np.testing.assert_array_equal, by_orbax, by_flax)
    description, params, batch_stats = saved_models.load(folder)
    assert description.num_classes == num_classes
    assert description.sample_shape == images.shape[1:]
    assert description.width == SETTINGS.width
    by_load = {"params": params, "batch_stats": batch_stats}
    jax.tree.map(np.testing.assert_array_equal, by_orbax, by_load)
    rows = result.global_rows
    logits = apply(by_orbax, images[rows] / np.float32(255))
    predictions = result.global_predictions[index]
    assert (np.argmax(logits, axis=-1) == predictions).mean() > 0.97
  kernels = [
    orbax.checkpoint.StandardCheckpointer().restore(
      tmp_path / "tl-2" / str(person)
    )["params"]["layer_0"]["kernel"]
    for person in result.individuals
  ]
  assert not np.array_equal(kernels[0], kernels[1])
