"""The recipe's cells and tables, of recipe.csv."""

import itertools
from typing import Any

import pandas as pd
from helpers.converged import short

from personalization_jax.analysis import markdown

NAMES = {
  "lecun_normal": "Flax's",
  "glorot_uniform": "Keras'",
  "pytorch": "PyTorch's",
}
SIZES = ((0.25, 16), (0.25, 32), (1.0, 16), (1.0, 32))
# Of 3 epochs with 40 writers, where rates differ too, and of 20 with 100.
FEW, MANY = 216, 3640
AFTER_FEW = [(SIZES[0], 0.001), (SIZES[1], 0.001)]
AFTER_FEW += [(SIZES[1], 0.003), (SIZES[2], 0.001)]
RATES = (0.0003, 0.001, 0.003, 0.01)
STATISTICS = {False: "running", True: "precise"}
ORDERED = ("baseline", "es:400", "tl:300")
ORDERINGS = [
  (name, precise)
  for name in ("lecun_normal", "pytorch")
  for precise in STATISTICS
]
SYMBOLS = ("D_G", "D_I")
GENERAL, OWN = (f"{of}_validation_accuracy" for of in ("global", "individual"))


def of(
  runs: pd.DataFrame,
  name: str,
  size: tuple[float, int],
  method: str = "global",
  rate: float = 0.001,
  steps: int = MANY,
  precise: bool = False,
  momentum: float = 0.9,
  people: int = 9,
) -> pd.DataFrame:
  """A recipe's accuracies, by seed."""
  width, pixels = size
  own = runs[(runs["initializer"] == name) & (runs["method"] == method)]
  own = own[(own["precise"] == precise) & (own["momentum"] == momentum)]
  own = own[own["people"] == people]
  own = own[(own["width"] == width) & (own["image_size"] == pixels)]
  own = own[(own["steps"] < MANY) == (steps < MANY)]
  own = own[own["learning_rate"] == rate]
  return own.set_index("seed")[[GENERAL, OWN]]


def _both(own: pd.DataFrame, form: str) -> str:
  general, person = own[GENERAL].mean(), own[OWN].mean()
  return f"{short(general, form)} / {short(person)}"


def _cell(own: pd.DataFrame) -> str:
  return "-" if own.empty else f"{_both(own, '.4f')} ({len(own)})"


def _above(own: pd.Series) -> str:
  """A difference's mean, and in how many seeds it is above."""
  if own.empty:
    return "-"
  return f"{short(own.mean(), '+.4f')} ({(own > 0).sum()} of {len(own)})"


def between(values: pd.Series, form: str = "+.3f") -> str:
  return f"{short(values.min(), form)} to {short(values.max(), form)}"


def listed(values: pd.Series, form: str = "+.4f") -> str:
  return ", ".join(short(each, form) for each in values)


def kinds() -> list[tuple[str, bool]]:
  """Initial weights, with running and with precise statistics."""
  return [(name, precise) for precise in STATISTICS for name in NAMES]


def _titles(kinds: list[tuple[str, bool]]) -> list[str]:
  return [f"{NAMES[name]}, {STATISTICS[precise]}" for name, precise in kinds]


def rates_table(runs: pd.DataFrame) -> str:
  """Markdown: means over seeds, by learning rate, of the smallest network."""
  columns = [("", "initial weights, statistics", _titles(kinds()))]
  columns += [
    (
      "",
      f"{short(rate, 'g')}",
      [
        _cell(of(runs, name, SIZES[0], rate=rate, precise=precise))
        for name, precise in kinds()
      ],
    )
    for rate in RATES
  ]
  return markdown.aligned(columns, 1)


def table(runs: pd.DataFrame) -> str:
  """Markdown: means over seeds, and how many, by width and size of image."""
  columns = [("", "initial weights, statistics", _titles(kinds()))]
  columns += [
    (
      "",
      f"width {width:g}, {pixels} pixels",
      [
        _cell(of(runs, name, (width, pixels), precise=precise))
        for name, precise in kinds()
      ],
    )
    for width, pixels in SIZES
  ]
  return markdown.aligned(columns, 1)


def _effects(runs: pd.DataFrame) -> list[tuple[str, list[pd.DataFrame]]]:
  """What is changed, and its differences by seed, one frame a pair of cells."""
  flax, keras, torch = NAMES

  def pair(one: dict[str, Any], two: dict[str, Any], **both: Any) -> Any:
    return (of(runs, **both, **one) - of(runs, **both, **two)).dropna()

  def pairs(one: dict[str, Any], two: dict[str, Any], **fixed: Any) -> list:
    """Of every cell that differs in this alone."""
    free = {"name": NAMES, "size": SIZES, "precise": STATISTICS}
    free = {k: v for k, v in free.items() if k not in one | fixed}
    cells = itertools.product(*free.values())
    return [pair(one, two, **dict(zip(free, c)), **fixed) for c in cells]

  def sizes(one: int, two: int) -> list[pd.DataFrame]:
    return pairs({"size": SIZES[one]}, {"size": SIZES[two]})

  def weights(one: str, **fixed: Any) -> list[pd.DataFrame]:
    return pairs({"name": one}, {"name": flax}, **fixed)

  rates = [pairs({"rate": r}, {"rate": 0.001}) for r in RATES]
  late = pairs({"momentum": 0.99}, {}, name=torch, precise=False)
  return [
    ("full width, not a quarter", sizes(2, 0) + sizes(3, 1)),
    ("32 pixels, not 16, a quarter of the width", sizes(1, 0)),
    ("32 pixels, not 16, full width", sizes(3, 2)),
    (f"rate {short(RATES[0], 'g')}, not .001", rates[0]),
    (f"rate {short(RATES[2], 'g')}, not .001", rates[2]),
    (f"rate {short(RATES[3], 'g')}, not .001", rates[3]),
    ("PyTorch's weights, not Flax's", weights(torch)),
    ("Keras' weights, not Flax's", weights(keras)),
    ("precise statistics", pairs({"precise": True}, {"precise": False})),
    ("momentum .99, not .9", late),
    ("after 216 steps: PyTorch's, not Flax's", weights(torch, steps=FEW)),
  ]


def effects_table(runs: pd.DataFrame) -> str:
  """Markdown: what changes levels, over pairs of cells with three seeds."""
  found = [
    (name, [own.mean() for own in pairs if len(own) == 3])
    for name, pairs in _effects(runs)
  ]

  def ends(means: list[pd.Series], data: str) -> str:
    values = pd.Series([own[data] for own in means])
    return between(values) if len(values) > 1 else listed(values, "+.3f")

  return markdown.aligned(
    [
      ("", "what is changed", [name for name, _ in found]),
      ("", "acc(D_G)", [ends(means, GENERAL) for _, means in found]),
      ("", "acc(D_I)", [ends(means, OWN) for _, means in found]),
      ("", "pairs of cells", [str(len(means)) for _, means in found]),
    ],
    1,
  )


def shifts(
  runs: pd.DataFrame,
  method: str,
  against: str = "baseline",
  name: str = "pytorch",
  size: tuple[float, int] = SIZES[0],
  precise: bool = False,
  people: int = 9,
) -> pd.DataFrame:
  """A method's accuracies less another's, by seed."""
  one, two = (
    of(runs, name, size, m, precise=precise, people=people)
    for m in (method, against)
  )
  return (one - two).dropna()


def order_table(runs: pd.DataFrame) -> str:
  """Markdown: methods by recipe, of the smallest network, means over seeds."""
  columns = [("", "method", ["global", *ORDERED])]
  columns += [
    (
      "",
      title,
      [
        _cell(of(runs, kind[0], SIZES[0], m, precise=kind[1]))
        for m in ("global", *ORDERED)
      ],
    )
    for kind, title in zip(ORDERINGS, _titles(ORDERINGS))
  ]
  return markdown.aligned(columns, 1)


def order_changes_table(runs: pd.DataFrame) -> str:
  """Markdown: methods less the baseline, and seeds that they are above it."""
  columns = [
    ("", "method", [f"{m}, {d}" for m in ORDERED[1:] for d in SYMBOLS])
  ]
  columns += [
    (
      "",
      title,
      [
        _above(shifts(runs, m, name=name, precise=precise)[data])
        for m in ORDERED[1:]
        for data in (GENERAL, OWN)
      ],
    )
    for (name, precise), title in zip(ORDERINGS, _titles(ORDERINGS))
  ]
  return markdown.aligned(columns, 1)


def short_table(runs: pd.DataFrame) -> str:
  """Markdown: after few steps, means over seeds."""
  columns = [("", "initial weights", [*NAMES.values()])]
  columns += [
    (
      "",
      f"width {width:g}, {pixels} pixels, {short(rate, 'g')}",
      [
        _both(of(runs, name, (width, pixels), rate=rate, steps=FEW), ".3f")
        for name in NAMES
      ],
    )
    for (width, pixels), rate in AFTER_FEW
  ]
  return markdown.aligned(columns, 1)


def faster(
  runs: pd.DataFrame,
  rate: float,
  name: str,
  size: tuple[float, int],
  precise: bool,
) -> pd.Series:
  """A higher rate less the default one on D_G, by seed."""
  fast, slow = (
    of(runs, name, size, rate=each, precise=precise)[GENERAL]
    for each in (rate, 0.001)
  )
  return (fast - slow).dropna()


def faster_table(runs: pd.DataFrame) -> str:
  """Markdown: higher rates' change on D_G, and seeds that they are above."""
  rows = [
    (rate, *kind)
    for rate in RATES[2:]
    for kind in kinds()
    if any(len(faster(runs, rate, kind[0], s, kind[1])) for s in SIZES[1:])
  ]
  title = "initial weights, statistics, rate"
  names = [
    f"{NAMES[name]}, {STATISTICS[precise]}, {short(rate, 'g')}"
    for rate, name, precise in rows
  ]
  columns = [("", title, names)]
  columns += [
    (
      "",
      f"width {size[0]:g}, {size[1]} pixels",
      [
        _above(faster(runs, rate, name, size, precise))
        for rate, name, precise in rows
      ],
    )
    for size in SIZES
  ]
  return markdown.aligned(columns, 1)


TABLES = (
  effects_table,
  rates_table,
  order_table,
  order_changes_table,
  table,
  short_table,
  faster_table,
)
