"""The flags that determine a study: its people, their split, their training."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from experiments.flags import file_flags, values
from experiments.runtime import console, resources
from personalization_jax import checks
from personalization_jax.analysis.remarks import of_study
from personalization_jax.datasets import (
  Population,
  nist_digits,
  npz,
  scaling,
  splits,
  synthetic,
  tfds_loader,
  variations,
)
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.methods import Method
from personalization_jax.networks import MLP, classifier, factories
from personalization_jax.settings import Personal, Settings
from personalization_jax.study import Study
from personalization_jax.training import identities
from personalization_jax.training.latent_space import LatentSettings
from personalization_jax.training.population import PopulationTrainer

_TFDS = "tfds:"
_MODELS = ("auto", "fig4", "mlp")

# fmt: off
# These determine the results; a run directory holds one setting of them.
_DATASET = flags.DEFINE_string("dataset", "synthetic",
    "The people: 'synthetic', 'nist_digits', 'npz' (see --npz_path), or"
    " 'tfds:NAME', any set of tensorflow-datasets that says whose each sample"
    " is (see --individual_feature).")
_NIST_CONFIG = flags.DEFINE_enum("nist_config",
    "mnist", ["mnist", "qmnist", "xnist"],
    "Which digits of NIST SD 19.")
_SYNTHETIC_SAMPLES = flags.DEFINE_integer("synthetic_samples", 100,
    "Digits of each synthetic writer.", lower_bound=2)
_NUM_INDIVIDUALS = flags.DEFINE_integer("num_individuals", 100,
    "How many people get a model, |S|.", lower_bound=1)
_NUM_GLOBAL_INDIVIDUALS = flags.DEFINE_integer("num_global_individuals", 100,
    "How many other people D_G is made of.", lower_bound=1)
_FLIPS = flags.DEFINE_bool("flips", None,
    "Add flipped copies of images as classes: 10 become 30. Unset, those of"
    " synthetic and nist_digits alone are flipped.")
_INDIVIDUALS = flags.DEFINE_list("individuals", [],
    "Who gets a model, instead of a draw: names, or ids where people have none,"
    " separated by commas; D_G's people are drawn from the others.")
_PEOPLE = flags.DEFINE_enum("people", "draw", ["draw", "rotate"],
    "Whom models are for: people drawn, or everyone, in --num_folds folds"
    " whose models see the others' data as D_G.")
_NUM_FOLDS = flags.DEFINE_integer("num_folds", 5,
    "With --people=rotate: how many folds; 0 leaves out one person at a time.",
    lower_bound=0)
_GLOBAL_INCLUDES = flags.DEFINE_bool("global_includes_individuals", False,
    "Train D_G's model on the individuals' training data as well, as"
    " federated learning does.")
_CLASS_CONCENTRATION = flags.DEFINE_float("class_concentration", None,
    "Vary the individuals' class counts by a Dirichlet distribution with this"
    " parameter (section II, variant 1); unset, they stay as they are.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32,
    "Pixels a side: 16, 32 or 64; 0 keeps the images' size, but for synthetic"
    " ones. Other samples are never resized.")
_TRAIN_FRACTION = flags.DEFINE_float("train_fraction", 0.7,
    "Fraction of everyone's samples to train on.")
_STANDARDISE = flags.DEFINE_enum("standardise", "auto", scaling.KINDS,
    "Give each feature, or each channel of images, mean 0 and deviation 1 by"
    " D_G's training data: 'features', 'images' or 'none'; auto does so for all"
    " but images that are uint8 or lie in -1..1.")
_SPLIT = flags.DEFINE_enum("split", "random", ["random", "stratified"],
    "How everyone's samples are divided: at random, or by class. A split that"
    " the data have of their own is taken as it is.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Epochs on D_G.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Samples in a batch.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3,
    "Adam's learning rate.")
_PERSONAL_OPTIMIZER = flags.DEFINE_enum("personal_optimizer",
    "adam", ["adam", "sgd"],
    "What trains everyone's model on D_I after D_G: Adam, or SGD without"
    " momentum.")
_PERSONAL_LEARNING_RATE = flags.DEFINE_float("personal_learning_rate", None,
    "Its learning rate; unset, --learning_rate. A method's own, as in"
    " tl:300@lr=0.01, counts before it.")
_PERSONAL_WEIGHT_DECAY = flags.DEFINE_float("personal_weight_decay", 0.0,
    "Its weight decay, decoupled from the gradients.")
_PERSONAL_FRESH = flags.DEFINE_bool("personal_fresh", False,
    "Begin Adam anew on D_I; else its moments on D_G go on.")
_MODEL = flags.DEFINE_string("model", "auto",
    "Everybody's model: 'fig4', the paper's, or 'mlp', with two hidden layers"
    " of 64; 'auto' takes fig4 for images and mlp for all else. Or your own,"
    " 'module:Class', a Flax module or a function that makes one, called as"
    " Class(num_classes=C); the module is in the folder that you run from, or"
    " installed.")
_WIDTH = flags.DEFINE_float("width", 1.0,
    "Factor on the channel counts of Fig. 4 and the auto-encoder.")
_INITIALIZER = flags.DEFINE_enum("initializer",
    "pytorch", classifier.INITIALIZERS,
    "Initial weights of Fig. 4's network: Flax's, Keras' or PyTorch's"
    " default.")
_PRECISE_BATCH_STATS = flags.DEFINE_bool("precise_batch_stats", False,
    "Compute the batch statistics of trained models anew, over up to 50 of"
    " their last batches: running ones lag behind a short training.")
_PRECISION = flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"],
    "Number format of activations.")
_VALIDATION_FRACTION = flags.DEFINE_float("validation_fraction", 0.0,
    "Fraction of everyone's samples for --eval_every, for methods that choose"
    " by them (mix, knn, ifca, @best) and for the choice between a person's"
    " model and `global`'s. It is taken out of the test data, which are"
    " 1 - --train_fraction - --validation_fraction; of a split in the data"
    " without validation data, out of what trains.")
_SEED = flags.DEFINE_integer("seed", 0,
    "Seed of everything random; with --seeds, of who the individuals are.")
# They may grow from one call to the next; what is finished stays.
_SEEDS = flags.DEFINE_list("seeds", [],
    "Train with each of these seeds: its own split, order and initial"
    " weights, for the same people. By default --seed alone.")

_AUTOENCODER_EPOCHS = flags.DEFINE_integer("autoencoder_epochs", 20,
    "Epochs of the auto-encoder on D_G.")
_GROUP_CANDIDATES = flags.DEFINE_enum("group_candidates",
    "global", ["global", "individuals"],
    "Whom IG chooses from: the writers of D_G, or the other individuals.")

_NPZ_PATH = flags.DEFINE_string("npz_path", None,
    "With --dataset=npz: a file with the arrays images, labels and"
    " individuals.")
_SPLIT_KEY = flags.DEFINE_string("split_key", None,
    "With --dataset=npz: the file's array of your own split: whether a sample"
    " is for tests, or the texts train, validation and test; by default"
    " is_test, if the file has it.")
_INDIVIDUAL_FEATURE = flags.DEFINE_string("individual_feature", None,
    "With --dataset=tfds:NAME: the feature that says whose sample it is.")
_IMAGE_FEATURE = flags.DEFINE_string("image_feature", "image",
    "With --dataset=tfds:NAME: the feature that holds the sample.")
_LABEL_FEATURE = flags.DEFINE_string("label_feature", "label",
    "With --dataset=tfds:NAME: the feature that holds its class.")
_TFDS_SPLIT = flags.DEFINE_string("tfds_split", None,
    "With --dataset=tfds:NAME: the split to read; unset, all of them.")
_DATA_DIR = flags.DEFINE_string("data_dir", None,
    "Where tensorflow-datasets keeps prepared data.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None,
    "Folder of files that are already downloaded.")
# fmt: on
_FILE = file_flags.define()
_OF_TFDS = (_INDIVIDUAL_FEATURE, _IMAGE_FEATURE, _LABEL_FEATURE, _TFDS_SPLIT)
_DETERMINING = (
    _DATASET, _NIST_CONFIG, _SYNTHETIC_SAMPLES, _NUM_INDIVIDUALS,
    _NUM_GLOBAL_INDIVIDUALS, _FLIPS, _CLASS_CONCENTRATION, _IMAGE_SIZE,
    _TRAIN_FRACTION, _EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _WIDTH, _PRECISION,
    _SEED, _AUTOENCODER_EPOCHS, _GROUP_CANDIDATES,
    _VALIDATION_FRACTION,
)  # fmt: skip
# By the field of `Personal`.
_PERSONAL = {
    "optimizer": _PERSONAL_OPTIMIZER,
    "learning_rate": _PERSONAL_LEARNING_RATE,
    "weight_decay": _PERSONAL_WEIGHT_DECAY,
    "fresh": _PERSONAL_FRESH,
}  # fmt: skip
_ALL = "--people=rotate, which is of everyone"
# What acts on one kind of dataset alone.
_OF_DATASET = {
    "synthetic": (_SYNTHETIC_SAMPLES,),
    "nist_digits": (_NIST_CONFIG, _DATA_DIR, _MANUAL_DIR),
    "npz": (_NPZ_PATH, _SPLIT_KEY, *_FILE),
    _TFDS: (*_OF_TFDS, _DATA_DIR, _MANUAL_DIR, _FILE.layout, _FILE.pad),
}  # fmt: skip


def inert(
  population: Population | None = None,
  *,
  grouped: bool = True,
  late: bool = True,
) -> dict[str, str]:
  """Flags without effect on the results -> what they can't act with.

  Before the population is loaded, those of other datasets alone; `grouped`
  tells whether a method needs a latent space, `late` whether one trains on D_I
  after D_G.
  """
  dataset = _DATASET.value
  kind = _TFDS if dataset.startswith(_TFDS) else dataset
  own = {flag.name for flag in _OF_DATASET[kind]}
  every = {flag.name for those in _OF_DATASET.values() for flag in those}
  found = dict.fromkeys(sorted(every - own), f"--dataset={_one_line(dataset)}")
  if rotates():
    found |= dict.fromkeys((_INDIVIDUALS.name, _CLASS_CONCENTRATION.name), _ALL)
  else:
    found[_NUM_FOLDS.name] = "--people=draw"
  # Synthetic people are as many as these two say.
  if dataset != "synthetic":
    numbers = (_NUM_INDIVIDUALS.name, _NUM_GLOBAL_INDIVIDUALS.name)
    if rotates():
      found |= dict.fromkeys(numbers, _ALL)
    elif _INDIVIDUALS.value:
      found[numbers[0]] = "--individuals"
  if _PERSONAL_OPTIMIZER.value == "sgd":
    found[_PERSONAL_FRESH.name] = f"--{_PERSONAL_OPTIMIZER.name}=sgd"
  if not late:
    alone = "methods that don't train on D_I after D_G"
    found |= dict.fromkeys((flag.name for flag in _PERSONAL.values()), alone)
  if population is None:
    return found
  if population.parts is not None:
    its_own = "a split that the data have of their own"
    found |= dict.fromkeys((_TRAIN_FRACTION.name, _SPLIT.name), its_own)
    if (population.parts == 1).any():
      found[_VALIDATION_FRACTION.name] = its_own
  images = population.holds_images
  if not images:
    of_images = (_IMAGE_SIZE.name, _AUTOENCODER_EPOCHS.name, _FILE.pad.name)
    found |= dict.fromkeys(of_images, "samples that are no images")
  if (name := _model_name(population)) != "fig4":
    if not (images and grouped):
      found[_WIDTH.name] = f"--model={name}"
    found[_INITIALIZER.name] = f"--model={name}"
    if _factory():
      found[_PRECISION.name] = f"--model={name}"
  return found


def refuse_inert(found: Mapping[str, str]) -> None:
  """Rejects those of these flags that were given, naming all of them."""
  given = {
    name: flags.FLAGS[name]
    for name in found
    # 0 leaves images as they are, and other samples are left so.
    if flags.FLAGS[name].value not in (flags.FLAGS[name].default, None, "", 0)
  }
  if not given:
    return
  what = " and ".join(
    f"--{name}={_one_line(flag.value)} can't act with {found[name]}"
    for name, flag in given.items()
  )
  unset = " ".join(
    f"--{name}={'' if flag.default is None else _one_line(flag.default)}"
    for name, flag in given.items()
  )
  it = "it" if len(given) == 1 else "them"
  raise ValueError(
    f"{what}: leave {it} out, or behind a --flagfile that sets {it} add"
    f" {unset}."
  )


def _one_line(value: Any) -> str:
  """A value as it was given, if it is one line."""
  value = ",".join(value) if isinstance(value, list) else value
  return str(value) if str(value).isprintable() else repr(value)


def determining(population: Population) -> dict[str, Any]:
  """Flag -> value, of all flags that determine these people's results."""
  # Later flags are left out where they change nothing: older runs go on.
  left_out = inert(population)
  found = values.of(*(x for x in _DETERMINING if x.name not in left_out))
  found["flips"] = _wants_flips()
  if _PRECISE_BATCH_STATS.value:
    found |= values.of(_PRECISE_BATCH_STATS)
  if _model_name(population) != "fig4":
    found["model"] = _model_name(population)
  if (kind := scaling.kind_of(population, _STANDARDISE.value)) != "none":
    found[_STANDARDISE.name] = kind
  # Runs of versions without the flag have Flax's.
  initializer = _INITIALIZER.value
  if initializer != "lecun_normal" and _INITIALIZER.name not in left_out:
    found[_INITIALIZER.name] = initializer
  own = model(population)
  if own is not None and _factory():
    # Its file may change where its name doesn't.
    computes = identities.of_model(own, population.sample_shape)
    found["model_digest"] = computes[:16]
  if _DATASET.value.startswith(_TFDS):
    found |= values.of(*_OF_TFDS)
  for flag in (_INDIVIDUALS, _SPLIT, _GLOBAL_INCLUDES, *_PERSONAL.values()):
    if flag.value != flag.default and flag.name not in left_out:
      found[flag.name] = flag.value
  if rotates():
    number = _NUM_FOLDS.value or len(np.unique(population.individuals))
    found |= {_PEOPLE.name: _PEOPLE.value, _NUM_FOLDS.name: number}
  return found


def about() -> dict[str, Any]:
  """What config.json tells of the people beside what determines the results."""
  # Its content does; the file may move, and its arrays change their names.
  if _DATASET.value != "npz":
    return {}
  given = [f for f in (_SPLIT_KEY, *_FILE) if f.value != f.default]
  return values.of(_NPZ_PATH, *given)


def model(population: Population) -> nn.Module | None:
  """Everybody's model; None for the paper's."""
  if factory := _factory():
    shape, classes = population.sample_shape, population.num_classes
    with console.of("--model"):
      return factories.make(factory, shape, classes)
  if _model_name(population) == "fig4":
    return None
  return MLP(population.num_classes, dtype=jnp.dtype(_PRECISION.value))


def _factory() -> str | None:
  """What makes a model of the user's own, if that is asked for."""
  model = _MODEL.value
  if model in _MODELS:
    return None
  if ":" not in model:
    known = ", ".join(map(repr, _MODELS))
    raise ValueError(f"--model={model!r} must be {known} or 'module:Class'.")
  return model


def _model_name(population: Population) -> str:
  """The network's name; rejects Fig. 4's for what it doesn't take."""
  if _MODEL.value == "fig4" and not population.holds_images:
    raise ValueError(
      "--model=fig4, the paper's network, takes images [H, W, C], but samples"
      f" have shape {list(population.sample_shape)}: take --model=mlp."
    )
  if _MODEL.value != "auto":
    return _MODEL.value
  return "fig4" if population.holds_images else "mlp"


def _wants_flips() -> bool:
  """Whether to flip: the default is for the paper's digits."""
  if _FLIPS.value is None:
    return _DATASET.value in ("synthetic", "nist_digits")
  return _FLIPS.value


def remarks(study: Study, methods: Sequence[Method], people: Any) -> list[str]:
  """What is remarkable about a study of the people that `vary` gave."""
  population, *_ = people
  lags = study.trainer.has_batch_stats and not study.precise_batch_stats
  last_phases = {m.spec: study.batches.last_phase(m) for m in methods if lags}
  everybody = None
  if rotates():
    ids, nobody = np.unique(population.individuals), np.empty(0, np.int32)
    everybody = _split(population, ids, nobody, study.settings.seed)
  found = of_study(population, study.split, last_phases, everybody)
  if population.parts is not None:
    found.append("Samples are divided by the data's own split, not at random.")
  if study.population.scaling is not None:
    what = "Channels" if population.holds_images else "Features"
    found.append(
      f"{what} are standardised by D_G's training data; --{_STANDARDISE.name}="
      "none leaves them as they are."
    )
  if _FLIPS.value is None and population.holds_images and not _wants_flips():
    found.append(
      "Images aren't flipped unless you say --flips, which makes each class"
      " three; earlier versions flipped those of any data."
    )
  return found


def seeds() -> tuple[int, ...]:
  """The seeds to train with: those of --seeds, or --seed alone."""
  checks.seed(_SEED.value)
  if not _SEEDS.value:
    return (_SEED.value,)
  given = f"--seeds={','.join(_SEEDS.value)}"
  if not all(text.isdecimal() for text in _SEEDS.value):
    raise ValueError(
      f"{given} must be whole numbers of 0 or more, separated by commas."
    )
  numbers = tuple(map(int, _SEEDS.value))
  for number in numbers:
    checks.seed(number, "seeds")
  if len(set(numbers)) < len(numbers):
    raise ValueError(f"{given} names a seed twice.")
  return numbers


def home(
  workdir: pathlib.Path, seed: int, fold: int = 0, num_folds: int = 1
) -> pathlib.Path:
  """A seed's folder: the run directory for --seed, one in it for any other.

  Of several folds each has a folder in that one.
  """
  folder = workdir if seed == _SEED.value else workdir / "seeds" / str(seed)
  if num_folds == 1:
    return folder
  return folder / "folds" / f"{fold + 1}-of-{num_folds}"


def rotates() -> bool:
  """Whether everyone is to be tested, fold by fold."""
  return _PEOPLE.value == "rotate"


def training_settings(seed: int) -> Settings:
  """How every model is trained."""
  those = (
    _EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _WIDTH, _PRECISION, _INITIALIZER
  )  # fmt: skip
  for flag in (_PERSONAL_LEARNING_RATE, _PERSONAL_WEIGHT_DECAY):
    if flag.value != flag.default:
      checks.positive(flag.name, flag.value)
  its: dict[str, Any] = {name: flag.value for name, flag in _PERSONAL.items()}
  settings = Settings(**values.of(*those), seed=seed, personal=Personal(**its))
  classifier.check_width(settings.width)
  return settings


def latent_settings(seed: int) -> LatentSettings:
  """How the auto-encoder is trained."""
  # Its flag isn't called as the field is.
  checks.whole_number("autoencoder_epochs", _AUTOENCODER_EPOCHS.value, 1)
  own = {"epochs": _AUTOENCODER_EPOCHS.value, "seed": seed}
  return LatentSettings(**own, **values.of(_BATCH_SIZE, _WIDTH))


def load_population(
  say: Callable[[str], None] = console.say,
) -> tuple[Population, WriterFactors | None]:
  """The people, and their hidden factors where known.

  `say` is told how the data were taken.
  """
  dataset = _DATASET.value
  if dataset not in _OF_DATASET and not dataset.startswith(_TFDS):
    raise ValueError(
      f"--dataset={dataset!r} must be 'synthetic', 'nist_digits', 'npz' or"
      " 'tfds:NAME'."
    )
  refuse_inert(inert())
  if _IMAGE_SIZE.value or dataset == "synthetic":
    classifier.check_image_size(_IMAGE_SIZE.value)
  if dataset == "synthetic":
    writers = _NUM_INDIVIDUALS.value + _NUM_GLOBAL_INDIVIDUALS.value
    each = _SYNTHETIC_SAMPLES.value
    resources.check_fits(
      # Twice while they are drawn, and flips are two more.
      4 * writers * each * _IMAGE_SIZE.value**2,
      f"{writers} writers (--num_individuals and --num_global_individuals) of"
      f" --synthetic_samples={each} digits",
    )
    return synthetic.make_population(
      writers, samples_per_writer=each, **values.of(_IMAGE_SIZE, _SEED)
    )
  folders = values.of(_DATA_DIR, _MANUAL_DIR)
  if dataset == "nist_digits":
    return nist_digits.load(_NIST_CONFIG.value, **folders), None
  if dataset == "npz":
    if not _NPZ_PATH.value:
      raise ValueError("--dataset=npz needs --npz_path.")
    how = values.of(_SPLIT_KEY, *_FILE)
    return npz.load(_NPZ_PATH.value, **how, say=say), None
  if _INDIVIDUAL_FEATURE.value is None:
    raise ValueError(
      f"--dataset={dataset} needs --individual_feature, the feature that says"
      " whose a sample is."
    )
  options = values.of(*_OF_TFDS, _FILE.layout, _FILE.pad)
  options |= {**folders, "say": say}
  options["split"] = options.pop(_TFDS_SPLIT.name)
  try:
    return tfds_loader.load(dataset.removeprefix(_TFDS), **options), None
  except ValueError as error:
    # Its flag isn't called as the argument is.
    text = str(error).replace(" split=", " --tfds_split=")
    raise ValueError(text) from error


def vary(population: Population) -> tuple[Population, np.ndarray, np.ndarray]:
  """Sizes, flips and class counts; the store, individuals, D_G's writers."""
  if population.holds_images and _IMAGE_SIZE.value:
    population = variations.resize(population, _IMAGE_SIZE.value)
  if _wants_flips():
    with console.of("--flips"):
      population = variations.flips(population)
  if rotates():
    people, global_people = _folds(population)[0]
  else:
    people, global_people = splits.choose_people(
      population,
      None if _INDIVIDUALS.value else _NUM_INDIVIDUALS.value,
      individuals=_INDIVIDUALS.value or None,
      **values.of(_NUM_GLOBAL_INDIVIDUALS, _SEED),
    )
  if (concentration := _CLASS_CONCENTRATION.value) is not None:
    # Its flag isn't called as the argument is.
    checks.positive("class_concentration", concentration)
    population = variations.vary_class_counts(
      population, people, concentration=concentration, seed=_SEED.value
    )
  # The store goes onto every device: nobody else's samples need to.
  everybody = np.union1d(people, global_people)
  kept = np.flatnonzero(np.isin(population.individuals, everybody))
  return population.take(kept), people, global_people


def folds(
  population: Population, people: np.ndarray, global_people: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Individuals and D_G's writers of every study, from what `vary` gave."""
  return _folds(population) if rotates() else [(people, global_people)]


def _folds(population: Population) -> list[tuple[np.ndarray, np.ndarray]]:
  return splits.folds(population, _NUM_FOLDS.value, _SEED.value)


def _split(
  population: Population,
  people: np.ndarray,
  global_people: np.ndarray,
  seed: int,
) -> splits.Split:
  how = values.of(_TRAIN_FRACTION, _VALIDATION_FRACTION, _GLOBAL_INCLUDES)
  return splits.split(
    population, people, global_people, **how, how=_SPLIT.value, seed=seed
  )


def make_study(
  population: Population,
  people: np.ndarray,
  global_people: np.ndarray,
  seed: int,
  trainer_of: Callable[[Population], PopulationTrainer | None] = lambda _: None,
  **how: Any,
) -> Study:
  """A seed's study of what `vary` gave; `how` is what else a `Study` takes.

  Each seed has training data of its own in D_G, by which samples are scaled:
  `trainer_of` gives the trainer of what they become.
  """
  split = _split(population, people, global_people, seed)
  both = split.validation.shape[1] > 0, len(split.global_validation) > 0
  if rotates() and any(both) and not all(both):
    how["eval_every"] = 0  # other folds have curves
  how |= values.of(_PRECISE_BATCH_STATS)
  how["factory"] = _factory()
  how["among_individuals"] = _GROUP_CANDIDATES.value == "individuals"
  population = scaling.standardise(population, split, _STANDARDISE.value)
  trainer = how["trainer"] = trainer_of(population)
  if trainer and _factory():
    # Its width is its own, even where the network is Fig. 4's.
    how["model"] = trainer.learner.model
  return Study(population, split, training_settings(seed), **how)
