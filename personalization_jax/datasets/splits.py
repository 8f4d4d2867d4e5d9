"""Who is an individual, who feeds D_G, and everyone's rows (NumPy, host)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from personalization_jax import checks
from personalization_jax.datasets.population import Population
from personalization_jax.randomness import Stream, generator

PADDING = -1
_PARTS = ("train", "validate", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Rows of a population's store for every purpose; -1 is padding.

  Attributes:
    individuals: int32 [S], ids of the individuals I of the paper's S.
    train: int32 [S, max], training rows of each D_I, padding last.
    validation: int32 [S, max], likewise; no column if none was asked for.
    test: int32 [S, max], likewise.
    global_people: int32 [G], ids of the writers of D_G, none of them in S.
    global_train: int32 [n], training rows of D_G; the individuals' too where
      D_G includes them.
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

  @property
  def global_includes_individuals(self) -> bool:
    """Whether D_G is trained on individuals' rows as well."""
    return bool(np.isin(self.global_train, self.train).any())

  def take(self, places: slice | np.ndarray) -> Split:
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
  num_individuals: int | None = None,
  num_global_individuals: int | None = None,
  seed: int = 0,
  *,
  individuals: Iterable[int | str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the individuals and, from everyone else, the writers of D_G.

  Returns the ids of both, int32, from the two ends of one permutation: with
  more individuals, those before stay and D_G stays the same, and the other way
  round. `individuals`, ids or names, are taken as they are instead of drawn;
  without num_global_individuals everyone else writes D_G.
  """
  order = _people_in_order(population, seed)
  if individuals is None:
    checks.whole_number("num_individuals", num_individuals, 1)
    chosen = order[:num_individuals]
  elif num_individuals is not None:
    raise ValueError(
      f"num_individuals={num_individuals} can't act with individuals, who are"
      " as many as they are: leave it out."
    )
  else:
    chosen = _ids_of(population, individuals)
    num_individuals = len(chosen)
  others = order[~np.isin(order, chosen)]
  if num_global_individuals is None:
    num_global_individuals = max(len(others), 1)
  checks.whole_number("num_global_individuals", num_global_individuals, 1)
  wanted = num_individuals + num_global_individuals  # type: ignore[operator]
  if wanted > len(order):
    asked = f"num_individuals={num_individuals}"
    if individuals is not None:
      asked = f"{num_individuals} individuals"
    raise ValueError(
      f"{asked} and num_global_individuals={num_global_individuals} ask for"
      f" {wanted} people, but the data has {len(order)}."
    )
  return chosen, others[::-1][:num_global_individuals]


def folds(
  population: Population, num_folds: int, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Divides people into folds, each tested on models of all the others.

  A fold's people are the individuals and all others the writers of D_G, as
  `choose_people` gives both. Folds are drawn by the seed; their sizes differ by
  one at most. 0 folds are as many as there are people: each is left out alone.
  """
  order = _people_in_order(population, seed)
  if num_folds != 0:
    checks.whole_number("num_folds", num_folds, 2)
  if num_folds > len(order):
    raise ValueError(
      f"num_folds={num_folds} must be at most {len(order)}, as many as there"
      " are people."
    )
  return [
    choose_people(population, seed=seed, individuals=map(int, fold))
    for fold in np.array_split(order, num_folds or len(order))
  ]


def _people_in_order(population: Population, seed: int) -> np.ndarray:
  """The ids of all people in the order that the seed draws."""
  people = np.unique(population.individuals)
  return generator(seed, Stream.PEOPLE).permutation(people)


def _ids_of(
  population: Population, individuals: Iterable[int | str]
) -> np.ndarray:
  """The ids, int32, of people given by id or by name."""
  people = np.unique(population.individuals)
  by_name = {population.name_of(person): person for person in people.tolist()}
  given = list(individuals)
  found = [
    by_name.get(one, one) if isinstance(one, str) else one for one in given
  ]
  few = ", ".join([*by_name][:5]) + ", ..." * (len(people) > 5)
  there = f"the data has {len(people)} people ({few})"
  if not given:
    raise ValueError(f"individuals names nobody: {there}.")
  for name, person in zip(given, found):
    if isinstance(person, str) or person not in people:
      raise ValueError(f"individuals={name} is nobody's name: {there}.")
  if len(set(found)) < len(found):
    every = ",".join(map(str, given))
    raise ValueError(f"individuals={every} names a person twice.")
  return np.asarray(found, np.int32)


def split(
  population: Population,
  individuals: np.ndarray,
  global_people: np.ndarray,
  *,
  train_fraction: float = 0.7,
  validation_fraction: float = 0.0,
  seed: int = 0,
  how: str = "random",
  global_includes_individuals: bool = False,
) -> Split:
  """Divides everyone's drawings into train, validation and test.

  As `split_people` does, of ids [S] of individuals and [G] of D_G's writers; of
  the latter there may be none. A drawing and all its copies stay together. A
  person's rows depend on the seed and on that person alone. Everyone has
  something to train on and something to test on.

  Source: section IV (70% of D_I trains, the rest tests).
  """
  if how not in ("random", "stratified"):
    raise ValueError(f"how={how!r} must be 'random' or 'stratified'.")
  own_parts = population.parts is not None
  if own_parts and how != "random":
    raise ValueError(
      f"how={how!r} can't act on people with a split of their own (parts)."
    )
  if not 0 < train_fraction < 1:
    raise ValueError(
      f"train_fraction={train_fraction} must lie between 0 and 1."
    )
  # Decimal fractions don't add up to 1 exactly.
  most, beside = 1 - train_fraction - 1e-9, f"test on beside {train_fraction=}"
  if own_parts:
    most, beside = 1.0, "train on"
  if not 0 <= validation_fraction < most:
    raise ValueError(
      f"validation_fraction={validation_fraction} must be at least 0 and"
      f" leave something to {beside}."
    )
  both = np.intersect1d(individuals, global_people)
  if both.size:
    raise ValueError(
      f"person {population.name_of(both[0])} can't be an individual and feed"
      " D_G as well."
    )
  # Rows grouped by person once: a search for each person would be quadratic.
  by_person = np.argsort(population.individuals, kind="stable")
  ordered = population.individuals[by_person]

  def divided(person: int) -> list[np.ndarray]:
    """Train, validation and test rows of a person."""
    rows = by_person[slice(*np.searchsorted(ordered, [person, person + 1]))]
    if not len(rows):
      raise ValueError(f"individual {person} has no sample in the population.")
    rng = generator(seed, Stream.SPLIT, person)
    if own_parts:
      parts = _by_parts(population, rows, validation_fraction, rng)
    else:
      fractions = train_fraction, validation_fraction
      parts = _by_fractions(population, rows, *fractions, rng, how)
    originals = population.originals[rows]
    return [rows[np.isin(originals, part)] for part in parts]

  own = [divided(int(person)) for person in individuals]
  others = [divided(int(person)) for person in global_people]
  train, validation, test = (pad([rows[k] for rows in own]) for k in range(3))
  of_global: list[list[np.ndarray]] = [
    [rows[k] for rows in others] for k in range(3)
  ]
  if global_includes_individuals:
    of_global[0] += [rows[0] for rows in own]
  return Split(
    np.asarray(individuals, np.int32),
    train,
    validation,
    test,
    np.asarray(global_people, np.int32),
    *(np.concatenate([[], *rows]).astype(np.int32) for rows in of_global),
  )


def _by_fractions(
  population: Population,
  rows: np.ndarray,
  train_fraction: float,
  validation_fraction: float,
  rng: np.random.Generator,
  how: str,
) -> list[np.ndarray]:
  """A person's drawings to train, validate and test on, from their rows."""
  originals, first = np.unique(population.originals[rows], return_index=True)
  count = len(originals)
  if count < 2:
    name = population.name_of(population.individuals[rows[0]])
    copies = f" in {len(rows)} copies" if len(rows) > 1 else ""
    raise ValueError(
      f"individual {name} has one sample{copies}; two are needed, one to"
      " train on and one to hold out."
    )
  drawings = rng.permutation(originals)
  if how == "stratified":
    # A drawing's class is that of its first row: flips of it come later.
    rows_of = rows[first[np.searchsorted(originals, drawings)]]
    drawings = drawings[_evenly(population.labels[rows_of])]
  train = min(max(round(train_fraction * count), 1), count - 1)
  validation = min(round(validation_fraction * count), count - train - 1)
  return np.split(drawings, [train, train + validation])


def _evenly(classes: np.ndarray) -> np.ndarray:
  """An order of drawings of these classes [N] in which every stretch has all.

  It begins with one drawing of every class, and ends with another one of each
  that has two. Those of one class stay in their order.
  """
  by_class = np.argsort(classes, kind="stable")
  _, starts, places, counts = np.unique(
    classes[by_class],
    return_index=True,
    return_inverse=True,
    return_counts=True,
  )
  rank, last = np.arange(len(classes)) - starts[places], counts[places] - 1
  place = (rank + 0.5) / (last + 1)
  place = np.where(rank == 0, 0.0, np.where(rank == last, 1.0, place))
  in_order = np.empty_like(place)
  in_order[by_class] = place
  return np.argsort(in_order, kind="stable")


def _by_parts(
  population: Population,
  rows: np.ndarray,
  validation_fraction: float,
  rng: np.random.Generator,
) -> list[np.ndarray]:
  """As `_by_fractions`, by the split that the data have of their own."""
  assert population.parts is not None
  originals, parts = population.originals[rows], population.parts[rows]
  found = [np.unique(originals[parts == k]) for k in range(len(_PARTS))]
  name = population.name_of(population.individuals[rows[0]])
  drawings, times = np.unique(np.concatenate(found), return_counts=True)
  if (times > 1).any():
    raise ValueError(
      f"original {drawings[times > 1][0]} of individual {name} lies on both"
      " sides of the data's own split (parts): all rows made from one drawing"
      " belong to one side."
    )
  for what in ("train", "test"):
    if not len(found[_PARTS.index(what)]):
      raise ValueError(
        f"individual {name} has nothing to {what} on by the data's own split"
        " (parts): leave them out of the data, or give them some."
      )
  train, validation, test = found
  if validation_fraction and not (population.parts == 1).any():
    count = min(round(validation_fraction * len(drawings)), len(train) - 1)
    validation, train = np.split(rng.permutation(train), [count])
  return [train, validation, test]


def split_people(
  population: Population,
  num_individuals: int | None = None,
  num_global_individuals: int | None = None,
  *,
  individuals: Iterable[int | str] | None = None,
  train_fraction: float = 0.7,
  validation_fraction: float = 0.0,
  how: str = "random",
  global_includes_individuals: bool = False,
  seed: int = 0,
  people_seed: int | None = None,
) -> Split:
  """Draws the individuals and the writers of D_G, and divides their samples.

  Args:
    population: all people. Where they have a split of their own (`parts`), it
      is taken.
    num_individuals: |S|, people with a model each; left out with `individuals`.
    num_global_individuals: number of other people who feed D_G; by default all.
    individuals: who they are, instead of a draw: ids, or names as strings.
    train_fraction: of a person's samples, to train on.
    validation_fraction: of them, to choose by; the rest is for tests. Taken
      from what a split of their own has to train on, if that has nothing to
      validate on.
    how: "random" as in the paper; or "stratified", by class within a person:
      every class has a sample to train on, and one to test on if it has two, as
      far as the fractions leave room.
    global_includes_individuals: whether D_G is trained on the individuals' own
      training samples as well, as in federated learning.
    seed: of `choose_people` and `split`.
    people_seed: of `choose_people` alone: with one for all, several seeds have
      the same people. By default the seed.

  Returns:
    Rows of the population for every purpose.

  Raises:
    ValueError: if there are too few people or one isn't there, a fraction is
      out of range, somebody has one drawing alone, or nothing to train or test
      on by a split of their own.

  Source: section IV.
  """
  people = choose_people(
    population,
    num_individuals,
    num_global_individuals,
    seed if people_seed is None else people_seed,
    individuals=individuals,
  )
  return split(
    population,
    *people,
    train_fraction=train_fraction,
    validation_fraction=validation_fraction,
    how=how,
    global_includes_individuals=global_includes_individuals,
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
  held_out = np.concatenate(
    [split.validation, split.test, *general[1:]], axis=None
  )
  trained = np.concatenate([split.train.ravel(), split.global_train])
  both = np.intersect1d(trained[trained != PADDING], held_out)
  if both.size:
    raise ValueError(
      f"split trains on row {both[0]} and holds it out as well: D_G may include"
      " the individuals' training rows, and theirs alone."
    )
  empty = (split.train == PADDING).all(axis=1)
  if empty.any():
    raise ValueError(
      f"individual {split.individuals[empty][0]} has nothing to train on."
    )
