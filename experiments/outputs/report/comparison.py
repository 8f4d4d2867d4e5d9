"""How runs differ: in flags and environment, and in accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.outputs.report.runs import Run, one_model
from personalization_jax.analysis import metrics


def facts(run: Run) -> dict[str, Any]:
  """Flags, seeds, data and versions of a run, those unknown left out.

  Several commands may have made a run; different values are joined by commas.
  """
  found = {f"--{flag}": value for flag, value in run.settings.items()}
  found["seeds"] = ", ".join(run.seeds) or None
  found["data"] = run.about.get("dataset_fingerprint")
  made = [made_with(about) for about in run.makers or (run.about,)]
  for name in dict.fromkeys(itertools.chain(*made)):
    values = dict.fromkeys(one.get(name) for one in made)
    known = [value for value in values if value is not None]
    if known:
      found[name] = known[0] if len(known) == 1 else ", ".join(map(str, known))
  return {n: x for n, x in found.items() if x is not None or n[:2] == "--"}


def made_with(about: Mapping[str, Any]) -> dict[str, Any]:
  """Commit, device and versions, from config.json or one of its makers."""
  names = {
    "commit": "commit", "device": "device", "platform": "platform",
    "devices": "num_devices", "processes": "num_processes", "Python": "python",
  }  # fmt: skip
  versions = about.get("versions")
  return {
    **{name: about.get(key) for name, key in names.items()},
    **(versions if isinstance(versions, dict) else {}),
  }


def differing(of_runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
  """Facts that differ between runs, flags first -> the value of each run."""
  found = {}
  names = dict.fromkeys(itertools.chain(*of_runs))
  for name in sorted(names, key=lambda name: not name.startswith("--")):
    values = [own.get(name) for own in of_runs]
    # A flag that came later is off in older runs; all else may be unknown.
    if name.startswith("--"):
      known = [value or None for value in values]
    else:
      known = [value for value in values if value is not None]
    if any(value != known[0] for value in known):
      found[name] = values
  return found


def common(first: Run, other: Run) -> tuple[list[str], list[str]]:
  """Individuals and seeds that two runs share; none if their data differ."""
  data, its = (run.about.get("dataset_fingerprint") for run in (first, other))
  if data is None or data != its:
    return [], []
  return (
    [person for person in first.people if person in other.people],
    [seed for seed in first.seeds if seed in other.seeds],
  )


def accuracies(
  run: Run,
  method: str,
  of: str,
  people: Sequence[str] = (),
  seeds: Sequence[str] = (),
) -> np.ndarray:
  """Accuracies on "individual" or "global" data, [K, S], or [S] without seeds.

  NaN for models that diverged. The default is all people by id, and means over
  the table's seeds, or over all seeds if the table lacks the method.
  """
  own = run.results[run.results["method"] == method]
  of_table = run.table_seeds if method in [*run.table["method"]] else ()
  found = own.pivot(
    index="seed", columns="individual", values=f"{of}_accuracy"
  ).reindex(index=seeds or of_table or run.seeds)
  values = found.reindex(columns=people or found.columns).to_numpy()
  return values if seeds else metrics.mean_without_nan(values)


def compare(
  first: Run, other: Run, methods: Sequence[str], of: str
) -> dict[str, metrics.Significance]:
  """Tests methods of a run against the first run's, with Holm's correction.

  Common individuals and seeds are paired. Without common individuals it is
  Welch's t-test over all, with 0 pairs.
  """
  tests = {}
  people, seeds = common(first, other)
  for method in [m for m in methods if m in other.seeds_of]:
    before, after = (
      accuracies(run, method, of, people, people and seeds)
      for run in (first, other)
    )
    if people:
      test = metrics.paired_tests(after, before)
    else:
      change = metrics.spread(after).mean - metrics.spread(before).mean
      test = metrics.Significance(change, 0, metrics.welch(after, before))
    tests[method] = test
  # One model for all has one accuracy on global data: nothing to test.
  single = [m for m in tests if of == "global" and one_model(m)]
  return metrics.with_holm(tests, single)
