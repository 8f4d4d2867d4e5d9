"""A run's directory: settings, predictions, tables (NumPy, host).

    config.json       every setting, the data's fingerprint, versions, device
    predictions/      one npz for each finished method: what every model
                      answered, which row of the user's file that was, and what
                      would have been right
    results.csv       one row for each method, individual and seed
    table1.csv        one row for each method; table1.md is the same for people
    choice.csv        whom methods hurt, if `global` was trained and there are
                      validation data
    group_agreement.csv  of groups with what is known of synthetic people
    metrics.jsonl     training losses by step, and curves of validation accuracy
    figures/
    checkpoints/      what is under way, and what several methods start from
    models/           everybody's final parameters, if asked for
    tensorboard/      losses and curves, if asked for
    seeds/K/          predictions/, models/, checkpoints/ of each further seed

Every table but group_agreement.csv is computed from the `predictions/` of all
seeds, so it can be made again. This module opens the directory and keeps the
predictions; `table_files`, `checkpoints`, `saved_models`, `event_files` and
`experiments` write the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from personalization_jax import files
from personalization_jax.datasets import Population
from personalization_jax.files import write_atomically
from personalization_jax.methods import known_method
from personalization_jax.result import Result
from personalization_jax.splits import PADDING

_ROWS = ("individual_rows", "validation_rows", "global_rows")


def open_run(
  workdir: str | os.PathLike[str],
  settings: Mapping[str, Any],
  dataset_fingerprint: str,
  about: Mapping[str, Any],
  *,
  write: bool = True,
) -> pathlib.Path:
  """Makes a run directory, or checks that one holds the same run.

  Args:
    workdir: the directory.
    settings: what determines the results: flag -> JSON value.
    dataset_fingerprint: of the population; it must be the same as well.
    about: what else config.json tells (versions, device, ...).
    write: whether this process writes, or only checks.

  Returns:
    The directory.

  Raises:
    ValueError: if the directory holds a run with other settings, naming the
      flag, or files that are no run.
    OSError: if it can't be written to.
  """
  workdir = pathlib.Path(workdir)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"workdir={workdir} is a file: name a folder.")
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
      if name not in before and not settings[name]:
        continue  # a setting that came later, and is off as it was
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
  elif workdir.exists() and not all(map(files.is_temporary, workdir.iterdir())):
    raise ValueError(
      f"workdir={workdir} is not empty and holds no run (no config.json):"
      " take another directory."
    )
  config = {
    "settings": settings,
    "dataset_fingerprint": dataset_fingerprint,
    **about,
  }
  if not write:
    return workdir
  try:
    write_atomically(config_path, json.dumps(config, indent=2) + "\n")
  except OSError as error:
    raise OSError(
      f"workdir={workdir} can't be written to ({error.strerror}): take another"
      " directory."
    ) from error
  return workdir


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a run directory, until this one ends or is killed.

  Args:
    workdir: the run directory.

  Yields:
    Once.

  Raises:
    ValueError: if another process is at work there.
  """
  with (workdir / ".lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(
        f"workdir={workdir} is in use by another process: wait for it or stop"
        " it."
      ) from error
    except OSError:
      pass  # a file system without locks
    yield


def save_result(
  workdir: pathlib.Path, result: Result, population: Population
) -> None:
  """Keeps a finished method's predictions and losses.

  Rows are those of the user's file, and the true classes stand beside them, so
  that the file can be read without the population. What rows of the run's own
  store they are is kept too, for who goes on with the run.

  Args:
    workdir: the run directory.
    result: what `Study.personalize` returned.
    population: what it was made of.
  """
  fields = {k: v for k, v in vars(result).items() if v is not None}
  fields.pop("models", None)
  for name in _ROWS:
    rows = fields[name]
    fields[f"store_{name}"] = rows
    there = population.file_rows[rows]
    fields[name] = np.where(rows == PADDING, PADDING, there)
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **fields, fingerprint=population.fingerprint())
  write_atomically(_result_path(workdir, result.method), buffer.getvalue())


def load_result(
  workdir: pathlib.Path, method: str, population: Population | None = None
) -> Result | None:
  """A finished method's predictions and losses.

  Args:
    workdir: the run directory, or the folder of one of its seeds.
    method: its spec.
    population: what it was made of, to have its rows in the result; without it
      they are those of the user's file.

  Returns:
    The result, or None if the method isn't finished.

  Raises:
    ValueError: if the file can't be read, or was made of another population.
  """
  path = _result_path(workdir, method)
  if not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as arrays:
      fields = dict(arrays)
    if str(fields["method"]) != method:
      raise ValueError(f"it holds {str(fields['method'])!r}")
    known = known_method(method)
    # Files from before it was kept.
    fields.setdefault("one_model", known is not None and known.one_model)
    fields |= {
      "method": method,
      "seed": int(fields["seed"]),
      "one_model": bool(fields["one_model"]),
    }
    fingerprint = str(fields.pop("fingerprint", ""))
    in_store = {name: fields.pop(f"store_{name}", None) for name in _ROWS}
    result = Result(**fields)
  except Exception as error:  # zip, zlib and NumPy each raise their own
    raise ValueError(
      f"{path} can't be read ({error}): delete it to train {method!r} again."
    ) from error
  if not fingerprint:
    return _of_older_version(path, result, population)
  if population is None:
    return result
  if fingerprint != population.fingerprint():
    raise ValueError(
      f"{path} was made of another population: a run's is that of its settings,"
      " without the people that it left out."
    )
  return dataclasses.replace(result, **in_store)


def _of_older_version(
  path: pathlib.Path, result: Result, population: Population | None
) -> Result:
  """A result with rows of its run's store alone, and no true classes."""
  known = known_method(result.method)
  if known and known.group and known.group.kind == "sg":
    raise ValueError(
      f"{path} is of an older version, where SG took D_I in the order of its"
      " file."
    )
  if population is None:
    raise ValueError(
      f"{path} is of an older version, which kept neither true labels nor the"
      " file's rows: give the population that it was made of."
    )

  def labels(rows: np.ndarray) -> np.ndarray:
    return np.where(rows == PADDING, PADDING, population.labels[rows])

  return dataclasses.replace(
    result,
    individual_labels=labels(result.individual_rows),
    validation_labels=labels(result.validation_rows),
    global_labels=labels(result.global_rows),
  )


def set_aside(workdir: pathlib.Path, method: str) -> None:
  """Renames a finished method's file that can't be read, so that it is trained.

  Args:
    workdir: the run directory.
    method: its spec.
  """
  path = _result_path(workdir, method)
  path.replace(path.with_name(path.name + ".damaged"))


def _result_path(workdir: pathlib.Path, method: str) -> pathlib.Path:
  return workdir / "predictions" / f"{files.safe_name(method)}.npz"
