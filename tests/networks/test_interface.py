"""Any Flax Linen module as everybody's model."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from helpers.own_models import (
  NUM_CLASSES,
  SETTINGS,
  Flat,
  Plain,
  make_study,
  vectors,
)
from helpers.tiny import compiled

from personalization_jax.checkpoints.keeper import Keeper
from personalization_jax.datasets import Population, splits
from personalization_jax.methods import parse_method
from personalization_jax.methods.answers import LastLayers
from personalization_jax.networks import MLP, classifier, interface
from personalization_jax.settings import Settings
from personalization_jax.study import Study
from personalization_jax.training import step as training_step
from personalization_jax.training.learner import Learner, make_learner


class Switched(nn.Module):
  """Dropout and batch statistics by a `train` without a default."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    x = nn.Dropout(0.3, deterministic=not train)(nn.Dense(16)(x))
    return nn.Dense(NUM_CLASSES)(nn.relu(x))


class Masked(nn.Module):
  """Everything, by keyword, and a mask that it needs."""

  @nn.compact
  def __call__(self, x, mask, **options):
    x = nn.BatchNorm(use_running_average=not options["train"])(
      x, mask=mask[:, None]
    )
    return nn.Dense(NUM_CLASSES)(x)


class AlwaysDrops(nn.Module):
  """Dropout that nobody switches off: it needs a key in tests as well."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(NUM_CLASSES)(nn.Dropout(0.1, deterministic=False)(x))


class Recurrent(nn.Module):
  """A scan of its own, over [B, T, F]."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(NUM_CLASSES)(nn.RNN(nn.SimpleCell(8))(x)[:, -1])


def score(study, spec):
  result = study.personalize(parse_method(spec))
  own, _ = result.individual_accuracy(study.population.labels)
  general, _ = result.global_accuracy(study.population.labels)
  assert not result.diverged.any()
  return own.mean(), general.mean()


@pytest.mark.parametrize(
  "model",
  [Plain(), Switched(), Masked(), AlwaysDrops(), MLP(3, (8,))],
)
def test_a_model_of_one_s_own_learns(model):
  study = make_study(vectors(), model)
  for spec in ("sw:2", "tl:20"):
    assert min(score(study, spec)) > 0.7


def test_sequences_by_a_recurrent_model():
  population = vectors(num_features=6)
  series = np.repeat(population.images[:, None], 4, axis=1)
  study = make_study(
    Population.from_arrays(series, population.labels, population.individuals),
    Recurrent(),
  )
  assert score(study, "tl:5")[1] > 1 / NUM_CLASSES


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [((6, 9, 1), np.float32), ((5, 4, 2), np.uint8)],
)
def test_images_of_any_shape(shape, dtype):
  """By a convolution, since Fig. 4's network wants squares."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (24, *shape)).astype(dtype)
  population = Population.from_arrays(
    images, np.arange(24) % 3, np.repeat(np.arange(8), 3)
  )
  result = make_study(population, Flat()).personalize(parse_method("tl:1"))
  assert (result.global_predictions >= 0).all()


def test_colour_images_by_the_paper_s_network(people):
  colour = np.repeat(people.images, 3, axis=-1)
  population = Population.from_arrays(colour, people.labels, people.individuals)
  chosen = splits.choose_people(population, 2, 3)
  study = Study(
    population,
    splits.split(population, *chosen),
    Settings(epochs=1, batch_size=16, width=1 / 32),
  )
  study.check(parse_method("tl:1"))
  # Tracing says all that colour changes; compiling would take long.
  model = classifier.Classifier(3, width=1 / 32)
  interface.check(model, population.sample_shape, 3)
  samples = jnp.zeros((1, *population.sample_shape))
  shapes = jax.eval_shape(
    lambda key: interface.init(model, key, samples), jax.random.key(0)
  )
  assert shapes["params"]["layer_0"]["kernel"].shape == (3, 3, 3, 1)


def test_the_paper_s_network_is_the_default():
  learner = make_learner(Settings(width=1 / 32), 7)
  assert learner.model == classifier.Classifier(7, width=1 / 32)
  assert make_learner(Settings(), 7, Plain()).model == Plain()


def test_the_paper_s_network_is_called_as_it_was_before():
  """The same operations, whoever calls: results keep their bits."""
  model = classifier.Classifier(NUM_CLASSES, width=1 / 32)
  images = jnp.ones((2, 16, 16, 1))
  key = jax.random.key(0)
  mask = jnp.array([True, False])
  variables = jax.eval_shape(model.init, key, images)

  def before(variables, images, mask, key):
    logits, updates = model.apply(
      variables, images, mask, train=True, frozen_layers=2,
      mutable=["batch_stats"], rngs={"dropout": key},
    )  # fmt: skip
    return logits, updates["batch_stats"]

  def now(variables, images, mask, key):
    return interface.apply_in_training(
      model, variables, images, mask, key, frozen_layers=2
    )

  def operations(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text().split("\n", 1)[1]

  arguments = (variables, images, mask, key)
  assert operations(before, *arguments) == operations(now, *arguments)

  def tested(variables, images):
    return model.apply(variables, images)

  def tested_now(variables, images):
    return interface.apply(model, variables, images, key)

  assert operations(tested, variables, images) == operations(
    tested_now, variables, images
  )

  def created(key, images):
    return model.init(key, images)

  def created_now(key, images):
    return interface.init(model, key, images)

  assert operations(created, key, images) == operations(
    created_now, key, images
  )


def test_frozen_layers_of_an_mlp_stay():
  learner = make_learner(SETTINGS, NUM_CLASSES, MLP(3, (8, 8)))
  create = compiled(training_step.create_state, learner, image_shape=(6,))
  state = create(jax.random.key(0))
  population = vectors()
  batch = training_step.gather(
    jnp.asarray(population.images),
    jnp.asarray(population.labels),
    jnp.arange(16),
  )
  last = dataclasses.replace(learner, trainable=LastLayers(1))
  after, _ = compiled(training_step.train_step, last)(state, *batch)
  moved = {
    name: not np.array_equal(state.params[name]["kernel"], layer["kernel"])
    for name, layer in after.params.items()
  }
  assert moved == {"layer_0": False, "layer_1": False, "layer_2": True}
  study = make_study(population, MLP(3, (8, 8)))
  study.check(parse_method("tl:2:last=3"))
  with pytest.raises(ValueError, match=r"must lie in 1\.\.3"):
    study.check(parse_method("tl:2:last=4"))


def test_padding_leaves_no_trace_in_batch_statistics():
  """Of a model that can't tell it: the rows in its place are the batch's."""
  learner = Learner(Switched(), optax.adam(1e-2))
  create = compiled(training_step.create_state, learner, image_shape=(6,))
  state = create(jax.random.key(0))
  store = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
  labels = jnp.arange(9) % 3

  def stats(rows, store):
    batch = training_step.gather(jnp.asarray(store), labels, jnp.array(rows))
    return compiled(training_step.train_step, learner)(state, *batch)[
      0
    ].batch_stats

  other = store.copy()
  other[0] = 1e3  # what stands in padded rows
  padded = [3, 4, -1, 5, 6, -1, -1, -1]
  jax.tree.map(
    np.testing.assert_array_equal, stats(padded, store), stats(padded, other)
  )
  jax.tree.map(
    lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5),
    stats(padded, store),
    stats([3, 4, 5, 6], store),
  )


def test_models_without_statistics_are_saved_and_taken_up(tmp_path):
  model = MLP(NUM_CLASSES, (8,))
  method = parse_method("tl:3")
  folders = {"keeper": Keeper(tmp_path / "kept"), "models_dir": tmp_path / "m"}
  first = make_study(vectors(), model, **folders)
  result = first.personalize(method)
  # Another process takes D_G's model from disk.
  folders["keeper"] = Keeper(tmp_path / "kept")
  second = make_study(vectors(), model, **folders)
  assert second.num_steps([method]) == 3 * 3
  np.testing.assert_array_equal(
    second.personalize(method).losses, result.losses
  )
  person = result.individuals[0]
  saved = orbax.checkpoint.StandardCheckpointer().restore(
    tmp_path / "m" / "tl-3" / str(person)
  )
  rows = result.global_rows
  logits = model.apply(
    {"params": saved["params"]}, jnp.asarray(vectors().images[rows])
  )
  np.testing.assert_array_equal(
    np.argmax(logits, axis=-1), result.global_predictions[0]
  )
