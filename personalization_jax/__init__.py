"""One model for each person: Personalization of Deep Learning in JAX.

These are the names that most users need; GUIDE has examples.
"""

from personalization_jax.analysis.measures import measures, to_dataframe
from personalization_jax.analysis.result import Result
from personalization_jax.datasets.population import Population
from personalization_jax.datasets.scaling import standardise
from personalization_jax.datasets.splits import Split
from personalization_jax.datasets.splits import split_people as split
from personalization_jax.datasets.synthetic import make_population
from personalization_jax.datasets.variations import flips, resize
from personalization_jax.runs.comparison import Comparison, compare
from personalization_jax.settings import Settings
from personalization_jax.study import Study, personalize

__version__ = "0.1.0"
__all__ = [
  "Comparison",
  "Population",
  "Result",
  "Settings",
  "Split",
  "Study",
  "compare",
  "flips",
  "make_population",
  "measures",
  "personalize",
  "resize",
  "split",
  "standardise",
  "to_dataframe",
]
