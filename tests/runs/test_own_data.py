"""A researcher's own people: an npz file, one command, a run directory."""

import json
import shutil

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from helpers.small_run import read

import personalization_jax as pj
from experiments import table1
from experiments.outputs.report import page
from personalization_jax.datasets import Population, npz, splits, variations
from personalization_jax.runs import directory
from personalization_jax.training import latent_space

METHODS = "baseline,es:2+sw:2+tl:3,tl:4:last=1,random:20,ig:3,ig:2:only,sg:30"
SMALL = {
  "dataset": "npz",
  "num_individuals": 8,
  "num_global_individuals": 22,
  "epochs": 2,
  "batch_size": 16,
  "learning_rate": 0.01,
  "individuals_per_device": 2,
  "methods": METHODS,
}


def features(seed=0):
  """30 people, five classes; three people lack some, one has 4 samples."""
  rng = np.random.default_rng(seed)
  counts = np.full(30, 15)
  counts[3], counts[17] = 4, 2
  individuals = np.repeat(np.arange(30) * 7, counts)
  labels = rng.integers(0, 5, len(individuals))
  for person, present in ((0, [0, 1]), (5, [2]), (9, [3, 4])):
    own = individuals == 7 * person
    labels[own] = rng.choice(present, own.sum())
  samples = rng.normal(size=(len(labels), 20))
  samples[np.arange(len(labels)), labels] += 3
  samples[:, 19] = 0.1  # says nothing
  return {"images": samples, "labels": labels, "individuals": individuals}


def run(folder, arrays, **changes):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  path = folder / "people.npz"
  if arrays is not None:
    np.savez(path, **arrays)
  settings = {**SMALL, "workdir": str(folder / "run"), "npz_path": str(path)}
  with flagsaver.flagsaver(**{**settings, **changes}):
    table1.main(["table1"])
  return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("own")
  return folder, run(folder, features())


def test_methods_of_every_kind_work_with_people_who_lack_classes(finished):
  _, workdir = finished
  rows = read(workdir / "results.csv")
  assert len(rows) == 8 * len(METHODS.split(","))
  assert {row["method"] for row in rows} == set(METHODS.split(","))
  assert {row["status"] for row in rows} == {"ok"}
  for row in rows:
    assert 0 <= float(row["individual_accuracy"]) <= 1
    assert int(row["individual_test_size"]) >= 1
  table = read(workdir / "table1.csv")
  assert [row["method"] for row in table] == METHODS.split(",")
  assert all(float(row["global_mean"]) > 0.3 for row in table)
  config = json.loads((workdir / "config.json").read_text())["settings"]
  assert (config["model"], config["flips"]) == ("mlp", False)


# What config.json held before only what can act stood in it.
OF_OLD = {
  "nist_config": "mnist", "synthetic_samples": 100, "image_size": 32,
  "width": 0.5, "autoencoder_epochs": 20,
}  # fmt: skip


def test_what_determines_nothing_is_not_recorded_and_the_file_is(finished):
  folder, workdir = finished
  config = json.loads((workdir / "config.json").read_text())
  assert not OF_OLD.keys() & config["settings"].keys()
  assert {"precision", "group_candidates"} <= config["settings"].keys()
  assert config["npz_path"] == str(folder / "people.npz")
  assert "npz_path" not in config["settings"]


def test_an_older_run_goes_on_and_its_file_may_have_moved(
  finished, tmp_path, monkeypatch
):
  folder, workdir = finished
  shutil.copytree(workdir, tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  config = json.loads(path.read_text())
  config["settings"] |= OF_OLD
  path.write_text(json.dumps(config))

  def refuse(*_, **__):
    raise AssertionError("training began")

  monkeypatch.setattr(table1.Study, "personalize", refuse)
  shutil.copy(folder / "people.npz", tmp_path / "people.npz")
  run(tmp_path, None)
  for name in ("results.csv", "table1.csv", "table1.md"):
    there = (tmp_path / "run" / name).read_bytes()
    assert there == (workdir / name).read_bytes()
  # What is finished was made of the file where it was.
  after = json.loads(path.read_text())
  assert after["npz_path"] == str(folder / "people.npz")
  assert not OF_OLD.keys() & after["settings"].keys()


def test_figures_are_those_that_vectors_have(finished):
  _, workdir = finished
  drawn = {path.stem for path in (workdir / "figures").iterdir()}
  assert {"trade_off", "gains", "schedules", "latent_map"} <= drawn
  assert not {"handwriting", "reconstructions", "neighbours"} & drawn


def test_the_run_has_its_report(finished):
  folder, workdir = finished
  page.write([str(workdir)], folder / "report.html")
  text = (folder / "report.html").read_text()
  for method in METHODS.split(","):
    assert f">{method}<" in text
  assert text.count("data:image/png;base64,") == len(
    list((workdir / "figures").glob("*.png"))
  )


def test_saved_predictions_are_judged_by_the_user_s_own_file(tmp_path):
  """Most people of the file are in nobody's data: rows aren't the store's."""
  methods = ("global", "local")
  workdir = run(
    tmp_path,
    features(),
    num_individuals=4,
    num_global_individuals=5,
    methods=",".join(methods),
  )
  loaded = [directory.load_result(workdir, method) for method in methods]
  file = np.load(tmp_path / "people.npz")
  for result in loaded:
    rows = [
      row
      for row in read(workdir / "results.csv")
      if row["method"] == result.method
    ]
    for place, row in enumerate(rows):
      tested = result.individual_rows[place]
      tested = tested[tested >= 0]
      assert (file["individuals"][tested] == int(row["individual"])).all()
      answers = result.individual_predictions[place][: len(tested)]
      right = (answers == file["labels"][tested]).mean()
      assert right == pytest.approx(float(row["individual_accuracy"]))
    assert not set(result.global_rows) & set(result.individual_rows.ravel())
  table = read(workdir / "table1.csv")
  population = npz.load(tmp_path / "people.npz")
  for again in (pj.compare(loaded, population), pj.compare(loaded)):
    for record, row in zip(again.records(), table):
      for column in ("individual_mean", "individual_sd", "global_mean"):
        assert record[column] == pytest.approx(float(row[column]))
  half = population.take(np.arange(0, len(population), 2))
  with pytest.raises(ValueError, match="the one that it was made of"):
    pj.compare(loaded, half)


def test_few_samples_are_among_the_individuals():
  """Or the run above would prove nothing about them."""
  population = Population.from_arrays(**features())
  people, others = splits.choose_people(population, 8, 22)
  counts = [(population.individuals == person).sum() for person in people]
  classes = [
    len(set(population.labels[population.individuals == person]))
    for person in people
  ]
  assert min(counts) <= 4 or min(classes) < 5
  assert len({*people, *others}) == 30


def test_the_latent_space_of_vectors_is_standardised_over_d_g():
  arrays = features()
  arrays["images"][:, 18] *= 1e6  # would drown everything else
  population = Population.from_arrays(**arrays)
  split = splits.split(population, *splits.choose_people(population, 8, 22))
  space = latent_space.standardised(population, split)
  assert space.autoencoder is None
  known = space.latents[split.global_train]
  np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(known[:, :19].std(axis=0), 1, rtol=1e-5)
  assert (space.latents[:, 19] == 0).all()


IMAGES = {
  "images": np.random.default_rng(0).random((40, 16, 16, 1)),
  "labels": np.arange(40) % 2,
  "individuals": np.arange(40) // 4,
}
FEW = {
  "num_individuals": 2, "num_global_individuals": 3, "image_size": 16,
  "epochs": 1, "methods": "tl:2",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  ("shape", "changes"),
  [
    # The paper's network is tried in test_own_model; it takes long to compile.
    # That the auto-encoder takes floats is test_autoencoder's.
    ((20, 20, 1), {"methods": "global"}),
    ((9, 12, 2), {"methods": "global", "image_size": 0, "flips": False}),
    (
      (5, 4),
      {"model": "auto", "methods": "sg:5", "image_size": 32}
      | {"layout": "features"},
    ),
  ],
)
def test_float_samples_of_many_shapes_run(tmp_path, shape, changes):
  images = np.random.default_rng(0).random((40, *shape))
  changes = {**FEW, "model": "mlp", **changes}
  workdir = run(tmp_path, {**IMAGES, "images": images}, **changes)
  rows = read(workdir / "results.csv")
  assert len(rows) == 2 * len(changes["methods"].split(","))
  drawn = {path.stem for path in (workdir / "figures").iterdir()}
  assert ("handwriting" in drawn) == (len(shape) == 3 and shape[2] != 2)


def test_people_and_classes_are_called_by_their_names(tmp_path):
  people = np.array([f"ward {k % 3}/no. {k}" for k in range(10)])
  arrays = {
    "x": IMAGES["images"].reshape(40, -1)[:, :9],
    "kind": np.array(["dog", "cat"])[IMAGES["labels"]],
    "subject": people[IMAGES["individuals"]],
  }
  workdir = run(
    tmp_path,
    arrays,
    image_key="x",
    label_key="kind",
    individual_key="subject",
    methods="local",
    num_individuals=3,
    num_global_individuals=7,
    validation_fraction=0.25,
    train_fraction=0.5,
    eval_every=1,
    save_models=True,
  )
  named = {row["individual"] for row in read(workdir / "results.csv")}
  assert len(named) == 3
  assert named < {*people}
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert {json.loads(line).get("individual") for line in lines} == {
    *named,
    None,
  }
  models = {path.name for path in (workdir / "models" / "local").iterdir()}
  assert models == {name.replace("/", "_") for name in named}
  config = json.loads((workdir / "config.json").read_text())
  assert config["label_names"] == ["cat", "dog"]
  assert config["individual_key"] == "subject"
  result = directory.load_result(workdir, "local")
  assert {*result.people} == named


def test_float_images_are_resized_and_flipped_as_uint8_ones():
  images = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 1), np.uint8)
  labels, individuals = np.arange(8) % 2, np.arange(8) // 2
  whole, real = (
    variations.flips(
      variations.resize(Population.from_arrays(kind, labels, individuals), 16)
    )
    for kind in (images, images / 255)
  )
  assert real.images.dtype == np.float32
  np.testing.assert_allclose(real.images, whole.images / 255, atol=0.51 / 255)


GOOD = features()
LABELS = GOOD["labels"]
OBJECTS = np.array([{}] * len(LABELS), object)
# Other faults of arrays are test_population's.
BROKEN = {
  "nan": ({**GOOD, "images": np.nan * GOOD["images"]}, {}, "row 0 of images,"),
  "one class": ({**GOOD, "labels": 0 * LABELS}, {}, "at least two classes"),
  "objects": ({**GOOD, "labels": OBJECTS}, {}, "can't be read as an npz file"),
  "flips": (GOOD, {"flips": True}, "leave flips out"),
  "few people": (GOOD, {"num_individuals": 20}, "but the data has 30"),
  "fig4": (GOOD, {"model": "fig4"}, "samples have shape [20]"),
  "layers": (GOOD, {"methods": "tl:2:last=9"}, "must lie in 1..3, the layers"),
  "group": (GOOD, {"methods": "sg:9999"}, "asks for 9999"),
  "not square": (
    {**IMAGES, "images": np.zeros((40, 16, 20, 1))}, FEW, "must be square"
  ),
  "not square, no size": (
    {**IMAGES, "images": np.zeros((40, 16, 20, 1))},
    {**FEW, "image_size": 0},
    "are 16x20",
  ),
  "size": (
    {**IMAGES, "images": np.zeros((40, 28, 28, 1))},
    {**FEW, "image_size": 0},
    "image_size=28 must be one of",
  ),
  "no channel": (
    {**IMAGES, "images": np.zeros((40, 16, 16))},
    {**FEW, "model": "fig4", "layout": "features"},
    "samples have shape [16, 16]",
  ),
  "images or sequences": (
    {**IMAGES, "images": np.zeros((40, 16, 16))},
    FEW,
    "say --layout=grey or --layout=features",
  ),
  "channels first": (
    {**IMAGES, "images": np.zeros((40, 3, 16, 16), np.uint8)},
    FEW,
    "say --layout=channels_first or --layout=channels_last",
  ),
  "pad": (GOOD, {"pad": True}, "--pad=True can't act with samples that are no"),
  "other keys": (
    {"x": GOOD["images"], "y": LABELS, "subject": GOOD["individuals"]},
    {},
    "it has x, y, subject: say which to take by --image_key, --label_key, --in",
  ),
  "negative pixels": (
    {**IMAGES, "images": IMAGES["images"] - 0.5},
    {**FEW, "methods": "sg:3"},
    "must lie in 0..1 for the auto-encoder",
  ),
  "two channels": (
    {**IMAGES, "images": np.zeros((40, 16, 16, 2))},
    {**FEW, "methods": "ig:1"},
    "with 1 channel or 3",
  ),
  "width": (GOOD, {"width": 0.5}, "--width=0.5 can't act with --model=mlp"),
  "image size": (
    GOOD,
    {"image_size": 16, "width": 0.25},
    "--image_size=16 can't act with samples that are no images and"
    " --width=0.25 can't act with --model=mlp: leave them out, or behind a"
    " --flagfile that sets them add --image_size=32 --width=1.0.",
  ),
  "auto-encoder": (
    GOOD,
    {"autoencoder_epochs": 3, "methods": "ig:1"},
    "--autoencoder_epochs=3 can't act with samples that are no",
  ),
  "width of images": (
    IMAGES,
    {**FEW, "model": "mlp", "width": 0.5},
    "--width=0.5 can't act with --model=mlp: leave it out",
  ),
  "unknown data": (GOOD, {"dataset": "mnist"}, "--dataset='mnist' must be"),
  "no feature": (
    GOOD,
    {"dataset": "tfds:x", "npz_path": None},
    "needs --individual_feature",
  ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_mistake_gets_one_sentence(fault, tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("training began")

  monkeypatch.setattr(table1.training, "train_all", refuse)
  monkeypatch.setattr(table1.training, "find_groups", refuse)
  arrays, changes, sentence = BROKEN[fault]
  with pytest.raises(SystemExit) as stopped:
    run(tmp_path, arrays, **changes)
  message = str(stopped.value.code)
  assert message.startswith("error: ")
  assert sentence in message
  assert "\n" not in message
  assert not (tmp_path / "run").exists()
