"""Table I and its like as files: CSV, JSON lines, Markdown (host)."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from personalization_jax.analysis import metrics, tables
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints.files import write_atomically

RESULT_COLUMNS = (
  "method",
  "individual",
  "seed",
  "individual_accuracy",
  "global_accuracy",
  "individual_test_size",
  "global_test_size",
  "status",
)
_SPREAD_COLUMNS = ("mean", "rank", "sd", "min", "max")
_P_COLUMNS = ("", "_holm", "_wilcoxon", "_wilcoxon_holm")
TABLE_COLUMNS = (
  "method",
  *(f"individual_{column}" for column in _SPREAD_COLUMNS),
  *(f"global_{column}" for column in _SPREAD_COLUMNS),
  "p_individual",
  "p_global",
  *(
    f"p_{accuracy}{column}"
    for accuracy in ("individual", "global")
    for column in _P_COLUMNS[1:]
  ),
  "fairness_max_ratio",
  "fairness_mean_ratio",
  "fairness_rank_correlation",
  "fairness_coincide",
  "diverged",
  "seeds",
  "individual_seed_sd",
  "global_seed_sd",
  "individual_difference",
  "individual_pairs",
  "global_difference",
  "global_pairs",
)
_MARKDOWN_COLUMNS = (
  "Method", "acc(D_I)", "rank", "sd", "min", "max", "p",
  "acc(D_G)", "rank", "sd", "min", "max", "p",
)  # fmt: skip
_MARKDOWN_FAIRNESS = ("fair max", "fair mean", "fair rho")


def write_tables(
  workdir: pathlib.Path,
  results: Sequence[Result],
  labels: np.ndarray,
  distances: np.ndarray | None = None,
  beside: Sequence[Result] = (),
) -> list[tables.TableRow]:
  """Writes results.csv, table1.csv, table1.md and metrics.jsonl.

  Args:
    workdir: the run directory.
    results: finished methods, in the order of the table, with all seeds.
    labels: int32 [N], the store's labels.
    distances: see `tables.table`.
    beside: what is finished with other seeds, so that it is in results.csv and
      metrics.jsonl alone.

  Returns:
    The rows of table1.

  Raises:
    ValueError: as `tables.of_results`; nothing is written then.
  """
  rows = tables.of_results(results, labels, distances)
  every = [*results, *beside]
  lines = [line for result in every for line in _result_lines(result, labels)]
  write_atomically(workdir / "results.csv", _csv_text([RESULT_COLUMNS, *lines]))
  write_atomically(
    workdir / "table1.csv",
    _csv_text([TABLE_COLUMNS, *(_table_line(row) for row in rows)]),
  )
  write_atomically(workdir / "table1.md", markdown(rows, of_run=True))
  write_atomically(
    workdir / "metrics.jsonl",
    "".join(line for result in every for line in _metric_lines(result)),
  )
  return rows


def _result_lines(result: Result, labels: np.ndarray) -> list[list[Any]]:
  own, own_size = result.individual_accuracy(labels)
  general, general_size = result.global_accuracy(labels)
  return [
    [
      result.method,
      int(person),
      result.seed,
      # What a model that diverged answers is no accuracy.
      *(accuracies if status == "ok" else ("", "")),
      *sizes,
      status,
    ]
    for person, status, accuracies, sizes in zip(
      result.individuals,
      result.status,
      zip(own.tolist(), general.tolist()),
      zip(own_size.tolist(), general_size.tolist()),
    )
  ]


def _table_line(row: tables.TableRow) -> list[Any]:
  def spread(values: metrics.Spread, rank: int) -> list[Any]:
    placed = None if math.isnan(values.mean) else rank
    return [values.mean, placed, values.sd, values.min, values.max]

  def p_values(test: metrics.Significance | None) -> list[Any]:
    if test is None:
      return [None] * 4  # an empty cell of the CSV
    return [test.t, test.t_holm, test.wilcoxon, test.wilcoxon_holm]

  def compared(test: metrics.Significance | None) -> list[Any]:
    return [None] * 2 if test is None else [test.difference, test.pairs]

  own, general = p_values(row.individual_p), p_values(row.global_p)
  return [
    row.method,
    *spread(row.individual, row.individual_rank),
    *spread(row.global_, row.global_rank),
    own[0],
    general[0],
    *own[1:],
    *general[1:],
    *(dataclasses.astuple(row.fairness) if row.fairness else [None] * 4),
    row.diverged,
    *(dataclasses.astuple(row.seeds) if row.seeds else [None] * 3),
    *compared(row.individual_p),
    *compared(row.global_p),
  ]


def _csv_text(lines: Iterable[Iterable[Any]]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(lines)
  return text.getvalue()


def _metric_lines(result: Result) -> Iterable[str]:
  for step, losses in enumerate(result.losses.T):
    trained = losses[np.isfinite(losses)]  # neither padded nor diverged
    trained = trained.astype(np.float64)  # or their mean may lie beside them
    if trained.size:
      line = {
        "method": result.method,
        "seed": result.seed,
        "step": step + 1,
        "individuals": int(trained.size),
        "loss_mean": float(trained.mean()),
        "loss_min": float(trained.min()),
        "loss_max": float(trained.max()),
      }
      yield json.dumps(line) + "\n"
  for place, person in enumerate(result.individuals.tolist()):
    for step, own, general in zip(
      result.curve_steps.tolist(),
      result.individual_curve[place].tolist(),
      result.global_curve[place].tolist(),
    ):
      line = {
        "method": result.method,
        "seed": result.seed,
        "step": step,
        "individual": person,
        # Who has no validation data has no accuracy there; JSON has no NaN.
        "individual_validation_accuracy": None if np.isnan(own) else own,
        "global_validation_accuracy": None if np.isnan(general) else general,
      }
      yield json.dumps(line) + "\n"


def records(rows: Sequence[tables.TableRow]) -> list[dict[str, Any]]:
  """The rows of table1.csv.

  Args:
    rows: from `tables.table`.

  Returns:
    Column name -> value, for each row; NaN where there is none.
  """
  return [
    {
      column: math.nan if value is None else value
      for column, value in zip(TABLE_COLUMNS, _table_line(row))
    }
    for row in rows
  ]


def markdown(
  rows: Sequence[tables.TableRow],
  baseline: str | None = None,
  *,
  of_run: bool = False,
) -> str:
  """Table I for people.

  Args:
    rows: from `tables.table`.
    baseline: the one that was given there, if any.
    of_run: the files of a run lie beside it, and have what it leaves out;
      otherwise `records` does.

  Returns:
    A Markdown table for each half, or a single one of everything that was
    tested against the baseline given; aligned to be read as plain text too.
  """
  by_method = {row.method: row for row in rows}
  parts = []
  # What is ranked and corrected together stands together.
  halves = tables.halves(by_method) if baseline is None else {"": by_method}
  for name, half in halves.items():
    lines = [_markdown_line(by_method[method]) for method in half]
    header = list(_MARKDOWN_COLUMNS)
    if rows[0].fairness:
      header += _MARKDOWN_FAIRNESS
    if _several_seeds(rows):
      header += ["seed sd(D_I)", "seed sd(D_G)"]
      for line, method in zip(lines, half):
        line += _seed_cells(by_method[method])
    if any(row.diverged for row in rows):
      header += ["diverged", "pairs"]
      for line, method in zip(lines, half):
        test = by_method[method].individual_p
        line.append(str(by_method[method].diverged))
        line.append("-" if test is None else str(test.pairs))
    title = f"{name}\n\n" if name else ""
    parts.append(f"{title}{aligned([header, *lines])}\n")
  return "\n".join([*parts, _notes(rows, baseline, of_run)])


def _notes(
  rows: Sequence[tables.TableRow], baseline: str | None, of_run: bool
) -> str:
  """What the columns are, and what dashes stand for."""
  against = baseline or "the half's first row of its kind (baseline or random)"
  others_in = "table1.csv" if of_run else "the table's records()"
  notes = (
    "acc(D_I): mean accuracy over individuals on their own test data; acc(D_G):"
    " on the test data of D_G; sd, min and max over individuals.\n"
    f"p: two-sided paired t-test against {against}, Holm-corrected (* below"
    f" 0.05). Uncorrected values and Wilcoxon's test are in {others_in}.\n"
  )
  if single := [row.method for row in rows if row.one_model]:
    notes += (
      f"{', '.join(single)}: one model for all individuals. Its acc(D_G) is one"
      " number: no sd over individuals, no test of it or against it.\n"
    )
  if any(map(_differ_alike, rows)):
    notes += (
      "p of - with a difference: all individuals differ by the same, and a"
      " t-test can't tell how sure that is; Wilcoxon's can.\n"
    )
  if rows[0].fairness:
    notes += (
      "fair max, fair mean: difference in acc(D_I) of two individuals over"
      " their distance in latent space, the largest and the mean over pairs;"
      " fair rho: rank correlation of the two.\n"
    )
    if most := max(row.fairness.coincide for row in rows if row.fairness):
      notes += (
        f"Pairs of individuals at distance 0, left out of fair max and fair"
        f" mean: {most}.\n"
      )
  if _several_seeds(rows):
    notes += (
      "Means of several seeds, an individual's first; seed sd: of the mean over"
      " individuals, from seed to seed, of those who diverged with none.\n"
    )
  if any(row.diverged for row in rows):
    notes += (
      "diverged: models whose loss or parameters stopped being finite numbers;"
      " all other columns are without them ("
      f"{'results.csv' if of_run else 'Result.diverged'} names them).\n"
      "pairs: individuals whom p compares, each by the mean over the seeds with"
      " which neither of the two methods diverged; their mean difference, which"
      f" isn't that of the means shown, is in {others_in}.\n"
    )
  return notes


def _differ_alike(row: tables.TableRow) -> bool:
  """Whether a t-test can't tell, but Wilcoxon's can."""
  return any(
    test is not None and math.isnan(test.t) and not math.isnan(test.wilcoxon)
    for test in (row.individual_p, row.global_p)
  )


def _several_seeds(rows: Sequence[tables.TableRow]) -> bool:
  return any(row.seeds is not None and row.seeds.count > 1 for row in rows)


def _seed_cells(row: tables.TableRow) -> list[str]:
  if row.seeds is None:
    return ["-", "-"]
  return [_number(row.seeds.individual_sd), _number(row.seeds.global_sd)]


def _markdown_line(row: tables.TableRow) -> list[str]:
  line = [row.method]
  for spread, rank, test in (
    (row.individual, row.individual_rank, row.individual_p),
    (row.global_, row.global_rank, row.global_p),
  ):
    line += [
      _number(spread.mean),
      # What has no mean has no place among those that have one.
      "-" if math.isnan(spread.mean) else str(rank),
      *map(_number, (spread.sd, spread.min, spread.max)),
      _p_text(test),
    ]
  if row.fairness:
    fairness = row.fairness
    line += map(
      _number,
      (fairness.max_ratio, fairness.mean_ratio, fairness.rank_correlation),
    )
  return line


def _number(value: float) -> str:
  return "-" if math.isnan(value) else f"{value:.4f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """A Markdown table: the first column to the left, the others to the right.

  Args:
    lines: cells; the header first.

  Returns:
    The table's text.
  """
  # Markdown wants dashes beside the colon of a rule, however short the cells.
  widths = [max(3, *map(len, column)) for column in zip(*lines)]
  rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
  return "\n".join(
    "| "
    + " | ".join(
      cell.ljust(width) if k == 0 else cell.rjust(width)
      for k, (cell, width) in enumerate(zip(line, widths))
    )
    + " |"
    for line in [lines[0], rule, *lines[1:]]
  )


def _p_text(test: metrics.Significance | None) -> str:
  if test is None or math.isnan(test.t_holm):
    return "-"
  text = "<0.0001" if test.t_holm < 1e-4 else f"{test.t_holm:.4f}"
  return text + ("*" if test.t_holm < 0.05 else " ")
