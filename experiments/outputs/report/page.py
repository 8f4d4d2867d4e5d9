"""The report: one HTML page that needs no other file, by page.html.j2."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from experiments.outputs import agreement, choice, measures
from experiments.outputs.pictures import CAPTIONS, OF_FOLDS
from experiments.outputs.report import headline, runs
from experiments.outputs.report.runs import Pairs, Run, one_model
from experiments.runtime import console
from personalization_jax import figures
from personalization_jax.analysis import markdown, metrics, tables
from personalization_jax.analysis.columns import SYMBOLS
from personalization_jax.analysis.markdown import Columns
from personalization_jax.methods import known_method

_NOTHING = "–"
# Titles of figures, in the order of the page.
_ORDER = {title: k for k, (title, _) in enumerate(CAPTIONS.values())}


def _typeset(text: str) -> str:
  """Text with minus signs, a dash for nothing, and bold where it has a star."""
  text = re.sub(r"-(?=\d)", "−", text.strip()).replace("-", _NOTHING)
  if text.endswith("*"):
    text = Markup("<strong>{}</strong>").format(text)
  return text


_ENVIRONMENT = jinja2.Environment(
  loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  undefined=jinja2.StrictUndefined,
  autoescape=True,
  trim_blocks=True,
  lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
  "base64": lambda data: base64.b64encode(data).decode(),
  "typeset": _typeset,
  "rows": lambda columns: zip(*(cells for _, _, cells in columns)),
  "spans": lambda columns: [
    (above, len([*own]))
    for above, own in itertools.groupby(above for above, _, _ in columns)
  ],
}


def write(
  paths: Sequence[str], output: pathlib.Path, title: str | None = None
) -> list[Run]:
  """Writes a report of run directories; ValueError says what is wrong."""
  found = runs.read_all(paths)
  console.write_output(output, page(found, title).encode(errors="replace"))
  return found


def page(found: Sequence[Run], title: str | None = None) -> str:
  """The report as HTML: the same bytes for the same runs."""
  content = _ENVIRONMENT.get_template("page.html.j2").render(
    title=title or f"Personalization: {', '.join(run.name for run in found)}",
    comparison=_comparison(found) if len(found) > 1 else None,
    sections=[_section(run) for run in found],
  )
  return content.lstrip() + "\n"


def _section(run: Run) -> dict[str, Any]:
  """Everything about one run that the template shows."""
  # What is in the tables was trained, whatever became of its predictions.
  waiting = [pair for pair in run.unfinished if pair not in run.trained]
  progress = {
    "unfinished": run.unfinished,
    "beside": run.beside if len(run.table) else [],
    "Trained": [pair for pair in run.asked if pair not in waiting],
    "Checkpoints": run.checkpoints,
    "Not trained yet": waiting,
  }
  return {
    "run": run,
    "headline": headline.of_results(run),
    "data": headline.of_data(run) if run.people else None,
    "progress": {key: _listed(run, pairs) for key, pairs in progress.items()},
    **_settings(run),
    **_table1(run),
    "diverged": _diverged(run),
    "further": [
      (heading, of.TITLE, of.columns(table), of.NAMES, of.NOTE)
      for heading, of, table in (
        ("Further measures", measures, run.measures),
        ("Who is hurt", choice, run.choice),
        ("Group agreement", agreement, run.agreement),
      )
      if not table.empty
    ],
    "figures": sorted(
      (
        (image, *CAPTIONS.get(stem, (name, "A figure of this run.")))
        for name, image in run.figures.items()
        for stem in [pathlib.PurePath(name).stem]
      ),
      key=lambda figure: _ORDER.get(figure[1], len(_ORDER)),
    ),
  }


def _listed(run: Run, pairs: Pairs) -> str:
  """Names of methods or checkpoints, grouped by seed if there are several."""
  by_seed: dict[str, list[str]] = {}
  for name, seed in pairs:
    by_seed.setdefault(seed, []).append(name)
  return "; ".join(
    ", ".join(names) + (f" (seed {seed})" if run.several_seeds else "")
    for seed, names in by_seed.items()
  )


def _settings(run: Run) -> dict[str, Columns]:
  """Tables of flags, of versions, and of what made which results."""
  facts = {name: _value(x) for name, x in _facts(run).items()}
  flags = {name: facts.pop(name) for name in [*facts] if name.startswith("--")}
  if run.asked:
    facts["methods"] = ", ".join(dict.fromkeys(name for name, _ in run.asked))
  if isinstance(command := run.about.get("command"), list):
    facts["command"] = " ".join(map(str, command))
  made = _differing([_made_with(maker) for maker in run.makers])
  results, commands = [], []
  for maker in run.makers:
    own = maker["results"]
    if run.several_seeds:
      own = [f"{m} (seed {', '.join(map(str, own[m]))})" for m in own]
    results.append(", ".join(own))
    commands.append(" ".join(map(str, maker.get("command") or ())))
  makers = {
    "No.": map(str, itertools.count(1)),
    "results": results,
    **{name: map(_value, values) for name, values in made.items()},
    "command": commands,
  }
  return {
    "flags": _plain({"Flag": flags, "Value": flags.values()}),
    "made_with": _plain({"What": facts, "Value": facts.values()}),
    "makers": _plain(makers),
  }


def _table1(run: Run) -> dict[str, Any]:
  """Table I in halves, or against a baseline, and its notes."""
  table, baseline = run.table, run.baseline
  names = table["method"].map(_half)
  if baseline is not None:
    names = pd.Series(f"Against {baseline}", table.index)
  by_half = table.groupby(names, sort=False)
  shown = markdown.shown(table)
  notes = markdown.notes(table, baseline, of_run=True)
  of_table = run.results[run.results["method"].isin(table["method"])]
  notes += markdown.of_best_steps(of_table)
  if headline.rotates(run):
    notes.append(OF_FOLDS.format(run.settings.get("num_folds")))
  return {
    "halves": {name: markdown.told(half, shown) for name, half in by_half},
    "notes": notes,
  }


def _half(method: str) -> str:
  if known_method(method) is None:
    return "Other methods"  # one's own, or of another version
  return next(iter(tables.halves([method])))


def _diverged(run: Run) -> Columns:
  gone = run.results[run.results["individual_accuracy"].isna()]
  people = gone["individual"]
  if len(run.seeds) > 1:
    people = people + " (seed " + gone["seed"] + ")"
  own = people.groupby(gone["method"], sort=False)
  models, individuals = own.size().astype(str), own.agg(", ".join)
  return _plain(
    {"Method": own.groups, "Models": models, "Individuals": individuals}
  )


def _comparison(found: Sequence[Run]) -> dict[str, Any]:
  """Everything about several runs, compared with the first."""
  compared = [run for run in found if run.seeds]
  methods = [
    method
    for run in compared[:1]
    for method in run.seeds_of
    if any(method in other.seeds_of for other in compared[1:])
  ]
  differing = _differing([_facts(run) for run in found])
  # What decides the results stands first, what made them last.
  decides = {
    name: values
    for name, values in differing.items()
    if name.startswith("--") or name == "seeds"
  }
  made = {n: values for n, values in differing.items() if n not in decides}
  about: dict[str, Any] = {
    "decides": _side_by_side(found, decides),
    "made": _side_by_side(found, made),
    "flags_differ": any(name.startswith("--") for name in decides),
    "without": [run.name for run in found if not run.seeds],
    "methods": methods,
  }
  if not methods:
    return about
  first, *others = compared
  shown = compared[: figures.MOST_RUNS]
  axes = figures.runs(
    {
      run.name: {m: run.accuracies(m, "individual") for m in run.seeds_of}
      for run in shown
    }
  )
  return about | {
    "runs": compared,
    "common": [(run, *_common(first, run)) for run in others],
    "tables": {
      symbol: _compared(compared, methods, of) for of, symbol in SYMBOLS.items()
    },
    "tests": {run.name: _tests(first, run, methods) for run in others},
    "one_model": any(map(one_model, methods)),
    "shown": shown,
    "figure": figures.png(axes),
  }


def _side_by_side(
  found: Sequence[Run], differing: Mapping[str, Sequence[Any]]
) -> Columns | None:
  """A table of facts, a column a run; None without any."""
  columns = {"Setting": [*differing]}
  for run, values in zip(found, zip(*differing.values())):
    columns[run.name] = [*map(_value, values)]
  return _plain(columns) if differing else None


def _compared(
  compared: Sequence[Run], methods: Sequence[str], of: str
) -> Columns:
  """The accuracies of each run, and how the others differ from the first."""
  columns: Columns = [("", "Method", methods)]
  for run in compared:
    means = dict.fromkeys(methods, "-")
    for method in set(methods) & set(run.seeds_of):
      spread = metrics.spread(run.accuracies(method, of))
      sd = math.nan if of == "global" and one_model(method) else spread.sd
      means[method] = "{} ({})".format(
        *markdown.cells([spread.mean, sd], ".4f")
      )
    columns.append((run.name, "mean (sd)", means.values()))
    if run is not compared[0]:
      test = _compare(compared[0], run, methods, of)
      columns += [
        (run.name, "difference", markdown.cells(test["difference"], "+z.4f")),
        (run.name, "p", markdown.cells(test["t_holm"], "p*")),
      ]
  return columns


def _tests(first: Run, run: Run, methods: Sequence[str]) -> Columns:
  """All tests of a run against the first."""
  people, _ = _common(first, run)
  own = [("t", "Welch, p", "p"), ("t_holm", "Holm", "p*")]
  if people:
    own = [
      ("pairs", "pairs", ".0f"),
      ("t", "t, p", "p"),
      ("t_holm", "Holm", "p*"),
      ("wilcoxon", "Wilcoxon, p", "p"),
      ("wilcoxon_holm", "Holm", "p*"),
    ]
  columns: Columns = [("", "Method", methods)]
  for of, symbol in SYMBOLS.items():
    test = _compare(first, run, methods, of)
    columns += [
      (symbol, header, markdown.cells(test[name], form))
      for name, header, form in own
    ]
  return columns


def _facts(run: Run) -> dict[str, Any]:
  """Flags, seeds, data and versions of a run, those unknown left out.

  Several commands may have made a run; different values are joined by commas.
  """
  settings = {**run.settings}
  computes = settings.pop("model_digest", None)  # of a model of one's own
  found = {f"--{flag}": value for flag, value in settings.items()}
  found["model"] = computes
  found["seeds"] = ", ".join(run.seeds) or None
  found["data"] = run.about.get("dataset_fingerprint")
  made = [_made_with(about) for about in run.makers or (run.about,)]
  for name in dict.fromkeys(itertools.chain(*made)):
    values = dict.fromkeys(one.get(name) for one in made)
    known = [value for value in values if value is not None]
    if known:
      found[name] = known[0] if len(known) == 1 else ", ".join(map(str, known))
  return {n: x for n, x in found.items() if x is not None or n[:2] == "--"}


def _made_with(about: Mapping[str, Any]) -> dict[str, Any]:
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


def _differing(of_runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
  """Facts that differ between runs, flags first -> the value of each run."""
  found = {}
  names = dict.fromkeys(itertools.chain(*of_runs))
  for name in sorted(names, key=lambda name: not name.startswith("--")):
    values = [own.get(name) for own in of_runs]
    # A flag that came later is off in older runs; all else may be unknown.
    known = [value for value in values if value is not None]
    if name.startswith("--"):
      known = [value or None for value in values]
    if any(value != known[0] for value in known):
      found[name] = values
  return found


def _common(first: Run, other: Run) -> tuple[list[str], list[str]]:
  """Individuals and seeds that two runs share; none if their data differ."""
  data, its = (run.about.get("dataset_fingerprint") for run in (first, other))
  if data is None or data != its:
    return [], []
  return (
    [person for person in first.people if person in other.people],
    [seed for seed in first.seeds if seed in other.seeds],
  )


def _compare(
  first: Run, other: Run, methods: Sequence[str], of: str
) -> pd.DataFrame:
  """Tests methods of a run against the first run's, with Holm's correction.

  Common individuals and seeds are paired. Without common individuals it is
  Welch's t-test over all, with 0 pairs.
  """
  tests = {}
  people, seeds = _common(first, other)
  for method in [m for m in methods if m in other.seeds_of]:
    before, after = (
      run.accuracies(method, of, people, people and seeds)
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
  tests = metrics.with_holm(tests, single)
  names = [field.name for field in dataclasses.fields(metrics.Significance)]
  table = pd.DataFrame(tests.values(), tests.keys(), names)
  return table.reindex(methods)


def _plain(columns: Mapping[str, Iterable[str]]) -> Columns:
  return [("", header, cells) for header, cells in columns.items()]


def _value(setting: Any) -> str:
  """A flag's value, or what else is in config.json."""
  if setting is None:
    return _NOTHING
  return setting if isinstance(setting, str) else json.dumps(setting)
