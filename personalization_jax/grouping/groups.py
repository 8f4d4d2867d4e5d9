"""Everybody's groups: what D_I is enlarged with, as rows (NumPy, host)."""

from __future__ import annotations

import dataclasses

import numpy as np

from personalization_jax import checks
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING, Split, pad
from personalization_jax.grouping import individuals, single_sample
from personalization_jax.randomness import Stream, generator


@dataclasses.dataclass(frozen=True)
class Group:
  """What D_I is enlarged with (section III, data grouping).

  Attributes:
    kind: "sg" for similar samples, "ig" for similar individuals, "random" for
      the baseline's random samples.
    n: samples in all, or individuals for "ig".
    only: the group takes D_I's place instead of enlarging it.
  """

  kind: str
  n: int
  only: bool = False

  def __post_init__(self) -> None:
    """Rejects what is no number of samples or individuals."""
    checks.whole_number("n", self.n, 1)
    checks.plain_numbers(self)

  @property
  def spec(self) -> str:
    """Its name in a method's spec."""
    return f"{self.kind}:{self.n}" + (":only" if self.only else "")

  @property
  def needs_latents(self) -> bool:
    """Whether similarity in a latent space chooses it."""
    return self.kind != "random"


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
  """The groups of the individuals of one split, each found once.

  Attributes:
    population: the store.
    split: only its training rows are chosen, and chosen by.
    seed: of random groups, and of the order in which SG goes through D_I.
    latents: float32 [N, D], AE(X) of every row of the store, by which SG and
      IG measure similarity; None leaves random groups alone.
    among_individuals: IG chooses among the other individuals instead of the
      writers of D_G, where privacy permits it.
  """

  population: Population
  split: Split
  _: dataclasses.KW_ONLY
  seed: int = 0
  latents: np.ndarray | None = None
  among_individuals: bool = False
  _found: dict[tuple[str, int], list[np.ndarray]] = dataclasses.field(
    default_factory=dict, init=False, repr=False
  )

  def __post_init__(self) -> None:
    checks.seed(self.seed)
    if self.latents is not None:
      labels = "the population's labels", self.population.labels, "N"
      checks.shapes(labels, ("latents", self.latents, "ND"))

  @property
  def candidates(self) -> np.ndarray:
    """Ids of the people that IG chooses from, int32 [M]."""
    if self.among_individuals:
      return self.split.individuals
    return self.split.global_people

  @property
  def num_candidates(self) -> int:
    """Number of people that IG can choose from, the individual left out."""
    return len(self.candidates) - int(self.among_individuals)

  def check(self, group: Group) -> None:
    """Rejects a group that is larger than what it is chosen from."""
    of, what = len(self.split.global_train), "training samples of D_G"
    if group.kind == "ig":
      of, what = self.num_candidates, "people"
    if group.n > of:
      raise ValueError(
        f"method {group.spec!r} asks for {group.n} {what}, but there are {of}."
      )

  def rows(self, group: Group) -> list[np.ndarray]:
    """What each individual's D_I is enlarged with: int32 rows of the store.

    Source: Algorithm 1, lines 11-20.
    """
    self.check(group)
    key = (group.kind, group.n)
    if key not in self._found:
      find = {"random": self._random, "sg": self._samples, "ig": self._people}
      self._found[key] = find[group.kind](group.n)
    return self._found[key]

  def nearest(self, n: int) -> np.ndarray:
    """Each individual's n nearest people, by class means in latent space.

    They are int32 [S, n], places in `candidates`, nearest first.

    Source: Algorithm 1, lines 16-20.
    """
    return individuals.nearest_individuals_of_all(
      *self.class_means(self.split.individuals),
      *self.class_means(self.candidates),
      n,
      among_themselves=self.among_individuals,
    )

  def class_means(self, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class means of people's training data in latent space.

    Means are float32 [M, C, D]; bool [M, C] says which classes people have.

    Source: Algorithm 1, lines 17-18.
    """
    train = self.split.train
    rows = np.concatenate([self.split.global_train, train[train != PADDING]])
    return individuals.class_means_of_all(
      self._latents_of(rows),
      self.population.labels[rows],
      self.population.individuals[rows],
      people,
      self.population.num_classes,
    )

  def by_sample(
    self, group: Group, index: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """What SG chose for each sample of the split's individual `index`.

    The training rows of D_I in order, int32 [m], and the rows chosen for each,
    int32 [m, k], nearest first, -1 for padding.
    """
    own, _, _ = self.split.parts(index)
    share, more = divmod(group.n, len(own))
    sizes = share + (np.arange(len(own)) < more)
    in_turn = pad(np.split(self.rows(group)[index], np.cumsum(sizes)[:-1]))
    chosen = np.empty_like(in_turn)
    chosen[self._order(index)] = in_turn
    return own, chosen

  def distances(self) -> np.ndarray:
    """Distances of individuals from each other by class means, float64 [S, S].

    Infinite for two without a common class, 0 for two whose means are the same
    but for rounding.

    Source: section II-A (3), individual fairness.
    """
    means, present = self.class_means(self.split.individuals)
    distances = np.sqrt(
      individuals.squared_distances(means, present, means, present)
    )
    # Means of the same samples differ by float32's rounding, if at all.
    size = np.sqrt(np.square(means, dtype=np.float64).sum(axis=(1, 2)))
    same = distances <= 1e-6 * np.maximum(size[:, None], size)
    return np.where(same, 0.0, distances)

  def _latents_of(self, rows: np.ndarray) -> np.ndarray:
    if self.latents is None:
      raise ValueError(
        "SG and IG measure similarity in a latent space: give"
        " Groups(latents=...), for instance those of latent_space.fit."
      )
    return self.latents[rows]

  def _random(self, total: int) -> list[np.ndarray]:
    """The baseline's, of section IV (BaseLine n=1500, n=6500)."""
    rows = self.split.global_train
    draws = (
      generator(self.seed, Stream.GROUP, int(person))
      for person in self.split.individuals
    )
    return [rows[draw.permutation(len(rows))[:total]] for draw in draws]

  def _order(self, index: int) -> np.ndarray:
    """The order in which an individual's samples choose: places in D_I.

    Algorithm 1 leaves it open. A file's own order is often by class: with a
    group smaller than D_I the first classes alone would have neighbours.
    """
    person = int(self.split.individuals[index])
    rng = generator(self.seed, Stream.SAMPLE_ORDER, person)
    return rng.permutation((self.split.train[index] != PADDING).sum())

  def _samples(self, total: int) -> list[np.ndarray]:
    rows = self.split.global_train
    people = range(len(self.split.individuals))
    own = pad([self.split.train[i, self._order(i)] for i in people])
    chosen = single_sample.single_sample_groups(
      self._latents_of(np.maximum(own, 0)),
      (own != PADDING).sum(axis=1),
      self._latents_of(rows),
      total,
    )
    return list(rows[chosen])

  def _people(self, n: int) -> list[np.ndarray]:
    train = self.split.train
    rows = self.split.global_train
    if self.among_individuals:
      rows = train[train != PADDING]
    owners = self.population.individuals[rows]
    return [
      np.concatenate([rows[owners == self.candidates[place]] for place in near])
      for near in self.nearest(n)
    ]
