"""What figures over steps show: spans, shares, running means."""

import itertools

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.axes import Axes

from personalization_jax import figures


def bar_spans(axes: Axes, row: int) -> list[tuple[float, float, float]]:
  """(start, stop, share of D_I by its colour) of a row of schedules()."""
  bars = axes.collections[row]
  low, high = colors.to_rgb("#DDDDDD")[0], colors.to_rgb("#0072B2")[0]
  return [
    (*path.get_extents().intervalx, (face[0] - low) / (high - low))
    for path, face in zip(bars.get_paths(), bars.get_facecolors())
  ]


def test_schedules_draw_visible_runs_as_they_are():
  individual, public = np.ones(40, int), np.zeros(3000, int)
  sources = {
    "baseline": public,
    "es:40": np.r_[individual, public],
    "tl:40": np.r_[public, individual],
    "short": np.array([0, 1, 1]),
  }
  axes = figures.schedules(sources)
  expected = [
    [(0, 3000, 0)],
    [(0, 40, 1), (40, 3040, 0)],
    [(0, 3000, 0), (3000, 3040, 1)],
  ]
  for row, spans in enumerate(expected):
    np.testing.assert_allclose(bar_spans(axes, row), spans, atol=1e-6)
  assert axes.get_xlim() == (0, 3040)
  alone = figures.schedules({"sw:2": np.tile([0, 1], 12).astype(np.uint8)})
  np.testing.assert_allclose(
    bar_spans(alone, 0), [(i, i + 1, i % 2) for i in range(24)], atol=1e-6
  )
  assert len(alone.get_legend().get_texts()) == 2  # nothing is mixed


@pytest.mark.parametrize("period", [2, 3, 12, 20, 50])
def test_a_long_alternation_is_drawn_as_its_share(period):
  source = (np.arange(1, 20_001) % period == 0).astype(int)
  spans = bar_spans(figures.schedules({f"sw:{period}": source}), 0)
  assert len(spans) <= 2
  for *_, share in spans:
    assert share == pytest.approx(1 / period, abs=0.01)


def test_combined_schedule_keeps_its_phases():
  middle = (np.arange(1, 3001) % 12 == 0).astype(int)
  source = np.r_[np.ones(40, int), middle, np.ones(10, int)]
  spans = bar_spans(figures.schedules({"es:40+sw:12+tl:10": source}), 0)
  assert spans[0] == pytest.approx((0, 40, 1), abs=1e-6)
  assert spans[-1][1] == 3050 and spans[-1][2] == pytest.approx(1)
  assert all(
    share == pytest.approx(1 / 12, abs=0.01) for *_, share in spans[1:-1]
  )


def test_schedule_spans_tile_the_steps_and_keep_every_share():
  rng = np.random.default_rng(0)
  for _ in range(20):
    runs = rng.geometric(1 / rng.choice([1, 3, 30, 300], 200))
    source = np.repeat(np.arange(200) % 2, runs)
    spans = bar_spans(figures.schedules({"any": source}), 0)
    assert spans[0][0] == 0 and spans[-1][1] == len(source)
    for (_, stop, _), (start, _, _) in itertools.pairwise(spans):
      assert stop == start
    for start, stop, share in spans:
      # One of 256 colours is within 1/500 of the share.
      mean = source[round(start) : round(stop)].mean()
      assert share == pytest.approx(mean, abs=0.005)


def test_one_odd_batch_is_not_lost():
  source = np.zeros(10_000, int)
  source[5_000] = 1
  spans = bar_spans(figures.schedules({"odd": source}), 0)
  assert len(spans) == 3 and 20 < spans[1][1] - spans[1][0] < 50
  assert spans[1][0] <= 5_000 < spans[1][1] and spans[1][2] > 0


def test_taking_turns_is_no_zigzag():
  turns = np.tile(np.float32([2.0, 1.0]), (3, 400))
  line = figures.training_curves({"sw:2": turns}).lines[0]
  np.testing.assert_allclose(line.get_ydata()[10:-10], 1.5)


def test_training_curves_show_the_mean_and_quartiles_of_running_means():
  losses = np.random.default_rng(0).gamma(2.0, size=(7, 50))
  axes = figures.training_curves({"es:40": losses}, window=5)
  smooth = np.stack(
    [losses[:, max(0, t - 2) : t + 3].mean(axis=1) for t in range(50)], axis=1
  )
  line = axes.lines[0]
  np.testing.assert_allclose(line.get_ydata(), smooth.mean(axis=0))
  band = axes.collections[0].get_paths()[0].vertices
  for t, (low, high) in enumerate(np.quantile(smooth, (0.25, 0.75), axis=0).T):
    here = band[band[:, 0] == t][:, 1]
    np.testing.assert_allclose([here.min(), here.max()], [low, high])
  assert axes.get_yscale() == "log"
  assert "5 steps" in axes.get_title(loc="left")
  raw = figures.training_curves({"es:40": losses}, window=1)
  np.testing.assert_allclose(raw.lines[0].get_ydata(), losses.mean(axis=0))
  assert "unsmoothed" in raw.get_title(loc="left")


def test_training_curves_go_on_with_those_who_still_train():
  losses = np.array([[1.0, 2, 3, np.nan, np.nan], [3, 4, 5, 6, 7]])
  axes = figures.training_curves(
    {"local": losses}, window=3, lengths={"local": np.array([3, 5])}
  )
  # Nobody's running mean reaches behind the own end.
  np.testing.assert_allclose(axes.lines[0].get_ydata(), [2.5, 3, 3.75, 6, 6.5])
  assert axes.get_legend().get_texts()[0].get_text().find("not finite") < 0


def test_training_curves_count_who_diverged():
  losses = np.ones((4, 10))
  losses[2, 5:] = np.nan
  axes = figures.training_curves(
    {"sw:2": losses, "tl:10": np.full((3, 10), np.inf)}
  )
  np.testing.assert_array_equal(axes.lines[0].get_ydata(), 1)
  assert not len(axes.lines[1].get_ydata())
  assert [text.get_text() for text in axes.get_legend().get_texts()] == [
    "SW n=2 (1 of 4 not finite)",
    "TL n=10 (3 of 3 not finite)",
  ]


def test_steps_without_training_are_no_divergence_where_that_is_known():
  losses = np.ones((3, 10))
  losses[:2, 5:7] = np.nan
  gone = np.array([False, True, False])
  axes = figures.training_curves(
    {"ifca:2+tl:3": losses}, window=1, diverged={"ifca:2+tl:3": gone}
  )
  (text,) = axes.get_legend().get_texts()
  assert text.get_text() == "ifca:2 + TL n=3 (1 of 3 not finite)"
  np.testing.assert_array_equal(axes.lines[0].get_ydata(), 1)


def test_validation_curves_show_means_and_quartiles_above_the_schedule():
  rng = np.random.default_rng(0)
  steps = np.array([0, 4, 8])
  own, general = rng.random((2, 5, 3))
  own[1] = np.nan  # an individual without validation data
  figure = figures.validation_curves(
    {"sw:2": (steps, own, general)}, {"sw:2": np.tile([0, 1], 4), "other": []}
  )
  for axes, data in zip(figure.axes, ("$D_I$", "$D_G$")):
    assert axes.get_ylabel().endswith(f"data of {data}")
  for axes, values in zip(figure.axes, (np.delete(own, 1, 0), general)):
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), steps)
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
    band = axes.collections[0].get_paths()[0].vertices
    low, high = np.quantile(values, (0.25, 0.75), axis=0)
    np.testing.assert_allclose(band[:, 1].min(), low.min())
    np.testing.assert_allclose(band[:, 1].max(), high.max())
  names = [label.get_text() for label in figure.axes[2].get_yticklabels()]
  assert names == ["SW n=2"]


@pytest.mark.parametrize(
  ("curves", "message"),
  [
    ({}, "no method"),
    ({"es:4": (np.ones(3), np.ones((2, 3)), np.ones((2, 3)))}, "sources lacks"),
    ({"sw:2": (np.ones(3), np.ones((2, 3)), np.ones((2, 4)))}, r"\[2, 4\]"),
    ({"sw:2": (np.ones(3), np.ones(3), np.ones(3))}, r"must be \[S, E\]"),
  ],
)
def test_curves_that_do_not_fit_are_named(curves, message):
  with pytest.raises(ValueError, match=message):
    figures.validation_curves(curves, {"sw:2": np.zeros(3, int)})
