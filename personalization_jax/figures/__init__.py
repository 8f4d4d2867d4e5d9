"""Figures of a study (matplotlib, no pyplot, no global state).

Every function takes plain arrays and draws on `axes`, or on a new figure of a
fitting size, and returns the axes, with the first row on top (a page returns
its figure). It raises a ValueError that names what is wrong with the arrays, or
if there is nothing to draw. Methods are written as on the command line
(`es:40`, `es:40+tl:10`, `tl:300:last=2`). No module has a function's name.
"""

from personalization_jax.figures.accuracies import distribution as distribution
from personalization_jax.figures.accuracies import gains as gains
from personalization_jax.figures.accuracies import shots as shots
from personalization_jax.figures.accuracies import trade_off as trade_off
from personalization_jax.figures.comparisons import MOST_RUNS as MOST_RUNS
from personalization_jax.figures.comparisons import agreement as agreement
from personalization_jax.figures.comparisons import beside_paper as beside_paper
from personalization_jax.figures.comparisons import choice as choice
from personalization_jax.figures.comparisons import runs as runs
from personalization_jax.figures.pages import chosen_samples as chosen_samples
from personalization_jax.figures.pages import handwriting as handwriting
from personalization_jax.figures.pages import latent_map as latent_map
from personalization_jax.figures.pages import neighbours as neighbours
from personalization_jax.figures.pages import reconstructions as reconstructions
from personalization_jax.figures.styles import FORMATS as FORMATS
from personalization_jax.figures.styles import method_name as method_name
from personalization_jax.figures.styles import method_style as method_style
from personalization_jax.figures.styles import png as png
from personalization_jax.figures.styles import save as save
from personalization_jax.figures.timelines import schedules as schedules
from personalization_jax.figures.timelines import (
  training_curves as training_curves,
)
from personalization_jax.figures.timelines import (
  validation_curves as validation_curves,
)
