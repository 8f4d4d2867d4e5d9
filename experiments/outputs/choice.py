"""Whom a run's methods made worse than the model of D_G alone would have."""

from __future__ import annotations

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from personalization_jax import figures
from personalization_jax.analysis import model_choice, tables
from personalization_jax.analysis.model_choice import Choice
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints.files import write_atomically
from personalization_jax.runs import table_files

GLOBAL = "global"
COLUMNS = ("method", "hurt", "hurt_with_choice", "gain", "gain_with_choice")


def compare(
  finished: Sequence[Result], labels: np.ndarray
) -> dict[str, Choice] | None:
  """Chooses between each method's models and those of `global`.

  Args:
    finished: a run's results, of all seeds.
    labels: int32 [N], the store's labels.

  Returns:
    method -> what the choice gives people; None if the run has no `global`, or
    nothing to compare with it. Without validation data nobody can be chosen
    for, and everybody keeps the global model.
  """
  by_seed = tables.by_seed(finished)
  if GLOBAL not in by_seed or len(by_seed) < 2:
    return None
  validated, tested = (
    {
      method: np.stack([accuracy(result, labels)[0] for result in own])
      for method, own in by_seed.items()
    }
    for accuracy in (Result.validation_accuracy, Result.individual_accuracy)
  )
  return model_choice.judge_all(validated, tested, GLOBAL)


def write(
  found: dict[str, Choice], workdir: pathlib.Path
) -> tuple[str, list[pathlib.Path]]:
  """Writes choice.csv and draws its figure.

  Args:
    found: from `compare`.
    workdir: the run directory.

  Returns:
    The table for people, and the figures written.
  """
  lines: list[tuple[str, float, float, float, float]] = [
    (method, one.hurt, one.hurt_with_choice, one.gain, one.gain_with_choice)
    for method, one in found.items()
  ]
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
  write_atomically(workdir / "choice.csv", text.getvalue())
  page: Any = figures.choice(found).figure
  drawn = figures.save(page, workdir / "figures" / "choice.png")
  cells = [
    [
      method,
      *(
        "-" if math.isnan(value) else f"{value:{form}}"
        for value, form in zip(line, (".0%", ".0%", "+.4f", "+.4f"))
      ),
    ]
    for method, *line in lines
  ]
  header = ["Method", "hurt", "hurt, chosen", "gain", "gain, chosen"]
  return (
    "Against the model of D_G alone (global)\n\n"
    + table_files.aligned([header, *cells])
    + "\n\nhurt: share of individuals whose own model is worse on their test"
    " data than the global one; gain: mean difference in acc(D_I). Chosen: each"
    " individual has the better of the two on validation data, the global one"
    " if they are equal. Of several seeds the choice is made for each, and an"
    " individual's means over them are compared.\n",
    [drawn],
  )
