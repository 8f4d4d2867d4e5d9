"""The flags that determine a study: its people, their split, their training."""

from __future__ import annotations

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from experiments.runtime import resources
from experiments.runtime.console import say
from personalization_jax import checks
from personalization_jax.datasets import (
  Population,
  nist_digits,
  npz,
  splits,
  synthetic,
  tfds_loader,
  variations,
)
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.grouping.groups import Groups
from personalization_jax.networks import MLP, classifier
from personalization_jax.settings import Settings
from personalization_jax.training.latent_space import LatentSettings

_TFDS = "tfds:"

# These determine the results; a run directory holds one setting of them.
_DATASET = flags.DEFINE_string(
    "dataset", "synthetic",
    "The people: 'synthetic', 'nist_digits', 'npz' (see --npz_path), or"
    " 'tfds:NAME', any set of tensorflow-datasets that says whose each sample"
    " is (see --individual_feature).",
)  # fmt: skip
_NIST_CONFIG = flags.DEFINE_enum(
    "nist_config", "mnist", ["mnist", "qmnist", "xnist"],
    "Which digits of NIST SD 19.",
)  # fmt: skip
_SYNTHETIC_SAMPLES = flags.DEFINE_integer(
  "synthetic_samples", 100, "Digits of each synthetic writer.", lower_bound=2
)
_NUM_INDIVIDUALS = flags.DEFINE_integer(
  "num_individuals", 100, "How many people get a model, |S|.", lower_bound=1
)
_NUM_GLOBAL_INDIVIDUALS = flags.DEFINE_integer(
  "num_global_individuals", 100, "How many others feed D_G.", lower_bound=1
)
_FLIPS = flags.DEFINE_bool(
    "flips", True,
    "Add flipped copies of images as classes: 10 become 30.",
)  # fmt: skip
_CLASS_CONCENTRATION = flags.DEFINE_float(
    "class_concentration", None,
    "Vary the individuals' class counts by a Dirichlet distribution with this"
    " parameter (section II, variant 1); unset, they stay as they are.",
)  # fmt: skip
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32,
    "Pixels a side: 16, 32 or 64; 0 leaves images as they are. Nothing else is"
    " resized.",
)  # fmt: skip
_TRAIN_FRACTION = flags.DEFINE_float(
  "train_fraction", 0.7, "Part of everyone's samples that trains."
)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Epochs on D_G.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Samples in a batch.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's.")
_MODEL = flags.DEFINE_enum(
    "model", "auto", ["auto", "fig4", "mlp"],
    "Everybody's model: the paper's Fig. 4, or an MLP with two hidden layers of"
    " 64; auto takes fig4 for images and mlp for all else.",
)  # fmt: skip
_WIDTH = flags.DEFINE_float(
  "width", 1.0, "Factor on the channel counts of Fig. 4 and the auto-encoder."
)
_PRECISION = flags.DEFINE_enum(
  "precision", "float32", ["float32", "bfloat16"], "Of activations."
)
_VALIDATION_FRACTION = flags.DEFINE_float(
    "validation_fraction", 0.0,
    "Part of everyone's samples to choose by: for --eval_every, and for the"
    " choice between a person's model and `global`'s. It is taken out of the"
    " test data: they are 1 - --train_fraction - --validation_fraction.",
)  # fmt: skip
_SEED = flags.DEFINE_integer(
    "seed", 0,
    "Of everything random, and with --seeds of who the individuals are.",
)  # fmt: skip
# They may grow from one call to the next; what is finished stays.
_SEEDS = flags.DEFINE_list(
    "seeds", [],
    "Train with each of these: its own split, order and initial weights, for"
    " the same people. By default --seed alone.",
)  # fmt: skip

_AUTOENCODER_EPOCHS = flags.DEFINE_integer(
  "autoencoder_epochs", 20, "Epochs of the auto-encoder on D_G."
)
_GROUP_CANDIDATES = flags.DEFINE_enum(
  "group_candidates", "global", ["global", "individuals"],
  "Whom IG chooses from: the writers of D_G, or the other individuals.",
)  # fmt: skip

_NPZ_PATH = flags.DEFINE_string(
    "npz_path", None, "With --dataset=npz: a file with the arrays images,"
    " labels and individuals.",
)  # fmt: skip
_INDIVIDUAL_FEATURE = flags.DEFINE_string(
    "individual_feature", None,
    "With --dataset=tfds:NAME: the feature that says whose a sample is.",
)  # fmt: skip
_IMAGE_FEATURE = flags.DEFINE_string(
  "image_feature", "image", "Likewise: the feature that is the sample."
)
_LABEL_FEATURE = flags.DEFINE_string(
  "label_feature", "label", "Likewise: the feature that is its class."
)
_TFDS_SPLIT = flags.DEFINE_string(
  "tfds_split", None, "Likewise: the split to read; unset, all of them."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where tensorflow-datasets keeps prepared data."
)
_MANUAL_DIR = flags.DEFINE_string(
  "manual_dir", None, "Where downloaded files lie already."
)
_OF_TFDS = (_INDIVIDUAL_FEATURE, _IMAGE_FEATURE, _LABEL_FEATURE, _TFDS_SPLIT)
_DETERMINING = (
    _DATASET, _NIST_CONFIG, _SYNTHETIC_SAMPLES, _NUM_INDIVIDUALS,
    _NUM_GLOBAL_INDIVIDUALS, _FLIPS, _CLASS_CONCENTRATION, _IMAGE_SIZE,
    _TRAIN_FRACTION, _EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _WIDTH, _PRECISION,
    _SEED, _AUTOENCODER_EPOCHS, _GROUP_CANDIDATES,
    _VALIDATION_FRACTION,
)  # fmt: skip
# What says nothing about any other people.
_OF_DATASET = {
    "synthetic": (_SYNTHETIC_SAMPLES,),
    "nist_digits": (_NIST_CONFIG, _DATA_DIR, _MANUAL_DIR),
    "npz": (_NPZ_PATH,),
    _TFDS: (*_OF_TFDS, _DATA_DIR, _MANUAL_DIR),
}  # fmt: skip
_OF_IMAGES = (_IMAGE_SIZE, _AUTOENCODER_EPOCHS, _WIDTH)


def determining(population: Population) -> dict[str, Any]:
  """Flag -> value, of all flags that determine the results.

  Flags that came later are left out where they change nothing, so that older
  runs go on; so are those that can't act on these people.

  Args:
    population: the people; what they are settles some values.
  """
  left_out = inert(population)
  values = {
    flag.name: flag.value for flag in _DETERMINING if flag.name not in left_out
  }
  values["flips"] = _wants_flips(population)
  if _model_name(population) != "fig4":
    values["model"] = _model_name(population)
  if _DATASET.value.startswith(_TFDS):
    values |= {flag.name: flag.value for flag in _OF_TFDS}
  return values


def inert(population: Population) -> frozenset[str]:
  """Flags that nothing depends on here, whatever the methods.

  Args:
    population: the people.

  Returns:
    Their names.
  """
  of_images = () if population.holds_images else _OF_IMAGES
  return frozenset(flag.name for flag in (*_of_other_datasets(), *of_images))


def check_inert(population: Population, needs_latents: bool) -> None:
  """Refuses flags that were given and that nothing here depends on.

  Args:
    population: the people.
    needs_latents: whether a method does, so that images want an auto-encoder.

  Raises:
    ValueError: naming them, and beside what they can't act.
  """
  if _model_name(population) != "mlp":
    return  # samples that are no images are refused for that
  found: list[tuple[Any, str]] = []
  if not population.holds_images:
    found += [
      (flag, "samples that are no images")
      for flag in _OF_IMAGES
      if flag is not _WIDTH
    ]
  if not (population.holds_images and needs_latents):
    found.append((_WIDTH, "--model=mlp"))
  _refuse(found)


def about() -> dict[str, Any]:
  """What config.json tells of the people beside what determines the results."""
  # Its content does; the file may move.
  return {"npz_path": _NPZ_PATH.value} if _DATASET.value == "npz" else {}


def _of_other_datasets() -> list[Any]:
  dataset = _DATASET.value
  kind = _TFDS if dataset.startswith(_TFDS) else dataset
  own = {flag.name for flag in _OF_DATASET.get(kind, ())}
  return [
    flag for its in _OF_DATASET.values() for flag in its if flag.name not in own
  ]


def _refuse(found: list[tuple[Any, str]]) -> None:
  """Refuses those of these flags that were given, each beside something."""
  given = {
    flag.name: (flag, beside)
    for flag, beside in found
    # 0 leaves images as they are, and other samples are left so.
    if flag.value != flag.default and flag.value not in (None, "", 0)
  }
  if not given:
    return
  what = " and ".join(
    f"--{name}={_one_line(flag.value)} can't act with {beside}"
    for name, (flag, beside) in given.items()
  )
  unset = " ".join(
    f"--{name}={'' if flag.default is None else flag.default}"
    for name, (flag, _) in given.items()
  )
  it = "it" if len(given) == 1 else "them"
  raise ValueError(
    f"{what}: leave {it} out, or behind a --flagfile that sets {it} add"
    f" {unset}."
  )


def _one_line(value: Any) -> str:
  """A value as it was given, if it is one line."""
  return str(value) if str(value).isprintable() else repr(value)


def model(population: Population) -> nn.Module | None:
  """What the flags have everybody's model be; None for the paper's."""
  if _model_name(population) == "fig4":
    return None
  return MLP(population.num_classes, dtype=jnp.dtype(_PRECISION.value))


def _model_name(population: Population) -> str:
  if _MODEL.value != "auto":
    return _MODEL.value
  return "fig4" if population.holds_images else "mlp"


def _wants_flips(population: Population) -> bool:
  """Whether to flip: the default is for images, asking is for anything."""
  asked = not flags.FLAGS["flips"].using_default_value
  return _FLIPS.value and (asked or population.holds_images)


def seeds() -> tuple[int, ...]:
  """The seeds to train with, those of --seeds or --seed alone.

  Raises:
    ValueError: if --seeds are no distinct whole numbers of 0 .. 2**32 - 1.
  """
  given = _SEEDS.value
  checks.seed(_SEED.value)
  if not given:
    return (_SEED.value,)
  if not all(text.isdecimal() for text in given):
    raise ValueError(
      f"--seeds={','.join(given)} must be whole numbers of 0 or more, separated"
      " by commas."
    )
  numbers = tuple(int(text) for text in given)
  for number in numbers:
    checks.seed(number, "seeds")
  if len(set(numbers)) < len(numbers):
    raise ValueError(f"--seeds={','.join(given)} names a seed twice.")
  return numbers


def home(workdir: pathlib.Path, seed: int) -> pathlib.Path:
  """Where a run keeps what was trained with one seed.

  Args:
    workdir: the run directory.
    seed: one of `seeds`.

  Returns:
    The directory itself for --seed, and a folder in it for any other.
  """
  return workdir if seed == _SEED.value else workdir / "seeds" / str(seed)


def training_settings(seed: int) -> Settings:
  """How the flags have every model trained."""
  return Settings(
    epochs=_EPOCHS.value,
    batch_size=_BATCH_SIZE.value,
    learning_rate=_LEARNING_RATE.value,
    width=_WIDTH.value,
    precision=_PRECISION.value,
    seed=seed,
  )


def groups(population: Population, split: splits.Split, seed: int) -> Groups:
  """What the flags have D_I enlarged with.

  Args:
    population: the store.
    split: its parts.
    seed: of random groups.
  """
  return Groups(
    population,
    split,
    seed=seed,
    among_individuals=_GROUP_CANDIDATES.value == "individuals",
  )


def load_population() -> tuple[Population, WriterFactors | None]:
  """The people that the flags name, and their hidden factors where known."""
  dataset = _DATASET.value
  if dataset not in _OF_DATASET and not dataset.startswith(_TFDS):
    raise ValueError(
      f"--dataset={dataset!r} must be 'synthetic', 'nist_digits', 'npz' or"
      " 'tfds:NAME'."
    )
  _refuse(
    [(flag, f"--dataset={_one_line(dataset)}") for flag in _of_other_datasets()]
  )
  if _IMAGE_SIZE.value or dataset == "synthetic":
    classifier.check_image_size(_IMAGE_SIZE.value)
  if dataset == "synthetic":
    writers = _NUM_INDIVIDUALS.value + _NUM_GLOBAL_INDIVIDUALS.value
    resources.check_fits(
      # Twice while they are drawn, and flips are two more.
      4 * writers * _SYNTHETIC_SAMPLES.value * _IMAGE_SIZE.value**2,
      f"{writers} writers (--num_individuals and --num_global_individuals) of"
      f" --synthetic_samples={_SYNTHETIC_SAMPLES.value} digits",
    )
    return synthetic.make_population(
      writers,
      samples_per_writer=_SYNTHETIC_SAMPLES.value,
      image_size=_IMAGE_SIZE.value,
      seed=_SEED.value,
    )
  if dataset == "nist_digits":
    population = nist_digits.load(
      _NIST_CONFIG.value,
      data_dir=_DATA_DIR.value,
      manual_dir=_MANUAL_DIR.value,
    )
    return population, None
  if dataset.startswith(_TFDS):
    return _load_tfds(dataset.removeprefix(_TFDS)), None
  if not _NPZ_PATH.value:
    raise ValueError("--dataset=npz needs --npz_path.")
  return npz.load(_NPZ_PATH.value), None


def _load_tfds(name: str) -> Population:
  if _INDIVIDUAL_FEATURE.value is None:
    raise ValueError(
      f"--dataset=tfds:{name} needs --individual_feature, the feature that says"
      " whose a sample is."
    )
  return tfds_loader.load(
    name,
    individual_feature=_INDIVIDUAL_FEATURE.value,
    image_feature=_IMAGE_FEATURE.value,
    label_feature=_LABEL_FEATURE.value,
    split=_TFDS_SPLIT.value,
    data_dir=_DATA_DIR.value,
    manual_dir=_MANUAL_DIR.value,
    say=say,
  )


def vary(
  population: Population,
) -> tuple[Population, np.ndarray, np.ndarray]:
  """Sizes, flips, class counts; and who they are of.

  Args:
    population: from `load_population`.

  Returns:
    The store, the individuals' ids and the ids of D_G's writers.
  """
  if population.holds_images and _IMAGE_SIZE.value:
    population = variations.resize(population, _IMAGE_SIZE.value)
  if _wants_flips(population):
    population = variations.flips(population)
  people, global_people = splits.choose_people(
    population,
    _NUM_INDIVIDUALS.value,
    _NUM_GLOBAL_INDIVIDUALS.value,
    _SEED.value,
  )
  if _CLASS_CONCENTRATION.value is not None:
    # Its flag isn't called as the argument is.
    checks.positive("class_concentration", _CLASS_CONCENTRATION.value)
    population = variations.vary_class_counts(
      population,
      people,
      concentration=_CLASS_CONCENTRATION.value,
      seed=_SEED.value,
    )
  # The store goes onto every device: nobody else's samples need to.
  everybody = np.union1d(people, global_people)
  kept = np.flatnonzero(np.isin(population.individuals, everybody))
  return population.take(kept), people, global_people


def split(
  population: Population,
  people: np.ndarray,
  global_people: np.ndarray,
  seed: int,
) -> splits.Split:
  """Who trains, chooses and tests on what, as the flags have it.

  Args:
    population: from `vary`, as are the ids.
    people: int32 [S].
    global_people: int32 [G].
    seed: one of `seeds`.

  Returns:
    The split.
  """
  return splits.split(
    population,
    people,
    global_people,
    train_fraction=_TRAIN_FRACTION.value,
    validation_fraction=_VALIDATION_FRACTION.value,
    seed=seed,
  )


def latent_settings(seed: int) -> LatentSettings:
  """How the flags have the auto-encoder trained."""
  # Its flag isn't called as the field is.
  checks.whole_number("autoencoder_epochs", _AUTOENCODER_EPOCHS.value, 1)
  return LatentSettings(
    epochs=_AUTOENCODER_EPOCHS.value,
    batch_size=_BATCH_SIZE.value,
    width=_WIDTH.value,
    seed=seed,
  )
