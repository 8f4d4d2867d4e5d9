"""Everybody's groups: what D_I is enlarged with, as rows (NumPy, host).

`grouping` finds similar samples and individuals among latents; this module asks
it for a split's individuals and gives rows of the store.
"""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh

from personalization_jax import checks, grouping
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING, Split, pad
from personalization_jax.grouping.spec import Group
from personalization_jax.randomness import Stream, generator


class Groups:
  """The groups of the individuals of one split, each found once."""

  def __init__(
    self,
    population: Population,
    split: Split,
    *,
    seed: int = 0,
    latents: np.ndarray | None = None,
    among_individuals: bool = False,
    mesh: Mesh | None = None,
  ):
    """Keeps what groups are chosen by.

    Args:
      population: the store.
      split: its parts; training rows alone are chosen, and chosen by.
      seed: of random groups, and of the order in which SG goes through D_I.
      latents: float32 [N, D], AE(X) of every row of the store, by which SG and
        IG measure similarity; None leaves random groups alone.
      among_individuals: IG chooses among the other individuals instead of the
        writers of D_G, where privacy permits it.
      mesh: where SG is computed; all devices by default.

    Raises:
      ValueError: if there aren't as many latents as rows, or the seed is none.
    """
    checks.seed(seed)
    if latents is not None and len(latents) != len(population):
      raise ValueError(
        f"latents has {len(latents)} rows, but the population has"
        f" {len(population)}."
      )
    self.population = population
    self.split = split
    self.among_individuals = among_individuals
    self._seed = seed
    self._latents = latents
    self._mesh = mesh
    self._found: dict[tuple[str, int], list[np.ndarray]] = {}

  @property
  def seed(self) -> int:
    """Of random groups."""
    return self._seed

  @property
  def mesh(self) -> Mesh | None:
    """Where SG is computed; None for all devices."""
    return self._mesh

  @property
  def has_latents(self) -> bool:
    """Whether SG and IG can measure similarity."""
    return self._latents is not None

  @property
  def candidates(self) -> np.ndarray:
    """Ids of the people that IG chooses from, int32 [M]."""
    if self.among_individuals:
      return self.split.individuals
    return self.split.global_people

  @property
  def num_candidates(self) -> int:
    """How many people IG can choose from; nobody is their own neighbour."""
    return len(self.candidates) - int(self.among_individuals)

  def check(self, group: Group) -> None:
    """Refuses a group that is larger than what it is chosen from.

    Args:
      group: the group.

    Raises:
      ValueError: saying how much there is.
    """
    if group.kind == "ig":
      available = self.num_candidates
      what = "people"
    else:
      available = len(self.split.global_train)
      what = "training samples of D_G"
    if group.n > available:
      raise ValueError(
        f"method {group.spec!r} asks for {group.n} {what}, but there are"
        f" {available}."
      )

  def rows(self, group: Group) -> list[np.ndarray]:
    """What each individual's D_I is enlarged with.

    Args:
      group: which group.

    Returns:
      int32 rows of the store, for each individual in turn.

    Raises:
      ValueError: if the group is too large, or latents are needed and missing.

    Source: Algorithm 1, lines 11-20.
    """
    self.check(group)
    key = (group.kind, group.n)
    if key not in self._found:
      find = {"random": self._random, "sg": self._samples, "ig": self._people}
      self._found[key] = find[group.kind](group.n)
    return self._found[key]

  def nearest(self, n: int) -> np.ndarray:
    """Each individual's nearest people, by class means in latent space.

    Args:
      n: how many.

    Returns:
      int32 [S, n], places in `candidates`, nearest first.

    Source: Algorithm 1, lines 16-20.
    """
    left_out = None
    if self.among_individuals:
      left_out = np.arange(len(self.split.individuals))
    return grouping.nearest_individuals_of_all(
      *self.class_means(self.split.individuals),
      *self.class_means(self.candidates),
      n,
      left_out=left_out,
    )

  def class_means(self, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class means of people's training data in latent space.

    Args:
      people: integers [M], ids of individuals or of writers of D_G.

    Returns:
      Means float32 [M, C, D] and present bool [M, C].

    Source: Algorithm 1, lines 17-18.
    """
    train = self.split.train
    rows = np.concatenate([self.split.global_train, train[train != PADDING]])
    return grouping.class_means_of_all(
      self.latents[rows],
      self.population.labels[rows],
      self.population.individuals[rows],
      people,
      self.population.num_classes,
    )

  def by_sample(
    self, group: Group, index: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """What SG chose for each sample of an individual.

    Args:
      group: of kind "sg".
      index: place of the individual in the split.

    Returns:
      int32 [m], the training rows of D_I in order, and int32 [m, k], the rows
      chosen for each, nearest first, -1 for padding.
    """
    own, _, _ = self.split.parts(index)
    order = self._order(index)
    share, more = divmod(group.n, len(own))
    sizes = share + (np.arange(len(own)) < more)
    in_turn = pad(np.split(self.rows(group)[index], np.cumsum(sizes)[:-1]))
    chosen = np.empty_like(in_turn)
    chosen[order] = in_turn
    return own, chosen

  def distances(self) -> np.ndarray:
    """Distances of individuals from each other, by class means.

    Returns:
      float64 [S, S], infinite for two without a common class, 0 for two whose
      means are the same but for rounding.

    Source: section II-A (3), individual fairness.
    """
    means, present = self.class_means(self.split.individuals)
    distances = grouping.individual_distances(means, present, means, present)
    # Means of the same samples differ by float32's rounding, if at all.
    size = np.sqrt(np.square(means, dtype=np.float64).sum(axis=(1, 2)))
    same = distances <= 1e-6 * np.maximum(size[:, None], size)
    return np.where(same, 0.0, distances)

  @property
  def latents(self) -> np.ndarray:
    """AE(X) of every row of the store, float32 [N, D]."""
    if self._latents is None:
      raise ValueError(
        "SG and IG measure similarity in a latent space: give"
        " Groups(latents=...), for instance those of autoencoder.encode."
      )
    return self._latents

  def _random(self, total: int) -> list[np.ndarray]:
    rows = self.split.global_train
    return [
      rows[
        grouping.random_group(
          len(rows), total, seed=self._seed, individual=int(person)
        )
      ]
      for person in self.split.individuals
    ]

  def _order(self, index: int) -> np.ndarray:
    """The order in which an individual's samples choose: places in D_I.

    Algorithm 1 leaves it open. A file's own order is often by class: with a
    group smaller than D_I the first classes alone would have neighbours.
    """
    person = int(self.split.individuals[index])
    count = int((self.split.train[index] != PADDING).sum())
    rng = generator(self._seed, Stream.SAMPLE_ORDER, person)
    return rng.permutation(count)

  def _samples(self, total: int) -> list[np.ndarray]:
    rows = self.split.global_train
    people = range(len(self.split.individuals))
    own = pad([self.split.train[i, self._order(i)] for i in people])
    chosen = grouping.single_sample_groups(
      self.latents[np.maximum(own, 0)],
      (own != PADDING).sum(axis=1),
      self.latents[rows],
      total,
      mesh=self._mesh,
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
