"""Numbers and values as the report prints them."""

from __future__ import annotations

import json
import math
from typing import Any

from experiments.outputs.report.markup import element

NOTHING = "–"
# What is said where a test is missing.
ONE_MODEL = (
  "global is one model that all individuals share: its acc(D_G) is no sample of"
  " several models, so there is no test of it."
)


def number(text: str | float | None, form: str = ".4f") -> str:
  """A number for people; a dash where there is none."""
  if text is None or text == "" or math.isnan(float(text)):
    return NOTHING
  shown = f"{float(text):{form}}"
  if float(shown.rstrip("%")) == 0:
    shown = shown.replace("-", "+" if "+" in form else "")
  return shown.replace("-", "−")


def p_value(text: str | float | None) -> str:
  """A p-value; a dash where there is none."""
  shown = number(text)
  return "<0.0001" if shown != NOTHING and float(text or 0) < 1e-4 else shown


def corrected(text: str | float | None) -> str:
  """A corrected p-value; below 0.05 it is marked, by weight and by a star."""
  shown = p_value(text)
  if shown == NOTHING or float(text or 0) >= 0.05:
    return shown
  return element("strong", f"{shown}*")


def value(setting: Any) -> str:
  """A flag's value, or what else is in config.json."""
  if setting is None:
    return NOTHING
  return setting if isinstance(setting, str) else json.dumps(setting)
