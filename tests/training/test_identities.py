"""One training is never taken for another, and the same one always is."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from personalization_jax.checkpoints import files, trees
from personalization_jax.checkpoints.keeper import (
  AnotherTrainingError,
  Keeper,
  Stopped,
)
from personalization_jax.datasets import splits
from personalization_jax.distributed import make_mesh
from personalization_jax.grouping.groups import Groups
from personalization_jax.methods import Group, Method, parse_method
from personalization_jax.methods.answers import by_model, cross_entropy
from personalization_jax.methods.batches import Batches
from personalization_jax.networks import MLP, classifier
from personalization_jax.settings import Settings
from personalization_jax.study import Study, make_trainer
from personalization_jax.training import identities, latent_space
from personalization_jax.training.latent_space import LatentSettings
from personalization_jax.training.learner import Learner, make_learner

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = Settings(epochs=1, batch_size=16, width=1 / 32)
MODEL = MLP(3, hidden=(4,))
SHAPE = (6,)
RATES = np.float32([0.1, 0.2, 0.3])


@pytest.fixture(scope="module")
def split(people):
  return splits.split(people, *splits.choose_people(people, 3, 4, seed=2))


@pytest.fixture(scope="module")
def latents(people):
  return np.random.default_rng(5).normal(size=(len(people), 4))


@pytest.fixture(scope="module")
def trainer_of(people, split):
  """Of an optimiser or a learning rate; each is compiled once."""

  @functools.cache
  def make(optimizer, rate):
    settings = dataclasses.replace(SETTINGS, learning_rate=rate)
    trainer = Study(people, split, settings, model=MODEL).trainer
    if optimizer is None:
      return trainer
    learner = Learner(MODEL, optimizer)
    return dataclasses.replace(trainer, learner=learner)

  return make


@pytest.fixture
def new_study(people, split, trainer_of, tmp_path):
  """Makes studies that keep what is under way in one folder."""

  def make(
    folder="kept", optimizer=None, settings=SETTINGS, stop=None, **about
  ):
    looks, said = [], []

    def should_stop():
      looks.append(None)
      return stop is not None and len(looks) > stop

    keeper = Keeper(
      tmp_path / folder, seconds=0.0, should_stop=should_stop, say=said.append
    )
    trainer = trainer_of(optimizer, settings.learning_rate)
    study = Study(
      people, split, settings, trainer=trainer, keeper=keeper, **about
    )
    study.said = said
    return study

  return make


def contents(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def assert_refused(study, method, folder):
  """In one sentence that names the folder, with nothing done or deleted."""
  before = contents(folder)
  trained = []
  with pytest.raises(AnotherTrainingError) as raised:
    study.personalize(method, on_steps=trained.append)
  sentence = str(raised.value)
  assert str(folder) in sentence
  assert "folder of its own" in sentence
  assert "\n" not in sentence
  assert not trained
  assert contents(folder) == before


def begin(study, method):
  with pytest.raises(Stopped):
    study.personalize(method)
  study.keeper.wait()


# Under way: asked before the piece, and then at its first checkpoint.
@pytest.mark.parametrize("stop", [None, 1], ids=["finished", "begun"])
def test_another_learning_rate_is_another_training(new_study, tmp_path, stop):
  """By the setting, and by an optimiser that no setting names."""
  rate = 0.1
  for name, own, other in (
    ("setting", {}, {"settings": dataclasses.replace(SETTINGS, seed=1)}),
    (
      "rate",
      {},
      {"settings": dataclasses.replace(SETTINGS, learning_rate=rate)},
    ),
    ("sgd", {"optimizer": optax.sgd(rate)}, {"optimizer": optax.sgd(1e-4)}),
    ("adam", {"optimizer": optax.adam(rate)}, {}),
  ):
    first = new_study(name, stop=stop, **own)
    if stop is None:
      result = first.personalize("local:3")
    else:
      begin(first, "local:3")
    study = new_study(name, **other)
    assert_refused(study, "local:3", tmp_path / name / "local-3")
    again = new_study(name, **own).personalize("local:3")
    if stop is None:
      np.testing.assert_array_equal(again.losses, result.losses)


def test_initial_weights_are_another_training_but_for_flax_s(people, split):
  """Flax's have the very digest of versions that had no others."""
  found = set()
  for name in classifier.INITIALIZERS:
    settings = dataclasses.replace(SETTINGS, initializer=name)
    learner = make_learner(settings, 3)
    assert learner.model.initializer == name
    network = identities.of_model(learner.model, (16, 16, 1))
    found.add(network)
    if name == "lecun_normal":
      text = (
        "Classifier(\n    # attributes\n    num_classes = 3\n"
        "    width = 0.03125\n    dtype = dtype('float32')\n"
        "    momentum = 0.9\n)"
      )
      assert network == files.digest([text])
  assert len(found) == len(classifier.INITIALIZERS)
  settings = dataclasses.replace(SETTINGS, initializer="lecun_normal")
  trainer = make_trainer(people, settings)
  with pytest.raises(ValueError, match="trains with initializer lecun_normal"):
    Study(people, split, SETTINGS, trainer=trainer)


def test_other_groups_are_another_training(new_study, latents, tmp_path):
  """Old groups and new ones would stand in one result."""
  other = latents[::-1].copy()

  def study(latents=latents, **about):
    return new_study(latents=latents, **about)

  for spec in ("sg:5:only", "random:5"):
    begin(study(stop=1), spec)
  folder = tmp_path / "kept"
  assert_refused(study(latents=other), "sg:5:only", folder / "sg-5-only")
  # What doesn't decide its group doesn't matter.
  study(latents=other).personalize("random:5")
  study().personalize("sg:5:only")


def test_another_method_of_a_name_is_another_training(new_study, tmp_path):
  def steps(count, **about):
    return Method(
      "mine", schedule=lambda epochs, each: np.ones(count, int), **about
    )

  first = new_study().personalize(steps(2))
  for other in (
    steps(3),
    steps(2, early=1),
    Method("mine", late=2),
    Method("mine", late=2, last_layers=1),
    dataclasses.replace(steps(2), group=Group("random", 3)),
  ):
    assert_refused(new_study(), other, tmp_path / "kept" / "mine")
  again = new_study().personalize(steps(2))
  np.testing.assert_array_equal(again.losses, first.losses)


def test_a_copied_folder_is_another_training_s(new_study, tmp_path):
  """Another method's, the shared phase's, and another place's in its own."""
  begin(new_study(stop=1), "es:2")
  new_study().personalize("tl:2")
  kept = tmp_path / "kept"
  for source, target in (("es-2", "sw-2"), ("global_phase", "tl-3")):
    shutil.copytree(kept / source, kept / target)
    spec = target.replace("-", ":")
    assert_refused(new_study(), spec, kept / target)
  shutil.rmtree(kept / "global_phase")
  shutil.copytree(kept / "es-2", kept / "global_phase")
  with pytest.raises(AnotherTrainingError, match="global_phase"):
    new_study().global_phase()


def test_a_checkpoint_at_another_place_of_its_training_is_damaged(
  new_study, tmp_path
):
  whole = new_study("whole").personalize("es:2")
  begin(new_study(stop=1), "es:2")
  folder = tmp_path / "kept" / "es-2"
  (state,) = (path for path in folder.glob("*-step-*") if path.is_dir())
  later = f"{state.name[:-7]}{int(state.name[-7:]) + 1:07d}"
  for suffix in ("", trees.SUFFIX):
    state.with_name(state.name + suffix).rename(folder / (later + suffix))
  study = new_study()
  result = study.personalize("es:2")
  assert "is another one" in study.said[0]
  np.testing.assert_array_equal(result.losses, whole.losses)


def test_what_is_not_signed_is_trained_again(new_study, tmp_path):
  """An older version's: nobody knows what decided it, and a run goes on."""
  whole = new_study("whole").personalize("tl:2")
  new_study().personalize("tl:2")
  begin(new_study(stop=1), "es:2")
  kept = tmp_path / "kept"
  (part,) = (kept / "tl-2").glob("*.npz")
  with np.load(part) as file:
    arrays = dict(file)
  del arrays["identity"], arrays["piece"]
  arrays["losses"] += 1  # so that taking it would be seen
  np.savez(part, about="tl:2 0 3", **arrays)
  for manifest in kept.rglob(f"*{trees.SUFFIX}"):
    state = manifest.with_name(manifest.name.removesuffix(trees.SUFFIX))
    about = trees.about(state)
    del about["identity"]
    content = {"about": about, "files": files.digests(state)}
    text = trees.json.dumps({**content, "sha256": trees._digest_of(content)})
    manifest.write_text(text)
  (kept / "identity.json").write_text("{}")
  study = new_study()
  result = study.personalize("tl:2")
  np.testing.assert_array_equal(result.losses, whole.losses)
  study.personalize("es:2")
  assert len(study.said) == 3  # tl:2, D_G's phase, es:2
  for sentence, name in zip(study.said, ("tl-2", "global_phase", "es-2")):
    assert str(kept / name) in sentence
    assert "trained again" in sentence


@pytest.mark.slow
def test_the_auto_encoder_is_of_its_data_and_settings(
  people, split, tmp_path, monkeypatch
):
  """What it learns doesn't matter here: nothing is trained."""
  seen = []

  def train(self, states, rows, *, start, **_):
    steps = rows.shape[1] - start
    seen.append(steps)
    return states, np.zeros((1, steps), np.float32)

  once = latent_space.make_learner(width=1 / 16)
  monkeypatch.setattr(latent_space, "make_learner", lambda **_: once)
  monkeypatch.setattr(latent_space.PopulationTrainer, "train", train)
  monkeypatch.setattr(latent_space, "evaluate", lambda *_: np.zeros(1))

  def fit(people, settings):
    keeper = Keeper(tmp_path)
    latent_space.fit(people, split, settings, keeper=keeper)
    keeper.wait()

  settings = LatentSettings(epochs=1, batch_size=32)
  fit(people, settings)
  for data, changes in (
    (dataclasses.replace(people, images=people.images ^ 1), {}),
    (people, {"learning_rate": 0.1}),
    (people, {"width": 0.5}),
    (people, {"seed": 1}),
  ):
    with pytest.raises(AnotherTrainingError, match="autoencoder"):
      fit(data, dataclasses.replace(settings, **changes))
  fit(people, settings)
  assert seen[0] > 0
  assert seen[1:] == [0]


def test_settings_that_the_model_does_not_have_decide_nothing(new_study):
  """The width of Fig. 4 doesn't matter to a model of one's own."""
  first = new_study().personalize("local:2")
  other = dataclasses.replace(SETTINGS, width=1.0, precision="bfloat16")
  again = new_study(settings=other).personalize("local:2")
  np.testing.assert_array_equal(first.losses, again.losses)


class Own(nn.Module):
  """A model of one's own, which its fields don't tell whole."""

  activation: object = nn.relu
  rate: float = 0.2

  @nn.compact
  def __call__(self, samples, *, train=False):
    hidden = self.activation(nn.Dense(4)(samples))
    hidden = nn.Dropout(self.rate, deterministic=not train)(hidden)
    return nn.Dense(3)(hidden)


def edited(scale, rate, init):
  """The same names, but other code: as a file that was edited."""

  class Edited(nn.Module):
    @nn.compact
    def __call__(self, samples, *, train=False):
      hidden = nn.Dense(4, kernel_init=init)(samples * scale)
      hidden = nn.Dropout(rate, deterministic=not train)(hidden)
      return nn.Dense(3)(hidden)

  return Edited()


def ruled(scale, rule):
  """A model whose gradient alone is another one."""
  if rule == "vjp":
    same = jax.custom_vjp(lambda x: x)
    same.defvjp(lambda x: (x, None), lambda _, c: (scale * c,))
  else:
    same = jax.custom_jvp(lambda x: x)
    same.defjvp(lambda x, t: (x[0], scale * t[0]))
  return Own(activation=same)


def called_back(scale):
  """A model that computes with what no program says."""

  def call(x):
    return scale * x

  class CalledBack(nn.Module):
    @nn.compact
    def __call__(self, samples):
      shape = jax.ShapeDtypeStruct(samples.shape, samples.dtype)
      return nn.Dense(3)(
        jax.pure_callback(call, shape, samples, vmap_method="sequential")
      )

  return CalledBack()


def looked_up(rates):
  @jax.jit
  def rate(step):
    return jnp.asarray(rates)[step // 1000]

  return optax.sgd(rate)


def optimizers():
  """All different."""
  late = RATES.copy()
  late[2] = 0.4
  return [
    *(optax.sgd(rate) for rate in (0.1, 0.1000001, 1e-4)),
    optax.sgd(0.1, momentum=0.9),
    *(optax.adam(rate) for rate in (1e-2, 1e-3)),
    optax.adamw(1e-3),
    optax.chain(optax.clip(1.0), optax.adam(1e-3)),
    # What comes late in a schedule.
    *(
      optax.adam(optax.piecewise_constant_schedule(1e-3, {1000: last}))
      for last in (0.5, 0.25)
    ),
    optax.adam(optax.piecewise_constant_schedule(1e-3, {2000: 0.5})),
    optax.adam(optax.cosine_decay_schedule(1e-3, 1000)),
    # A rate that is part of the state, and a table inside a compiled function.
    *(
      optax.inject_hyperparams(optax.adam)(learning_rate=rate)
      for rate in (1e-3, 1e-2)
    ),
    looked_up(RATES),
    looked_up(late),
  ]


def learners():
  """All different."""
  init = nn.initializers.lecun_normal()
  narrow = dataclasses.replace(SETTINGS, width=1 / 16)
  fast = dataclasses.replace(SETTINGS, learning_rate=0.1)
  own = [
    Own(),
    Own(nn.gelu),
    Own(rate=0.5),
    edited(1.0, 0.2, init),
    edited(2.0, 0.2, init),
    edited(1.0, 0.5, init),
    edited(1.0, 0.2, nn.initializers.zeros),
    *(ruled(scale, rule) for rule in ("vjp", "jvp") for scale in (1.0, -1.0)),
  ]
  return [
    *(Learner(MODEL, optimizer) for optimizer in optimizers()),
    *(make_learner(settings, 3, MODEL) for settings in (SETTINGS, fast)),
    make_learner(SETTINGS, 3, MLP(3, hidden=(5,))),
    *(make_learner(SETTINGS, 3, model) for model in own),
    make_learner(SETTINGS, 3, MLP(3, (4,), jnp.bfloat16)),
    *(Learner(Own(), optax.sgd(rate)) for rate in (0.1, 0.2)),
    make_learner(narrow, 4, MLP(4)),
  ]


def digests():
  return [identities.of_learner(learner, SHAPE) for learner in learners()]


def test_learners_that_train_otherwise_have_other_digests():
  found = digests()
  assert len(set(found)) == len(found)


@pytest.mark.slow
def test_a_learner_has_the_same_digest_in_every_process():
  """And built a second time."""
  code = "import test_identities; print(*test_identities.digests())"
  folders = (ROOT, ROOT / "tests", ROOT / "tests" / "training")
  path = os.pathsep.join(map(str, folders))
  other = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
    capture_output=True,
    text=True,
    check=True,
  )
  assert other.stdout.split() == digests() == digests()


def test_a_model_that_calls_python_is_not_kept(people, split, tmp_path):
  """Before anything is trained; what only prints decides nothing."""
  samples = people.images.reshape(len(people), -1)
  flat = dataclasses.replace(people, images=samples)
  model = called_back(2.0)
  with pytest.raises(ValueError, match=r"CalledBack computes by pure_callback"):
    Study(flat, split, SETTINGS, model=model, keeper=Keeper(tmp_path))
  Study(flat, split, SETTINGS, model=model)

  class Printing(nn.Module):
    @nn.compact
    def __call__(self, samples):
      jax.debug.print("{}", samples[0, 0])
      return nn.Dense(3)(samples)

  printing = [Learner(Printing(), optax.sgd(0.1)) for _ in range(2)]
  assert len({identities.of_learner(each, SHAPE) for each in printing}) == 1


def test_numbers_of_numpy_are_the_same_numbers(people, split):
  """As are whole ones where others may stand."""
  plain = Settings(1, 16, 1.0, 1.0, "float32", 3)
  other = Settings(
    np.int64(1), np.int32(16), 1, np.float64(1), "float32", np.uint32(3)
  )
  learners = [make_learner(each, 3) for each in (plain, other)]
  assert (
    len(
      {
        identities.of_study(people, split, settings, learner, 0)
        for settings, learner in zip((plain, other), learners)
      }
    )
    == 1
  )
  for one, same in (
    (plain, other),
    (
      LatentSettings(1, 16, 1.0, 1.0, 3),
      LatentSettings(np.int64(1), np.int32(16), 1, np.int64(1), np.uint32(3)),
    ),
    (
      Method("mine", 2, None, 3, 1, group=Group("random", 4)),
      Method(
        "mine",
        np.int64(2),
        None,
        np.int32(3),
        np.int64(1),
        group=Group("random", np.int64(4)),
      ),
    ),
  ):
    assert repr(one) == repr(same)
  study = Study(people, split, SETTINGS, model=MODEL, eval_every=np.int64(0))
  assert type(study.eval_every) is int


def test_fig_4_and_adam_are_known_by_their_numbers_alone(monkeypatch):
  """No other version of JAX makes them another training."""

  def trace(*_):
    raise AssertionError("traced")

  monkeypatch.setattr(jax, "make_jaxpr", trace)
  shape = (16, 16, 1)
  one, same, other = (
    identities.of_learner(
      make_learner(dataclasses.replace(SETTINGS, **changes), 3), shape
    )
    for changes in ({}, {}, {"width": 1 / 16})
  )
  assert one == same != other


def test_runs_of_the_first_version_go_on(people, split):
  """The digests that its folders are signed with."""
  settings = dataclasses.replace(SETTINGS, initializer="lecun_normal")
  learner = make_learner(settings, 3)
  batches = Batches(split, settings, Groups(people, split))
  study = identities.of_study(people, split, settings, learner, 0)
  assert study.startswith("0568fc22371a83b1")
  for spec, digest in {
    "baseline": "9c26e3f235143a56",
    "es:40": "e5836a676530502e",
    "sw:1/2": "45005f701617c5cc",
    "tl:300:last=2": "3559bb8faa5e8030",
    "random:5": "8e472f039919f596",
    "random:5:only+tl:3": "3a03cc4ea267afd6",
    "local": "2eb9247b2646e1d4",
    "global": "145073144eebfcc8",
  }.items():
    method = parse_method(spec)
    of_method = identities.of_method(study, method, batches, learner)
    assert of_method.startswith(digest), spec
  of_space = files.digest([LatentSettings(), "", split.global_train])
  assert of_space.startswith("a3c1c6c8739b5b5f")


def test_methods_that_answer_otherwise_are_other_trainings(people, split):
  """Known by what they compute, in every process; defaults say nothing."""
  learner = Learner(MODEL, optax.sgd(0.1))
  batches = Batches(split, SETTINGS, Groups(people, split))

  def scaled(factor):
    def loss(logits, labels, params, reference):
      return factor * cross_entropy(logits, labels, params, reference)

    return loss

  def doubled(model, state, samples):
    return 2 * by_model(model, state, samples)

  def last(params):
    return {name: name == "layer_1" for name in params}

  def digest(**answers):
    method = Method("mine", late=3, **answers)
    return identities.of_method("", method, batches, learner)

  every = [
    {},
    {"loss": scaled(2.0)},
    {"loss": scaled(3.0)},
    {"loss": scaled(2.0), "reference": True},
    {"predict": doubled},
    {"trainable": last},
    {"trainable": lambda params: dict.fromkeys(params, True)},
  ]
  digests = [digest(**answers) for answers in every]
  assert len(set(digests)) == len(every)
  assert digest(loss=scaled(2.0)) == digests[1]
  assert digests[0] == digest(loss=None)
  with pytest.raises(ValueError, match="loss computes by pure_callback"):
    digest(loss=calls_python)


def calls_python(logits, labels, params, reference):
  shape = jax.ShapeDtypeStruct(labels.shape, jnp.float32)
  return jax.pure_callback(np.asarray, shape, logits.max(axis=1))


def test_a_replaced_optimiser_has_not_the_old_one_s_rate():
  learner = make_learner(SETTINGS, 3, MODEL)
  assert learner.learning_rate == SETTINGS.learning_rate
  slow, fast = (
    dataclasses.replace(learner, optimizer=optax.sgd(rate))
    for rate in (1e-4, 0.1)
  )
  assert slow.learning_rate is None
  assert (
    len({identities.of_learner(x, SHAPE) for x in (learner, slow, fast)}) == 3
  )


def test_kept_models_are_asked_for_before_anything_is_trained(
  people, split, tmp_path
):
  """One chunk is finished and the other isn't: neither is trained."""

  def study():
    return Study(
      people,
      split,
      SETTINGS,
      trainer=make_trainer(
        people,
        SETTINGS,
        model=MODEL,
        mesh=make_mesh(jax.devices()[:1]),
        individuals_per_device=2,
      ),
      keeper=Keeper(tmp_path),
    )

  study().personalize("local:2")
  first, _ = sorted((tmp_path / "local-2").glob("*.npz"))
  first.unlink()
  trained = []
  with pytest.raises(ValueError, match="was trained before, at least in part"):
    study().personalize("local:2", keep_models=True, on_steps=trained.append)
  assert not trained
  study().forget(Method("mine", late=1))
  study().forget(parse_method("local:2"))
  assert not (tmp_path / "local-2").exists()
  result = study().personalize("local:2", keep_models=True)
  assert len(jax.tree.leaves(result.models)[0]) == 3


@pytest.mark.parametrize("name", ["", ".", "..", "../other"])
def test_nothing_outside_a_keeper_s_folder_is_removed(tmp_path, name):
  (tmp_path / "kept").mkdir()
  (tmp_path / "other").mkdir()
  for act in (Keeper.forget, lambda keeper, name: keeper.task(name, "")):
    with contextlib.suppress(AssertionError):
      act(Keeper(tmp_path / "kept"), name)
      assert name == "../other"  # which is .._other
  assert (tmp_path / "kept").exists()
  assert (tmp_path / "other").exists()
