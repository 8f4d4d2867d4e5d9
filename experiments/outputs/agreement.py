"""How well a run's groups agree with the hidden factors of its writers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from personalization_jax import figures
from personalization_jax.analysis import group_agreement, markdown, metrics
from personalization_jax.analysis.columns import AGREEMENT_COLUMNS
from personalization_jax.analysis.group_agreement import Agreement
from personalization_jax.analysis.markdown import Columns
from personalization_jax.datasets.splits import Split
from personalization_jax.datasets.synthetic import WriterFactors
from personalization_jax.methods import Method
from personalization_jax.study import Study

FILE, MISSING = "group_agreement", ""
NAMES = 3  # columns of text
AUTO_ENCODER, PIXELS = "auto-encoder", "raw pixels"
# Among pixels SG takes about a second for 5e9 of them on two CPU cores.
_MULTIPLICATIONS = 1e11
TITLE = "Groups against the writers' hidden factors: mean (sd)"
NOTE = """\
Over individuals; more is better; in: which hidden factors (style, allographs,\
 forms, or all of them), or the class; random choice: what it gives on average.\
 Recall: of the n writers that IG found, the share that is truly among the n\
 nearest; rank correlation: of IG's order of all candidates with the true one.\
 Share of samples: of SG's, those with the class of the sample that chose them;\
 nearness: the chance that their writers write its digit more like the\
 individual than the writer of a sample drawn from D_G. *: differs from random\
 choice with p < 0.05; p of spaces: whether the two latent spaces differ; both\
 paired t-tests over individuals, uncorrected.
"""

# Latent space -> what was found in it, in the same order everywhere.
Found = dict[str, list[Agreement]]


def compare(
  study: Study, methods: Sequence[Method], factors: WriterFactors
) -> Found:
  """Judges the groups that a run asks for, in its latent space and in pixels.

  Raw pixels have many dimensions, so SG is judged by the first individuals
  alone, as many as take a bounded time; in both spaces the same ones. What an
  individual's group is doesn't depend on the others.
  """
  asked = dict.fromkeys(
    (method.group.kind, method.group.n) for method in methods if method.group
  )
  people = [n for kind, n in asked if kind == "ig"]
  samples = [n for kind, n in asked if kind == "sg"]
  population, split = study.population, study.split
  pixels = population.images.reshape(len(population), -1) / np.float32(255)
  count = affordable(split, pixels.shape[1])
  parts = ("individuals", "train", "validation", "test")
  first = {part: getattr(split, part)[:count] for part in parts}
  groups = dataclasses.replace(study.groups, seed=0, latents=pixels)
  few = dataclasses.replace(groups, split=dataclasses.replace(split, **first))
  found: Found = {}
  for space, of_people, of_samples in (
    (AUTO_ENCODER, study.groups, study.groups),
    (PIXELS, groups, few),
  ):
    found[space] = []
    if people:
      found[space] += group_agreement.of_individuals(of_people, factors, people)
    for n in samples:
      found[space] += group_agreement.of_samples(of_samples, factors, n, count)
  return found


def affordable(split: Split, dimensions: int) -> int:
  """For how many individuals SG is computed in so many dimensions."""
  people, samples = split.train.shape
  each = samples * len(split.global_train) * dimensions
  return min(max(int(_MULTIPLICATIONS / each), 1), people)


def judged(found: Found) -> tuple[pd.DataFrame, Axes]:
  """group_agreement.csv and its figure."""
  lines = []
  values: dict[str, dict[str, dict[str, np.ndarray]]] = {}
  random: dict[str, dict[str, float]] = {}
  for space, agreements in found.items():
    for one, pixels in zip(agreements, found[PIXELS]):
      spread = metrics.spread(one.values)
      # Paired over the individuals that both have; pixels with nothing.
      other = np.array(math.nan) if space == PIXELS else pixels.values
      lines.append(
        (
          *(one.group, one.measure, one.part, space),
          *(spread.mean, spread.sd, float(one.random.mean())),
          int((~np.isnan(one.values)).sum()),
          metrics.paired_tests(one.values, one.random).t,
          metrics.paired_tests(one.values, other).t,
        )
      )
      name = f"{figures.method_name(one.group)}: {one.measure}"
      values.setdefault(name, {}).setdefault(one.part, {})[space] = one.values
      random.setdefault(name, {})[one.part] = float(one.random.mean())
  table = pd.DataFrame(lines, columns=list(AGREEMENT_COLUMNS))
  return table, figures.agreement(values, random)


def columns(table: pd.DataFrame) -> Columns:
  """What people see of group_agreement.csv."""
  key = ["group", "measure", "part"]
  numbers = ("mean", "sd", "random", "p_raw_pixels")
  told = table.assign(
    **{column: markdown.cells(table[column], ".3f") for column in numbers},
    individuals=markdown.cells(table["individuals"], ".0f"),
  )
  stars = np.where(table["p_random"] < 0.05, "*", " ")
  told["mean"] += " (" + told["sd"] + ")" + stars
  spaces = told.pivot_table(
    "mean", key, "latent_space", aggfunc="last", sort=False, fill_value="-"
  )
  rows = told.groupby(key, sort=False)
  return [
    ("", header, cells)
    for header, cells in (
      *zip(("Group", "agreement", "in"), zip(*spaces.index)),
      *spaces.items(),
      ("random choice", rows["random"].first()),
      ("p of spaces", rows["p_raw_pixels"].first()),
      ("individuals", rows["individuals"].unique().map(", ".join)),
    )
  ]
