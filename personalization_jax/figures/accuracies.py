"""Figures of accuracies: their trade-off, their distribution, their gains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.text import Text

from personalization_jax import checks
from personalization_jax.analysis import metrics
from personalization_jax.figures import styles
from personalization_jax.figures.styles import Data

# For each method: its individual and its global accuracy, float [S] in 0..1.
Accuracies = Mapping[str, tuple[np.ndarray, np.ndarray]]

_BOX: Any = {
  "orientation": "horizontal", "widths": 0.26, "whis": (0, 100),
  "patch_artist": True, "manage_ticks": False, "showfliers": False,
  "medianprops": {"color": "black", "linewidth": 1.5}, "showmeans": True,
  "meanprops": {"marker": "D", "mfc": "white", "mec": "black", "ms": 5},
}  # fmt: skip
# A dotted line behind all else.
_GUIDE: Any = dict(color="#999999", linewidth=0.8, linestyle=":", zorder=0.5)


def trade_off(accuracies: Accuracies, axes: Axes | None = None) -> Axes:
  """What each method gave individuals against what it cost the public.

  One point a method, at its means over individuals, with bars of one standard
  error of the mean; none where everybody has the same accuracy, as with one
  model for all. Names stand beside the points, or in a legend where there is no
  room; they are laid out for the size that the axes have at the call. A few
  methods far below all others, as models of D_I alone on D_G, stand in a grey
  strip at the edge, with their means in numbers, and leave the scale to the
  others.

  Args:
    accuracies: method -> (individual_accuracy [S], global_accuracy [S]).
    axes: where to draw; by default a new figure.
  """
  checked = _checked(accuracies)
  axes = styles.axes_or_new(axes, 7.5, 5.5)
  # Of global data, then of the individual's: [methods, 2] each.
  pairs = [[*map(metrics.mean_and_error, p[::-1])] for p in checked.values()]
  means, errors = np.moveaxis(np.array(pairs), -1, 0)
  same = np.isnan(errors).any()
  names = [*map(styles.method_name, checked)]
  strips = [_strip(means[:, i], errors[:, i]) for i in range(2)]
  for i, (far, low, high) in enumerate(strips):
    for k in np.flatnonzero(far):
      names[k] += f" {'←↓'[i]} {means[k, i]:.3f}"
    means[far, i], errors[far, i] = (low + high) / 2, np.nan
  for method, (x, y), error in zip(checked, means, errors):
    style = styles.method_style(method)
    paint = style.colour, "white"
    face, edge = paint if style.filled else paint[::-1]
    look: Any = {"fmt": style.marker, "ms": 8, "mfc": face, "mec": edge}
    look |= {"ecolor": (*style.colour, 0.45), "elinewidth": 1.2, "zorder": 3}
    name = styles.method_name(method)
    axes.errorbar(x, y, xerr=error[0], yerr=error[1], label=name, **look)
  if "baseline" in checked:
    x, y = means[list(checked).index("baseline")]
    axes.axvline(x, **_GUIDE)
    axes.axhline(y, **_GUIDE)
  axes.margins(0.15)
  axes.set_xlabel(r"Mean accuracy on global data, acc$(D_G)$")
  axes.set_ylabel(r"Mean accuracy on the individual's data, acc$(D_I)$")
  styles.caption(
    axes,
    "Means over individuals; bars: ± 1 standard error of the mean"
    + (", none where all are the same" if same else "")
    + ("; dotted: baseline" if "baseline" in checked else "")
    + ("; grey: not to scale" if any(far.any() for far, *_ in strips) else ""),
  )
  _scale(axes, "x", *strips[0])
  _scale(axes, "y", *strips[1])
  if not _label_points(axes, means, errors, names):
    axes.legend(**styles.LEGEND_BESIDE | {"fontsize": None})
  return axes


def distribution(
  accuracies: Accuracies, axes: Axes | None = None, of: Data = "individual"
) -> Axes:
  """Every individual's accuracy by each method, one row a method.

  A row is a box (quartiles, median, whiskers to the extremes as in Table I), a
  diamond at the mean, and below it one point an individual. A few methods far
  below all others have their numbers instead, and leave the scale to the
  others. Takes what `trade_off` takes; `of` chooses the accuracy on individual
  or global data.
  """
  values = _chosen(accuracies, of)
  ends = np.array([(value.min(), value.max()) for value in values.values()])
  far = dict(zip(values, _far(*ends.T)))
  axes = styles.axes_or_new(axes, 7.5, 1.2 + 0.45 * len(values))
  for row, (method, value) in enumerate(values.items()):
    style = styles.method_style(method)
    if far[method]:
      axes.text(
        0.01,
        row,
        f"← mean {value.mean():.3f}, {value.min():.3f} to {value.max():.3f}",
        transform=axes.get_yaxis_transform(),
        verticalalignment="center",
      )
      continue
    axes.boxplot(
      [value],
      positions=[row - 0.2],
      boxprops={"facecolor": (*style.colour, 0.35), "edgecolor": "black"},
      **_BOX,
    )
    # Fractional parts of multiples of the golden ratio are spread evenly
    # whatever their number: jitter that is the same in every run.
    jitter = np.arange(len(value)) * (math.sqrt(5) - 1) / 2 % 1
    places, size = row + 0.04 + 0.3 * jitter, 18 if len(value) < 30 else 9
    look: Any = {"color": style.colour, "alpha": 0.7, "linewidths": 0}
    name = styles.method_name(method)
    axes.scatter(np.sort(value), places, s=size, label=name, **look)
  if "baseline" in values and not far["baseline"]:
    axes.axvline(values["baseline"].mean(), **_GUIDE)
  owner, symbol = styles.DATA[of]
  axes.set_xlabel(f"Accuracy on {owner} data, acc$({symbol})$")
  styles.caption(
    axes,
    "Dots: individuals; box: quartiles; whiskers: extremes; diamond: mean"
    + ("; dotted: baseline's mean" if "baseline" in values else "")
    + ("; arrow: off the scale" if any(far.values()) else ""),
  )
  styles.name_rows(axes, [*map(styles.method_name, values)])
  styles.accuracy_ticks(axes, "x")
  return axes


def gains(
  accuracies: Accuracies,
  baseline: str,
  axes: Axes | None = None,
  of: Data = "individual",
) -> Axes:
  """Who gains and who is hurt: each individual's change against a baseline.

  One row a method, its individuals sorted from the most hurt (lowest) to the
  one who gains most, so that a row reads as a cumulative distribution. Hollow
  points are hurt, small ones unchanged; the shares stand at the right.

  Args:
    accuracies: method -> (individual_accuracy [S], global_accuracy [S]), with
      the same individuals in the same order for every method.
    baseline: the method compared against, a key of accuracies.
    of: the accuracy compared, on "individual" or on "global" data.
    axes: where to draw; by default a new figure.
  """
  values = _chosen(accuracies, of)
  if baseline not in values:
    raise ValueError(
      f"baseline {baseline!r} is not among the methods {sorted(values)}."
    )
  reference = values.pop(baseline)
  if not values:
    raise ValueError(
      f"accuracies holds {baseline!r} alone; give a method to compare."
    )
  axes = styles.axes_or_new(axes, 8.0, 1.2 + 0.5 * len(values))
  shares = []
  for row, (method, value) in enumerate(values.items()):
    checks.shapes((repr(baseline), reference, "S"), (repr(method), value, "S"))
    change = np.sort(100 * metrics.changes(value, reference))
    hurt, gained = change < 0, change > 0
    colour = styles.method_style(method).colour
    faces = np.where(hurt[:, None], 1.0, colour)
    size = 24 if len(change) < 30 else 9
    places = row + np.linspace(0.38, -0.38, len(change) + 2)[1:-1]
    look: Any = {"c": faces.tolist(), "edgecolors": [colour], "linewidths": 0.8}
    look |= {"s": np.where(hurt | gained, size, size / 3), "zorder": 3}
    axes.scatter(change, places, label=styles.method_name(method), **look)
    axes.vlines(change.mean(), row - 0.42, row + 0.42, color="black", zorder=4)
    shares.append(
      f"{hurt.mean():.0%} hurt, {gained.mean():.0%} gain,"
      f" mean {styles.signed(change.mean())}"
    )
  axes.axvline(0, color="black", linewidth=0.8)
  low, high = axes.get_xlim()
  axes.axvspan(min(low, 0), 0, color="#F2F2F2", zorder=0)
  axes.set_xlim(low, high)
  symbol, against = styles.DATA[of][1], styles.method_name(baseline)
  changed = f"Change of acc$({symbol})$ against {against}"
  axes.set_xlabel(f"{changed} (percentage points)")
  styles.caption(
    axes,
    "Points: individuals, sorted; hollow: hurt; small: unchanged; bar: mean",
  )
  styles.name_rows(axes, [*map(styles.method_name, values)], shares)
  return axes


def shots(
  accuracies: Mapping[str, np.ndarray],
  before: np.ndarray,
  method: str,
  axes: Axes | None = None,
) -> Axes:
  """Accuracy against the number of training samples of each person.

  A thin line a person, and the mean over people with its 95% interval.

  Args:
    accuracies: number of samples, as a text -> accuracies [S] of the same
      people in the same order; NaN where one has fewer samples, or none.
    before: [S], the base model's.
    method: what made the models.
    axes: where to draw; by default a new figure.
  """
  styles.check_filled("accuracies", accuracies, "at least one number")
  for count, value in accuracies.items():
    checks.shapes(("before", before, "S"), (f"{count} shots", value, "S"))
  values = np.stack([*accuracies.values()]).astype(float)
  axes = styles.axes_or_new(axes, 6.5, 4.5)
  colour, places = styles.method_style(method).colour, np.arange(len(values))
  faint = min(0.35, max(0.06, 8 / values.shape[1]))
  for own in values.T:
    there = ~np.isnan(own)
    look: Any = {"color": colour, "alpha": faint, "linewidth": 0.8}
    axes.plot(places[there], own[there], **look)
  means, names = np.full(len(values), np.nan), []
  bounds = np.full((2, len(values)), np.nan)
  for place, (count, value) in enumerate(zip(accuracies, values)):
    known = value[~np.isnan(value)]
    names.append(count)
    if len(known):
      means[place] = known.mean()
      bounds[:, place] = metrics.interval_of_mean(known)
    if len(known) < values.shape[1]:
      names[-1] += f"\n({len(known)} people)"
  axes.errorbar(
    places,
    means,
    abs(bounds - means),
    color=colour,
    marker=styles.method_style(method).marker,
    capsize=3,
    zorder=3,
    label=styles.method_name(method),
  )
  axes.axhline(
    before.mean(),
    color="black",
    linestyle="--",
    linewidth=1,
    label="Base model",
  )
  axes.set_xticks(places, names)
  axes.set_xlabel("Training samples of each person")
  axes.set_ylabel("Accuracy on samples held out")
  axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  styles.accuracy_ticks(axes, "y")
  styles.caption(
    axes,
    f"Thick: mean over {values.shape[1]} people with its 95% interval; thin:"
    " each person",
  )
  axes.legend(frameon=False, fontsize=9, loc="best")
  return axes


def _far(lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
  """Which of these ranges [P] lie far below the rest.

  They are at most a third, below a gap of twice what the others take.
  """
  ordered = np.sort(highs)
  if len(ordered) < 3:
    return np.zeros(len(ordered), bool)
  below = highs < ordered[np.argmax(np.diff(ordered)) + 1]
  low, room = np.min(lows[~below]), np.ptp([lows[~below], highs[~below]])
  few = 3 * below.sum() <= len(below)
  return below & few & (low - highs > 2 * room) & (room > 0)


def _strip(
  means: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, float, float]:
  """Which of these means [P] lie far below, and a strip's ends below others."""
  bars = np.nan_to_num(errors)
  far = _far(means - bars, means + bars)
  low, high = np.min((means - bars)[~far]), np.max((means + bars)[~far])
  room = high - low
  return far, low - 0.25 * room, low - 0.1 * room


def _scale(
  axes: Axes, which: Literal["x", "y"], far: np.ndarray, low: float, high: float
) -> None:
  """Ticks of accuracies, but for a grey strip, which has no scale."""
  if far.any():
    span = axes.axvspan if which == "x" else axes.axhspan
    span(low, high, color="#EEEEEE", zorder=0.3)
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, None)
  styles.accuracy_ticks(axes, which)
  if far.any():
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks([t for t in axis.get_ticklocs() if t > high])


def _label_points(
  axes: Axes, points: np.ndarray, errors: np.ndarray, names: list[str]
) -> bool:
  """Writes names beside points [P, 2] with bars [P, 2], if there is room.

  Each in turn takes the cheapest of many places around its point that covers no
  other and no point; three times over, so that early ones can give way.
  """
  leader = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6}
  look: Any = {"ha": "center", "va": "center", "fontsize": 8.5, "zorder": 5}
  look |= {"textcoords": "offset points", "in_layout": False}
  look["arrowprops"] = leader | {"shrinkA": 0, "shrinkB": 4}
  halo = patheffects.withStroke(linewidth=2, foreground="white")
  notes = [
    axes.annotate(name, point, (0, 0), path_effects=[halo], **look)
    for name, point in zip(names, points.tolist())
  ]
  figure = styles.figure_of(axes)
  figure.draw_without_rendering()  # settles the layout, and so the transforms
  unit = figure.dpi / 72  # pixels a point
  centres = axes.transData.transform(points)
  arms = axes.transData.transform(points + np.nan_to_num(errors)) - centres
  markers = _boxes(centres, 6 * unit)
  # Bars, and the lines where accuracies end.
  middles = np.vstack([centres, axes.transData.transform([(1, 1)])])
  lengths = np.vstack([arms, [(1e9, 1e9)]])
  bars = np.vstack([_boxes(middles, lengths * way) for way in np.eye(2)])
  # An annotation's own extent would include its leader.
  halves = np.array([Text.get_window_extent(note).size for note in notes]) / 2
  halves += 1.5 * unit
  angles = np.arange(32) * np.pi / 16
  turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  radii = unit * np.array([8, 14, 22, 32, 44, 58, 74, 92, 112])[:, None, None]
  low, high = np.array(axes.bbox.extents).reshape(2, 2)
  labels = np.full_like(markers, np.inf)  # not placed yet: overlaps nothing
  misfits = np.ones(len(notes), bool)
  for i in [*range(len(notes))] * 3:
    others = np.arange(len(notes)) != i
    shifts = (turns * (radii + halves[i] * np.abs(turns))).reshape(-1, 2)
    places = _boxes(centres[i] + shifts, halves[i])
    # A leader is seen as eight points between its marker and its label.
    steps = np.linspace(0.3, 1.0, 8)[:, None, None]
    leaders = _boxes(centres[i] + steps * shifts, 0)
    forbidden = (
      _overlaps(places, np.concatenate([labels[others], markers])).any(axis=1)
      | _overlaps(leaders, labels[others]).any(axis=(0, 2))
      | np.any((places[:, :2] < low) | (places[:, 2:] > high), axis=1)
    )
    cost = (
      1e4 * forbidden
      + 60 * _overlaps(leaders, markers[others]).any(axis=0).sum(axis=1)
      + 25 * _overlaps(places, bars).sum(axis=1)
      + np.hypot(*shifts.T) / unit
    )
    best = int(np.argmin(cost))
    labels[i], misfits[i] = places[best], forbidden[best]
    notes[i].set_position(tuple(shifts[best] / unit))
  for note in notes if misfits.any() else ():
    note.remove()
  return not misfits.any()


def _boxes(middles: np.ndarray, halves: Any) -> np.ndarray:
  """Lower and upper corners [..., 4] of boxes around middles [..., 2]."""
  return np.concatenate([middles - halves, middles + halves], axis=-1)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Whether boxes [..., K, 4] and others [M, 4] overlap: [..., K, M]."""
  a, b = boxes[..., None, :], others
  apart = (a[..., :2] >= b[..., 2:]) | (b[..., :2] >= a[..., 2:])
  return ~np.any(apart, axis=-1)


def _checked(accuracies: Accuracies) -> dict[str, np.ndarray]:
  """Accuracies as method -> float [2, S]: individual, global."""
  styles.check_filled("accuracies", accuracies)
  for method, pair in accuracies.items():
    named = zip(styles.DATA, pair, strict=True)
    checks.shapes(*((f"{of} of {method!r}", v, "S") for of, v in named))
    checks.fractions(f"the accuracies of {method!r}", np.array(pair))
  return {method: np.array(pair, float) for method, pair in accuracies.items()}


def _chosen(accuracies: Accuracies, of: Data) -> dict[str, np.ndarray]:
  """Accuracies of one kind of data as method -> float [S]."""
  row = list(styles.DATA).index(of)
  return {method: pair[row] for method, pair in _checked(accuracies).items()}
