"""Methods, one row each, compared over choices, runs or latent spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personalization_jax.analysis import metrics, paper
from personalization_jax.analysis.model_choice import Choice
from personalization_jax.figures import styles
from personalization_jax.figures.accuracies import Accuracies

# What is compared has a colour (Okabe and Ito's, without yellow) and a marker
# by its place.
_LOOKS = (
  ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"),
  ("#000000", "v"), ("#56B4E9", "p"), ("#E69F00", "h"),
)  # fmt: skip
MOST_RUNS = len(_LOOKS)


def choice(choices: Mapping[str, Choice], axes: Axes | None = None) -> Axes:
  """How many people each method hurts, with and without a choice by person.

  One row a method: a hollow point at the share of people hurt if everyone gets
  the method's model, a filled one at the share if everyone gets what validation
  data chose, and a line between. The mean gains, without and with the choice,
  stand at the right. Of several seeds a person's means over them count.

  Args:
    choices: what `analysis.model_choice.judge_all` found.
    axes: where to draw; by default a new figure.
  """
  styles.check_filled("choices", choices)
  axes = styles.axes_or_new(axes, 8.0, 1.3 + 0.38 * len(choices))
  gains = []
  highest = 10.0
  for row, (method, found) in enumerate(choices.items()):
    style = styles.method_style(method)
    without, chosen = 100 * found.hurt, 100 * found.hurt_with_choice
    highest = float(np.nanmax([highest, without, chosen]))
    line = (*style.colour, 0.5)
    axes.hlines(row, without, chosen, color=line, lw=2.5, zorder=2)
    # Where nothing changes, a ring around the point still shows both.
    for share, face, size in (without, "white", 10), (chosen, style.colour, 6):
      look: Any = {"marker": style.marker, "ms": size, "mfc": face}
      axes.plot(share, row, **look, mec=style.colour, ls="none", zorder=3)
    both = (found.gain, found.gain_with_choice)
    gains.append(" → ".join(styles.signed(100 * gain) for gain in both))
  axes.set_xlim(-0.03 * highest, 1.06 * highest)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(7, steps=[1, 2, 5, 10]))
  axes.set_xlabel("People worse off than with the global model (%)")
  styles.caption(
    axes,
    "Hollow: everyone gets the method's model; filled: whichever of the two is"
    " better on validation data. Right: mean gain, without → with the choice"
    " (percentage points)",
  )
  names = [*map(styles.method_name, choices)]
  styles.name_rows(axes, names, gains, grid=True)
  return axes


def runs(
  accuracies: Mapping[str, Mapping[str, np.ndarray]], axes: Axes | None = None
) -> Axes:
  """Each method's acc(D_I) in each run, one row a method.

  A point is the mean over a run's individuals, its bar one standard deviation
  to both sides. Runs stand below each other within a method's row, in their own
  colour and marker; there may be MOST_RUNS.

  Args:
    accuracies: run -> method -> float [S] in 0..1, NaN for models that
      diverged; a run may lack methods, and all its models may have diverged.
    axes: where to draw; by default a new figure.
  """
  methods = list(dict.fromkeys(m for run in accuracies.values() for m in run))
  if not methods:
    raise ValueError("accuracies holds nothing to draw; give at least one run.")
  count = len(accuracies)
  height = len(methods) * (0.16 + 0.13 * count) + 0.2 * count
  axes = styles.axes_or_new(axes, 7.5, 1.1 + height)
  found: dict[str, dict[int, tuple[float, float]]] = {}
  for run, values in accuracies.items():
    spreads = [(methods.index(m), metrics.spread(v)) for m, v in values.items()]
    shown = [(row, (each.mean, each.sd)) for row, each in spreads]
    found[run] = {row: both for row, both in shown if not np.isnan(both[0])}
  drawn = _beside(axes, found, "runs", MOST_RUNS, 0.72 / count)
  _stripe(axes, len(methods))
  axes.set_xlabel(
    "Accuracy on the individual's data, acc$(D_I)$\nmean ± 1 standard deviation"
    " over individuals"
  )
  names = [_plain(styles.method_name(method)) for method in methods]
  styles.name_rows(axes, names, grid=True)
  styles.accuracy_ticks(axes, "x")
  axes.legend(handles=drawn, **styles.LEGEND_ABOVE)
  return axes


def beside_paper(accuracies: Accuracies) -> Figure:
  """Every method's acc(D_I) and acc(D_G), and the paper's Table I below each.

  A point is the mean over individuals, its bar an interval of 95% by the normal
  approximation: 1.96 standard errors of the mean, of the paper's individuals by
  its sd. One model for all has no bar on D_G. What is far below Table I's
  methods stands at the left edge as a number.

  Args:
    accuracies: method -> (individual_accuracy [S], global_accuracy [S]), NaN
      for models that diverged; a row for each, and those that Table I lacks
      have no second point.
  """
  styles.check_filled("accuracies", accuracies)
  count = len(accuracies)
  size = (9.5, 1.5 + 0.36 * count)
  figure = Figure(figsize=size, dpi=styles.DPI, layout="constrained")
  panels = figure.subplots(1, len(styles.DATA))
  theirs = {m: k for k, m in enumerate(accuracies) if m in paper.TABLE_1}
  names = [_plain(styles.method_name(method)) for method in accuracies]
  for k, (axes, (of, (owner, symbol))) in enumerate(
    zip(panels, styles.DATA.items())
  ):
    ours = [metrics.mean_and_error(pair[k]) for pair in accuracies.values()]
    found = {"here": {m: (x, 1.96 * e) for m, (x, e) in enumerate(ours)}}
    found["the paper"] = {
      row: (its.mean, 1.96 * its.sd / math.sqrt(paper.INDIVIDUALS))
      for method, row in theirs.items()
      for its in (paper.spread_of(of, method),)
    }
    drawn = _beside(axes, found, "sources", 2, 0.34)
    _stripe(axes, count)
    _leave_out(axes, found["here"], found["the paper"])
    axes.set_xlabel(f"Accuracy on {owner} data, acc$({symbol})$")
    styles.name_rows(axes, names if k == 0 else [""] * count, grid=True)
    styles.accuracy_ticks(axes, "x")
    if k == 0:
      axes.legend(handles=drawn, ncols=2, **styles.LEGEND_ABOVE)
  styles.caption(
    panels[1],
    "Means over individuals, 95% intervals; methods here are of the same"
    " individuals, so differences are surer than the means",
  )
  return figure


def agreement(
  values: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
  random: Mapping[str, Mapping[str, float]],
  axes: Axes | None = None,
) -> Axes:
  """Groups found in different latent spaces, each beside random choice.

  One row for each part of the truth, below the name of its measure. A point is
  a latent space's mean over individuals, its bar one standard error of the
  mean, and the black line what random choice gives.

  Args:
    values: measure -> part -> latent space -> float [S], at most 1 (more is
      better), NaN for an individual without a value; three latent spaces at
      most.
    random: measure -> part -> what random choice gives on average.
    axes: where to draw; by default a new figure.
  """
  # A heading for each measure, with its parts below.
  lines = [(m, p) for m, parts in values.items() for p in ("", *parts)]
  names = [part or measure for measure, part in lines]
  places = {line: place for place, line in enumerate(lines) if line[1]}
  if not places:
    raise ValueError("values holds nothing to draw; give at least one measure.")
  found: dict[str, dict[int, tuple[float, float]]] = {}
  for (measure, part), place in places.items():
    for space, own in values[measure][part].items():
      found.setdefault(space, {})[place] = metrics.mean_and_error(own)
  axes = styles.axes_or_new(axes, 7.5, 1.3 + 0.23 * len(names))
  line: Any = {"marker": "|", "s": 190, "color": "black", "linewidths": 1.5}
  chances = [random[measure][part] for measure, part in places]
  axes.scatter(chances, [*places.values()], label="random choice", **line)
  _beside(axes, found, "latent spaces", 3, 0.4)
  axes.set_xlim(min(axes.get_xlim()[0], -0.02), 1.02)
  axes.set_xlabel(
    "Agreement with the hidden factors (more is better)\n"
    "mean ± 1 standard error over individuals"
  )
  styles.name_rows(axes, names, grid=True)
  for place, (_, part) in enumerate(lines):
    if not part:
      axes.get_yticklabels()[place].set_fontweight("bold")
      axes.axhspan(place - 0.5, place + 0.5, color="#F2F2F2", zorder=0)
  axes.legend(ncols=len(found) + 1, **styles.LEGEND_RIGHT)
  return axes


def _leave_out(
  axes: Axes,
  ours: Mapping[int, tuple[float, float]],
  theirs: Mapping[int, tuple[float, float]],
) -> None:
  """Begins the axis a little below the paper's methods: others may be far."""
  known = [(ours[row], theirs[row]) for row in theirs]
  ends = np.array([(x - e, x + e) for both in known for x, e in both])
  ends = ends[~np.isnan(ends).any(axis=1)]
  if not len(ends):
    return
  low, high = ends.min(), ends.max()
  span = max(high - low, 0.01)
  lows = {row: x - np.nan_to_num(e) for row, (x, e) in ours.items()}
  near = [end for end in lows.values() if end >= low - span]
  axes.set_xlim(left=min(low, *near) - 0.05 * span)
  for row in [row for row, end in lows.items() if end < low - span]:
    where: Any = {"transform": axes.get_yaxis_transform(), "va": "center"}
    axes.text(0.01, row, f"← {ours[row][0]:.3f}", fontsize=9, **where)


def _stripe(axes: Axes, rows: int) -> None:
  """Shades every second row."""
  for row in range(0, rows, 2):
    axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0)


def _beside(
  axes: Axes,
  found: Mapping[str, Mapping[int, tuple[float, float]]],
  what: str,
  most: int,
  spacing: float,
) -> list[Any]:
  """Points and bars of what is compared -> row, side by side in each row."""
  if len(found) > most:
    raise ValueError(
      f"there are {len(found)} {what}, but at most {most} can be told apart."
    )
  drawn: list[Any] = []
  for k, (name, values) in enumerate(found.items()):
    colour, marker = _LOOKS[k]
    means, bars = np.reshape([*values.values()], (-1, 2)).T
    rows = np.array([*values]) + spacing * (k - (len(found) - 1) / 2)
    look: Any = {"color": colour, "ecolor": (colour, 0.5), "elinewidth": 1.3}
    look |= {"fmt": marker, "ms": 5.5, "mec": "white", "mew": 0.5, "zorder": 3}
    look["label"] = _plain(name)
    drawn.append(axes.errorbar(means, rows, xerr=bars, **look))
  return drawn


def _plain(name: str) -> str:
  """A name as it is: short enough, no mathematics, never left out."""
  name = name if len(name) <= 70 else "…" + name[-69:]
  name = name.replace("$", r"\$")
  # Legends leave out what begins with an underscore.
  return f" {name}" if name.startswith("_") else name
