"""The report: one HTML page that needs no other file, by page.html.j2."""

from __future__ import annotations

import base64
import itertools
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from experiments.outputs.report import comparison, runs
from experiments.outputs.report.captions import CAPTIONS
from experiments.outputs.report.runs import Pairs, Run
from personalization_jax import figures
from personalization_jax.analysis import metrics, tables
from personalization_jax.analysis.columns import SPREAD
from personalization_jax.checkpoints import files
from personalization_jax.figures import styles
from personalization_jax.methods import known_method

_NOTHING = "–"
_SYMBOLS = {"individual": "acc(D_I)", "global": "acc(D_G)"}

# A table: what stands above each column's header, the header, and the cells.
Columns = list[tuple[str, str, Iterable[str]]]

_ENVIRONMENT = jinja2.Environment(
  loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  undefined=jinja2.StrictUndefined,
  autoescape=True,
  trim_blocks=True,
  lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
  "base64": lambda data: base64.b64encode(data).decode(),
  "big_endian": int.from_bytes,
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
  content = page(found, title)
  try:
    files.write_atomically(output, content.encode(errors="replace"))
  except OSError as error:
    raise ValueError(
      f"--output={output} can't be written ({error.strerror}): take another"
      " file."
    ) from error
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
  others = {
    name: (f"{name}.png", "A figure of this run.")
    for name in run.figures
    if name not in CAPTIONS
  }
  return {
    "run": run,
    "progress": {key: _listed(run, pairs) for key, pairs in progress.items()},
    **_settings(run),
    **_table1(run.table),
    "diverged": _diverged(run),
    "choice": [
      ("", "Method", run.choice["method"]),
      ("", "hurt", _cells(run.choice["hurt"], ".0%")),
      ("", "hurt, chosen", _cells(run.choice["hurt_with_choice"], ".0%")),
      ("", "gain", _cells(run.choice["gain"], "+.4f")),
      ("", "gain, chosen", _cells(run.choice["gain_with_choice"], "+.4f")),
    ],
    "agreement": _agreement(run.agreement),
    "figures": [
      (run.figures[name], *about)
      for name, about in {**CAPTIONS, **others}.items()
      if name in run.figures
    ],
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
  facts = {name: _value(x) for name, x in comparison.facts(run).items()}
  flags = {name: facts.pop(name) for name in [*facts] if name.startswith("--")}
  if run.asked:
    facts["methods"] = ", ".join(dict.fromkeys(name for name, _ in run.asked))
  if isinstance(command := run.about.get("command"), list):
    facts["command"] = " ".join(map(str, command))
  made = comparison.differing(
    [comparison.made_with(maker) for maker in run.makers]
  )
  results = []
  for maker in run.makers:
    own = maker["results"]
    if run.several_seeds:
      own = [f"{m} (seed {', '.join(map(str, own[m]))})" for m in own]
    results.append(", ".join(own))
  commands = [
    " ".join(map(str, maker.get("command") or ())) for maker in run.makers
  ]
  return {
    "flags": [("", "Flag", flags), ("", "Value", flags.values())],
    "made_with": [("", "What", facts), ("", "Value", facts.values())],
    "makers": [
      ("", "No.", map(str, itertools.count(1))),
      ("", "results", results),
      *(("", name, map(_value, values)) for name, values in made.items()),
      ("", "command", commands),
    ],
  }


def _table1(table: pd.DataFrame) -> dict[str, Any]:
  """Table I in halves, and which of its notes apply."""
  some = (table["diverged"] > 0).any()
  further = [
    name
    for name, (above, _) in runs.FURTHER.items()
    if (above or some) and not table[name].isna().all()
  ]

  def columns(half: pd.DataFrame) -> Columns:
    found: Columns = [("", "Method", half["method"])]
    for of, symbol in _SYMBOLS.items():
      for name in SPREAD:
        form = ".0f" if name == "rank" else ".4f"
        found.append((symbol, name, _cells(half[f"{of}_{name}"], form)))
      # Older runs have a p of it all the same.
      untested = [comparison.one_model(m, of) for m in half["method"]]
      p = half[f"p_{of}_holm"].mask(untested)
      found.append((symbol, "p", _cells(p, "p*")))
    for name in further:
      form = ".4f" if runs.FURTHER[name][0] else ".0f"
      found.append((*runs.FURTHER[name], _cells(half[name], form)))
    return found

  names = table["method"].map(_half)
  return {
    "halves": {
      name: columns(half) for name, half in table.groupby(names, sort=False)
    },
    "further": further,
    "one_model": any(
      comparison.one_model(m, "global") for m in table["method"]
    ),
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
  return [
    ("", "Method", gone["method"].unique()),
    ("", "Models", own.size().astype(str)),
    ("", "Individuals", own.agg(", ".join)),
  ]


def _agreement(lines: pd.DataFrame) -> Columns:
  if lines.empty:
    return []
  key = ["group", "measure", "part"]
  pairs = zip(_cells(lines["mean"], ".3f"), _cells(lines["sd"], ".3f"))
  cells = lines.assign(cell=[f"{mean} ({sd})" for mean, sd in pairs])
  spaces = cells.pivot_table(
    "cell", key, "latent_space", aggfunc="last", sort=False
  )
  own = lines.groupby(key, sort=False)
  return [
    *(
      ("", header, spaces.index.get_level_values(level))
      for header, level in zip(("Group", "agreement", "in"), key)
    ),
    *(("", space, spaces[space].fillna(_NOTHING)) for space in spaces),
    ("", "random choice", _cells(own["random"].first(), ".3f")),
    ("", "individuals", own["individuals"].unique().map(", ".join)),
  ]


def _comparison(found: Sequence[Run]) -> dict[str, Any]:
  """Everything about several runs, compared with the first."""
  compared = [run for run in found if run.seeds]
  methods = [
    method
    for run in compared[:1]
    for method in run.seeds_of
    if any(method in other.seeds_of for other in compared[1:])
  ]
  differing = comparison.differing([comparison.facts(run) for run in found])
  about: dict[str, Any] = {
    "differing": differing,
    "settings": [
      ("", "Setting", differing),
      *(
        ("", run.name, [_value(values[place]) for values in differing.values()])
        for place, run in enumerate(found)
      ),
    ],
    "without": [run.name for run in found if not run.seeds],
    "methods": methods,
  }
  if not methods:
    return about
  shown = compared[: figures.MOST_RUNS]
  axes = figures.runs(
    {
      run.name: {
        method: comparison.accuracies(run, method, "individual")
        for method in run.seeds_of
      }
      for run in shown
    }
  )
  return about | {
    "runs": compared,
    "common": [comparison.common(compared[0], run) for run in compared[1:]],
    "tables": {
      symbol: _compared(compared, methods, of)
      for of, symbol in _SYMBOLS.items()
    },
    "one_model": any(comparison.one_model(m, "global") for m in methods),
    "shown": shown,
    "figure": figures.png(styles.figure_of(axes)),
  }


def _compared(
  compared: Sequence[Run], methods: Sequence[str], of: str
) -> Columns:
  """The accuracies of each run, and the differences to the first."""
  first, *others = compared

  def means(run: Run) -> tuple[str, str, list[str]]:
    cells = dict.fromkeys(methods, _NOTHING)
    for method in set(methods) & set(run.seeds_of):
      spread = metrics.spread(comparison.accuracies(run, method, of))
      sd = math.nan if comparison.one_model(method, of) else spread.sd
      cells[method] = "{} ({})".format(*_cells([spread.mean, sd], ".4f"))
    return run.name, "mean (sd)", [*cells.values()]

  columns: Columns = [("", "Method", methods), means(first)]
  for run in others:
    columns.append(means(run))
    tests = comparison.compare(first, run, methods, of)
    test = pd.DataFrame(tests.values(), tests.keys()).reindex(methods)
    paired = [
      ("difference", "difference", "+.4f"),
      ("pairs", "pairs", ".0f"),
      ("t", "t, p", "p"),
      ("t_holm", "Holm", "p*"),
      ("wilcoxon", "Wilcoxon, p", "p"),
      ("wilcoxon_holm", "Holm", "p*"),
    ]
    welch = [paired[0], ("t", "Welch, p", "p"), paired[3]]
    both = comparison.common(first, run).people
    for name, header, form in paired if both else welch:
      columns.append((run.name, header, _cells(test[name], form)))
  return columns


def _cells(values: Iterable[float], form: str) -> list[str]:
  """Formatted numbers, "–" for NaN; form "p*" marks p-values below 0.05."""
  return [_NOTHING if math.isnan(x) else _cell(x, form) for x in values]


def _cell(value: float, form: str) -> str:
  if form.startswith("p"):
    shown = "<0.0001" if value < 1e-4 else f"{value:.4f}"
    marked = form == "p*" and value < 0.05
    # By weight and by a star.
    return Markup("<strong>{}*</strong>").format(shown) if marked else shown
  shown = f"{value:{form}}"
  if float(shown.rstrip("%")) == 0:
    shown = shown.replace("-", "+" if "+" in form else "")
  return shown.replace("-", "−")


def _value(setting: Any) -> str:
  """A flag's value, or what else is in config.json."""
  if setting is None:
    return _NOTHING
  return setting if isinstance(setting, str) else json.dumps(setting)
