"""What RESULTS says of the recipe at other widths and sizes, of recipe.csv."""

import pandas as pd
from helpers.converged import Sentences, short

from personalization_jax.analysis import markdown

NAMES = {"pytorch": "PyTorch's", "lecun_normal": "Flax's"}
SIZES = ((0.25, 16), (0.25, 32), (1.0, 16), (1.0, 32))
GENERAL, OWN = (f"{of}_validation_accuracy" for of in ("global", "individual"))


def of(
  runs: pd.DataFrame, name: str, size: tuple[float, int], method: str = "global"
) -> pd.DataFrame:
  """A recipe's rows, by seed."""
  width, pixels = size
  own = runs[(runs["initializer"] == name) & (runs["method"] == method)]
  own = own[(own["width"] == width) & (own["image_size"] == pixels)]
  return own.set_index("seed")


def _cell(own: pd.DataFrame) -> str:
  if own.empty:
    return "-"
  general, person = own[GENERAL].mean(), own[OWN].mean()
  return f"{short(general, '.4f')} / {short(person)} ({len(own)})"


def table(runs: pd.DataFrame) -> str:
  """Markdown: means over seeds, and how many."""
  columns = [("", "initial weights", [*NAMES.values()])]
  columns += [
    (
      "",
      f"width {width:g}, {pixels} pixels",
      [_cell(of(runs, name, (width, pixels))) for name in NAMES],
    )
    for width, pixels in SIZES
  ]
  return markdown.aligned(columns, 1)


def sentences(runs: pd.DataFrame) -> Sentences:
  """What RESULTS says below the table."""
  small, tall, wide, both = SIZES
  mine = {size: of(runs, "pytorch", size)[GENERAL] for size in SIZES}
  flax = of(runs, "lecun_normal", wide)[GENERAL]
  tuned = of(runs, "pytorch", wide, "tl:300")
  start = of(runs, "pytorch", wide).loc[tuned.index]
  wider, taller = (mine[size] - mine[small] for size in (wide, tall))
  ahead = (mine[wide] - flax).dropna()
  changes = {
    name: (tuned[name] - start[name]).iloc[0] for name in (GENERAL, OWN)
  }
  return [
    (
      len(wider) == 3 and wider.min() > 0,
      "At 16 pixels full width has"
      f" {short(wider.mean(), '+.4f')} on D_G against a quarter of it, in each"
      " of three seeds.",
    ),
    (
      len(taller) == 3 and taller.max() < 0,
      "32 pixels at a quarter of the width have"
      f" {short(taller.mean(), '+.4f')}, in each of three.",
    ),
    (
      len(mine[both]) == 1,
      "Full width and 32 pixels together, the paper's network, have"
      f" {short(mine[both].iloc[0], '.4f')} with one seed.",
    ),
    (
      len(ahead) == 2 and ahead.min() > 0,
      "At full width PyTorch's weights are above Flax's in both seeds that have"
      f" both, by {short(ahead.min())} and {short(ahead.max())}.",
    ),
    (
      len(tuned) == 1 and changes[GENERAL] < 0 < changes[OWN],
      "TL n=300 at full width and 16 pixels, nine people and one seed, changes"
      f" D_G's model by {short(changes[GENERAL], '+.4f')} on D_G and"
      f" {short(changes[OWN], '+.4f')} on D_I.",
    ),
  ]
