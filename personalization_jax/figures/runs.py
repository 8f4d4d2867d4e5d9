"""The same methods in several runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from personalization_jax.analysis import metrics
from personalization_jax.figures import styles
from personalization_jax.figures.accuracies import Data

# A run's colour (Okabe and Ito's, without yellow) and marker, by its place.
_RUNS = (
  ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"),
  ("#000000", "v"), ("#56B4E9", "p"), ("#E69F00", "h"),
)  # fmt: skip
MOST_RUNS = len(_RUNS)


def runs(
  accuracies: Mapping[str, Mapping[str, np.ndarray]],
  axes: Axes | None = None,
  of: Data = "individual",
) -> Axes:
  """Each method's accuracy in each run, one row a method.

  A point is the mean over a run's individuals, its bar one standard deviation
  to both sides. Runs stand below each other within a method's row, in their own
  colour and marker.

  Args:
    accuracies: run -> method -> float [S] in 0..1, NaN for who diverged; a run
      may lack methods, and everybody may have diverged.
    axes: where to draw; by default a new figure.
    of: what the axis is called: accuracy on "individual" or "global" data.

  Returns:
    The axes, with the first method on top.

  Raises:
    ValueError: nothing to draw, or more runs than can be told apart.
  """
  methods = list(dict.fromkeys(m for run in accuracies.values() for m in run))
  if not methods:
    raise ValueError("accuracies holds nothing to draw; give at least one run.")
  if len(accuracies) > MOST_RUNS:
    raise ValueError(
      f"accuracies holds {len(accuracies)} runs, but at most {MOST_RUNS} can be"
      " told apart."
    )
  count = len(accuracies)
  height = len(methods) * (0.16 + 0.13 * count) + 0.2 * count
  axes = styles.axes_or_new(axes, 7.5, 1.1 + height)
  others = len(axes.containers)  # what was on the caller's axes before
  for row in range(0, len(methods), 2):
    axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0)
  for k, (values, (colour, marker)) in enumerate(
    zip(accuracies.values(), _RUNS)
  ):
    shown = [
      (methods.index(method), spread.mean, spread.sd)
      for method, spread in (
        (method, metrics.spread(value)) for method, value in values.items()
      )
      if not np.isnan(spread.mean)
    ]
    rows, means, sds = np.array(shown).reshape(-1, 3).T
    styles.points_with_bars(
      axes,
      means,
      rows + 0.72 * (k - (count - 1) / 2) / count,
      sds,
      colour=colour,
      marker=marker,
      bar_width=1.3,
    )
  axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
  axes.set_axisbelow(True)
  owner, symbol = (
    ("the individual's", "D_I") if of == "individual" else ("global", "D_G")
  )
  axes.set_xlabel(
    f"Accuracy on {owner} data, acc$({symbol})$\nmean ± 1 standard deviation"
    " over individuals"
  )
  styles.name_rows(axes, [_plain(styles.method_name(m)) for m in methods])
  styles.accuracy_ticks(axes, "x")
  axes.legend(
    axes.containers[others:],
    [_plain(run) for run in accuracies],
    loc="lower left",
    bbox_to_anchor=(0, 1),
    frameon=False,
    fontsize=9,
    borderaxespad=0.2,
  )
  return axes


def _plain(name: str) -> str:
  """A name as it is: short enough, no mathematics, never left out."""
  if len(name) > 70:
    name = "…" + name[-69:]
  name = name.replace("$", r"\$")
  # Legends leave out what begins with an underscore.
  return f" {name}" if name.startswith("_") else name
