"""Methods, one row each, compared over choices, runs or latent spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from personalization_jax.analysis import metrics
from personalization_jax.analysis.model_choice import Choice
from personalization_jax.figures import styles

# What is compared has a colour (Okabe and Ito's, without yellow) and a marker
# by its place.
_LOOKS = (
  ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"),
  ("#000000", "v"), ("#56B4E9", "p"), ("#E69F00", "h"),
)  # fmt: skip
MOST_RUNS = len(_LOOKS)
_MOST_SPACES = 3


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
  if not choices:
    raise ValueError("choices holds no method; give at least one.")
  axes = styles.axes_or_new(axes, 8.0, 1.3 + 0.38 * len(choices))
  gains = []
  highest = 10.0
  for row, (method, found) in enumerate(choices.items()):
    style = styles.method_style(method)
    shares = [100 * found.hurt, 100 * found.hurt_with_choice]
    highest = float(np.nanmax([highest, *shares]))
    axes.plot(
      shares,
      [row, row],
      color=(*style.colour, 0.5),
      linewidth=2.5,
      solid_capstyle="butt",
      zorder=2,
    )
    # Where nothing changes, a ring around the point still shows both.
    for share, face, size in zip(shares, ("white", style.colour), (10, 6)):
      axes.plot(
        share,
        row,
        marker=style.marker,
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=style.colour,
        linestyle="none",
        zorder=3,
      )
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
  names = [styles.method_name(method) for method in choices]
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
  _check_count("accuracies", "runs", count, MOST_RUNS)
  height = len(methods) * (0.16 + 0.13 * count) + 0.2 * count
  axes = styles.axes_or_new(axes, 7.5, 1.1 + height)
  drawn = []
  for row in range(0, len(methods), 2):
    axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0)
  for k, values in enumerate(accuracies.values()):
    spreads = [(methods.index(m), metrics.spread(v)) for m, v in values.items()]
    shown = [(r, s.mean, s.sd) for r, s in spreads if not np.isnan(s.mean)]
    rows, means, sds = np.array(shown).reshape(-1, 3).T
    rows = rows + 0.72 * (k - (count - 1) / 2) / count
    drawn.append(_points_with_bars(axes, means, rows, sds, k, elinewidth=1.3))
  axes.set_xlabel(
    "Accuracy on the individual's data, acc$(D_I)$\nmean ± 1 standard deviation"
    " over individuals"
  )
  names = [_plain(styles.method_name(method)) for method in methods]
  styles.name_rows(axes, names, grid=True)
  styles.accuracy_ticks(axes, "x")
  axes.legend(drawn, [*map(_plain, accuracies)], **styles.LEGEND_ABOVE)
  return axes


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
  spaces = list(dict.fromkeys(s for m, p in places for s in values[m][p]))
  _check_count("values", "latent spaces", len(spaces), _MOST_SPACES)
  axes = styles.axes_or_new(axes, 7.5, 1.3 + 0.23 * len(names))
  axes.scatter(
    [random[measure][part] for measure, part in places],
    list(places.values()),
    marker="|",
    s=190,
    color="black",
    linewidths=1.5,
    label="random choice",
    zorder=2,
  )
  for k, space in enumerate(spaces):
    shown = {r: y for r, y in places.items() if space in values[r[0]][r[1]]}
    means, errors = np.transpose(
      [metrics.mean_and_error(values[m][p][space]) for m, p in shown]
    )
    # Side by side, lest equal means hide each other.
    rows = np.array(list(shown.values())) + 0.4 * (k - (len(spaces) - 1) / 2)
    _points_with_bars(axes, means, rows, errors, k, elinewidth=1.2, label=space)
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
  right = {"loc": "lower right", "bbox_to_anchor": (1, 1)}
  axes.legend(ncols=len(spaces) + 1, **styles.LEGEND_ABOVE | right)
  return axes


def _check_count(name: str, what: str, count: int, most: int) -> None:
  if count > most:
    raise ValueError(
      f"{name} holds {count} {what}, but at most {most} can be told apart."
    )


def _points_with_bars(
  axes: Axes,
  values: np.ndarray,
  rows: np.ndarray,
  bars: np.ndarray,
  place: int,
  **style: Any,
) -> ErrorbarContainer:
  """Points [P] on rows [P] in the look of a place, bars [P] to both sides."""
  colour, marker = _LOOKS[place]
  return axes.errorbar(
    values,
    rows,
    xerr=bars,
    fmt=marker,
    markersize=5.5,
    color=colour,
    ecolor=(*colors.to_rgb(colour), 0.5),
    markeredgecolor="white",
    markeredgewidth=0.5,
    zorder=3,
    **style,
  )


def _plain(name: str) -> str:
  """A name as it is: short enough, no mathematics, never left out."""
  if len(name) > 70:
    name = "…" + name[-69:]
  name = name.replace("$", r"\$")
  # Legends leave out what begins with an underscore.
  return f" {name}" if name.startswith("_") else name
