"""What RESULTS says of the recipe at other widths and sizes, of recipe.csv."""

import pandas as pd
from helpers.converged import Sentences, short

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
GENERAL, OWN = (f"{of}_validation_accuracy" for of in ("global", "individual"))


def of(
  runs: pd.DataFrame,
  name: str,
  size: tuple[float, int],
  method: str = "global",
  rate: float = 0.001,
  steps: int = MANY,
) -> pd.DataFrame:
  """A recipe's accuracies, by seed."""
  width, pixels = size
  own = runs[(runs["initializer"] == name) & (runs["method"] == method)]
  own = own[(own["width"] == width) & (own["image_size"] == pixels)]
  own = own[(own["steps"] < MANY) == (steps < MANY)]
  own = own[own["learning_rate"] == rate]
  return own.set_index("seed")[[GENERAL, OWN]]


def _both(own: pd.DataFrame, form: str) -> str:
  general, person = own[GENERAL].mean(), own[OWN].mean()
  return f"{short(general, form)} / {short(person)}"


def _cell(own: pd.DataFrame) -> str:
  return "-" if own.empty else f"{_both(own, '.4f')} ({len(own)})"


def table(runs: pd.DataFrame) -> str:
  """Markdown: means over seeds, and how many."""
  there = [
    name for name in NAMES if any(len(of(runs, name, size)) for size in SIZES)
  ]
  columns = [("", "initial weights", [NAMES[name] for name in there])]
  columns += [
    (
      "",
      f"width {width:g}, {pixels} pixels",
      [_cell(of(runs, name, (width, pixels))) for name in there],
    )
    for width, pixels in SIZES
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


def _after_few(
  runs: pd.DataFrame, size: tuple[float, int], rate: float
) -> pd.DataFrame:
  """PyTorch's weights against the others on D_G, by seed."""
  own = {
    name: of(runs, name, size, rate=rate, steps=FEW)[GENERAL] for name in NAMES
  }
  mine = own.pop("pytorch")
  return pd.DataFrame({name: mine - its for name, its in own.items()})


def sentences(runs: pd.DataFrame) -> Sentences:
  """What RESULTS says below the tables."""
  return [*_of_weights(runs), *_of_sizes(runs), *_of_tuning(runs)]


def _of_weights(runs: pd.DataFrame) -> Sentences:
  *quarter, full = (_after_few(runs, *cell) for cell in AFTER_FEW)
  early = pd.concat(quarter)
  means = [own.mean() for own in quarter]
  low, high = full.min(axis=None), full.max(axis=None)
  small, tall, ahead = (
    (of(runs, "pytorch", size) - of(runs, "lecun_normal", size))[GENERAL]
    for size in SIZES[:3]
  )
  return [
    (
      early.shape == (9, 2) and early.min(axis=None) > 0,
      "After 216 steps at a quarter of the width PyTorch's are ahead on D_G in"
      f" every seed, in the mean by {short(min(map(min, means)))} to"
      f" {short(max(map(max, means)))}.",
    ),
    (
      full.shape == (3, 2) and low < 0 < high,
      "At full width they are in some seeds only"
      f" ({short(low, '+.3f')} to {short(high, '+.3f')} against the others).",
    ),
    (
      len(ahead) == 3 and ahead.min() > 0,
      "To the end, at full width and 16 pixels, they are above Flax's in each"
      f" of three seeds, by {short(ahead.min())} to {short(ahead.max())}.",
    ),
    (
      all(len(own) == 3 and own.min() < 0 < own.max() for own in (small, tall)),
      "At a quarter of the width neither is above the other in each"
      f" ({short(small.min(), '+.3f')} to {short(small.max(), '+.3f')} at 16"
      f" pixels, {short(tall.min(), '+.3f')} to {short(tall.max(), '+.3f')} at"
      " 32).",
    ),
    (
      max(
        own.max() - own.min()
        for size in SIZES[:3]
        for own in [
          pd.Series([of(runs, name, size)[GENERAL].mean() for name in NAMES])
        ]
      )
      < 0.006,
      "The weights' means of training to the end at .001 are within .006 of"
      " each other on D_G.",
    ),
  ]


def _of_sizes(runs: pd.DataFrame) -> Sentences:
  small, tall, wide, both = (of(runs, "pytorch", size) for size in SIZES)
  wider, taller, larger = (
    own[GENERAL] - small[GENERAL] for own in (wide, tall, both)
  )
  last, own = (both[name] - wide[name] for name in (GENERAL, OWN))
  return [
    (
      len(wider) == 3 and wider.min() > 0,
      f"At 16 pixels full width has {short(wider.mean(), '+.4f')} on D_G"
      " against a quarter of it, in each of three seeds.",
    ),
    (
      len(taller) == 3 and taller.max() < 0,
      "32 pixels at a quarter of the width have"
      f" {short(taller.mean(), '+.4f')}, in each of three.",
    ),
    (
      len(last) == 3 and last.max() < 0 and (larger > 0).sum() == 2,
      "Full width and 32 pixels together, the paper's network, have"
      f" {short(last.mean(), '+.4f')} against full width at 16 pixels, in each"
      f" of three, and {short(larger.mean(), '+.4f')} against the smallest"
      " network, above it in two of three.",
    ),
    (
      (both - tall)[GENERAL].min() > 0 and wider.min() > 0,
      "Width helps on D_G at both sizes of image, pixels at neither width, in"
      " every seed: the paper's own network isn't the best here on D_G.",
    ),
    (
      own.min() < 0 < own.max(),
      "On D_I the first of these has no one direction"
      f" ({', '.join(short(each, '+.3f') for each in own)}).",
    ),
  ]


def _of_tuning(runs: pd.DataFrame) -> Sentences:
  tall, wide = (
    (of(runs, "pytorch", size, "tl:300") - of(runs, "pytorch", size)).dropna()
    for size in SIZES[1:3]
  )
  texts = [
    " and ".join(
      f"{short(own[name].iloc[0], '+.4f')} on {symbol}"
      for name, symbol in ((GENERAL, "D_G"), (OWN, "D_I"))
    )
    for own in (tall, wide)
  ]
  return [
    (
      all(
        len(own) == 1 and own[GENERAL].max() < 0 < own[OWN].min()
        for own in (tall, wide)
      ),
      "TL n=300, nine people and one seed, changes D_G's model by"
      f" {texts[0]} at a quarter of the width and 32 pixels, and by {texts[1]}"
      " at full width and 16 pixels.",
    )
  ]
