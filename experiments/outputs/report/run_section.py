"""What the report says of one run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.outputs.report import comparison
from experiments.outputs.report.captions import CAPTIONS
from experiments.outputs.report.formats import (
  NOTHING,
  ONE_MODEL,
  corrected,
  number,
  value,
)
from experiments.outputs.report.markup import (
  Html,
  element,
  join,
  picture,
  table,
)
from experiments.outputs.report.runs import (
  CHOICE,
  FAIRNESS,
  PAIRS,
  SEEDS,
  SPREAD,
  Line,
  Run,
)
from personalization_jax.analysis import tables
from personalization_jax.methods import known_method


class _Column(NamedTuple):
  """A column of table1.csv that not every run has something in."""

  name: str
  group: str
  header: str
  form: str
  note: str


_FURTHER = (
  _Column(
    FAIRNESS[0], "fair", "max", ".4f",
    "fair max: difference in acc(D_I) of two individuals over their distance in"
    " latent space, the largest over pairs.",
  ),
  _Column(
    FAIRNESS[1], "fair", "mean", ".4f", "fair mean: the mean of that ratio."
  ),
  _Column(
    FAIRNESS[2], "fair", "rho", ".4f",
    "fair rho: rank correlation of difference and distance.",
  ),
  _Column(
    SEEDS[0], "seed sd", "acc(D_I)", ".4f",
    "Of several seeds, an individual's mean counts; seed sd: of the mean over"
    " individuals, from seed to seed.",
  ),
  _Column(SEEDS[1], "seed sd", "acc(D_G)", ".4f", ""),
  _Column(
    "diverged", "", "diverged", ".0f",
    "diverged: models whose loss, parameters or answers stopped being finite;"
    " all other columns are without them.",
  ),
  _Column(
    PAIRS, "", "pairs", ".0f",
    "pairs: individuals whom p compares, each by the mean over the seeds with"
    " which neither of the two methods diverged; their mean difference, which"
    " isn't that of the means shown, is in table1.csv.",
  ),
)  # fmt: skip
_MEASURES = {
  "recall": "Recall: the share of IG's n writers that are truly among the n"
  " nearest.",
  "rank correlation": "Rank correlation: of IG's order of all candidates with"
  " the true one.",
  "share of samples": "Share of samples: of SG's, those with the class of the"
  " sample that chose them.",
  "nearness": "Nearness: the chance that the writer of a sample of SG's writes"
  " more like the individual than the writer of a random one.",
}


def section(run: Run, anchor: str) -> Html:
  """Everything of one run.

  Args:
    run: the run.
    anchor: the id of its heading.

  Returns:
    The section.
  """
  parts = [element("h2", run.name, id=anchor), _state(run)]
  parts += [element("h3", "Settings"), _settings(run)]
  if run.table is not None:
    parts += [element("h3", "Table I"), *_table1(run.table)]
  if run.results is not None:
    parts += [element("h3", "Who diverged"), _diverged(run)]
  if run.choice:
    parts += [element("h3", "Who is hurt"), _choice(run)]
  if run.agreement:
    parts += [element("h3", "Group agreement"), _agreement(run.agreement)]
  if run.figures or run.damaged:
    parts += [element("h3", "Figures"), *_figures(run)]
  return element("section", *parts, aria_labelledby=anchor)


def _state(run: Run) -> Html:
  if run.table is not None and run.finished:
    count = len(run.table_seeds)
    seeds = f", {count} seeds" if count > 1 else ""
    return element(
      "p",
      f"Finished: {_count(len(run.table), 'method')}{seeds}.",
      *_beside(run),
    )
  # What is in the tables was trained, whatever became of its predictions.
  waiting = [one for one in run.unfinished if one not in run.trained]
  have = [
    f" {label}: {_with_seeds(run, names)}."
    for label, names in (
      ("Trained", [one for one in run.asked if one not in waiting]),
      ("Checkpoints", run.checkpoints),
      ("Not trained yet", waiting),
    )
    if names
  ]
  if run.asked and not waiting:
    have.append(" All is trained: the same command writes the tables.")
  why = "there is no table1.csv yet"
  if run.table is not None:
    why = "table1.csv is older than results.csv"
    if run.unfinished:
      why = f"the tables have no {_with_seeds(run, run.unfinished)} yet"
  return element(
    "p",
    element("strong", "Not finished:"),
    f" {why}.",
    *have,
    *([] if run.outdated else _beside(run)),
    class_="state",
  )


def _beside(run: Run) -> list[str]:
  """What a finished table leaves out, in a sentence, if it does."""
  if run.table is None or not run.beside:
    return []
  return [f" In results.csv alone: {_with_seeds(run, run.beside)}."]


def _with_seeds(run: Run, pairs: Sequence[tuple[str, str]]) -> str:
  """Names, by the seed that each goes with if the run has several."""
  by_seed: dict[str, list[str]] = {}
  for name, seed in pairs:
    by_seed.setdefault(seed, []).append(name)
  return "; ".join(
    ", ".join(names) + (f" (seed {seed})" if len(run.seeds) > 1 else "")
    for seed, names in by_seed.items()
  )


def _settings(run: Run) -> Html:
  about = run.about
  command = about.get("command")
  rows = [(name, value(x)) for name, x in comparison.environment(run).items()]
  if run.methods:
    rows.append(("methods", ", ".join(run.methods)))
  if isinstance(command, list):
    rows.append(("command", " ".join(map(str, command))))
  flags = [(f"--{name}", value(x)) for name, x in run.settings.items()]
  columns = element(
    "div",
    table("Flags", ("Flag", "Value"), flags, text_columns=2),
    table("Made with", ("What", "Value"), rows, text_columns=2),
    class_="columns",
  )
  if len(run.makers) < 2:
    return columns
  return join([columns, _makers(run)])


def _makers(run: Run) -> Html:
  """Which results were made with what, by what isn't the same for all."""
  made = [comparison.made_with(maker) for maker in run.makers]
  names = [
    name
    for name in dict.fromkeys(name for one in made for name in one)
    if any(one.get(name) != made[0].get(name) for one in made)
  ]
  several = len(run.seeds) > 1

  def results(maker: dict[str, Any]) -> str:
    return ", ".join(
      f"{method} (seed {', '.join(map(str, seeds))})" if several else method
      for method, seeds in maker["results"].items()
    )

  return table(
    "Which results were made with what",
    ("No.", "results", *names, "command"),
    [
      (
        str(place),
        results(maker),
        *(value(one.get(name)) for name in names),
        " ".join(map(str, maker.get("command") or ())),
      )
      for place, (maker, one) in enumerate(zip(run.makers, made), 1)
    ],
    text_columns=3 + len(names),
  )


def _table1(lines: Sequence[Line]) -> list[Html]:
  """Table I's halves, and what their columns hold."""
  halves: dict[str, list[Line]] = {}
  for line in lines:
    halves.setdefault(_half(line["method"]), []).append(line)
  further = [column for column in _FURTHER if _is_shown(column, lines)]
  header = ["Method", *("mean", "rank", "sd", "min", "max", "p") * 2]
  groups = [("", 1), ("acc(D_I)", 6), ("acc(D_G)", 6)]
  for group, columns in itertools.groupby(further, lambda column: column.group):
    names = [column.header for column in columns]
    header += names
    groups.append((group, len(names)))
  found = []
  for name, half in halves.items():
    rows = []
    for line in half:
      row = [line["method"]]
      for data in ("individual", "global"):
        row += [
          number(line.get(f"{data}_{c}"), ".0f" if c == "rank" else ".4f")
          for c in SPREAD
        ]
        # Older runs have a p of it all the same.
        untested = comparison.one_model(line["method"], data)
        row.append(
          NOTHING if untested else corrected(line.get(f"p_{data}_holm"))
        )
      row += [number(line.get(column.name), column.form) for column in further]
      rows.append(row)
    found.append(table(name, header, rows, groups=groups))
  notes = [
    "acc(D_I): accuracy on individuals' own test data; acc(D_G): on the test"
    " data of D_G; mean, sd, min and max over individuals; rank 1 is the"
    " highest mean."
  ]
  if any(line.get("p_individual_holm") for line in lines):
    notes.append(
      "p: two-sided paired t-test against the half's first row of its kind"
      " (baseline or random), Holm-corrected (* below 0.05). Uncorrected values"
      " and Wilcoxon's test are in table1.csv."
    )
  if any(comparison.one_model(line["method"], "global") for line in lines):
    notes.append(ONE_MODEL)
  notes += [column.note for column in further if column.note]
  return found + [element("p", note, class_="notes") for note in notes]


def _is_shown(column: _Column, lines: Sequence[Line]) -> bool:
  """Whether a column that not every run has says anything of this one."""

  def shown(name: str, form: str) -> set[str]:
    return {number(line.get(name), form) for line in lines} - {NOTHING}

  if column.name in ("diverged", PAIRS) and shown("diverged", ".0f") <= {"0"}:
    return False
  return bool(shown(column.name, column.form))


def _half(method: str) -> str:
  if known_method(method) is None:
    return "Other methods"  # one's own, or of another version
  (half,) = tables.halves([method])
  return half


def _diverged(run: Run) -> Html:
  assert run.results is not None
  if not run.results.diverged:
    return element("p", "Nobody: every model has an accuracy.")
  several = len(run.results.seeds) > 1
  rows = [
    (
      method,
      str(len(people)),
      ", ".join(
        f"{person} (seed {seed})" if several else person
        for person, seed in people
      ),
    )
    for method, people in run.results.diverged.items()
  ]
  return join(
    [
      table(
        "Models whose loss, parameters or answers stopped being finite",
        ("Method", "Models", "Individuals"),
        rows,
        text_columns=3,
      ),
      element(
        "p",
        "All means and tests are without them; a test leaves that seed of that"
        " individual out of both methods, and figures leave these individuals"
        " out of all methods.",
        class_="notes",
      ),
    ]
  )


def _choice(run: Run) -> Html:
  several = (
    " Of several seeds the choice is made for each, and an individual's means"
    " over them are compared."
  )
  return join(
    [
      table(
        "Against the model of D_G alone (global)",
        ("Method", "hurt", "hurt, chosen", "gain", "gain, chosen"),
        [
          (
            line["method"],
            *(number(line[column], ".0%") for column in CHOICE[:2]),
            *(number(line[column], "+.4f") for column in CHOICE[2:]),
          )
          for line in run.choice
        ],
      ),
      element(
        "p",
        "Hurt: share of individuals whose own model is worse on their test data"
        " than the global one; gain: mean difference in acc(D_I). Chosen: each"
        " individual has the better of the two on validation data, the global"
        f" one if they are equal.{several if len(run.table_seeds) > 1 else ''}",
        class_="notes",
      ),
    ]
  )


def _agreement(lines: Sequence[Line]) -> Html:
  spaces = list(dict.fromkeys(line["latent_space"] for line in lines))
  measures = {line["measure"] for line in lines}
  rows: dict[tuple[str, str, str], dict[str, Line]] = {}
  for line in lines:
    key = (line["group"], line["measure"], line["part"])
    rows.setdefault(key, {})[line["latent_space"]] = line

  def cell(line: Line | None) -> str:
    if line is None:
      return NOTHING
    return f"{number(line['mean'], '.3f')} ({number(line['sd'], '.3f')})"

  return join(
    [
      table(
        "Groups against the writers' hidden factors: mean (sd)",
        ("Group", "agreement", "in", *spaces, "random choice", "individuals"),
        [
          (
            group,
            measure,
            part,
            *(cell(found.get(space)) for space in spaces),
            number(next(iter(found.values()))["random"], ".3f"),
            ", ".join(dict.fromkeys(x["individuals"] for x in found.values())),
          )
          for (group, measure, part), found in rows.items()
        ],
        text_columns=3,
      ),
      element(
        "p",
        " ".join(
          [
            "Over individuals; more is better; in: which hidden factors (style,"
            " allographs, forms, or all of them), or the class; random choice:"
            " what it gives on average.",
            *(said for name, said in _MEASURES.items() if name in measures),
          ]
        ),
        class_="notes",
      ),
    ]
  )


def _figures(run: Run) -> list[Html]:
  known = [name for name in CAPTIONS if name in run.figures]
  others = [name for name in run.figures if name not in CAPTIONS]
  found = []
  if run.damaged:
    names = ", ".join(f"figures/{name}.png" for name in run.damaged)
    found.append(
      element(
        "p",
        f"Damaged, and left out: {names}. The same command draws a run's"
        " figures again.",
        class_="state",
      )
    )
  for name in known + others:
    title, shows = CAPTIONS.get(name, (f"{name}.png", "A figure of this run."))
    found.append(
      picture(
        run.figures[name], f"Figure: {title}. {shows}", f"{title}. {shows}"
      )
    )
  return found


def _count(count: int, what: str) -> str:
  return f"{count} {what}{'' if count == 1 else 's'}"
