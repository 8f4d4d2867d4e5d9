"""Whom methods hurt, with and without a choice for each person."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from personalization_jax.analysis.model_choice import Choice
from personalization_jax.figures import styles


def choice(choices: Mapping[str, Choice], axes: Axes | None = None) -> Axes:
  """How many people each method hurts, with and without the choice.

  One row a method: a hollow point at the share of people hurt if everyone gets
  the method's model, a filled one at the share if everyone gets what validation
  data chose, and a line between. The mean gains, without and with the choice,
  stand at the right. Of several seeds a person's means over them count.

  Args:
    choices: method -> what `analysis.model_choice.judge` found.
    axes: where to draw; by default a new figure.

  Returns:
    The axes, with the first method on top; shares in percent.

  Raises:
    ValueError: no method.
  """
  if not choices:
    raise ValueError("choices holds no method; give at least one.")
  axes = styles.axes_or_new(axes, 8.0, 1.3 + 0.38 * len(choices))
  gains = []
  for row, (method, found) in enumerate(choices.items()):
    style = styles.method_style(method)
    without, with_choice = 100 * found.hurt, 100 * found.hurt_with_choice
    axes.plot(
      [without, with_choice],
      [row, row],
      color=(*style.colour, 0.5),
      linewidth=2.5,
      solid_capstyle="butt",
      zorder=2,
    )
    # Where nothing changes, a ring around the point still shows both.
    for place, face, size in (
      (without, "white", 10.0),
      (with_choice, style.colour, 6.0),
    ):
      axes.plot(
        place,
        row,
        marker=style.marker,
        markersize=size,
        markerfacecolor=face,
        markeredgecolor=style.colour,
        linestyle="none",
        zorder=3,
      )
    gains.append(f"{_points(found.gain)} → {_points(found.gain_with_choice)}")
  shares = [(100 * c.hurt, 100 * c.hurt_with_choice) for c in choices.values()]
  highest = float(np.nanmax([*np.ravel(shares), 0.0]))
  axes.set_xlim(-0.03 * max(highest, 10.0), 1.06 * max(highest, 10.0))
  axes.xaxis.set_major_locator(ticker.MaxNLocator(7, steps=[1, 2, 5, 10]))
  axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
  axes.set_axisbelow(True)
  axes.set_xlabel("People worse off than with the global model (%)")
  styles.caption(
    axes,
    "Hollow: everyone gets the method's model; filled: whichever of the two is"
    " better on validation data. Right: mean gain, without → with the choice"
    " (percentage points)",
  )
  styles.name_rows(axes, [styles.method_name(method) for method in choices])
  styles.right_labels(axes, gains)
  return axes


def _points(gain: float) -> str:
  """A gain in percentage points, for people."""
  if np.isnan(gain):
    return "none"
  return f"{round(100 * gain, 1) + 0.0:+.1f}".replace("-", "−")
