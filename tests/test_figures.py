"""What figures show: positions, lengths, shares, room, bytes."""

import itertools

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from personalization_jax import choice, figures

SHAPING = ("baseline", "es:40", "es:400", "sw:12", "sw:2", "tl:10", "tl:300")
GROUPING = ("random:1500", "random:6500", "ig:5", "ig:21", "sg:1500", "sg:6500")
TABLE_1 = SHAPING + GROUPING


def make_accuracies(methods=TABLE_1, size=100, seed=0):
  """Counts of right answers in 90, as crowded near 1 as those of Table I."""
  rng = np.random.default_rng(seed)
  return {
    method: (
      rng.binomial(90, rng.beta(40, 1, size)) / 90,
      np.clip(
        rng.normal(0.962 + 0.017 * (method in SHAPING), 0.003, size), 0, 1
      ),
    )
    for method in methods
  }


def text_boxes(axes: Axes) -> dict[str, np.ndarray]:
  """The pixels [x0, y0, x1, y1] of every text that names a method."""
  return {
    text.get_text(): np.array(Text.get_window_extent(text).extents)
    for text in axes.texts
  }


def overlap(a, b) -> bool:
  return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def bar_spans(axes: Axes, row: int) -> list[tuple[float, float, float]]:
  """(start, stop, share of D_I by its colour) of a row of schedules()."""
  bars = axes.collections[row]
  low, high = colors.to_rgb("#DDDDDD")[0], colors.to_rgb("#0072B2")[0]
  return [
    (*path.get_extents().intervalx, (face[0] - low) / (high - low))
    for path, face in zip(bars.get_paths(), bars.get_facecolors())
  ]


@pytest.mark.parametrize(
  ("method", "name"),
  [
    ("baseline", "Baseline"),
    ("es:40", "ES n=40"),
    ("sw:12", "SW n=12"),
    ("sw:1/2", "SW n=1/2"),
    ("tl:300", "TL n=300"),
    ("random:1500", "Random n=1500"),
    ("ig:5", "IG n=5"),
    ("sg:1500", "SG n=1500"),
    ("sg:1500:only", "SG n=1500, group only"),
    ("tl:300:last=2", "TL n=300, last 2 layers"),
    ("tl:300:last=1", "TL n=300, last layer"),
    ("es:40+tl:10", "ES n=40 + TL n=10"),
    ("something else", "something else"),
  ],
)
def test_method_names(method, name):
  assert figures.method_name(method) == name


def test_styles_differ_between_the_methods_of_a_study():
  methods = (*TABLE_1, "tl:300:last=2", "es:40+tl:10", "es:40+sw:12+tl:10")
  styles = [figures.method_style(method) for method in methods]
  assert len(set(styles)) == len(methods)
  for a, b in itertools.combinations(styles, 2):
    same_shape = (a.marker, a.filled) == (b.marker, b.filled)
    assert (
      not same_shape or np.abs(np.subtract(a.colour, b.colour)).max() > 0.15
    )


def test_a_larger_n_is_darker_and_of_the_same_family():
  styles = [figures.method_style(f"es:{n}") for n in (10, 40, 160, 640)]
  lightness = [sum(style.colour) for style in styles]
  assert lightness == sorted(lightness, reverse=True)
  assert {style.marker for style in styles} == {"o"}
  assert figures.method_style("baseline").colour == (0, 0, 0)


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
    values = {str(i): (rng.beta(9, 0.3, size),) * 2 for i in range(20)}
    values["one is wrong"] = (np.r_[0.0, np.ones(size - 1)],) * 2
    for container in figures.trade_off(values).containers:
      for bars in container.lines[2]:
        assert np.max(bars.get_segments()) <= 1 + 1e-12


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", [5, 100])
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


def test_rows_of_thirteen_methods_keep_their_labels_apart():
  accuracies = make_accuracies()
  sources = {method: np.zeros(30, int) for method in TABLE_1}
  for axes in (
    figures.distribution(accuracies),
    figures.gains(accuracies, "baseline"),
    figures.schedules(sources),
  ):
    axes.figure.draw_without_rendering()
    labels = axes.get_yticklabels()
    for child in axes.child_axes:
      labels += child.get_yticklabels()
    boxes = [np.array(label.get_window_extent().extents) for label in labels]
    assert len(boxes) >= 12
    for a, b in itertools.combinations(boxes, 2):
      assert not overlap(a, b)
    ticks = [t for t in axes.get_xticklabels() if t.get_text()]
    spans = [np.array(tick.get_window_extent().extents) for tick in ticks]
    for a, b in itertools.pairwise(spans):
      assert not overlap(a, b)


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


def make_handwriting(ink=255):
  """Person 3 has every class twice, person 8 lacks class 1."""
  labels = np.array([0, 0, 1, 1, 2, 2, 0, 2])
  people = np.array([3, 3, 3, 3, 3, 3, 8, 8])
  images = np.full((8, 6, 5, 1), 255 - ink, np.uint8)
  for i in range(8):
    images[i, 1, : 1 + i % 4] = ink
  return images, labels, people


@pytest.mark.parametrize("ink", [0, 255])
def test_handwriting_shows_dark_ink_in_its_place(ink):
  images, labels, people = make_handwriting(ink)
  page = figures.handwriting(
    images, labels, people, [8, 3], classes=3, samples=2
  )
  axes = page.axes[0]
  mosaic = np.asarray(axes.images[0].get_array())
  dark = images if ink == 0 else 255 - images
  columns, rows = axes.get_xticks(), axes.get_yticks()
  assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "2"]
  assert [t.get_text() for t in axes.get_yticklabels()] == [
    "Person 8",
    "Person 3",
  ]

  def cell(person, label):
    top, left = round(rows[person] - 3), round(columns[label] + 0.5 - 5)
    return mosaic[top : top + 6, left : left + 10]

  np.testing.assert_array_equal(cell(1, 1), np.hstack(dark[2:4])[..., 0])
  np.testing.assert_array_equal(cell(0, 2)[:, :5], dark[7][..., 0])
  blank = cell(0, 1)
  assert blank.min() == blank.max() == 235  # person 8 lacks class 1
  assert cell(0, 2)[:, 5:].min() == 235  # and has one sample of class 2


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


def test_figures_draw_on_given_axes():
  panels = Figure(figsize=(12, 12)).subplots(5)
  accuracies = make_accuracies(SHAPING, size=5)
  sources = {"sw:2": np.tile([0, 1], 5)}
  assert figures.trade_off(accuracies, panels[0]) is panels[0]
  assert figures.distribution(accuracies, panels[1]) is panels[1]
  assert figures.gains(accuracies, "baseline", panels[2]) is panels[2]
  assert figures.schedules(sources, panels[3]) is panels[3]
  losses = {"sw:2": np.ones((2, 3))}
  assert figures.training_curves(losses, panels[4]) is panels[4]


def test_save_writes_the_same_png_each_time(tmp_path):
  accuracies = make_accuracies(SHAPING, size=5)
  paths = [
    figures.save(
      figures.trade_off(accuracies).figure, tmp_path / folder / "figure.png"
    )
    for folder in ("a", "b/c")
  ]
  first, second = (path.read_bytes() for path in paths)
  assert paths[1] == tmp_path / "b/c/figure.png"
  assert first.startswith(b"\x89PNG\r\n\x1a\n")
  size = [int.from_bytes(first[i : i + 4], "big") for i in (16, 20)]
  assert size == [round(7.5 * 150), round(5.5 * 150)]
  assert first == second


GOOD = (np.array([0.5, 0.6]), np.array([0.5, 0.6]))


@pytest.mark.parametrize("methods", [TABLE_1, ("sw:2", "tl:300")])
def test_choice_shows_whom_methods_hurt_with_it_and_without(methods):
  validation, test = (
    {m: own for m, (own, _) in make_accuracies(methods, seed=seed).items()}
    for seed in (1, 2)
  )
  general = methods[0]
  found = choice.judge_all(validation, test, general)
  axes = figures.choice(found)
  points = [line for line in axes.lines if line.get_marker() != "None"]
  for row, method in enumerate(methods[1:]):
    without, chosen = points[2 * row : 2 * row + 2]
    assert without.get_xydata()[0].tolist() == [100 * found[method].hurt, row]
    assert chosen.get_xydata()[0].tolist() == [
      100 * found[method].hurt_with_choice,
      row,
    ]
    assert without.get_markerfacecolor() == "white"
    assert chosen.get_markerfacecolor() != "white"
    assert without.get_markersize() > chosen.get_markersize()
    low, high = axes.get_xlim()
    for line in (without, chosen):
      assert low < line.get_xdata()[0] < high
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == [figures.method_name(method) for method in methods[1:]]


def test_choice_of_one_whom_nobody_can_be_compared_with():
  nobody = choice.judge(([0.5], [np.nan]), ([np.nan], [np.nan]))
  figures.choice({"tl:3": nobody}).figure.draw_without_rendering()


@pytest.mark.parametrize(
  ("draw", "message"),
  [
    (lambda: figures.trade_off({}), "no method"),
    (lambda: figures.distribution({}), "no method"),
    (lambda: figures.gains({}, "baseline"), "no method"),
    (lambda: figures.choice({}), "no method"),
    (lambda: figures.schedules({}), "no method"),
    (lambda: figures.training_curves({}), "no method"),
    (lambda: figures.trade_off({"a": ([], [])}), "'a' hold no individual"),
    (lambda: figures.trade_off({"a": ([0.5], [1.5])}), "0..1, but one is 1.5"),
    (lambda: figures.trade_off({"a": ([np.nan], [1])}), "but one is nan"),
    (lambda: figures.trade_off({"a": ([1, 1], [1])}), "two vectors"),
    (lambda: figures.distribution({"a": GOOD}, of="all"), "'all'"),
    (lambda: figures.gains({"a": GOOD}, "b"), "'b' is not among"),
    (lambda: figures.gains({"a": GOOD}, "a"), "'a' alone"),
    (
      lambda: figures.gains({"a": GOOD, "b": ([1], [1])}, "a"),
      "'b' has 1 individuals, but 'a' has 2",
    ),
    (lambda: figures.schedules({"a": np.array([0, 2])}), "of 0 .* and 1"),
    (lambda: figures.schedules({"a": np.array([])}), "schedule of 'a'"),
    (lambda: figures.training_curves({"a": np.ones(3)}), "shape \\(3,\\)"),
    (lambda: figures.training_curves({"a": -np.ones((1, 3))}), "one is -1"),
    (lambda: figures.training_curves({"a": np.ones((1, 3))}, window=0), "is 0"),
    (lambda: figures.save(Figure(), "figure.pdf"), "'figure.pdf'"),
    (lambda: figures.handwriting(*make_handwriting(), [4]), "person 4"),
    (lambda: figures.handwriting(*make_handwriting(), []), "at least one"),
    (
      lambda: figures.handwriting(np.ones((2, 3, 3, 1)), [0, 0], [1, 1], [1]),
      "are float64",
    ),
    (
      lambda: figures.handwriting(make_handwriting()[0], [0], [3], [3]),
      "8, 1 and 1",
    ),
  ],
)
def test_bad_input_is_named(draw, message):
  with pytest.raises(ValueError, match=message):
    draw()
