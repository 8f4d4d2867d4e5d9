"""Who is an individual, who feeds D_G, and everyone's rows (NumPy, host)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from personalization_jax import checks
from personalization_jax.datasets.population import Population
from personalization_jax.randomness import Stream, generator

PADDING = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Rows of a population's store for every purpose; -1 is padding.

  Attributes:
    individuals: int32 [S], ids of the individuals I of the paper's S.
    train: int32 [S, max], training rows of each D_I, padding last.
    validation: int32 [S, max], likewise; no column if none was asked for.
    test: int32 [S, max], likewise.
    global_people: int32 [G], ids of the writers of D_G, none of them in S.
    global_train: int32 [n], training rows of D_G.
    global_validation: int32 [n].
    global_test: int32 [n].
  """

  individuals: np.ndarray
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  global_people: np.ndarray
  global_train: np.ndarray
  global_validation: np.ndarray
  global_test: np.ndarray

  def parts(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, validation and test rows of individual `index`, unpadded."""
    padded = self.train[index], self.validation[index], self.test[index]
    train, validation, test = (rows[rows != PADDING] for rows in padded)
    return train, validation, test

  def take(self, places: slice) -> Split:
    """The split of these individuals alone, with D_G as it is."""
    padded = ("individuals", "train", "validation", "test")
    own = {name: getattr(self, name)[places] for name in padded}
    return dataclasses.replace(self, **own)


def pad(ragged: Sequence[np.ndarray]) -> np.ndarray:
  """Vectors of rows as int32 [len(ragged), the longest], -1 last."""
  length = max((len(rows) for rows in ragged), default=0)
  padded = np.full((len(ragged), length), PADDING, np.int32)
  for line, rows in zip(padded, ragged):
    line[: len(rows)] = rows
  return padded


def choose_people(
  population: Population,
  num_individuals: int,
  num_global_individuals: int,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the individuals and, from everyone else, the writers of D_G.

  Returns the ids of both, int32, from the two ends of one permutation: with
  more individuals, those before stay and D_G stays the same, and the other way
  round.
  """
  people = np.unique(population.individuals)
  checks.whole_number("num_individuals", num_individuals, 1)
  checks.whole_number("num_global_individuals", num_global_individuals, 1)
  wanted = num_individuals + num_global_individuals
  if wanted > len(people):
    raise ValueError(
      f"num_individuals={num_individuals} and"
      f" num_global_individuals={num_global_individuals} ask for {wanted}"
      f" people, but the data has {len(people)}."
    )
  order = generator(seed, Stream.PEOPLE).permutation(people)
  return order[:num_individuals], order[::-1][:num_global_individuals]


def split(
  population: Population,
  individuals: np.ndarray,
  global_people: np.ndarray,
  *,
  train_fraction: float = 0.7,
  validation_fraction: float = 0.0,
  seed: int = 0,
) -> Split:
  """Divides everyone's drawings into train, validation and test.

  As `split_people` does, of ids [S] of individuals and [G] of D_G's writers; of
  the latter there may be none. A drawing and all its copies stay together. A
  person's rows depend on the seed and on that person alone. Everyone has
  something to train on and something to test on.

  Source: section IV (70% of D_I trains, the rest tests).
  """
  if not 0 < train_fraction < 1:
    raise ValueError(
      f"train_fraction={train_fraction} must lie between 0 and 1."
    )
  # Decimal fractions don't add up to 1 exactly.
  if not 0 <= validation_fraction < 1 - train_fraction - 1e-9:
    raise ValueError(
      f"validation_fraction={validation_fraction} must be at least 0 and"
      f" leave something to test on beside train_fraction={train_fraction}."
    )
  both = np.intersect1d(individuals, global_people)
  if both.size:
    raise ValueError(
      f"person {both[0]} can't be an individual and feed D_G as well."
    )
  # Rows grouped by person once: a search for each person would be quadratic.
  by_person = np.argsort(population.individuals, kind="stable")
  ordered = population.individuals[by_person]

  def divided(person: int) -> list[np.ndarray]:
    """Train, validation and test rows of a person."""
    rows = by_person[slice(*np.searchsorted(ordered, [person, person + 1]))]
    if not len(rows):
      raise ValueError(f"individual {person} has no sample in the population.")
    originals = population.originals[rows]
    rng = generator(seed, Stream.SPLIT, person)
    drawings = rng.permutation(np.unique(originals))
    count = len(drawings)
    if count < 2:
      copies = f" in {len(rows)} copies" if len(rows) > 1 else ""
      raise ValueError(
        f"individual {person} has one sample{copies}; two are needed, one to"
        " train on and one to hold out."
      )
    train = min(max(round(train_fraction * count), 1), count - 1)
    validation = min(round(validation_fraction * count), count - train - 1)
    parts = np.split(drawings, [train, train + validation])
    return [rows[np.isin(originals, part)] for part in parts]

  own = [divided(int(person)) for person in individuals]
  others = [divided(int(person)) for person in global_people]
  train, validation, test = (pad([rows[k] for rows in own]) for k in range(3))
  return Split(
    np.asarray(individuals, np.int32),
    train,
    validation,
    test,
    np.asarray(global_people, np.int32),
    *(
      np.concatenate([[], *(rows[k] for rows in others)]).astype(np.int32)
      for k in range(3)
    ),
  )


def split_people(
  population: Population,
  num_individuals: int,
  num_global_individuals: int,
  *,
  train_fraction: float = 0.7,
  validation_fraction: float = 0.0,
  seed: int = 0,
) -> Split:
  """Draws the individuals and the writers of D_G, and divides their samples.

  Args:
    population: all people.
    num_individuals: |S|, people with a model each.
    num_global_individuals: number of other people who feed D_G.
    train_fraction: of a person's samples, to train on.
    validation_fraction: of them, to choose by; the rest is for tests.
    seed: of `choose_people` and `split`.

  Returns:
    Rows of the population for every purpose.

  Raises:
    ValueError: if there are too few people, a fraction is out of range, or
      somebody has one drawing alone.

  Source: section IV.
  """
  return split(
    population,
    *choose_people(population, num_individuals, num_global_individuals, seed),
    train_fraction=train_fraction,
    validation_fraction=validation_fraction,
    seed=seed,
  )


def check(split: Split, population: Population) -> None:
  """Rejects a split of another population."""
  rows = np.concatenate([split.train, split.validation, split.test], axis=1)
  general = (split.global_train, split.global_validation, split.global_test)
  most = max(each.max(initial=0) for each in (rows, *general))
  if most >= len(population):
    raise ValueError(
      f"split has row {most}, but the population has {len(population)}"
      " samples: split this very population."
    )
  writers = population.individuals[np.maximum(rows, 0)]
  wrong = (rows != PADDING) & (writers != split.individuals[:, None])
  if wrong.any():
    person = split.individuals[wrong.any(axis=1)][0]
    raise ValueError(
      f"split gives individual {person} samples that others have in this"
      " population: split this very population."
    )
  empty = (split.train == PADDING).all(axis=1)
  if empty.any():
    raise ValueError(
      f"individual {split.individuals[empty][0]} has nothing to train on."
    )
