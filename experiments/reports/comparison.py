"""What differs between runs: their flags, and what methods gave people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from experiments.reports.runs import Run
from personalization_jax import metrics

Data = Literal["individual", "global"]


@dataclasses.dataclass(frozen=True)
class Difference:
  """A method in one run against the same method in the first run.

  Attributes:
    mean: by how much the mean accuracy is higher here.
    t: p of the paired t-test, or of Welch's, two-sided.
    t_holm: the same, Holm-corrected over the methods compared.
    wilcoxon: p of Wilcoxon's signed-rank test; NaN where people aren't paired.
    wilcoxon_holm: likewise corrected.
  """

  mean: float
  t: float
  t_holm: float
  wilcoxon: float
  wilcoxon_holm: float


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
  """What a run was made with and of, beside its flags."""
  about = run.about
  versions = about.get("versions")
  found = {
    "seeds": ", ".join(run.results.seeds) if run.results else None,
    "data": about.get("dataset_fingerprint"),
    "commit": about.get("commit"),
    "device": about.get("device"),
    "platform": about.get("platform"),
    "devices": about.get("num_devices"),
    "processes": about.get("num_processes"),
    "Python": about.get("python"),
    **(versions if isinstance(versions, dict) else {}),
  }
  return {name: value for name, value in found.items() if value is not None}


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
    method -> float [S] over individuals sorted by id, NaN for who diverged.
  """
  column = ("individual", "global").index(of)
  found = run.results.accuracies if run.results else {}
  return {
    method: np.array([people[person][column] for person in sorted(people)])
    for method, people in found.items()
  }


def paired(first: Run, other: Run, methods: Sequence[str]) -> bool:
  """Whether runs have the same people, so that each is compared with themself.

  Args:
    first: a run with results.
    other: another.
    methods: what is compared.

  Returns:
    True if their data are the same, and the individuals of every method.
  """
  if not (first.results and other.results):
    return False
  data = first.about.get("dataset_fingerprint")
  here, there = first.results.accuracies, other.results.accuracies
  return (
    data is not None
    and data == other.about.get("dataset_fingerprint")
    and all(set(here[m]) == set(there[m]) for m in methods if m in there)
  )


def compare(
  first: Run, other: Run, methods: Sequence[str], of: Data
) -> Mapping[str, Difference]:
  """Tests a run's methods against the same methods of the first run.

  Args:
    first: the run compared with; it has all the methods.
    other: the run compared.
    methods: what is compared; what the other run lacks is left out.
    of: the accuracy, on "individual" or on "global" data.

  Returns:
    method -> its difference; p-values of paired tests if the runs are `paired`,
    else Welch's.
  """
  before, after = accuracies(first, of), accuracies(other, of)
  shared = [method for method in methods if method in after]
  pairs = paired(first, other, methods)
  tests = []
  for method in shared:
    if pairs:
      both = {"first": before[method], "other": after[method]}
      test = metrics.significance(both, "first")["other"]
      tests.append((test.t, test.wilcoxon))
    else:
      tests.append((metrics.welch(after[method], before[method]), np.nan))
  t_holm, wilcoxon_holm = (
    metrics.holm([test[k] for test in tests]) for k in range(2)
  )
  return {
    method: Difference(
      mean=metrics.spread(after[method]).mean
      - metrics.spread(before[method]).mean,
      t=t,
      t_holm=t_corrected,
      wilcoxon=wilcoxon,
      wilcoxon_holm=wilcoxon_corrected,
    )
    for method, (t, wilcoxon), t_corrected, wilcoxon_corrected in zip(
      shared, tests, t_holm, wilcoxon_holm
    )
  }
