"""A run's directory: settings, predictions, tables (NumPy, host).

    config.json       every setting, the data's fingerprint, versions, device;
                      `made_with`: which results were made with what
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
import errno
import fcntl
import io
import json
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.files import write_atomically
from personalization_jax.datasets import Population
from personalization_jax.datasets.splits import PADDING
from personalization_jax.methods import known_method

_ROWS = ("individual_rows", "validation_rows", "global_rows")

_LOCK = ".lock"
# What config.json tells beside what the run was made with.
_NO_MAKERS = (
  "settings", "dataset_fingerprint", "methods", "seeds", "asked",
  "label_names", "made_with",
)  # fmt: skip


def open_run(
  workdir: str | os.PathLike[str],
  settings: Mapping[str, Any],
  dataset_fingerprint: str,
  about: Mapping[str, Any],
  *,
  inert: Collection[str] = (),
  growing: Mapping[str, Sequence[Any] | Mapping[str, Sequence[Any]]]
  | None = None,
) -> dict[str, Any]:
  """Makes a run directory, or checks that one holds the same run.

  Args:
    workdir: the directory.
    settings: what determines the results: flag -> JSON value.
    dataset_fingerprint: of the population; it must be the same as well.
    about: what else config.json tells (versions, device, ...). Once anything is
      finished it stays as it is there, for that was made with it.
    inert: settings that nothing depends on, which an older run may hold.
    growing: lists, such as of methods, or lists by name, such as of each
      method's seeds: what is new comes behind what is there.

  Returns:
    What config.json holds now.

  Raises:
    ValueError: if the directory holds a run with other settings, naming the
      flag, or files that are no run.
    OSError: if it can't be written to.
  """
  workdir = pathlib.Path(workdir)
  _check_place(workdir)
  config_path = workdir / "config.json"
  settings = json.loads(json.dumps(settings))
  old: dict[str, Any] = {}
  if config_path.exists():
    try:
      old = json.loads(config_path.read_text())
      before = dict(old["settings"])
      fingerprint = old["dataset_fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"workdir={workdir} holds a config.json that is no run's:"
        " take another directory."
      ) from error
    for name in {**before, **settings}:
      if name in inert:
        continue
      if name not in before and not settings[name]:
        continue  # a setting that came later, and is off as it was
      if before.get(name) != settings.get(name):
        here = f"--{name}={settings[name]}" if name in settings else "not"
        raise ValueError(
          f"workdir={workdir} holds a run with --{name}={before.get(name)},"
          f" but this one has {here}: take another directory, or the same"
          " settings to go on."
        )
    if fingerprint != dataset_fingerprint:
      raise ValueError(
        f"workdir={workdir} holds a run with the same settings on other data:"
        " take another directory."
      )
  begun = old if any(_saved(workdir)) else dict(about)
  first = {"settings": settings, "dataset_fingerprint": dataset_fingerprint}
  config = first | begun | first  # for people, settings come first
  for name, values in (growing or {}).items():
    config[name] = _grown(old.get(name), values)
  try:
    return _write_config(workdir, config)
  except OSError as error:
    raise _unwritable(workdir, error) from error


def _grown(
  there: Any, values: Sequence[Any] | Mapping[str, Sequence[Any]]
) -> Any:
  """What is there, which may be anything, and behind it what is new."""
  if isinstance(values, Mapping):
    there = there if isinstance(there, dict) else {}
    return {
      name: _grown(there.get(name), values.get(name, ()))
      for name in {**there, **values}
    }
  # A hand may have changed the file: what is no name or seed isn't taken.
  kinds = {type(value) for value in values} or {str, int}
  there = there if isinstance(there, list) else []
  there = [value for value in there if type(value) in kinds]
  return list(dict.fromkeys([*there, *values]))


def tell_origins(workdir: pathlib.Path) -> None:
  """Has config.json say which finished results were made with what.

  Its `made_with` has an entry for each command, version, device and so on, in
  which `results` are method -> seeds. Of a result that doesn't say, from a run
  of an older version, all else in config.json does.

  Args:
    workdir: the run directory.
  """
  config = json.loads((workdir / "config.json").read_text())
  _write_config(workdir, config)


def _write_config(
  workdir: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, Any]:
  """Writes config.json with its `made_with` as it is now; what it holds."""
  begun = {name: config[name] for name in config if name not in _NO_MAKERS}
  # By their JSON, of which they are made.
  makers: dict[str, dict[str, list[int]]] = {}
  for method, seed, made_with in _saved(workdir):
    maker = json.dumps(made_with or begun)
    makers.setdefault(maker, {}).setdefault(method, []).append(seed)
  entries = [
    {"results": made, **json.loads(maker)} for maker, made in makers.items()
  ]
  config = {**config, "made_with": entries}
  path = workdir / "config.json"
  write_atomically(path, json.dumps(config, indent=2) + "\n")
  return config


def saved(workdir: pathlib.Path) -> list[tuple[str, int]]:
  """What is finished in a run directory.

  Args:
    workdir: the run directory.

  Returns:
    Methods' specs and seeds, by what their files say; not that they can be
    read whole, which `load_result` finds.
  """
  return [(method, seed) for method, seed, _ in _saved(workdir)]


def _saved(
  workdir: pathlib.Path,
) -> Iterator[tuple[str, int, dict[str, Any] | None]]:
  """Method, seed and what it was made with, of all that is finished."""
  for pattern in ("predictions/*.npz", "seeds/*/predictions/*.npz"):
    for path in sorted(workdir.glob(pattern)):
      try:
        with np.load(path, allow_pickle=False) as arrays:
          made_with = None
          if "made_with" in arrays.files:
            made_with = dict(json.loads(str(arrays["made_with"])))
          method, seed = str(arrays["method"]), int(arrays["seed"])
      except Exception:  # zip, zlib and NumPy each raise their own
        continue  # who needs it is told
      # The first seed has no folder of its own.
      home = workdir / "seeds" / str(seed)
      if path == _result_path(home if home.exists() else workdir, method):
        yield method, seed, made_with


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path, token: str = "") -> Iterator[None]:
  """Keeps other runs out of a run directory, until this one ends or is killed.

  The directory is made if there is none, and then removed if nothing came into
  it.
  One that is refused stays as it is.

  Args:
    workdir: the run directory.
    token: of this start, which `holds_token` finds there.

  Yields:
    Once.

  Raises:
    ValueError: if another process is at work there, or it holds files that are
      no run.
    OSError: if it can't be written to.
  """
  _check_place(workdir)
  made_here = not workdir.exists()
  try:
    lock = _lock(workdir)
    lock.truncate(0)
    lock.write(token)
    lock.flush()
  except OSError as error:
    raise _unwritable(workdir, error) from error
  with lock:
    try:
      files.remove_temporary(workdir)  # what a killed run left
      yield
    finally:
      with contextlib.suppress(OSError):  # another start is at it
        if made_here and os.listdir(workdir) == [_LOCK]:
          (workdir / _LOCK).unlink()
          workdir.rmdir()


def holds_token(workdir: pathlib.Path, token: str) -> bool:
  """Whether `alone_in` was given this token for this very directory."""
  try:
    return (workdir / _LOCK).read_text() == token
  except OSError:
    return False


def _lock(workdir: pathlib.Path) -> IO[str]:
  """The lock's file, held; a directory in use stays as it is."""
  path = workdir / _LOCK
  why: OSError = OSError(errno.ESTALE, "it comes and goes")
  for _ in range(100):
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      file = path.open("a")
    except (FileExistsError, FileNotFoundError) as error:
      why = error  # the directory was removed again, or can't be made
      continue
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.close()
      raise ValueError(
        f"workdir={workdir} is in use by another process: wait for it or stop"
        " it."
      ) from error
    except OSError:
      return file  # a file system without locks
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return file
    file.close()  # of a directory that was removed again
  raise why


def _check_place(workdir: pathlib.Path) -> None:
  """Refuses what can't be made a run directory, or holds something else."""
  if workdir.is_file():
    raise ValueError(f"workdir={workdir} is a file: name a folder.")
  try:
    inside = list(workdir.iterdir())
  except (FileNotFoundError, NotADirectoryError):
    return  # nothing is there; another start may just have removed it
  if (workdir / "config.json").exists():
    return
  for path in inside:
    if path.name != _LOCK and not files.is_temporary(path):
      raise ValueError(
        f"workdir={workdir} is not empty and holds no run (no config.json):"
        " take another directory."
      )


def _unwritable(workdir: pathlib.Path, error: OSError) -> OSError:
  return OSError(
    f"workdir={workdir} can't be written to ({error.strerror}): take another"
    " directory."
  )


def save_result(
  workdir: pathlib.Path,
  result: Result,
  population: Population,
  made_with: Mapping[str, Any] | None = None,
) -> None:
  """Keeps a finished method's predictions and losses.

  Rows are those of the user's file, and the true classes stand beside them, so
  that the file can be read without the population. What rows of the run's own
  store they are is kept too, for who goes on with the run.

  Args:
    workdir: the run directory.
    result: what `Study.personalize` returned.
    population: what it was made of.
    made_with: versions, device, command and so on, JSON values.
  """
  fields = {k: v for k, v in vars(result).items() if v is not None}
  fields.pop("models", None)
  for name in _ROWS:
    rows = fields[name]
    fields[f"store_{name}"] = rows
    there = population.file_rows[rows]
    fields[name] = np.where(rows == PADDING, PADDING, there)
  if made_with is not None:
    fields["made_with"] = np.asarray(json.dumps(made_with))
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **fields, fingerprint=population.fingerprint())
  write_atomically(_result_path(workdir, result.method), buffer.getvalue())


def load_result(
  workdir: pathlib.Path,
  method: str,
  population: Population | None = None,
  seed: int | None = None,
) -> Result | None:
  """A finished method's predictions and losses.

  Args:
    workdir: the run directory, or the folder of one of its seeds.
    method: its spec.
    population: what it was made of, to have its rows in the result; without it
      they are those of the user's file.
    seed: that it has to be of; None for any.

  Returns:
    The result, or None if the method isn't finished.

  Raises:
    ValueError: if the file can't be read, is of another method or seed, or was
      made of another population.
  """
  path = _result_path(workdir, method)
  if not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as arrays:
      fields = dict(arrays)
    fields.pop("made_with", None)
    if str(fields["method"]) != method:
      raise ValueError(f"it holds {str(fields['method'])!r}")
    if seed is not None and int(fields["seed"]) != seed:
      raise ValueError(f"it holds seed {int(fields['seed'])}")
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
  path.replace(path.with_name(path.name + ".aside"))


def _result_path(workdir: pathlib.Path, method: str) -> pathlib.Path:
  return workdir / "predictions" / f"{files.safe_name(method)}.npz"
