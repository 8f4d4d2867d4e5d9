"""Models by name: made, trained, saved and read, or a sentence why not."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import own_factories
from helpers.own_models import NUM_CLASSES, SETTINGS, make_study, vectors

from personalization_jax.datasets import splits
from personalization_jax.distributed import make_mesh
from personalization_jax.networks import bridge, factories, interface
from personalization_jax.networks.description import Description
from personalization_jax.runs import saved_models
from personalization_jax.study import Study, make_trainer

HERE = "helpers.own_factories"


def make(factory):
  return factories.make(factory, (6,), NUM_CLASSES)


def test_a_class_or_a_function_makes_the_model():
  assert make(f"{HERE}:Dropping") == own_factories.Dropping(NUM_CLASSES)
  assert make(f"{HERE}:wide") == own_factories.wide(NUM_CLASSES)


@pytest.mark.parametrize(
  ("factory", "sentence"),
  [
    ("dropping", "'dropping' must be module:Class"),
    (":Dropping", "must be module:Class"),
    (3, "3 must be module:Class"),
    ("no_such_module:Net", "'no_such_module' here .* holds no_such_module.py"),
    ("helpers.none:Net", "no module 'helpers.none' .* holds helpers/none.py"),
    ("helpers:Net", "module 'helpers' has no class or function 'Net'"),
    (f"{HERE}:nnx", "has no class or function 'nnx'"),
    (f"{HERE}:needs_more", r"needs_more\(num_classes=3\) \(Type.* 'depth"),
    ("builtins:len", r"len\(num_classes=3\) \(TypeError: len\(\) takes no key"),
    (f"{HERE}:no_model", r"must be a Flax Linen module, but is \[3\]"),
    (f"{HERE}:one_class_less", r"gives shape \[3, 2\]"),
    (f"{HERE}:nnx_instance", r"Nnx is an nnx.Module, not .*\.linen_of\(Nnx"),
    (f"{HERE}:NnxWithTrain", "NnxWithTrain takes 'train', but .* leave"),
    (f"{HERE}:NnxThatRemembers", "keeps variables 'cache'"),
  ],
)
def test_what_makes_no_model_is_told(factory, sentence):
  with pytest.raises(ValueError, match=sentence) as error:
    make(factory)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("code", "sentence"),
  [
    ("import no_such_thing", r"can't be imported \(ModuleNotFound.*no_such"),
    ("x =", r"'broken' can't be imported \(SyntaxError: invalid syntax"),
  ],
)
def test_a_module_that_fails_is_not_called_missing(
  tmp_path, monkeypatch, code, sentence
):
  (tmp_path / "broken.py").write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match=sentence):
    make("broken:Net")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide", "Nnx"])
def test_its_saved_models_are_read_again(tmp_path, name):
  """With the numbers, in another process: from the name alone."""
  factory = f"{HERE}:{name}"
  people = vectors()
  study = make_study(
    people, make(factory), factory=factory, models_dir=tmp_path
  )
  result = study.personalize("tl:5")
  for place, person in enumerate(result.individuals):
    description, params, batch_stats = saved_models.load(
      tmp_path / "tl-5" / str(person)
    )
    assert description.factory == factory
    own = study.split.test[place]
    logits = interface.apply(
      description.network(),
      {"params": params, "batch_stats": batch_stats},
      people.images[own],
      jax.random.key(0),
    )
    np.testing.assert_array_equal(
      jnp.argmax(logits, axis=-1), result.individual_predictions[place]
    )


def test_a_saved_model_says_that_its_module_is_missing(tmp_path):
  about = Description(3, (6,), factory=f"{HERE}:wide")
  variables = jax.tree.map(
    lambda leaf: np.ones(leaf.shape, leaf.dtype), about.shapes()
  )
  saved_models.save_one(tmp_path / "a", {"batch_stats": {}, **variables}, about)
  assert saved_models.load(tmp_path / "a")[0] == about
  path = tmp_path / "a" / saved_models.DESCRIPTION
  content = json.loads(path.read_text())
  for factory, sentence in (
    ("gone:wide", "no module 'gone' here .*: run from the folder that holds"),
    (f"{HERE}:Dropping", r"isn't the model .*: params/Dense_0/bias is"),
  ):
    path.write_text(json.dumps({**content, "factory": factory}))
    with pytest.raises(ValueError, match=sentence):
      saved_models.load(tmp_path / "a")


def test_the_package_s_models_are_described_as_before():
  for hidden in (None, (5,)):
    text = Description(3, (16, 16, 1), hidden=hidden).to_json()
    assert "factory" not in text
    assert not Description.from_json(text).factory


def test_an_nnx_module_learns():
  """Dropout and batch statistics included, which its train() and eval() set."""
  model = bridge.linen_of(own_factories.Nnx, num_classes=NUM_CLASSES)
  study = make_study(vectors(), model)
  for spec in ("sw:2", "tl:20"):
    result = study.personalize(spec)
    own, _ = result.individual_accuracy(study.population.labels)
    assert own.mean() > 0.7


@pytest.mark.slow
def test_nnx_modules_side_by_side_are_those_one_by_one():
  population, settings = vectors(), dataclasses.replace(SETTINGS, epochs=1)
  split = splits.split(population, *splits.choose_people(population, 3, 5))
  model = make(f"{HERE}:Nnx")
  found = []
  for together in (1, 3):
    trainer = make_trainer(
      population,
      settings,
      model=model,
      mesh=make_mesh(jax.devices()[:1]),
      individuals_per_device=together,
      side_by_side=together,
    )
    study = Study(population, split, settings, trainer=trainer)
    found.append(study.personalize("sw:2", keep_models=True))
  one, several = found
  jax.tree.map(
    # Adam makes steps of 0.02 of what is almost 0.
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=5e-3),
    one.models,
    several.models,
  )
  assert one.models["batch_stats"]["norm"]["mean"].shape == (3, 16)
  means = one.models["batch_stats"]["norm"]["mean"]
  assert np.abs(means).max() > 0  # they were updated
