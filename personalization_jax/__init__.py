"""One model for each person: Personalization of Deep Learning in JAX.

The names below are the library's face; see `api` for an example. They are
imported when first asked for, so that a script that draws a figure needs no
JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from personalization_jax.api import Comparison as Comparison
  from personalization_jax.api import compare as compare
  from personalization_jax.api import personalize as personalize
  from personalization_jax.api import split as split
  from personalization_jax.datasets.population import Population as Population
  from personalization_jax.datasets.synthetic import (
    make_population as make_population,
  )
  from personalization_jax.datasets.variations import flips as flips
  from personalization_jax.datasets.variations import resize as resize
  from personalization_jax.personalization import Study as Study
  from personalization_jax.result import Result as Result
  from personalization_jax.settings import Settings as Settings
  from personalization_jax.splits import Split as Split

__version__ = "0.1.0"

_HOMES = {
  "Comparison": "api",
  "Population": "datasets.population",
  "Result": "result",
  "Settings": "settings",
  "Split": "splits",
  "Study": "personalization",
  "compare": "api",
  "flips": "datasets.variations",
  "make_population": "datasets.synthetic",
  "personalize": "api",
  "resize": "datasets.variations",
  "split": "api",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_HOMES])
