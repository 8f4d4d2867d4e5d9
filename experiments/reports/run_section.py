"""What the report says of one run."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.reports import comparison
from experiments.reports.captions import CAPTIONS
from experiments.reports.formats import NOTHING, corrected, number, value
from experiments.reports.markup import Html, element, join, picture, table
from experiments.reports.runs import CHOICE, FAIRNESS, SPREAD, Line, Run
from personalization_jax import tables
from personalization_jax.methods import known_method


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
    parts += [element("p", note, class_="notes") for note in run.notes]
  if run.results is not None:
    parts += [element("h3", "Who diverged"), _diverged(run)]
  if run.choice:
    parts += [element("h3", "Who is hurt"), _choice(run.choice)]
  if run.agreement:
    parts += [element("h3", "Group agreement"), _agreement(run.agreement)]
  if run.figures:
    parts += [element("h3", "Figures"), *_figures(run)]
  return element("section", *parts, aria_labelledby=anchor)


def _state(run: Run) -> Html:
  if run.table is not None and run.finished:
    return element("p", f"Finished: {_count(len(run.table), 'method')}.")
  have = [
    f" {label}: {', '.join(names)}."
    for label, names in (
      ("Trained", run.trained),
      ("Checkpoints", run.checkpoints),
      ("Not trained yet", [m for m in run.methods if m not in run.trained]),
    )
    if names
  ]
  why = "there is no table1.csv yet"
  if run.table is not None:
    why = f"table1.csv has no {', '.join(run.unfinished)} yet"
  return element(
    "p",
    element("strong", "Not finished:"),
    f" {why}.",
    *have,
    class_="state",
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
  return element(
    "div",
    table("Flags", ("Flag", "Value"), flags, text_columns=2),
    table("Made with", ("What", "Value"), rows, text_columns=2),
    class_="columns",
  )


def _table1(lines: Sequence[Line]) -> list[Html]:
  halves: dict[str, list[Line]] = {}
  for line in lines:
    halves.setdefault(_half(line["method"]), []).append(line)
  fairness = any(line.get(FAIRNESS[0]) for line in lines)
  diverged = any(float(line.get("diverged") or 0) for line in lines)
  header = ["Method", *("mean", "rank", "sd", "min", "max", "p") * 2]
  groups = [("", 1), ("acc(D_I)", 6), ("acc(D_G)", 6)]
  if fairness:
    header += ["max", "mean", "rho"]
    groups.append(("fair", 3))
  if diverged:
    header.append("diverged")
    groups.append(("", 1))
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
        row.append(corrected(line.get(f"p_{data}_holm")))
      if fairness:
        row += [number(line.get(column)) for column in FAIRNESS]
      if diverged:
        row.append(number(line.get("diverged"), ".0f"))
      rows.append(row)
    found.append(table(name, header, rows, groups=groups))
  return found


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
      element("p", "All means and tests are without them.", class_="notes"),
    ]
  )


def _choice(lines: Sequence[Line]) -> Html:
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
          for line in lines
        ],
      ),
      element(
        "p",
        "Hurt: share of individuals whose own model is worse on their test data"
        " than the global one; gain: mean difference in acc(D_I). Chosen: each"
        " individual has the better of the two on validation data, the global"
        " one if they are equal.",
        class_="notes",
      ),
    ]
  )


def _agreement(lines: Sequence[Line]) -> Html:
  spaces = list(dict.fromkeys(line["latent_space"] for line in lines))
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
        "Over individuals; more is better. Recall: the share of IG's n writers"
        " that are truly among the n nearest. Rank correlation: of IG's order"
        " of all candidates with the true one. Own class: the share of SG's"
        " samples with the class of the sample that chose them. Nearness: the"
        " chance"
        " that the writer of a sample of SG's writes more like the individual"
        " than the writer of a random one.",
        class_="notes",
      ),
    ]
  )


def _figures(run: Run) -> list[Html]:
  known = [name for name in CAPTIONS if name in run.figures]
  others = [name for name in run.figures if name not in CAPTIONS]
  found = []
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
