import numpy as np
import pytest
from scipy import stats

from personalization_jax import figures

VALUES = {
  "IG n=5: recall": {
    "style": {"a": np.array([0.5, 0.7]), "b": np.array([0.2, np.nan])},
    "forms": {"a": np.array([0.1, 0.1]), "b": np.array([np.nan, np.nan])},
  },
  "SG n=9: nearness": {"style": {"a": np.array([0.6, 0.6])}},
}
RANDOM = {
  "IG n=5: recall": {"style": 0.125, "forms": 0.25},
  "SG n=9: nearness": {"style": 0.5},
}


def test_figure_shows_means_beside_random_choice():
  axes = figures.agreement(VALUES, RANDOM)
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert labels == [
    "IG n=5: recall", "style", "forms", "SG n=9: nearness", "style"
  ]  # fmt: skip
  a, b = axes.containers
  assert (a.get_label(), b.get_label()) == ("a", "b")
  np.testing.assert_allclose(a.lines[0].get_xdata(), [0.6, 0.1, 0.6])
  np.testing.assert_allclose(np.round(a.lines[0].get_ydata()), [1, 2, 4])
  np.testing.assert_allclose(b.lines[0].get_xdata(), [0.2, np.nan])
  (bar, *_) = a.lines[2][0].get_segments()
  error = stats.sem([0.5, 0.7])
  np.testing.assert_allclose(bar[:, 0], [0.6 - error, 0.6 + error])
  (random,) = (c for c in axes.collections if c.get_label() == "random choice")
  np.testing.assert_allclose(
    random.get_offsets(), [[0.125, 1], [0.25, 2], [0.5, 4]]
  )


def test_figures_of_nothing_or_too_much_are_refused():
  with pytest.raises(ValueError, match="nothing to draw"):
    figures.agreement({}, {})
  many = {"IG": {"all": dict.fromkeys("abcd", np.zeros(2))}}
  with pytest.raises(ValueError, match="4 latent spaces, but at most 3"):
    figures.agreement(many, {"IG": {"all": 0.0}})
