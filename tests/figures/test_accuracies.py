"""What figures of accuracies show: points, bars, labels with room."""

import itertools

import numpy as np
import pytest
from helpers.accuracies import TABLE_1, make_accuracies, overlap
from matplotlib.axes import Axes
from matplotlib.text import Text

from personalization_jax import figures


def text_boxes(axes: Axes) -> dict[str, np.ndarray]:
  """The pixels [x0, y0, x1, y1] of every text that names a method."""
  return {
    text.get_text(): np.array(Text.get_window_extent(text).extents)
    for text in axes.texts
  }


@pytest.mark.parametrize("size", [5, 100])
def test_trade_off_shows_means_and_standard_errors(size):
  accuracies = make_accuracies(size=size)
  axes = figures.trade_off(accuracies)
  assert len(axes.containers) == len(TABLE_1)
  for method, container in zip(TABLE_1, axes.containers):
    individual, public = accuracies[method]
    points, _, (across, up) = container.lines
    np.testing.assert_allclose(
      points.get_xydata(), [[public.mean(), individual.mean()]]
    )
    (left, right), (low, high) = (
      across.get_segments()[0][:, 0],
      up.get_segments()[0][:, 1],
    )
    np.testing.assert_allclose(
      [right - left, high - low],
      [2 * v.std(ddof=1) / np.sqrt(size) for v in (public, individual)],
    )
    assert container.get_label() == figures.method_name(method)
  assert "standard error" in axes.get_title(loc="left")


def test_standard_errors_never_pass_one():
  rng = np.random.default_rng(1)
  for size in (2, 3, 10, 100):
    values = {str(i): (rng.beta(9, 0.3, size),) * 2 for i in range(5)}
    values["one is wrong"] = (np.r_[0.0, np.ones(size - 1)],) * 2
    for value in values.values():
      (container,) = figures.trade_off({"es:40": value}).containers
      for bars in container.lines[2]:
        assert np.max(bars.get_segments()) <= 1 + 1e-12


@pytest.mark.parametrize(("size", "seed"), [(5, 0), (100, 1), (100, 2)])
def test_trade_off_labels_cover_neither_each_other_nor_points(size, seed):
  axes = figures.trade_off(make_accuracies(size=size, seed=seed))
  axes.figure.draw_without_rendering()
  boxes = text_boxes(axes)
  assert list(boxes) == [figures.method_name(method) for method in TABLE_1]
  for a, b in itertools.combinations(boxes.values(), 2):
    assert not overlap(a, b)
  frame = np.array(axes.bbox.extents)
  points = [container.lines[0].get_xydata()[0] for container in axes.containers]
  for box in boxes.values():
    assert (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()
    for centre in axes.transData.transform(points):
      assert not overlap(box, np.r_[centre, centre])


def test_trade_off_labels_do_not_cover_the_line_where_accuracies_end():
  two = np.array([-1, 1])
  accuracies = {
    "tl:300": (0.992 + 0.003 * two, 0.837 + 0.008 * two),
    "es:400": (0.865 + 0.02 * two, 0.9 + 0.002 * two),
  }
  axes = figures.trade_off(accuracies)
  axes.figure.draw_without_rendering()
  end = axes.transData.transform((1, 1))[1]
  assert np.array(axes.bbox.extents)[3] > end
  for box in text_boxes(axes).values():
    assert box[3] <= end


def test_trade_off_leaves_the_scale_to_all_but_far_ones():
  """One model of D_I alone on D_G would press all others into a corner."""
  low, high = np.full(5, 0.4), np.full(5, 0.9)
  spread = np.linspace(-0.01, 0.01, 5)
  near = {f"tl:{n}": (high + spread, high + n / 100 + spread) for n in range(5)}
  axes = figures.trade_off(near | {"local": (high, low)})
  x, y = axes.containers[-1].lines[0].get_xydata()[0]
  left = axes.get_xlim()[0]
  assert 0.8 < left < x < min(axes.get_xticks()) and y == 0.9
  assert axes.texts[-1].get_text() == "Local ← 0.400"
  assert "grey: not to scale" in axes.get_title("left").replace("\n", " ")
  axes = figures.trade_off(near | {"local": (high, high - 0.05)})
  assert axes.containers[-1].lines[0].get_xydata()[0][0] == pytest.approx(0.85)
  assert axes.texts[-1].get_text() == "Local" and axes.get_xlim()[0] < 0.85


def test_trade_off_without_room_has_a_legend():
  same = {method: (np.ones(5), np.ones(5)) for method in TABLE_1}
  axes = figures.trade_off(same)
  assert not axes.texts
  names = [text.get_text() for text in axes.get_legend().get_texts()]
  assert names == [figures.method_name(method) for method in TABLE_1]
  assert max(axes.get_xticks()) <= 1 and max(axes.get_yticks()) <= 1


def test_one_individual_has_a_point_and_no_bars():
  axes = figures.trade_off({"es:40": (np.array([0.9]), np.array([0.8]))})
  points, _, (across, up) = axes.containers[0].lines
  np.testing.assert_array_equal(points.get_xydata(), [[0.8, 0.9]])
  drawn = [s for bars in (across, up) for s in bars.get_segments()]
  assert not any(len(segment) for segment in drawn)


@pytest.mark.parametrize("size", [5, 100])
@pytest.mark.parametrize(("of", "row"), [("individual", 0), ("global", 1)])
def test_distribution_shows_everyone_and_the_mean(size, of, row):
  accuracies = make_accuracies(size=size)
  axes = figures.distribution(accuracies, of=of)
  names = [figures.method_name(method) for method in TABLE_1]
  assert [label.get_text() for label in axes.get_yticklabels()] == names
  means = [line for line in axes.lines if line.get_marker() == "D"]
  assert len(axes.patches) == len(means) == len(TABLE_1)
  scatters = [c for c in axes.collections if c.get_label() in names]
  for i, method in enumerate(TABLE_1):
    values = accuracies[method][row]
    x, y = scatters[i].get_offsets().T
    np.testing.assert_allclose(np.sort(x), np.sort(values))
    assert (np.abs(y - i) < 0.5).all() and len(np.unique(y)) == size
    np.testing.assert_allclose(means[i].get_xdata(), [values.mean()])
    box = axes.patches[i].get_path().get_extents().intervalx
    np.testing.assert_allclose(box, np.quantile(values, [0.25, 0.75]))
  again = figures.distribution(accuracies, of=of).collections[0].get_offsets()
  np.testing.assert_array_equal(again, axes.collections[0].get_offsets())


def test_distribution_leaves_the_scale_to_all_but_far_ones():
  high, spread = np.full(5, 0.9), np.linspace(-0.02, 0.02, 5)
  near = {f"tl:{n}": (high, high + spread) for n in range(4)}
  axes = figures.distribution(
    near | {"local": (high, np.linspace(0.2, 0.4, 5))}, of="global"
  )
  assert axes.texts[-1].get_text() == "← mean 0.300, 0.200 to 0.400"
  assert axes.texts[-1].get_position()[1] == 4
  assert axes.get_xlim()[0] > 0.85 and len(axes.collections) == 4
  assert "arrow: off the scale" in axes.get_title("left").replace("\n", " ")
  low = {"local": (high, np.linspace(0.7, 0.84, 5))}
  axes = figures.distribution(near | low, of="global")
  assert axes.get_xlim()[0] < 0.7 and len(axes.collections) == 5


def test_gains_are_paired_sorted_and_counted():
  accuracies = {
    "baseline": (np.array([0.5, 0.6, 0.7, 0.8]), np.zeros(4)),
    "es:40": (np.array([0.9, 0.5, 0.7, 0.9]), np.ones(4)),
    "tl:10": (np.array([0.4, 0.5, 0.6, 0.7]), np.ones(4)),
  }
  axes = figures.gains(accuracies, "baseline")
  points = {c.get_label(): c for c in axes.collections}
  x, y = points["ES n=40"].get_offsets().T
  np.testing.assert_allclose(x, [-10, 0, 10, 40], atol=1e-9)
  assert (np.diff(y) < 0).all()  # the axis runs down: who gains is on top
  hollow = (points["ES n=40"].get_facecolors()[:, :3] == 1).all(axis=1)
  np.testing.assert_array_equal(hollow, [True, False, False, False])
  right = axes.child_axes[0].get_yticklabels()
  assert [label.get_text() for label in right] == [
    "25% hurt, 50% gain, mean +10.0",
    "100% hurt, 0% gain, mean −10.0",
  ]
  of_all = figures.gains(accuracies, "baseline", of="global").collections[0]
  np.testing.assert_allclose(of_all.get_offsets()[:, 0], 100)


def test_means_over_seeds_that_tie_are_neither_gains_nor_harm():
  """Whatever the order in which seeds were added up."""
  seeds = np.array([[0.1, 0.7, 0.4], [0.7, 0.4, 0.1], [0.4, 0.1, 0.7]])
  means, same = seeds.mean(axis=0), seeds.mean(axis=1)
  assert (means != means[0]).any()
  accuracies = {
    "baseline": (np.full(3, means[0]), same),
    "tl:10": (means, same),
  }
  axes = figures.gains(accuracies, "baseline")
  (points,) = (c for c in axes.collections if c.get_label() == "TL n=10")
  assert (points.get_offsets()[:, 0] == 0).all()
  (label,) = axes.child_axes[0].get_yticklabels()
  assert label.get_text() == "0% hurt, 0% gain, mean +0.0"


def test_one_model_for_all_has_no_bar_on_global_data():
  """A bar of no length would say that its mean is known to a hair."""
  own = np.array([0.5, 0.6, 0.9])
  one = np.full(3, 0.7) + np.array([0, 1e-16, 2e-16])
  axes = figures.trade_off({"global": (own, one), "tl:10": (own, own)})
  shared, adjusted = (
    [len(bars.get_segments()[0]) for bars in container.lines[2]]
    for container in axes.containers
  )
  assert shared == [0, 2]
  assert adjusted == [2, 2]
  assert "none where all are the same" in " ".join(
    axes.get_title("left").split()
  )
