"""How accurate models are by the number of a person's training samples."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from personalization_jax import figures
from personalization_jax.analysis import metrics
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING
from personalization_jax.study import Study

ALL = "all"
FILE, BY_PERSON = "shots", "shots_by_person"


def parse(text: str) -> list[int]:
  """The numbers of "1,2,5,all", ascending; all are always among them."""
  words = [word.strip() for word in text.split(",")]
  for word in words:
    if word != ALL and not (word.isdecimal() and int(word) > 0):
      raise ValueError(
        f"shots={text!r} must be whole numbers of 1 or more, or 'all', with"
        " commas between them, as in 1,2,5,10,all."
      )
  return sorted({int(word) for word in words if word != ALL})


def rows(
  study: Study, found: Result, shots: str, before: np.ndarray
) -> list[dict[str, Any]]:
  """A line for each person of a study; `before` [S] is the base's accuracy."""
  taken = np.concatenate([study.split.train, study.split.validation], axis=1)
  accuracies, _ = found.individual_accuracy()
  columns = {
    "individual": found.people.tolist(),
    "samples": (taken != PADDING).sum(axis=1),
    "accuracy": accuracies,
    "gain": metrics.changes(accuracies, before),
  }
  frame = pd.DataFrame(columns).assign(method=found.method, shots=shots)
  order = ["individual", "method", "shots", "samples", "accuracy", "gain"]
  return frame[order].to_dict("records")


def table(by_person: pd.DataFrame, before: pd.Series) -> pd.DataFrame:
  """One row for the base model, `global` of 0 shots, and for each number.

  Means and 95% intervals of accuracy, and of the gain over the base, are over
  people whose models didn't diverge.
  """
  base = pd.DataFrame(
    {"method": "global", "shots": "0", "samples": 0, "accuracy": before}
  ).assign(gain=0.0)
  found = []
  for (method, count), some in pd.concat([base, by_person]).groupby(
    ["method", "shots"], sort=False
  ):
    known = some.dropna(subset="accuracy")
    row = {"method": method, "shots": count, "people": len(known)}
    row["diverged"] = len(some) - len(known)
    row["samples"] = some["samples"].mean()
    for name in ("accuracy", "gain"):
      values = known[name].to_numpy()
      spread = metrics.spread(values)
      row |= {f"{name}_mean": spread.mean, f"{name}_sd": spread.sd}
      row[f"{name}_low"], row[f"{name}_high"] = metrics.interval_of_mean(values)
    found.append(row)
  return pd.DataFrame(found)


def write(
  output: pathlib.Path,
  lines: Sequence[dict[str, Any]],
  before: dict[Any, float],
) -> None:
  """Writes both tables and the figure, and says what they show."""
  by_person, base = pd.DataFrame(lines), pd.Series(before)
  of_all = table(by_person, base)
  for name, frame in ((FILE, of_all), (BY_PERSON, by_person)):
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    files.write_atomically(output / f"{name}.csv", text)
  accuracies = by_person.pivot(
    index="individual", columns="shots", values="accuracy"
  ).reindex(index=base.index, columns=by_person["shots"].unique())
  drawn = {str(count): accuracies[count].to_numpy() for count in accuracies}
  axes = figures.shots(drawn, base.to_numpy(), by_person["method"].iloc[0])
  path = figures.save(axes, output / f"{FILE}.png")
  print("Accuracy by the number of training samples, with means over people:")
  shown = {
    "shots": "", "samples": ".1f", "people": "", "accuracy_mean": ".4f",
    "accuracy_sd": ".4f", "gain_mean": "+.4f", "gain_low": "+.4f",
    "gain_high": "+.4f",
  }  # fmt: skip
  formats = {
    name: f"{{:{form}}}".format for name, form in shown.items() if form
  }
  print(of_all.to_string(index=False, columns=[*shown], formatters=formats))
  print(f"Tables and figure: {path.with_suffix('.csv')}, {path}")


def left_out(
  population: Population, people: np.ndarray, some: np.ndarray
) -> str:
  """Says who has fewer samples than others, of ids [S] and those who are in."""
  names = [population.name_of(one) for one in np.setdiff1d(people, some)]
  more = ", ..." if len(names) > 8 else ""
  return f"{len(names)} of {len(people)} people ({', '.join(names[:8])}{more})"
