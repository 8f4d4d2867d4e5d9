"""What differs between runs: their flags, and what methods gave people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from experiments.outputs.report.runs import Run
from personalization_jax.analysis import metrics
from personalization_jax.analysis.metrics import Significance
from personalization_jax.methods import known_method

Data = Literal["individual", "global"]


@dataclasses.dataclass(frozen=True)
class Common:
  """What two runs on the same data have both.

  Attributes:
    people: individuals, by id; without any, people can't be paired.
    seeds: without any, an individual's means over each run's own are paired.
  """

  people: tuple[str, ...]
  seeds: tuple[str, ...]


def differing(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
  """Flags, and what else determines numbers, that aren't the same everywhere.

  Args:
    runs: two or more.

  Returns:
    Names, each with every run's value; None where a run doesn't say.
  """
  found: list[tuple[str, list[Any]]] = []
  for name in dict.fromkeys(name for run in runs for name in run.settings):
    # A flag that came later is off in older runs, as for who resumes them.
    values = [run.settings.get(name) for run in runs]
    if any(value != values[0] and (value or values[0]) for value in values):
      found.append((f"--{name}", values))
  about = [environment(run) for run in runs]
  for name in dict.fromkeys(name for one in about for name in one):
    values = [one.get(name) for one in about]
    known = [value for value in values if value is not None]
    if any(value != known[0] for value in known):
      found.append((name, values))
  return found


def environment(run: Run) -> dict[str, Any]:
  """What a run was made with and of, beside its flags.

  Args:
    run: whose results may have been made by several commands.

  Returns:
    Name -> value; of several different ones all, with commas.
  """
  found: dict[str, list[Any]] = {
    "seeds": [", ".join(run.results.seeds) if run.results else None],
    "data": [run.about.get("dataset_fingerprint")],
  }
  for about in run.makers or (run.about,):
    for name, value in made_with(about).items():
      found.setdefault(name, []).append(value)
  return {
    name: values[0] if len(values) == 1 else ", ".join(map(str, values))
    for name, values in (
      (name, [x for x in dict.fromkeys(values) if x is not None])
      for name, values in found.items()
    )
    if values
  }


def made_with(about: Mapping[str, Any]) -> dict[str, Any]:
  """Commit, device and versions that config.json tells, by their names."""
  versions = about.get("versions")
  return {
    "commit": about.get("commit"),
    "device": about.get("device"),
    "platform": about.get("platform"),
    "devices": about.get("num_devices"),
    "processes": about.get("num_processes"),
    "Python": about.get("python"),
    **(versions if isinstance(versions, dict) else {}),
  }


def methods_in_common(runs: Sequence[Run]) -> list[str]:
  """What the first run and at least one other have results of."""
  return [
    method
    for method in accuracies(runs[0], "individual")
    if any(method in accuracies(run, "individual") for run in runs[1:])
  ]


def accuracies(run: Run, of: Data) -> dict[str, np.ndarray]:
  """A run's accuracies.

  Args:
    run: with results, or without any.
    of: "individual" or "global" data.

  Returns:
    method -> float [S] over individuals sorted by id, NaN for who diverged:
    means over the seeds of the run's table, or over all that a method has which
    isn't in there.
  """
  if run.results is None:
    return {}
  return {
    method: metrics.mean_without_nan(
      _by_seed(run, method, of, sorted(people), _seeds(run, method))
    )
    for method, people in run.results.accuracies.items()
  }


def one_model(method: str, of: Data) -> bool:
  """Whether all individuals share an accuracy, since they share a model.

  It is no sample of several models, so there is nothing to test.

  Args:
    method: a spec.
    of: the accuracy, on "individual" or on "global" data.

  Returns:
    True for acc(D_G) of `global`.
  """
  known = known_method(method)
  return of == "global" and known is not None and known.one_model


def common(first: Run, other: Run) -> Common:
  """Whom and which seeds two runs share, so that like is compared with like.

  Args:
    first: a run with results.
    other: another.

  Returns:
    What is in both; nothing if their data aren't the same.
  """
  data = first.about.get("dataset_fingerprint")
  if (
    not (first.results and other.results)
    or data is None
    or data != other.about.get("dataset_fingerprint")
  ):
    return Common((), ())
  here, there = (individuals(run) for run in (first, other))
  seeds = set(other.results.seeds)
  return Common(
    tuple(person for person in here if person in there),
    tuple(seed for seed in first.results.seeds if seed in seeds),
  )


def individuals(run: Run) -> list[str]:
  """Everybody in a run's results, sorted."""
  found = run.results.accuracies.values() if run.results else ()
  return sorted({person for people in found for person in people})


def compare(
  first: Run, other: Run, methods: Sequence[str], of: Data
) -> dict[str, Significance]:
  """Tests a run's methods against the same methods of the first run.

  Args:
    first: the run compared with; it has all the methods.
    other: the run compared.
    methods: what is compared; what the other run lacks is left out.
    of: the accuracy, on "individual" or on "global" data.

  Returns:
    method -> the difference to the first run and its tests, Holm-corrected over
    the methods. They are of the people and seeds that the two have in `common`,
    paired. Without such people they are of all people, by Welch's t-test, and
    there are 0 pairs. What is `one_model`'s has no tests.
  """
  both = common(first, other)
  before, after = accuracies(first, of), accuracies(other, of)
  tests = {}
  for method in methods:
    if method not in after:
      continue
    if both.people:
      test = _paired(first, other, method, of, both)
    else:
      here, there = (metrics.spread(x[method]).mean for x in (after, before))
      test = Significance(
        t=metrics.welch(after[method], before[method]),
        wilcoxon=np.nan,
        t_holm=np.nan,
        wilcoxon_holm=np.nan,
        difference=here - there,
        pairs=0,
      )
    if one_model(method, of):
      test = dataclasses.replace(test, t=np.nan, wilcoxon=np.nan)
    tests[method] = test
  return metrics.with_holm(tests)


def _paired(
  first: Run, other: Run, method: str, of: Data, both: Common
) -> Significance:
  sides = {}
  for name, run in (("first", first), ("other", other)):
    seeds = both.seeds or _seeds(run, method)
    sides[name] = _by_seed(run, method, of, both.people, seeds)
    if not both.seeds:
      sides[name] = metrics.mean_without_nan(sides[name])
  return metrics.significance(sides, "first")["other"]


def _seeds(run: Run, method: str) -> Sequence[str]:
  """The seeds of which a method's accuracies are means."""
  assert run.results is not None
  there = run.table_seeds if method in run.table_methods else ()
  return there or run.results.seeds


def _by_seed(
  run: Run, method: str, of: Data, people: Sequence[str], seeds: Sequence[str]
) -> np.ndarray:
  """Accuracies [K, S] of these seeds and people, NaN for what isn't there."""
  assert run.results is not None
  column = ("individual", "global").index(of)
  found = run.results.accuracies[method]
  nothing = (np.nan, np.nan)
  return np.array(
    [
      [found.get(person, {}).get(seed, nothing)[column] for person in people]
      for seed in seeds
    ]
  )
