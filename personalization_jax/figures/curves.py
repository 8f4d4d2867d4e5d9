"""The figure of accuracy over time: when shaping acts, when it is forgotten."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personalization_jax.figures import styles, timelines

Curves = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def validation_curves(
  curves: Curves, sources: Mapping[str, np.ndarray]
) -> Figure:
  """Accuracy on validation data of D_I and of D_G over a schedule, above it.

  Args:
    curves: method -> (steps integers [E], accuracy on D_I float [S, E], on D_G
      float [S, E]), as a `Result` has them.
    sources: method -> integers [steps], 0 for a batch from D_G, 1 from D_I, of
      the same methods.

  Returns:
    The figure: two panels of means over individuals with their quartiles, and
    the schedules below on the same axis of steps. Where individuals share one
    model they differ on D_I alone.

  Raises:
    ValueError: no method, or shapes that don't fit.
  """
  if not curves:
    raise ValueError("curves holds no method; give at least one.")
  for method, (steps, own, general) in curves.items():
    shapes = [np.shape(values) for values in (steps, own, general)]
    if (
      len(shapes[0]) != 1
      or len(shapes[1]) != 2
      or shapes[1] != shapes[2]
      or shapes[1][1:] != shapes[0]
    ):
      raise ValueError(
        f"the curves of {method!r} must have shapes [E], [S, E] and [S, E], but"
        f" have {', '.join(map(str, shapes))}."
      )
    if method not in sources:
      raise ValueError(f"sources lacks method {method!r}.")
  rows = 0.5 + 0.28 * len(curves)
  figure = Figure(
    figsize=(8.5, 6.0 + rows), dpi=styles.DPI, layout="constrained"
  )
  panels = figure.subplots(3, 1, sharex=True, height_ratios=[3.0, 3.0, rows])
  for panel, index, name in (
    (panels[0], 1, "$D_I$"),
    (panels[1], 2, "$D_G$"),
  ):
    for i, (method, values) in enumerate(curves.items()):
      _draw(panel, method, values[0], values[index], i / len(curves))
    panel.set_ylabel(f"Accuracy on validation\ndata of {name}")
    panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    panel.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
  panels[0].legend(
    loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9
  )
  figure.align_ylabels(panels[:2])
  styles.caption(
    panels[0],
    "Lines: means over individuals; bands: their quartiles, on $D_G$ none where"
    " all share one model",
  )
  timelines.schedules({method: sources[method] for method in curves}, panels[2])
  return figure


def _draw(
  axes: Axes, method: str, steps: np.ndarray, values: np.ndarray, turn: float
) -> None:
  with warnings.catch_warnings():
    # Who has no validation data has NaN everywhere.
    warnings.simplefilter("ignore", RuntimeWarning)
    mean = np.nanmean(values, axis=0)
    low, high = np.nanquantile(values, (0.25, 0.75), axis=0)
  colour = styles.method_style(method).colour
  axes.fill_between(steps, low, high, color=colour, alpha=0.10, linewidth=0)
  name = styles.method_name(method)
  styles.curve(axes, method, steps, mean, label=name, turn=turn)
