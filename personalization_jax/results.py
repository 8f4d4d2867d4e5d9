"""A run's directory: settings, predictions, tables (NumPy, host).

    config.json       every setting, the data's fingerprint, versions, device
    predictions/      one npz for each finished method
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
import fcntl
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from personalization_jax import files
from personalization_jax.files import write_atomically
from personalization_jax.result import Result


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
      before, fingerprint = (
        dict(config["settings"]),
        config["dataset_fingerprint"],
      )
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


def save_result(workdir: pathlib.Path, result: Result) -> None:
  """Keeps a finished method's predictions and losses.

  Args:
    workdir: the run directory.
    result: what `Study.personalize` returned.
  """
  fields = vars(result) | {}
  fields.pop("models")
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
    if str(fields["method"]) != method:
      raise ValueError(f"it holds {str(fields['method'])!r}")
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
