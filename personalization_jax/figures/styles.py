"""What all figures share: names, colours and markers, axes, and saving."""

from __future__ import annotations

import dataclasses
import fractions
import io
import math
import os
import pathlib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from personalization_jax.checkpoints import files

DPI = 150
# Formats of files, and what each would tell of when and by what it was made.
FORMATS = {
  "png": ("Software",),
  "pdf": ("CreationDate", "Creator", "Producer"),
  "svg": ("Date", "Creator"),
}

Data = Literal["individual", "global"]
DATA = {"individual": ("the individual's", "D_I"), "global": ("global", "D_G")}

_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9}
LEGEND_ABOVE = _LEGEND | {
  "loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2
}  # fmt: skip
LEGEND_RIGHT = LEGEND_ABOVE | {"loc": "lower right", "bbox_to_anchor": (1, 1)}
LEGEND_BESIDE = _LEGEND | {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}

# Okabe and Ito's palette, which people of every colour vision can tell apart;
# its yellow is left out, too faint on white. Each family's marker says the same
# as its hue. The last entry is the geometric middle of the paper's two n.
_FAMILIES = {
  "baseline": ("Baseline", "#000000", "h", 1.0),
  "global": ("Global", "#555555", "8", 1.0),
  "local": ("Local", "#999999", "<", 126.0),
  "es": ("ES", "#0072B2", "o", 126.0),
  "sw": ("SW", "#D55E00", "s", 4.9),
  "tl": ("TL", "#009E73", "^", 55.0),
  "random": ("Random", "#E69F00", "D", 3122.0),
  "ig": ("IG", "#56B4E9", "v", 10.2),
  "sg": ("SG", "#CC79A7", "p", 3122.0),
}
# Of other papers, called by their specs; hues are of Tol's muted palette, one
# for each question that the methods answer otherwise.
_FAMILIES |= {
  kind: ("", hue, marker, 126.0)
  for hue, kinds in (
    ("#332288", {"mix": "H", "knn": "d"}),
    ("#882255", {"l2sp": ">", "ewc": "h", "distil": "8"}),
    (
      "#999933",
      {"head": "o", "bias": "s", "bn": "p", "lora": "D", "lpft": "v"},
    ),
    ("#CC6677", {"adabn": "8", "reptile": "<", "ifca": ">"}),
  )
  for kind, marker in kinds.items()
}
_UNKNOWN = ("", "#777777", "d", 1.0)


@dataclasses.dataclass(frozen=True)
class Style:
  """How one method is drawn, the same in every figure."""

  # The family's hue, darker for a larger n; a combination has the mean of its
  # methods'.
  colour: tuple[float, float, float]
  marker: str  # of the family, or of the number of methods combined
  filled: bool  # False for a method with options (`tl:300:last=2`)


def method_name(method: str) -> str:
  """The name people read: `es:40+tl:10` is "ES n=40 + TL n=10"."""
  return " + ".join(map(_part_name, method.split("+")))


def _part_name(part: str) -> str:
  family, *options = re.split("[:@]", part)
  name = _FAMILIES.get(family, _UNKNOWN)[0]
  if not name:
    return part
  if options and _number(options[0]) is not None:
    name += f" n={options.pop(0)}"
  known = {"only": "group only", "last=1": "last layer", "best": "best step"}
  further = [known.get(option, option) for option in options]
  return re.sub(r"last=(\w*)", r"last \1 layers", ", ".join([name, *further]))


def method_style(method: str) -> Style:
  """The style of a method, which depends on nothing but its own text."""
  parts = [re.split("[:@]", part) for part in method.split("+")]
  colour = np.mean([_shade(*part[:2]) for part in parts], axis=0)
  of_one = _FAMILIES.get(parts[0][0], _UNKNOWN)[2]
  marker = {1: of_one, 2: "P"}.get(len(parts), "X")
  filled = not any(_number(o) is None for part in parts for o in part[1:])
  return Style((colour[0], colour[1], colour[2]), marker, filled)


def save(figure: Figure | Axes, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a figure to a path in .png, .pdf or .svg; makes its folders.

  The file is there whole or not at all, with the same bytes for one figure.
  """
  path = pathlib.Path(path)
  if path.suffix[1:] not in FORMATS:
    raise ValueError(
      f"path must end in .{', .'.join(FORMATS)}, but is {str(path)!r}."
    )
  files.write_atomically(path, encoded(figure, path.suffix[1:]))
  return path


def png(figure: Figure | Axes) -> bytes:
  """The PNG of 150 dpi that `save` writes."""
  return encoded(figure, "png")


def encoded(figure: Figure | Axes, form: str) -> bytes:
  """What `save` writes to a file of one of FORMATS."""
  content, metadata = io.BytesIO(), dict.fromkeys(FORMATS[form])
  # What an SVG's parts are called is drawn by chance without it.
  with matplotlib.rc_context({"svg.hashsalt": "figure"}):
    figure_of(figure).savefig(content, format=form, dpi=DPI, metadata=metadata)
  return content.getvalue()


def check_filled(name: str, given: Any, wanted: str = "at least one") -> None:
  """Rejects arrays by method if there are none."""
  if not given:
    raise ValueError(f"{name} holds no method; give {wanted}.")


def axes_or_new(axes: Axes | None, width: float, height: float) -> Axes:
  """The axes given, or those of a new figure of this size in inches."""
  if axes is not None:
    return axes
  figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
  return figure.subplots()


def figure_of(axes: Figure | Axes) -> Figure:
  """The whole figure, given it or its axes."""
  figure = axes.get_figure(root=True)
  assert isinstance(figure, Figure)
  return figure


def caption(axes: Axes, text: str) -> None:
  """A caption above the axes, in lines no longer than they are wide."""
  inches = axes.get_position().width * figure_of(axes).get_figwidth()
  lines = textwrap.wrap(text, max(20, round(17 * inches)))
  axes.set_title("\n".join(lines), fontsize=8, color="#444444", loc="left")


def accuracy_ticks(axes: Axes, which: Literal["x", "y"]) -> None:
  """Plain numbers (no offset), and hardly any room beyond 1."""
  axis = axes.xaxis if which == "x" else axes.yaxis
  low, high = axis.get_view_interval()
  if high > 1:
    high = 1 + 0.03 * (1 - low)  # room for a marker
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    line = axes.axvline if which == "x" else axes.axhline
    line(1.0, color="black", linewidth=0.6, zorder=0.4)
  locator = ticker.MaxNLocator(7, steps=[1, 2, 5, 10])
  ticks = locator.tick_values(low, high)
  axis.set_ticks([t for t in ticks if low <= t < min(high, 1 + 1e-9)])
  axes.ticklabel_format(axis=which, useOffset=False)


def name_rows(
  axes: Axes, names: list[str], right: Sequence[str] = (), grid: bool = False
) -> None:
  """One row a name, the first on top; labels at the right and lines behind."""
  if grid:
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
  axes.set_yticks(range(len(names)), names)
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.tick_params(axis="y", length=0)
  axes.spines[["top", "right", "left"]].set_visible(False)
  if right:
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(range(len(right)), right)
    beside.tick_params(length=0, labelsize=9)
    beside.spines[:].set_visible(False)


def signed(points: float) -> str:
  """Percentage points, for people."""
  if np.isnan(points):
    return "none"
  return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def _number(text: str) -> float | None:
  try:
    return float(fractions.Fraction(text))
  except (ValueError, ZeroDivisionError):
    return None


def _shade(family: str, n: str = "") -> np.ndarray:
  """The family's hue: lighter for an n below its usual one, darker above."""
  _, hue, _, middle = _FAMILIES.get(family, _UNKNOWN)
  colour = np.array(colors.to_rgb(hue))
  number = _number(n)
  if number is None or number <= 0:
    return colour
  depth = math.tanh(math.log2(number / middle) / 2)
  toward = np.full(3, float(depth < 0))
  return colour + (toward - colour) * abs(depth) * (0.55 if depth < 0 else 0.3)
