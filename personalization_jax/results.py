"""A run's directory: settings, predictions, tables (NumPy, host).

    config.json       every setting, the data's fingerprint, versions, device
    predictions/      one npz for each finished method
    results.csv       one row for each method and individual
    table1.csv        one row for each method; table1.md is the same for people
    metrics.jsonl     training loss over time
    checkpoints/      models that several methods start from
    figures/

Every table is computed from `predictions/`, so it can be made again.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from personalization_jax import metrics
from personalization_jax.personalization import Result

BASELINE = "baseline"
RESULT_COLUMNS = (
  "method",
  "individual",
  "seed",
  "individual_accuracy",
  "global_accuracy",
  "individual_test_size",
  "global_test_size",
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
)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
  """Writes a file that is either as before or complete.

  Args:
    path: the file.
    content: text, written as UTF-8, or bytes.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  data = content.encode() if isinstance(content, str) else content
  try:
    with temporary.open("wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def open_run(
  workdir: str | os.PathLike[str],
  settings: Mapping[str, Any],
  dataset_fingerprint: str,
  about: Mapping[str, Any],
) -> pathlib.Path:
  """Makes a run directory, or checks that one holds the same run.

  Args:
    workdir: the directory.
    settings: what determines the results: flag -> JSON value.
    dataset_fingerprint: of the population; it must be the same as well.
    about: what else config.json tells (versions, device, ...).

  Returns:
    The directory.

  Raises:
    ValueError: if the directory holds a run with other settings, naming the
      flag, or files that are no run.
    OSError: if it can't be written to.
  """
  workdir = pathlib.Path(workdir)
  config_path = workdir / "config.json"
  settings = json.loads(json.dumps(settings))
  if config_path.exists():
    try:
      config = json.loads(config_path.read_text())
      before, fingerprint = config["settings"], config["dataset_fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"workdir={workdir} holds a config.json that is no run's:"
        " take another directory."
      ) from error
    for name in {**before, **settings}:
      if before.get(name) != settings.get(name):
        raise ValueError(
          f"workdir={workdir} holds a run with --{name}={before.get(name)},"
          f" but this one has --{name}={settings.get(name)}: take another"
          " directory, or the same settings to go on."
        )
    if fingerprint != dataset_fingerprint:
      raise ValueError(
        f"workdir={workdir} holds a run with the same settings on other data:"
        " take another directory."
      )
  elif workdir.exists() and any(workdir.iterdir()):
    raise ValueError(
      f"workdir={workdir} is not empty and holds no run (no config.json):"
      " take another directory."
    )
  config = {
    "settings": settings,
    "dataset_fingerprint": dataset_fingerprint,
    **about,
  }
  write_atomically(config_path, json.dumps(config, indent=2) + "\n")
  return workdir


def save_result(workdir: pathlib.Path, result: Result) -> None:
  """Keeps a finished method's predictions and losses.

  Args:
    workdir: the run directory.
    result: what `Study.personalize` returned.
  """
  fields = dataclasses.asdict(result)
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **fields)
  write_atomically(_result_path(workdir, result.method), buffer.getvalue())


def load_result(workdir: pathlib.Path, method: str) -> Result | None:
  """A finished method's predictions and losses.

  Args:
    workdir: the run directory.
    method: its spec.

  Returns:
    The result, or None if the method isn't finished.

  Raises:
    ValueError: if the file can't be read.
  """
  path = _result_path(workdir, method)
  if not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as arrays:
      fields = dict(arrays)
    return Result(
      **{
        **fields,
        "method": str(fields["method"]),
        "seed": int(fields["seed"]),
      }
    )
  except Exception as error:  # zip, zlib and NumPy each raise their own
    raise ValueError(
      f"{path} can't be read ({error}): delete it to train {method!r} again."
    ) from error


def _result_path(workdir: pathlib.Path, method: str) -> pathlib.Path:
  # Colons and slashes are no characters for file names everywhere.
  name = method.replace(":", "-").replace("/", "_")
  return workdir / "predictions" / f"{name}.npz"


@dataclasses.dataclass(frozen=True)
class TableRow:
  """One row of Table I.

  Attributes:
    method: the spec.
    individual: spread of acc(D_I).
    individual_rank: rank of its mean; 1 is the highest.
    individual_p: against the baseline; None for the baseline itself or if
      there is none.
    global_: spread of acc(D_G).
    global_rank: rank of its mean.
    global_p: likewise.
  """

  method: str
  individual: metrics.Spread
  individual_rank: int
  individual_p: metrics.Significance | None
  global_: metrics.Spread
  global_rank: int
  global_p: metrics.Significance | None


Accuracies = dict[str, tuple[np.ndarray, np.ndarray]]


def accuracies(results: Iterable[Result], labels: np.ndarray) -> Accuracies:
  """Every method's accuracies.

  Args:
    results: finished methods.
    labels: int32 [N], the store's labels.

  Returns:
    method -> (acc(D_I) [S], acc(D_G) [S]).
  """
  return {
    result.method: (
      result.individual_accuracy(labels)[0],
      result.global_accuracy(labels)[0],
    )
    for result in results
  }


def table(accuracies: Accuracies) -> list[TableRow]:
  """The paper's Table I.

  Args:
    accuracies: method -> (acc(D_I) [S], acc(D_G) [S]).

  Returns:
    A row for each method, in the order given.

  Source: section IV, Table I.
  """
  columns = []
  for index in range(2):
    values = {method: pair[index] for method, pair in accuracies.items()}
    spreads = {method: metrics.spread(v) for method, v in values.items()}
    ranks = metrics.ranks([spread.mean for spread in spreads.values()])
    tests: dict[str, metrics.Significance] = {}
    if BASELINE in values:
      tests = metrics.significance(values, BASELINE)
    columns.append((spreads, dict(zip(values, ranks)), tests))
  own, general = columns
  return [
    TableRow(
      method=method,
      individual=own[0][method],
      individual_rank=own[1][method],
      individual_p=own[2].get(method),
      global_=general[0][method],
      global_rank=general[1][method],
      global_p=general[2].get(method),
    )
    for method in accuracies
  ]


def write_tables(
  workdir: pathlib.Path, results: Sequence[Result], labels: np.ndarray
) -> list[TableRow]:
  """Writes results.csv, table1.csv, table1.md and metrics.jsonl.

  Args:
    workdir: the run directory.
    results: finished methods, in the order of the table.
    labels: int32 [N], the store's labels.

  Returns:
    The rows of table1.
  """
  rows = table(accuracies(results, labels))
  lines = [line for result in results for line in _result_lines(result, labels)]
  write_atomically(workdir / "results.csv", _csv_text([RESULT_COLUMNS, *lines]))
  write_atomically(
    workdir / "table1.csv",
    _csv_text([TABLE_COLUMNS, *(_table_line(row) for row in rows)]),
  )
  write_atomically(workdir / "table1.md", markdown(rows))
  write_atomically(
    workdir / "metrics.jsonl",
    "".join(line for result in results for line in _metric_lines(result)),
  )
  return rows


def _result_lines(result: Result, labels: np.ndarray) -> list[list[Any]]:
  own, own_size = result.individual_accuracy(labels)
  general, general_size = result.global_accuracy(labels)
  return [
    [result.method, int(person), result.seed, *numbers]
    for person, *numbers in zip(
      result.individuals,
      own.tolist(),
      general.tolist(),
      own_size.tolist(),
      general_size.tolist(),
    )
  ]


def _table_line(row: TableRow) -> list[Any]:
  def spread(values: metrics.Spread, rank: int) -> list[Any]:
    return [values.mean, rank, values.sd, values.min, values.max]

  def p_values(test: metrics.Significance | None) -> list[Any]:
    if test is None:
      return [""] * 4
    return [test.t, test.t_holm, test.wilcoxon, test.wilcoxon_holm]

  own, general = p_values(row.individual_p), p_values(row.global_p)
  return [
    row.method,
    *spread(row.individual, row.individual_rank),
    *spread(row.global_, row.global_rank),
    own[0],
    general[0],
    *own[1:],
    *general[1:],
  ]


def _csv_text(lines: Iterable[Iterable[Any]]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(lines)
  return text.getvalue()


def _metric_lines(result: Result) -> Iterable[str]:
  for step, losses in enumerate(result.losses.T):
    trained = losses[~np.isnan(losses)]
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


def markdown(rows: Sequence[TableRow]) -> str:
  """Table I for people.

  Args:
    rows: from `table`.

  Returns:
    A Markdown table, aligned to be read as plain text too.
  """
  header = [
      "Method", "acc(D_I)", "rank", "sd", "min", "max", "p",
      "acc(D_G)", "rank", "sd", "min", "max", "p",
  ]  # fmt: skip
  lines = [header]
  for row in rows:
    line = [row.method]
    for spread, rank, test in (
      (row.individual, row.individual_rank, row.individual_p),
      (row.global_, row.global_rank, row.global_p),
    ):
      line += [
        f"{spread.mean:.4f}",
        str(rank),
        *(f"{value:.4f}" for value in (spread.sd, spread.min, spread.max)),
        _p_text(test),
      ]
    lines.append(line)
  widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
  rule = [
    "-" * width if k == 0 else "-" * (width - 1) + ":"
    for k, width in enumerate(widths)
  ]
  text = "".join(
    "| "
    + " | ".join(
      cell.ljust(width) if k == 0 else cell.rjust(width)
      for k, (cell, width) in enumerate(zip(line, widths))
    )
    + " |\n"
    for line in [lines[0], rule, *lines[1:]]
  )
  return text + (
    "\nacc(D_I): mean accuracy over individuals on their own test data;"
    " acc(D_G): on the test data of D_G; sd, min and max over individuals."
    "\np: two-sided paired t-test against the baseline, Holm-corrected"
    " (* below 0.05). Uncorrected values and Wilcoxon's test are in"
    " table1.csv.\n"
  )


def _p_text(test: metrics.Significance | None) -> str:
  if test is None:
    return "-"
  text = "<0.0001" if test.t_holm < 1e-4 else f"{test.t_holm:.4f}"
  return text + ("*" if test.t_holm < 0.05 else " ")
