"""What a run's methods give beside the mean accuracy over people."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from personalization_jax.analysis import markdown, measures
from personalization_jax.analysis.columns import SYMBOLS
from personalization_jax.analysis.markdown import Columns
from personalization_jax.analysis.result import Result
from personalization_jax.datasets import Population

FILE, MISSING = "measures", "nan"
NAMES = 1  # columns of text
TITLE = "People, samples and probabilities"
NOTE = """\
acc(D_I), acc(D_G): means over individuals, as in Table I; 10%, median and 90%:\
 a tenth of the individuals is below the first and above the last. Pooled:\
 accuracy over all individuals' test samples together. F1 and balanced: each\
 individual's F1 score and recall, averaged over the classes in that test, then\
 over individuals. Log loss: -ln of the true class's probability in\
 nats, averaged over an individual's test, then over individuals. ECE: expected\
 calibration error in 15 equal bins, over all individuals' test samples\
 together. Of several seeds an individual's means over them count, and the mean\
 over seeds of what is pooled. Results of older versions hold no probabilities.
"""
_SHOWN = (
  ("mean", "mean"),
  ("pooled", "pooled"),
  ("10%", "bottom_decile"),
  ("median", "median"),
  ("90%", "top_decile"),
  ("F1", "macro_f1"),
  ("balanced", "balanced_accuracy"),
  ("log loss", "log_loss"),
  ("ECE", "calibration_error"),
)
# On D_G all (of a fold) have the same test, so pooled accuracy is the mean.
_OF_ALL = ("mean", "macro_f1", "log_loss", "calibration_error")


def compare(finished: Sequence[Result], population: Population) -> pd.DataFrame:
  """Every method's measures; `finished` has all seeds."""
  return measures.measures(finished, population)


def columns(table: pd.DataFrame) -> Columns:
  """What people see of measures.csv."""
  shown = [
    (symbol, header, f"{data}_{name}", ".4f")
    for data, symbol in SYMBOLS.items()
    for header, name in _SHOWN
    if data == "individual" or name in _OF_ALL
  ]
  return markdown.told(table, shown)


def judged(found: pd.DataFrame) -> tuple[pd.DataFrame, None]:
  """measures.csv, which has no figure."""
  return found, None
