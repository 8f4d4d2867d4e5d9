"""Whether groups are of people who truly write alike (NumPy, SciPy).

Synthetic writers have known factors: a writer's are in the row of its id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from personalization_jax import checks
from personalization_jax.datasets.splits import PADDING
from personalization_jax.methods import Group

if TYPE_CHECKING:  # their modules import JAX
  from personalization_jax.datasets.synthetic import WriterFactors
  from personalization_jax.grouping.groups import Groups


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
  """How well groups agree with the truth in one respect; more is better."""

  # "ig" for the order of all candidates, "ig:5" for the first five, "sg:1500".
  group: str
  measure: str  # "rank correlation", "recall", "nearness", "share of samples"
  part: str  # "style", "allographs", "forms" or "all" factors; or "own class"
  values: np.ndarray  # float64 [S], of each individual; NaN where there is none
  random: np.ndarray  # float64 [S], what random choice gives on average


def true_distances(
  factors: WriterFactors,
  people: np.ndarray,
  writers: np.ndarray,
  digit: int | None = None,
) -> dict[str, np.ndarray]:
  """Distances [S, M] between people [S] and writers [M] in hidden factors.

  Of style, allographs, forms and "all", for one digit or all ten. "all" adds
  squares, each divided by its standard deviation over the other writers: the
  forms, 80 of 126 numbers, would outweigh the style.
  """
  others = writers != people[:, None]
  squares, total = {}, np.zeros(others.shape)
  for part, each in factors.parts().items():
    for ids in (people, writers):
      checks.in_range("ids of writers with known factors", ids, len(each))
    own = each if digit is None or part == "style" else each[:, digit]
    values = own.reshape(len(own), -1).astype(np.float64)
    squares[part] = square = np.stack(
      [((values[writers] - values[person]) ** 2).sum(1) for person in people]
    )
    spread = np.std(square, axis=1, where=others, keepdims=True)
    total += square / np.where(spread > 0, spread, np.inf)
  return {part: np.sqrt(s) for part, s in {**squares, "all": total}.items()}


def recall(truth: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
  """Share of the n first candidates truly among the n nearest, and by chance.

  Of true distances [S, M], in the order found; all as near as the nth count.
  """
  if not 1 <= n <= truth.shape[1]:
    raise ValueError(
      f"n={n} must lie in 1..{truth.shape[1]}, the number of candidates."
    )
  near = truth <= np.sort(truth, axis=1)[:, n - 1 : n]
  return near[:, :n].mean(axis=1), near.mean(axis=1)


def rank_correlation(truth: np.ndarray) -> np.ndarray:
  """Spearman's [S] of the order with `truth`; NaN where all are as far."""
  order = np.arange(truth.shape[1])
  varied = [row if np.ptp(row) else np.full(len(row), np.nan) for row in truth]
  return np.array([stats.spearmanr(order, row).statistic for row in varied])


def nearness(distances: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Share of samples of farther writers than each [M]; ties count by half."""
  _, place = np.unique(distances, return_inverse=True)
  at = np.bincount(place, weights=counts)
  farther = at[::-1].cumsum()[::-1] - at
  return (farther + at / 2)[place] / at.sum()


def of_individuals(
  groups: Groups, factors: WriterFactors, sizes: Iterable[int]
) -> list[Agreement]:
  """Whether the writers whom IG finds nearest truly write all digits alike.

  Args:
    groups: with the latents to judge.
    factors: of all writers.
    sizes: the n of IG, each in 1..M.

  Returns:
    The rank correlation over all candidates, then the recall of each n; for
    each part of the factors.

  Source: Algorithm 1, lines 16-20.
  """
  people = groups.split.individuals
  found = groups.nearest(groups.num_candidates)
  truth = true_distances(factors, people, groups.candidates)
  truth = {k: np.take_along_axis(v, found, axis=1) for k, v in truth.items()}
  nothing = np.zeros(len(people))
  return [
    Agreement("ig", "rank correlation", part, rank_correlation(rows), nothing)
    for part, rows in truth.items()
  ] + [
    Agreement(f"ig:{n}", "recall", part, *recall(rows, n))
    for n in sizes
    for part, rows in truth.items()
  ]


def of_samples(
  groups: Groups, factors: WriterFactors, total: int, count: int
) -> list[Agreement]:
  """Whether SG's samples are of the same class, by writers who write it alike.

  For SG's n `total` and the first `count` individuals: the share of samples of
  the class asked for, then the mean `nearness` of their writers for each part
  of the chosen digit's factors. The class modulo ten must be the digit.

  Source: Algorithm 1, lines 11-15.
  """
  labels = groups.population.labels
  owners = groups.population.individuals
  available = groups.split.global_train
  writers, counts = np.unique(owners[available], return_counts=True)
  shares = np.bincount(labels[available], minlength=labels.max() + 1)
  people = groups.split.individuals[:count]
  digits = range(factors.forms.shape[1])
  by_digit = [true_distances(factors, people, writers, d) for d in digits]
  own_class, random = np.zeros(count), np.zeros(count)
  near = {part: np.zeros(count) for part in by_digit[0]}
  for index in range(count):
    own, chosen = groups.by_sample(Group("sg", total), index)
    sample, column = np.nonzero(chosen != PADDING)
    asking, given = own[sample], chosen[sample, column]
    own_class[index] = (labels[asking] == labels[given]).mean()
    random[index] = shares[labels[asking]].mean() / len(available)
    drawn = labels[asking] % len(digits)
    places = np.searchsorted(writers, owners[given])
    for part, values in near.items():
      of_writers = [nearness(truth[part][index], counts) for truth in by_digit]
      values[index] = np.stack(of_writers)[drawn, places].mean()
  spec, half = f"sg:{total}", np.full(count, 0.5)
  return [
    Agreement(spec, "share of samples", "own class", own_class, random),
    *(Agreement(spec, "nearness", part, v, half) for part, v in near.items()),
  ]
