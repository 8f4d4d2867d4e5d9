"""Names beside the points of a scatter plot, where there is room."""

from __future__ import annotations

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.text import Text

from personalization_jax.figures import styles


def label_points(
  axes: Axes, points: np.ndarray, errors: np.ndarray, names: list[str]
) -> bool:
  """Writes a name beside each point [P, 2]; none covers another, or a point.

  Errors [P, 2] are half lengths of the points' bars; the axes have their final
  limits. Each label in turn takes the cheapest of many places around its point,
  three times over, so that early ones can give way to later ones. If there
  isn't room for all, nothing is drawn, and False returned.
  """
  figure = styles.figure_of(axes)
  notes = [
    axes.annotate(
      name,
      point,
      (0, 0),
      textcoords="offset points",
      ha="center",
      va="center",
      fontsize=8.5,
      zorder=5,
      in_layout=False,
      arrowprops={
        "arrowstyle": "-",
        "color": "#888888",
        "linewidth": 0.6,
        "shrinkA": 0,
        "shrinkB": 4,
      },
      path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
    )
    for name, point in zip(names, points.tolist())
  ]
  figure.draw_without_rendering()  # settles the layout, and so the transforms
  unit = figure.dpi / 72  # pixels a point
  centres = axes.transData.transform(points)
  arms = axes.transData.transform(points + np.nan_to_num(errors)) - centres
  markers = np.hstack([centres - 6 * unit, centres + 6 * unit])
  across, up = arms * (1, 0), arms * (0, 1)
  ends = np.vstack([centres - across, centres - up])
  bars = np.hstack([ends, np.vstack([centres + across, centres + up])])
  # An annotation's own extent would include its leader.
  halves = np.array([Text.get_window_extent(note).size for note in notes]) / 2
  halves += 1.5 * unit
  angles = np.arange(32) * np.pi / 16
  turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  radii = unit * np.array([8, 14, 22, 32, 44, 58, 74, 92, 112])[:, None, None]
  frame = np.array(axes.bbox.extents)
  boxes = np.full_like(markers, np.inf)  # not placed yet: overlaps nothing
  misfits = np.ones(len(notes), bool)
  for i in [*range(len(notes))] * 3:
    others = np.arange(len(notes)) != i
    shifts = (turns * (radii + halves[i] * np.abs(turns))).reshape(-1, 2)
    middles = centres[i] + shifts
    places = np.hstack([middles - halves[i], middles + halves[i]])
    # A leader is seen as eight points between its marker and its label.
    steps = np.linspace(0.3, 1.0, 8)[:, None, None]
    leaders = np.tile(centres[i] + steps * shifts, 2)
    out = (places[:, :2] < frame[:2]) | (places[:, 2:] > frame[2:])
    forbidden = (
      _overlaps(places, np.concatenate([boxes[others], markers])).any(axis=1)
      | _overlaps(leaders, boxes[others]).any(axis=(0, 2))
      | np.any(out, axis=1)
    )
    cost = (
      1e4 * forbidden
      + 60 * _overlaps(leaders, markers[others]).any(axis=0).sum(axis=1)
      + 25 * _overlaps(places, bars).sum(axis=1)
      + np.hypot(*shifts.T) / unit
    )
    best = int(np.argmin(cost))
    boxes[i], misfits[i] = places[best], forbidden[best]
    notes[i].set_position(tuple(shifts[best] / unit))
  if misfits.any():
    for note in notes:
      note.remove()
  return not misfits.any()


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Whether boxes [..., K, 4] and others [M, 4] overlap: [..., K, M]."""
  a, b = boxes[..., None, :], others
  apart = (a[..., :2] >= b[..., 2:]) | (b[..., :2] >= a[..., 2:])
  return ~np.any(apart, axis=-1)
