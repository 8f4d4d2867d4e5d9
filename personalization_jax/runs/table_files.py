"""Table I and its like as files: CSV, JSON lines, Markdown (host)."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from personalization_jax.analysis import tables
from personalization_jax.analysis.columns import RESULT_COLUMNS, TABLE_COLUMNS
from personalization_jax.analysis.markdown import markdown, of_best_steps
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints.files import write_atomically


def write_tables(
  workdir: pathlib.Path,
  results: Sequence[Result],
  labels: np.ndarray,
  distances: np.ndarray | None = None,
  beside: Sequence[Result] = (),
  baseline: str | None = None,
) -> pd.DataFrame:
  """Writes results.csv, table1.csv, table1.md and metrics.jsonl.

  Args:
    workdir: the run directory.
    results: finished methods, in the order of the table, with all seeds.
    labels: int32 [N], the store's labels.
    distances: see `tables.of_results`.
    beside: results with other seeds, for results.csv and metrics.jsonl alone.
    baseline: see `tables.of_results`.

  Returns:
    As `tables.of_results`.

  Raises:
    ValueError: as `tables.of_results`; nothing is written then.
  """
  table = tables.of_results(results, labels, distances, baseline)
  every = [*results, *beside]
  rows = pd.concat([_rows_of(result, labels) for result in every])
  told = markdown(table, baseline, of_run=True)
  told += "".join(f"{note}\n" for note in of_best_steps(rows))
  metrics = (line for result in every for line in _metrics(result))
  for name, text in (
    ("results.csv", _csv(rows)),
    ("table1.csv", _csv(table[list(TABLE_COLUMNS)])),
    ("table1.md", told),
    ("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics)),
  ):
    write_atomically(workdir / name, text)
  return table


def _csv(table: pd.DataFrame) -> str:
  """The CSV: `nan` for NaN, nothing for None."""
  cells = table.map(lambda cell: "" if cell is None else cell)
  return cells.to_csv(index=False, lineterminator="\n", na_rep="nan")


def _rows_of(result: Result, labels: np.ndarray) -> pd.DataFrame:
  """The rows of results.csv; a model that diverged has no accuracy."""
  own, own_size = result.individual_accuracy(labels)
  general, general_size = result.global_accuracy(labels)
  nothing = np.array(None)
  values = (
    result.method, result.people, result.seed,
    np.where(result.diverged, nothing, own),
    np.where(result.diverged, nothing, general),
    own_size, general_size, np.where(result.diverged, "diverged", "ok"),
    np.where(result.diverged, nothing, np.asarray(result.best_steps)),
  )  # fmt: skip
  return pd.DataFrame(dict(zip(RESULT_COLUMNS, values, strict=True)))


def _metrics(result: Result) -> Iterator[dict[str, Any]]:
  """Training losses by step, then curves."""
  about = {"method": result.method, "seed": result.seed}
  for step, losses in enumerate(result.losses.T, 1):
    # Neither padded nor diverged; a float32 mean may lie outside min..max.
    trained = losses[np.isfinite(losses)].astype(np.float64)
    if trained.size:
      yield about | {
        "step": step,
        "individuals": int(trained.size),
        "loss_mean": float(trained.mean()),
        "loss_min": float(trained.min()),
        "loss_max": float(trained.max()),
      }
  curves = np.stack([result.individual_curve, result.global_curve], axis=-1)
  # NaN without validation data; JSON has no NaN.
  curves = np.where(np.isnan(curves), np.array(None), curves)
  for person, points in zip(result.people.tolist(), curves.tolist()):
    for step, (own, general) in zip(result.curve_steps.tolist(), points):
      yield about | {
        "step": step,
        "individual": person,
        "individual_validation_accuracy": own,
        "global_validation_accuracy": general,
      }
