"""How well groups agree with what is known of the writers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from personalization_jax.figures import styles

# A latent space's colour and marker, by its place among them.
_SPACES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"))


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

  Returns:
    The axes, with the first measure on top.

  Raises:
    ValueError: nothing to draw, or too many latent spaces.
  """
  names: list[str] = []
  headings: list[int] = []
  places: dict[tuple[str, str], int] = {}
  for measure, parts in values.items():
    headings.append(len(names))
    names.append(measure)
    for part in parts:
      places[measure, part] = len(names)
      names.append(part)
  if not places:
    raise ValueError("values holds nothing to draw; give at least one measure.")
  spaces = list(dict.fromkeys(s for m, p in places for s in values[m][p]))
  if len(spaces) > len(_SPACES):
    raise ValueError(
      f"values holds {len(spaces)} latent spaces, but at most {len(_SPACES)}"
      " can be told apart."
    )
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
  for k, (space, (colour, marker)) in enumerate(zip(spaces, _SPACES)):
    shown = {r: y for r, y in places.items() if space in values[r[0]][r[1]]}
    points = np.array([_mean_and_error(values[m][p][space]) for m, p in shown])
    # Side by side, lest equal means hide each other.
    shift = 0.4 * (k - (len(spaces) - 1) / 2)
    styles.points_with_bars(
      axes,
      points[:, 0],
      np.array(list(shown.values())) + shift,
      points[:, 1],
      colour=colour,
      marker=marker,
      bar_width=1.2,
      label=space,
    )
  axes.set_xlim(min(axes.get_xlim()[0], -0.02), 1.02)
  axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
  axes.set_axisbelow(True)
  axes.set_xlabel(
    "Agreement with the hidden factors (more is better)\n"
    "mean ± 1 standard error over individuals"
  )
  styles.name_rows(axes, names)
  for place in headings:
    axes.get_yticklabels()[place].set_fontweight("bold")
    axes.axhspan(place - 0.5, place + 0.5, color="#F2F2F2", zorder=0)
  axes.legend(
    loc="lower right",
    bbox_to_anchor=(1, 1),
    ncols=len(spaces) + 1,
    frameon=False,
    fontsize=9,
    borderaxespad=0.2,
  )
  return axes


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
  """Mean and standard error of values [S], NaN where there is none."""
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  if not values.size:
    return math.nan, math.nan
  if values.size == 1:
    return float(values[0]), math.nan
  error = values.std(ddof=1) / math.sqrt(values.size)
  return float(values.mean()), float(error)
