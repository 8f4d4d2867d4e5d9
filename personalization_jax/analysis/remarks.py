"""What a population and its split should be known for before training (NumPy).

Each function gives a sentence, or None where nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING, Split

# With fewer test samples one is more than ten points of accuracy.
FEW_TESTS = 10
# Running batch statistics lag behind training of fewer steps.
FEW_STEPS = 50
_NAMED = 3
# Pairs of neighbours that are compared.
_PAIRS = 300
# A smaller part of a sample, or one of fewer different values, such as a margin
# or binary features, may be alike by chance.
_LEAST_OVERLAP = 0.25
_LEAST_VALUES = 5
# Pairs that overlap, of all tests; with fewer it is the border of two parts.
_LEAST_FRACTION = 0.1


def of_study(
  population: Population,
  split: Split,
  last_phases: Mapping[str, int],
  everybody: Split | None = None,
) -> list[str]:
  """All that is remarkable about a population and its split.

  Args:
    population: the samples as they came, before they are scaled.
    split: what each of them is for.
    last_phases: steps of each method's last phase, by its spec, if models have
      running batch statistics that aren't computed anew.
    everybody: the people of all folds as individuals, if `split` is the first
      of several; D_G is looked at in that fold alone.

  Returns:
    Sentences.
  """
  tested = everybody or split
  found = [
    *repeated(population, split, tested),
    overlapping(population, tested),
    untrained_classes(population, tested),
    few_tests(population, tested),
    lagging(last_phases),
  ]
  return [sentence for sentence in found if sentence]


def repeated(population: Population, split: Split, tested: Split) -> list[str]:
  """Test samples of individuals that are equal to training samples.

  Those of their own are looked for in `tested`, those of D_G in `split`.
  """
  digests = np.array([hash(image.tobytes()) for image in population.images])

  def among(tests: np.ndarray, known: np.ndarray) -> np.ndarray:
    return (tests != PADDING) & np.isin(digests[tests], digests[known])

  own = np.array(
    [among(line, tested.parts(i)[0]) for i, line in enumerate(tested.test)]
  )
  fold = "" if tested is split else " in the first fold"
  found = []
  for repeats, of, whose, remedy in (
    (
      own,
      tested,
      "the same person",
      ": give equal rows one number in `originals`, which keeps them together",
    ),
    (among(split.test, split.global_train), split, f"D_G{fold}", ""),
  ):
    if repeats.any():
      found.append(
        f"{repeats.sum()} of {_count(of.test)} test samples, of"
        f" {_people(population, of, repeats)}, equal a training sample of"
        f" {whose}{remedy}."
      )
  return found


def overlapping(population: Population, split: Split) -> str | None:
  """Windows of one recording, of which some train and their neighbours test.

  One's end is the other's beginning then, along the first axis of samples.
  """
  role = np.zeros(len(population), np.int8)
  for rows, number in (
    (split.train[split.train != PADDING], 1),
    (split.global_train, 1),
    (split.test[split.test != PADDING], 2),
    (split.global_test, 2),
  ):
    role[rows] = number
  order = np.argsort(population.individuals, kind="stable")
  pairs = np.stack([order[:-1], order[1:]], axis=1)
  first, second = population.individuals[pairs].T
  pairs = pairs[(first == second) & (role[pairs].prod(axis=1) == 2)]
  compared = pairs[:: max(1, len(pairs) // _PAIRS)]
  overlaps = [_overlap(*population.images[pair]) for pair in compared]
  share = np.mean(overlaps) if overlaps else 0
  if share * len(pairs) <= _LEAST_FRACTION * np.count_nonzero(role == 2):
    return None
  return (
    f"Where one of two neighbouring samples trains and the other tests, one"
    f" ends as the next begins in {share:.0%} of pairs, so tests are seen in"
    " training: give `originals`, one number a recording (or --split_key)."
  )


def _overlap(first: np.ndarray, second: np.ndarray) -> bool:
  """Whether the first one's end, along the first axis, begins the second."""
  length = len(first)
  axes = tuple(range(1, first.ndim))
  begins = np.flatnonzero((first == second[0]).all(axis=axes))
  for start in begins[begins > 0]:
    alike = length - int(start)
    if alike < _LEAST_OVERLAP * length:
      break
    if np.array_equal(first[start:], second[:alike]):
      return len(np.unique(second[:alike])) >= _LEAST_VALUES
  return False


def untrained_classes(population: Population, split: Split) -> str | None:
  """Classes that people are tested on without a training sample of theirs."""
  labels = population.labels
  unknown = np.array(
    [
      (tests != PADDING)
      & ~np.isin(labels[tests], labels[split.parts(index)[0]])
      for index, tests in enumerate(split.test)
    ]
  )
  if not unknown.any():
    return None
  return (
    f"{unknown.sum()} of {_count(split.test)} test samples, of"
    f" {_people(population, split, unknown)}, are of classes without a training"
    " sample of that person: `local` can't know them."
  )


def few_tests(population: Population, split: Split) -> str | None:
  """People whose accuracy is of few samples."""
  counts = (split.test != PADDING).sum(axis=1)
  few = counts < FEW_TESTS
  if not few.any():
    return None
  return (
    f"{_people(population, split, few[:, None])} have fewer than {FEW_TESTS}"
    f" test samples (the least: {counts.min()}), so one alone moves their"
    f" accuracy by more than {100 // FEW_TESTS} points."
  )


def lagging(last_phases: Mapping[str, int]) -> str | None:
  """Short trainings, behind which running batch statistics lag."""
  short = [s for s, steps in last_phases.items() if 0 < steps < FEW_STEPS]
  if not short:
    return None
  return (
    f"The last phase of {_listed(short)} has fewer than {FEW_STEPS} steps, too"
    " few for running batch statistics: --precise_batch_stats computes them"
    " anew."
  )


def of_autoencoder(error: float, error_of_mean: float) -> str | None:
  """A latent space that tells less of an image than the mean of all."""
  if not error > error_of_mean:
    return None
  return (
    f"The auto-encoder is worse than the mean image (squared error {error:.4f}"
    f" against {error_of_mean:.4f}), so groups by its latent space mean"
    " nothing: train it for more --autoencoder_epochs."
  )


def _people(population: Population, split: Split, which: np.ndarray) -> str:
  """How many individuals [S, R] have something, and the first ones' names."""
  ids = split.individuals[which.any(axis=1)]
  names = [population.name_of(person) for person in ids[:_NAMED]]
  return f"{len(ids)} of {len(which)} people ({_listed(names, len(ids))})"


def _listed(names: Iterable[str], count: int = 0) -> str:
  names = [*names]
  more = ["..."] if max(count, len(names)) > _NAMED else []
  return ", ".join([*names[:_NAMED], *more])


def _count(rows: np.ndarray) -> int:
  return int(np.count_nonzero(rows != PADDING))
