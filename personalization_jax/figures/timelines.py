"""Figures over training steps: schedules, losses, validation accuracy."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colors, patches, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personalization_jax import checks
from personalization_jax.figures import styles


def schedules(
  sources: Mapping[str, np.ndarray], axes: Axes | None = None
) -> Axes:
  """Which data each method trains on, when: the paper's Fig. 2.

  A run of batches from one source that is long enough to see is drawn as it is.
  Where runs are too short for that, the colour is their share of D_I: drawn one
  by one they would alias into a picture of something else.

  Args:
    sources: method -> integers [steps], 0 for a batch from D_G, 1 from D_I.
    axes: where to draw; by default a new figure.
  """
  styles.check_filled("sources", sources, "at least one schedule")
  axes = styles.axes_or_new(axes, 7.5, 1.3 + 0.36 * len(sources))
  mix = colors.LinearSegmentedColormap.from_list
  shade = mix("from D_G to D_I", ["#DDDDDD", "#0072B2"])
  longest = max(map(np.size, sources.values()))
  shares, mixed = [], False
  for row, (method, value) in enumerate(sources.items()):
    value = np.asarray(value)
    if value.ndim != 1 or not value.size or not np.isin(value, (0, 1)).all():
      raise ValueError(
        f"the schedule of {method!r} must be a vector of 0 (from D_G) and 1"
        f" (from D_I), but is {value}."
      )
    # An axis is some 700 pixels wide at 150 dpi: 1/350 of it is two pixels.
    spans = _spans(value, visible=longest / 350, block=longest / 35)
    bars = [(start, stop - start) for start, stop, _ in spans]
    faces = [shade(share) for *_, share in spans]
    axes.broken_barh(bars, (row - 0.36, 0.72), fc=faces, lw=0, aa=False)
    mixed |= any(0 < share < 1 for *_, share in spans)
    shares.append(f"{value.mean():.1%} $D_I$")
  axes.set_xlim(0, longest)
  axes.set_xlabel("Training step (batches)")
  axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
  legend = [(0.0, "from $D_G$"), (1.0, "from $D_I$")]
  if mixed:
    legend.insert(1, (0.5, "mixed, half from $D_I$"))
  handles = [patches.Patch(color=shade(s), label=text) for s, text in legend]
  axes.legend(handles=handles, ncols=3, **styles.LEGEND_ABOVE)
  styles.name_rows(axes, [*map(styles.method_name, sources)], shares)
  return axes


def training_curves(
  losses: Mapping[str, np.ndarray],
  axes: Axes | None = None,
  window: int | None = None,
  lengths: Mapping[str, np.ndarray] | None = None,
  diverged: Mapping[str, np.ndarray] | None = None,
) -> Axes:
  """Mean training loss over individuals, with the quartiles between them.

  Each individual's loss is first averaged over `window` steps around a step
  (fewer at both ends, where there are fewer), which the caption says. People
  whose loss was not finite at some step are left out, and counted in the
  legend.

  Args:
    losses: method -> float [S, T], at least 0.
    window: steps averaged; by default about 1% of the longest curve.
    lengths: method -> integers [S], the steps that each individual trains; the
      mean at a step is over those who still train. By default everybody trains
      to the end.
    diverged: method -> bool [S], who is left out; all others' losses that
      aren't finite are steps without training. By default those with a loss
      that isn't finite before their end.
    axes: where to draw; by default a new figure.
  """
  styles.check_filled("losses", losses, "at least one curve")
  values = {name: np.asarray(v, np.float64) for name, v in losses.items()}
  for method, value in values.items():
    checks.shapes((f"losses of {method!r}", value, "ST"))
    if (value < 0).any():
      raise ValueError(
        f"the losses of {method!r} must be at least 0, but one is"
        f" {value[value < 0][0]}."
      )
  if window is None:
    # Even, or SW n=2, which takes turns, would be a zigzag.
    longest = max(value.shape[1] for value in values.values())
    window = max(1, 2 * (longest // 200))
  checks.whole_number("window", window, 1)
  # As high as the legend beside it.
  axes = styles.axes_or_new(axes, 8.0, max(4.5, 0.6 + 0.19 * len(values)))
  for i, (method, value) in enumerate(values.items()):
    steps = np.arange(value.shape[1])
    ends = np.inf if lengths is None else lengths[method][:, None]
    trained = np.where(steps < ends, value, np.nan)
    finite = (np.isfinite(value) | (steps >= ends)).all(axis=1)
    if diverged is not None:
      finite = ~np.asarray(diverged[method], bool)
    lost = f" ({np.sum(~finite)} of {len(value)} not finite)"
    smooth = _running_mean(trained[finite], window)
    steps = steps[~np.isnan(smooth).all(axis=0)]
    name = styles.method_name(method) + ("" if finite.all() else lost)
    _curve(axes, method, steps, smooth[:, steps], name, i / len(values))
  axes.set_yscale("log")
  axes.set_xlabel("Training step (batches)")
  axes.set_ylabel("Training loss (nats)")
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
  axes.margins(x=0.01)
  steps_averaged = f"{window} steps" if window > 1 else "1 step (unsmoothed)"
  styles.caption(
    axes,
    "Lines: means over individuals; bands: their quartiles, none where all"
    f" share one training; running mean over {steps_averaged}",
  )
  axes.legend(**styles.LEGEND_BESIDE)
  return axes


def validation_curves(
  curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
  sources: Mapping[str, np.ndarray],
) -> Figure:
  """Accuracy on validation data of D_I and of D_G over a schedule, above it.

  Two panels of means over individuals with their quartiles, and the schedules
  below on the same axis of steps. Where individuals share one model they differ
  on D_I alone.

  Args:
    curves: method -> (steps integers [E], accuracy on D_I float [S, E], on D_G
      float [S, E]), as a `Result` has them.
    sources: method -> integers [steps], 0 for a batch from D_G, 1 from D_I, of
      the same methods.
  """
  styles.check_filled("curves", curves)
  names = ("steps", "accuracy on D_I", "accuracy on D_G")
  for method, values in curves.items():
    given = [f"{name} of {method!r}" for name in names]
    checks.shapes(*zip(given, values, ("E", "SE", "SE"), strict=True))
    if method not in sources:
      raise ValueError(f"sources lacks method {method!r}.")
  rows = 0.5 + 0.28 * len(curves)
  figure = Figure(
    figsize=(8.5, 6.0 + rows), dpi=styles.DPI, layout="constrained"
  )
  panels = figure.subplots(3, 1, sharex=True, height_ratios=[3.0, 3.0, rows])
  for panel, index, data in zip(panels, (1, 2), ("$D_I$", "$D_G$")):
    for i, (method, values) in enumerate(curves.items()):
      name, turn = styles.method_name(method), i / len(curves)
      _curve(panel, method, values[0], values[index], name, turn)
    panel.set_ylabel(f"Accuracy on validation\ndata of {data}")
    panel.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    panel.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
  panels[0].legend(**styles.LEGEND_BESIDE)
  figure.align_ylabels(panels[:2])
  styles.caption(
    panels[0],
    "Lines: means over individuals; bands: their quartiles, on $D_G$ none where"
    " all share one model",
  )
  schedules({method: sources[method] for method in curves}, panels[2])
  return figure


def _curve(
  axes: Axes,
  method: str,
  steps: np.ndarray,
  values: np.ndarray,
  label: str,
  turn: float,
) -> None:
  """The mean at steps [E] and the band of the quartiles of values [S, E].

  Its few markers stand where its turn (in 0..1) among all curves puts them.
  """
  style = styles.method_style(method)
  with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
    mean = np.nanmean(values, axis=0)  # NaN where nobody has a value
    # NumPy takes ten times as long if it has to look for NaN.
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile
    band = quantile(values, (0.25, 0.75), axis=0) if len(values) > 1 else ()
  if len(band):
    axes.fill_between(steps, *band, color=style.colour, alpha=0.12, linewidth=0)
  # All of a dozen evaluations get a marker.
  every = 1 if len(steps) <= 12 else -(-len(steps) // 5)
  # By index: at distances along the line a jagged one would be full of them.
  look: Any = {"markevery": (int(turn * every), every), "clip_on": False}
  look |= {"marker": style.marker, "ms": 6, "mec": "white", "lw": 1.5}
  dashes = "-" if style.filled else "--"
  axes.plot(steps, mean, dashes, color=style.colour, label=label, **look)


def _running_mean(curves: np.ndarray, window: int) -> np.ndarray:
  """The mean of [S, steps] over the window's steps around each; NaN stays."""
  steps, known = np.arange(curves.shape[1]), ~np.isnan(curves)
  start = np.maximum(steps - (window - 1) // 2, 0)
  stop = np.minimum(steps + window // 2 + 1, len(steps))
  sums, counts = (
    np.pad(each.cumsum(axis=1), ((0, 0), (1, 0)))
    for each in (np.where(known, curves, 0.0), known)
  )
  counted = np.where(known, counts[:, stop] - counts[:, start], np.nan)
  return (sums[:, stop] - sums[:, start]) / counted


def _spans(
  sources: np.ndarray, visible: float, block: float
) -> list[tuple[int, int, float]]:
  """Cuts a schedule into (start, stop, share of D_I), wide enough to see.

  A run is drawn as it is if it lasts a `block` of steps; or if it is `visible`
  steps long and at an end or between visible runs. All others are mixed: drawn
  together, or in blocks where the share changes.
  """
  edges = np.flatnonzero(np.diff(sources.astype(int), prepend=-1, append=-1))
  lengths = np.diff(edges)
  seen = np.pad(lengths >= visible, 1, constant_values=True)
  ends = np.isin(np.arange(len(lengths)), (0, len(lengths) - 1))
  exact = (lengths >= block) | (seen[1:-1] & (ends | seen[:-2] & seen[2:]))
  # Every edge of an exact run is a cut; each mixed stretch between is divided.
  bounds = np.flatnonzero(np.diff(exact, prepend=True, append=True))
  cuts = {0, len(sources), *edges[:-1][exact], *edges[1:][exact]}
  for start, stop in zip(edges[bounds[::2]], edges[bounds[1::2]]):
    if stop - start < visible:  # one odd batch: its share of what can be seen
      cuts -= {start, stop}
      start = max(0, start - math.ceil(visible / 2))
      stop = min(len(sources), stop + math.ceil(visible / 2))
    count = max(1, round((stop - start) / block))
    inner = np.linspace(start, stop, count + 1).round().astype(int)
    shares = [sources[a:b].mean() for a, b in itertools.pairwise(inner)]
    alike = np.ptp(shares) * (stop - start) / count < 1.5
    cuts |= {start, stop} if alike else {*inner}
  places = itertools.pairwise(sorted(map(int, cuts)))
  return [(a, b, float(sources[a:b].mean())) for a, b in places]
