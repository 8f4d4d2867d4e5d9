"""What RESULTS and README say of the recipe, of recipe.csv."""

from typing import Any

import numpy as np
import pandas as pd
from helpers.converged import Sentences, short
from helpers.recipe import (
  AFTER_FEW,
  FEW,
  GENERAL,
  MANY,
  NAMES,
  ORDERED,
  ORDERINGS,
  OWN,
  RATES,
  SIZES,
  STATISTICS,
  SYMBOLS,
  between,
  faster,
  kinds,
  listed,
  of,
  shifts,
)

TITLE = "The recipe"
COMMITS = ("d6345ac", "8ee5817", "87345f2", "6e88580", "eeb5016", "dccd162")
COMMITS += ("d58394a", "54c56c6", "cf28e1e", "83aa5b5", "70082cb", "e6055d8")
COMMITS += ("1e1608d", "e315305", "ed0b9ab", "7638e98", "64a97cd", "4a29302")
COMMITS += ("00d4613",)


def sentences(runs: pd.DataFrame) -> Sentences:
  """What RESULTS says around the tables."""
  return [
    *of_cells(runs),
    *of_rates(runs),
    *of_statistics(runs),
    *of_orders(runs),
    *of_weights(runs),
    *of_sizes(runs),
    *of_faster(runs),
    *of_methods(runs),
  ]


def _change(own: pd.Series) -> str:
  """A difference's mean over seeds, and whether all agree on its direction."""
  if len(own) == 1:
    return f"{short(own.iloc[0], '+.4f')} (one seed)"
  agree = own.min() > 0 or own.max() < 0
  seeds = f"each of {len(own)}" if agree else listed(own)
  return f"{short(own.mean(), '+.4f')} ({seeds})"


def _against(
  runs: pd.DataFrame, size: tuple[float, int], mine: str, other: str
) -> pd.Series:
  """One's initial weights less another's on D_G at the default rate."""
  return (of(runs, mine, size) - of(runs, other, size))[GENERAL].dropna()


def of_cells(runs: pd.DataFrame) -> Sentences:
  """What a cell is, and how far seeds lie apart."""
  ended = runs[(runs["steps"] >= MANY) & (runs["method"] == "global")]
  ended = ended[ended["people"] == 9]
  right = ended[GENERAL] * 3309
  error = np.sqrt(ended[GENERAL].mean() * (1 - ended[GENERAL].mean()) / 3309)
  kind = ["initializer", "learning_rate", "width", "image_size", "momentum"]
  grouped = ended.groupby([*kind, "precise"])[[GENERAL, OWN]]
  three = grouped.std()[grouped.size() == 3]
  return [
    (
      np.allclose(right, right.round(), atol=0.01)
      and round(error, 4) == 0.0035,
      "Cells are accuracies on the validation data of D_G (3,309 samples, a"
      " standard error of .0035) and, behind the slash, of nine people, mean"
      " over people.",
    ),
    (
      True,
      f"Over three seeds a cell's sd is {between(three[GENERAL], '.3f')} on D_G"
      f" and {between(three[OWN], '.3f')} on D_I.",
    ),
    (
      {*runs["commit"]} <= {*COMMITS},
      "One Intel Xeon core each, jax 0.10.2, 2026-11-27 and 28, commits"
      f" {COMMITS[0]} to {COMMITS[-1]}, which train the same.",
    ),
  ]


def of_rates(runs: pd.DataFrame) -> Sentences:
  """The learning rate, and what goes with which weights."""
  by = {
    (name, rate): of(runs, name, SIZES[0], rate=rate)[GENERAL]
    for name in NAMES
    for rate in RATES
  }
  flax, keras, torch = NAMES
  slow, fast = (
    {name: by[name, rate] - by[name, 0.001] for name in NAMES}
    for rate in (RATES[0], RATES[-1])
  )
  anew = {
    name: (
      of(runs, name, SIZES[0], rate=RATES[-1], precise=True)
      - of(runs, name, SIZES[0], precise=True)
    )[GENERAL]
    for name in NAMES
  }
  lost = [-own.mean() for own in slow.values()]
  means = pd.Series(
    {key: own.mean() for key, own in by.items() if key[1] > RATES[0]}
  )
  best = means.idxmax()
  ahead = by[best] - by[torch, 0.001]
  return [
    (
      all(len(own) == 3 and own.max() < 0 for own in slow.values())
      and lost[2] == min(lost),
      "At .0003 all are below .001 on D_G in each of three seeds, in the mean"
      f" by {short(lost[0])} (Flax's), {short(lost[1])} (Keras') and"
      f" {short(lost[2])} (PyTorch's).",
    ),
    (
      all(fast[name].min() > 0 for name in (flax, keras))
      and fast[torch].max() <= 0
      and all(len(own) == 3 for own in fast.values()),
      "At .01 Flax's are above .001 in each (in the mean by"
      f" {short(fast[flax].mean(), '.4f')}) and so are Keras'"
      f" ({short(fast[keras].mean(), '.4f')}), but PyTorch's in none"
      f" ({short(fast[torch].mean(), '.4f')}).",
    ),
    (
      anew[flax].min() > 0 == anew[torch].min()
      and anew[keras].min() < 0 < anew[keras].max(),
      "Part of that is the running statistics': with precise ones Flax's are"
      f" above .001 in each ({short(anew[flax].mean(), '.4f')}), PyTorch's are"
      f" not below it ({between(anew[torch], '+.4f')}) and Keras' have no one"
      f" direction ({between(anew[keras], '+.4f')}).",
    ),
    (
      best == (flax, RATES[-1]) and ahead.min() < 0 < ahead.max(),
      f"From .001 on the means lie between {between(means, '.4f')[:5]} and"
      f" {short(means.max(), '.4f')}; the highest, Flax's at .01, is above"
      f" PyTorch's at .001 in two of three seeds ({listed(ahead)}).",
    ),
  ]


def of_statistics(runs: pd.DataFrame) -> Sentences:
  """Batch statistics computed anew, and their momentum."""
  found = {
    (name, size, rate): (
      of(runs, name, size, rate=rate, precise=True)
      - of(runs, name, size, rate=rate)
    ).dropna()
    for name in NAMES
    for size in SIZES
    for rate in RATES
  }
  small, others = (
    pd.concat(
      [own for key, own in found.items() if (key[1] == SIZES[0]) == is_]
    )
    for is_ in (True, False)
  )
  texts = [
    f"{between(own[GENERAL])} in single models, upwards in"
    f" {(own[GENERAL] > 0).sum()} of {len(own)}"
    for own in (small, others)
  ]
  both = pd.concat([small, others])[OWN]
  late = of(runs, "pytorch", SIZES[0], momentum=0.99)
  moved = (late - of(runs, "pytorch", SIZES[0]))[GENERAL]
  return [
    (
      both.min() < 0 < both.max(),
      "Precise batch statistics (`--precise_batch_stats`) change D_G by"
      f" {texts[0]} at a quarter of the width and 16 pixels, and by"
      f" {texts[1]} at the other sizes; D_I by {between(both)}.",
    ),
    (
      len(moved) == 3 and moved.max() < 0,
      "The momentum of batch normalisation acts on running statistics alone,"
      " not on training: .99 instead of .9 is below in each of three seeds"
      f" ({listed(moved)} on D_G, PyTorch's, .001).",
    ),
  ]


def of_orders(runs: pd.DataFrame) -> Sentences:
  """Methods against the baseline, by weights and statistics."""
  methods = ("global", *ORDERED)
  every = {
    (method, kind): of(runs, kind[0], SIZES[0], method, precise=kind[1])
    for method in methods
    for kind in ORDERINGS
  }
  general, own = (
    pd.concat(
      [
        pd.DataFrame({method: every[method, kind][data] for method in methods})
        for kind in ORDERINGS
      ]
    )
    for data in (GENERAL, OWN)
  )
  shaped = {
    kind: every["es:400", kind] - every["baseline", kind] for kind in ORDERINGS
  }

  def above(data: str, which: int, is_: Any) -> pd.Series:
    some = [x[data] for kind, x in shaped.items() if kind[which] == is_]
    return pd.concat(some) > 0

  flax, _, torch = NAMES
  by_weights = [above(GENERAL, 0, name) for name in (flax, torch)]
  running, precise = (above(OWN, 1, is_) for is_ in STATISTICS)
  return [
    (
      len(general.dropna()) == len(own.dropna()) == 12
      and (general.idxmin(axis=1) == "tl:300").all()
      and (own.idxmax(axis=1) == "tl:300").all(),
      "Neither weights nor statistics move TL n=300: in each of three seeds,"
      " under both, it is last of the four on D_G and first on D_I.",
    ),
    (
      by_weights[0].all() and not by_weights[1].all() and by_weights[1].any(),
      "ES n=400 against the baseline is less settled: on D_G it is above it in"
      f" {by_weights[0].sum()} of {len(by_weights[0])} with Flax's weights and"
      f" in {by_weights[1].sum()} with PyTorch's, on D_I in {running.sum()} of"
      f" {len(running)} with running statistics and in {precise.sum()} with"
      " precise ones.",
    ),
    (
      True,
      "These are nine people's; the claims above are of forty.",
    ),
  ]


def _above_flax(runs: pd.DataFrame) -> str:
  """By how much PyTorch's means are above Flax's, to the end on D_G."""
  means = [
    _against(runs, size, "pytorch", "lecun_normal").mean() for size in SIZES[:3]
  ]
  return f"{short(min(means))} to {short(max(means))}"


def of_readme(runs: pd.DataFrame) -> str:
  """What README says of the weights."""
  paper = _against(runs, SIZES[3], "pytorch", "lecun_normal")
  assert len(paper) == 3
  return (
    "After 20 epochs at 1e-3 PyTorch's means of three seeds are"
    f" {_above_flax(runs)} above Flax's on D_G with fewer channels or smaller"
    f" images than the paper's, and {short(paper.mean(), '+.4f')} with its own"
  )


def _after_few(
  runs: pd.DataFrame, size: tuple[float, int], rate: float
) -> pd.DataFrame:
  """PyTorch's weights against the others on D_G, by seed."""
  own = {
    name: of(runs, name, size, rate=rate, steps=FEW)[GENERAL] for name in NAMES
  }
  mine = own.pop("pytorch")
  return pd.DataFrame({name: mine - its for name, its in own.items()})


def of_weights(runs: pd.DataFrame) -> Sentences:
  *quarter, full = (_after_few(runs, *cell) for cell in AFTER_FEW)
  early = pd.concat(quarter)
  means = [own.mean() for own in quarter]
  low, high = full.min(axis=None), full.max(axis=None)
  flax, keras, torch = NAMES
  small, tall, ahead = (_against(runs, size, torch, flax) for size in SIZES[:3])
  others = [
    " and ".join(
      _change(_against(runs, size, keras, its)) for its in (flax, torch)
    )
    for size in SIZES[1:3]
  ]
  paper = [
    _change(_against(runs, SIZES[3], its, torch)) for its in (flax, keras)
  ]
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
      all(own.mean() > 0 and len(own) == 3 for own in (small, tall, ahead)),
      f"Their means to the end at .001 are {_above_flax(runs)} above Flax's on"
      " D_G at these three sizes.",
    ),
    (
      True,
      "Keras' have against Flax's and against PyTorch's, in the mean over"
      f" seeds, {others[0]} at a quarter of the width and 32 pixels, and"
      f" {others[1]} at full width and 16.",
    ),
    (
      True,
      "With full width and 32 pixels Flax's have"
      f" {paper[0]} and Keras' {paper[1]} against PyTorch's.",
    ),
  ]


def of_sizes(runs: pd.DataFrame) -> Sentences:
  """Width and pixels, by PyTorch's weights and then by the others."""
  small, tall, wide, both = (of(runs, "pytorch", size) for size in SIZES)
  wider, taller, larger = (
    own[GENERAL] - small[GENERAL] for own in (wide, tall, both)
  )
  last, own = (both[name] - wide[name] for name in (GENERAL, OWN))
  others = {
    name: " and ".join(
      _change(
        (
          of(runs, name, SIZES[3], precise=precise)
          - of(runs, name, SIZES[2], precise=precise)
        )[GENERAL].dropna()
      )
      for precise in STATISTICS
    )
    for name in list(NAMES)[:2]
  }
  gained = pd.concat(
    [
      (of(runs, name, one) - of(runs, name, two))[GENERAL].dropna()
      for name in NAMES
      for one, two in ((SIZES[2], SIZES[0]), (SIZES[3], SIZES[1]))
    ]
  )
  cells = {
    (name, size, precise): of(runs, name, size, precise=precise)[GENERAL]
    for name, precise in kinds()
    for size in SIZES
  }
  means = {key: cell.mean() for key, cell in cells.items()}
  name, (width, pixels), precise = max(means, key=means.__getitem__)
  return [
    (
      len(wider) == 3 and wider.min() > 0,
      f"PyTorch's at 16 pixels: full width has {short(wider.mean(), '+.4f')}"
      " on D_G against a quarter of it, in each of three seeds.",
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
      own.min() < 0 < own.max(),
      "On D_I the first of these has no one direction"
      f" ({', '.join(short(each, '+.3f') for each in own)}).",
    ),
    (
      True,
      "The others at full width, with running and with precise statistics: 32"
      f" pixels instead of 16 have {others['lecun_normal']} (Flax's), and"
      f" {others['glorot_uniform']} (Keras').",
    ),
    (
      gained.min() > 0,
      "Full width is above a quarter of it on D_G with all weights, at both"
      f" sizes of image, in all of {len(gained)} pairs.",
    ),
    (
      all(len(cell) == 3 for cell in cells.values()),
      f"Of these means {NAMES[name]} at width {width:g} and {pixels} pixels"
      f" with {STATISTICS[precise]} statistics has the highest"
      f" ({short(max(means.values()), '.4f')}).",
    ),
  ]


def of_faster(runs: pd.DataFrame) -> Sentences:
  """Higher rates, and the momentum, at other sizes."""
  changes = {
    (rate, kind, size): faster(runs, rate, kind[0], size, kind[1]).mean()
    for rate in RATES[2:]
    for kind in kinds()
    for size in SIZES
    if len(faster(runs, rate, kind[0], size, kind[1])) == 3
  }
  found = []
  for best in (max, min):
    (rate, (name, precise), (width, pixels)) = key = best(
      changes, key=changes.get
    )
    found.append(
      f"{short(changes[key], '+.4f')} ({NAMES[name]} with {STATISTICS[precise]}"
      f" statistics at {short(rate, 'g')}, width {width:g} and {pixels} pixels)"
    )
  return [
    (
      max(changes.values()) < -min(changes.values()),
      f"Of those with three seeds the most that one gives is {found[0]}, and"
      f" the most that one takes {found[1]}.",
    ),
    *of_momentum(runs),
  ]


def of_momentum(runs: pd.DataFrame) -> Sentences:
  """The momentum at other sizes, with the rate that was trained there."""
  found = []
  for size, rate in zip(SIZES[1:], (0.001, 0.001, RATES[-1])):
    late = of(runs, "pytorch", size, rate=rate, momentum=0.99)
    moved = (late - of(runs, "pytorch", size, rate=rate))[GENERAL].dropna()
    which = "" if rate == 0.001 else f" (rate {short(rate, 'g')})"
    found.append(
      f"{short(moved.mean(), '+.4f')} ({listed(moved)}) at width {size[0]:g}"
      f" and {size[1]} pixels{which}"
    )
  return [
    (
      True,
      f"The momentum of .99 instead of .9 changes D_G by {', '.join(found)}.",
    )
  ]


def of_methods(runs: pd.DataFrame) -> Sentences:
  """Methods at other sizes, against the model of D_G."""

  def both(own: pd.DataFrame) -> str:
    return " and ".join(
      f"{_change(own[name])} on {symbol}"
      for name, symbol in zip((GENERAL, OWN), SYMBOLS)
    )

  found = []
  for width, pixels in SIZES[1:]:
    own, anew = (
      shifts(runs, "tl:300", "global", size=(width, pixels), precise=precise)
      for precise in STATISTICS
    )
    seeds = " and ".join(map(str, anew.index))
    some = "" if len(anew) == len(own) else f" (seeds {seeds})"
    precisely = f"; with precise statistics{some} by {both(anew)}"
    found.append(
      (
        pd.concat([own, anew])[GENERAL].max() < 0,
        f"TL n=300 changes D_G's model by {both(own)} at width {width:g} and"
        f" {pixels} pixels{precisely if len(anew) else ''}.",
      )
    )
  shaped, weighed = (
    shifts(runs, method, "global", size=SIZES[1], people=3)
    for method in ("es:400", "sw:2")
  )
  return [
    *found,
    (
      len(shaped) == len(weighed) == 1,
      "Three people's at a quarter of the width and 32 pixels, against that"
      f" model: ES n=400 {both(shaped)}, SW n=2 {both(weighed)}.",
    ),
  ]
