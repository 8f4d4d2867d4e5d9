"""A run's directory: opened by one run at a time, its results kept.

This module writes config.json and the `predictions/` of all seeds, from which
every table but group_agreement.csv can be made again.
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

from personalization_jax.analysis import metrics
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.checkpoints.files import write_atomically
from personalization_jax.datasets import Population
from personalization_jax.methods import known_method

_DATA = ("individual", "validation", "global")
_LOCK = ".lock"
_CONFIG = "config.json"
# What config.json tells beside what the run was made with.
_NO_MAKERS = (
  "settings", "dataset_fingerprint", "methods", "seeds", "asked",
  "num_classes", "label_names", "made_with", "compare_to",
)  # fmt: skip


def open_run(
  workdir: pathlib.Path,
  settings: Mapping[str, Any],
  dataset_fingerprint: str,
  about: Mapping[str, Any],
  *,
  inert: Collection[str] = (),
  asked: Sequence[tuple[str, int]] = (),
) -> dict[str, Any]:
  """Makes a run directory, or checks that one holds the same run; its config.

  The run's data and `settings` determine its results; an older run may hold
  `inert` ones too. `about` is what else config.json tells: once a result is
  finished, what made it stays. What is `asked` for, methods with a seed, grows.
  """
  settings = json.loads(json.dumps(settings))
  first = {"settings": settings, "dataset_fingerprint": dataset_fingerprint}
  old = _same_run(workdir, settings, dataset_fingerprint, inert)
  # Models and results of before go by these names.
  names, now = old.get("label_names"), about.get("label_names")
  if names and list(names) != list(now or ()):
    raise ValueError(
      f"workdir={workdir} holds a run whose classes are called {names}, but now"
      f" they are {now and list(now)}: take another directory."
    )
  finished = saved(workdir)
  # For people, settings come first.
  config = {**first, **(old if finished else about), **first}
  pairs = [*finished, *asked]
  before = old.get("asked")
  before = before if isinstance(before, dict) else {}
  config["methods"] = _grown(old.get("methods"), str, [m for m, _ in pairs])
  config["seeds"] = _grown(old.get("seeds"), int, [seed for _, seed in pairs])
  config["asked"] = {
    name: _grown(before.get(name), int, [s for m, s in pairs if m == name])
    for name in dict.fromkeys([*before, *(m for m, _ in pairs)])
  }
  return _write_config(workdir, config)


def _same_run(
  workdir: pathlib.Path,
  now: Mapping[str, Any],
  dataset_fingerprint: str,
  inert: Collection[str],
) -> dict[str, Any]:
  """What config.json holds, if it is there; rejects what isn't this run's."""
  try:
    config = json.loads((workdir / _CONFIG).read_text())
    before, data = dict(config["settings"]), config["dataset_fingerprint"]
  except FileNotFoundError:
    return {}
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(
      f"workdir={workdir} holds a config.json that is no run's: take another"
      " directory."
    ) from error
  for name in {**before, **now}:
    later_and_off = name not in before and not now[name]
    if name in inert or later_and_off or before.get(name) == now.get(name):
      continue
    here, there, same = f"is without --{name}", f"without --{name}", ""
    if name in now:
      here = f"has {name}={now[name]}"
    if name in before:
      there = f"with {name}={before[name]}"
      same = f" ({name}={before[name]})"
    raise ValueError(
      f"workdir={workdir} holds a run {there}, but this one {here}: take"
      f" another directory, or the same settings{same} to go on."
    )
  if data != dataset_fingerprint:
    raise ValueError(
      f"workdir={workdir} holds a run with the same settings on other data:"
      " take another directory."
    )
  return dict(config)


def _grown(there: Any, kind: type, values: Sequence[Any]) -> list[Any]:
  """What is there, with new values appended."""
  # A hand may have changed the file: what is no name or seed isn't taken.
  there = there if isinstance(there, list) else []
  known = (value for value in there if type(value) is kind)
  return list(dict.fromkeys([*known, *values]))


def tell_origins(workdir: pathlib.Path) -> None:
  """Writes into config.json which finished results were made with what."""
  _write_config(workdir, json.loads((workdir / _CONFIG).read_text()))


def tell_baseline(workdir: pathlib.Path, baseline: str | None) -> None:
  """Writes into config.json what all methods are compared with, if anything."""
  config = json.loads((workdir / _CONFIG).read_text())
  if config.get("compare_to") == baseline:
    return
  config["compare_to"] = baseline
  if baseline is None:
    del config["compare_to"]
  _write_config(workdir, config)


def _write_config(
  workdir: pathlib.Path, config: Mapping[str, Any]
) -> dict[str, Any]:
  """Writes config.json with its `made_with` as it is now; what it holds."""
  begun = {name: config[name] for name in config if name not in _NO_MAKERS}
  makers: dict[str, dict[str, list[int]]] = {}
  for method, seed, made_with in _saved(workdir):
    # Results of older versions don't say.
    maker = json.dumps(made_with or begun)
    makers.setdefault(maker, {}).setdefault(method, []).append(seed)
  entries = [{"results": m, **json.loads(maker)} for maker, m in makers.items()]
  config = {**config, "made_with": entries}
  write_atomically(workdir / _CONFIG, json.dumps(config, indent=2) + "\n")
  return config


def saved(workdir: pathlib.Path) -> list[tuple[str, int]]:
  """Methods' specs and seeds that are finished."""
  return [(method, seed) for method, seed, _ in _saved(workdir)]


def _saved(workdir: pathlib.Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
  """Method, seed and what it was made with, if known, of finished results."""
  for pattern in ("predictions/*.npz", "seeds/*/predictions/*.npz"):
    for path in sorted(workdir.glob(pattern)):
      try:
        with np.load(path, allow_pickle=False) as arrays:
          made_with = dict(json.loads(str(arrays.get("made_with", "{}"))))
          method, seed = str(arrays["method"]), int(arrays["seed"])
      except Exception:  # zip, zlib and NumPy each raise their own
        continue  # `load_result` says so
      # The first seed has no folder of its own.
      home = workdir / "seeds" / str(seed)
      if path == _result_path(home if home.exists() else workdir, method):
        yield method, seed, made_with


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path, token: str = "") -> Iterator[None]:
  """Keeps other runs out of a run directory, until this one ends or is killed.

  Makes a missing directory, and removes it if it stays empty.
  """
  _check_place(workdir)
  made_here = not workdir.exists()
  try:
    lock = _lock(workdir)
    lock.truncate(0)
    lock.write(token)
    lock.flush()
  except OSError as error:
    raise OSError(
      f"workdir={workdir} can't be written to ({error.strerror}): take another"
      " directory."
    ) from error
  with lock:
    try:
      files.remove_temporary(workdir)
      yield
    finally:
      with contextlib.suppress(OSError):  # another start is at it
        if made_here and os.listdir(workdir) == [_LOCK]:
          (workdir / _LOCK).unlink()
          workdir.rmdir()


def holds_token(workdir: pathlib.Path, token: str) -> bool:
  """Whether `alone_in` was given this token for this directory."""
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
  """Rejects what can't be made a run directory, or holds something else."""
  if workdir.is_file():
    raise ValueError(f"workdir={workdir} is a file: name a folder.")
  inside: list[pathlib.Path] = []
  # Nothing may be there; another start may just have removed it.
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    inside = [*workdir.iterdir()]
  foreign = [p for p in inside if p.name != _LOCK and not files.is_temporary(p)]
  if foreign and not (workdir / _CONFIG).exists():
    raise ValueError(
      f"workdir={workdir} is not empty and holds no run (no config.json):"
      " take another directory."
    )


def save_result(
  workdir: pathlib.Path,
  result: Result,
  population: Population,
  made_with: Mapping[str, Any] | None = None,
) -> None:
  """Keeps a finished method's predictions and losses.

  Readers get the rows of their file and true classes; a run needs its store's.
  """
  fields = {k: v for k, v in vars(result).items() if v is not None}
  fields.pop("models", None)
  for data in _DATA:
    fields[f"store_{data}_rows"] = rows = fields[f"{data}_rows"]
    fields[f"{data}_rows"] = metrics.at_rows(population.file_rows, rows)
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
  """A method's result, from a run's or a seed's folder; None if unfinished.

  Rows are those of the population's store, or without it of the user's file.
  Raises a ValueError for a file that can't be read, or that is of another
  method, seed or population.
  """
  path = _result_path(workdir, method)
  if not path.exists():
    return None
  known = known_method(method)
  try:
    with np.load(path, allow_pickle=False) as arrays:
      fields = {k: v if v.ndim else v.item() for k, v in arrays.items()}
    fields.pop("made_with", None)
    # Files of older versions don't say.
    fields.setdefault("one_model", known is not None and known.one_model)
    if fields["method"] != method:
      raise ValueError(f"it holds {fields['method']!r}")
    if seed is not None and fields["seed"] != seed:
      raise ValueError(f"it holds seed {fields['seed']}")
    fingerprint = fields.pop("fingerprint", "")
    names = [f"{data}_rows" for data in _DATA]
    in_store = {name: fields.pop(f"store_{name}", None) for name in names}
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
  """A result with rows of its run's store alone, given its true classes."""
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
  rows = {data: getattr(result, f"{data}_rows") for data in _DATA}
  labels: dict[str, Any] = {
    f"{data}_labels": metrics.at_rows(population.labels, own)
    for data, own in rows.items()
  }
  return dataclasses.replace(result, **labels)


def set_aside(workdir: pathlib.Path, method: str) -> None:
  """Renames a finished method's file, so that the method is trained again."""
  path = _result_path(workdir, method)
  path.replace(path.with_name(path.name + ".aside"))


def _result_path(workdir: pathlib.Path, method: str) -> pathlib.Path:
  return workdir / "predictions" / f"{files.safe_name(method)}.npz"
