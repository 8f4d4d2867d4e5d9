"""What all figures share: names, styles, axes, bytes; and handwriting."""

import errno
import importlib
import itertools
import pkgutil

import numpy as np
import pytest
from helpers.accuracies import SHAPING, TABLE_1, make_accuracies, overlap
from matplotlib.figure import Figure

from personalization_jax import figures
from personalization_jax.analysis import model_choice
from personalization_jax.figures import styles
from personalization_jax.methods.specs import SETS


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


def test_no_module_is_called_as_a_function_is():
  """Importing a module would put it in the function's place."""
  public = {name for name in vars(figures) if not name.startswith("_")}
  modules = {found.name for found in pkgutil.iter_modules(figures.__path__)}
  for name in modules:
    importlib.import_module(f"{figures.__name__}.{name}")
  functions = {name for name in public if callable(getattr(figures, name))}
  assert not modules & functions
  assert {"agreement", "choice", "handwriting", "runs"} <= functions


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


def test_floats_are_ink_from_0_to_1():
  images, *people = make_handwriting()
  pages = [
    figures.handwriting(given, *people, [3], classes=3).axes[0].images[0]
    for given in (images, images / 255.0)
  ]
  np.testing.assert_array_equal(*(page.get_array() for page in pages))


def test_figures_draw_on_given_axes():
  panels = Figure(figsize=(12, 12)).subplots(5)
  accuracies = make_accuracies(SHAPING[:3], size=5)
  sources = {"sw:2": np.tile([0, 1], 5)}
  assert figures.trade_off(accuracies, panels[0]) is panels[0]
  assert figures.distribution(accuracies, panels[1]) is panels[1]
  assert figures.gains(accuracies, "baseline", panels[2]) is panels[2]
  assert figures.schedules(sources, panels[3]) is panels[3]
  losses = {"sw:2": np.ones((2, 3))}
  assert figures.training_curves(losses, panels[4]) is panels[4]


def test_save_writes_the_same_png_each_time(tmp_path):
  accuracies = make_accuracies(SHAPING[:3], size=5)
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
  again = figures.png(figures.trade_off(accuracies).figure)
  assert first == second == again


@pytest.mark.parametrize(
  ("form", "begins"), [("pdf", b"%PDF-"), ("svg", b"<?x")]
)
def test_figures_of_other_formats_are_the_same_each_time(
  tmp_path, monkeypatch, form, begins
):
  """Whenever they are made: no date, and no names drawn by chance."""
  images, *people = make_handwriting()
  for name, date in (("a", "1000000000"), ("b", "1100000000")):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    curves = figures.trade_off(make_accuracies(SHAPING[:3], size=5))
    page = figures.handwriting(images, *people, [3], classes=3)
    for kind, figure in (("curves", curves), ("page", page)):
      figures.save(figure, tmp_path / name / f"{kind}.{form}")
  for kind in ("curves", "page"):
    first, second = (
      (tmp_path / name / f"{kind}.{form}").read_bytes() for name in "ab"
    )
    assert first.startswith(begins)
    assert first == second
    assert b"Date" not in first
    assert b"atplotlib" not in first.split(b"<defs>")[0]


GOOD = (np.array([0.5, 0.6]), np.array([0.5, 0.6]))


@pytest.mark.parametrize("methods", [TABLE_1, ("sw:2", "tl:300")])
def test_choice_shows_whom_methods_hurt_with_it_and_without(methods):
  validation, test = (
    {m: own for m, (own, _) in make_accuracies(methods, seed=seed).items()}
    for seed in (1, 2)
  )
  general = methods[0]
  found = model_choice.judge_all(validation, test, general)
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
  nobody = {"tl:3": [np.nan], "global": [np.nan]}
  found = model_choice.judge_all(nobody, nobody, "global")
  figures.choice(found).figure.draw_without_rendering()


@pytest.mark.parametrize(
  ("draw", "message"),
  [
    (lambda: figures.trade_off({}), "no method"),
    (lambda: figures.distribution({}), "no method"),
    (lambda: figures.gains({}, "baseline"), "no method"),
    (lambda: figures.choice({}), "no method"),
    (lambda: figures.schedules({}), "no method"),
    (lambda: figures.training_curves({}), "no method"),
    (
      lambda: figures.trade_off({"a": ([], [])}),
      r"individual of 'a' .* is \[0\]",
    ),
    (lambda: figures.trade_off({"a": ([0.5], [1.5])}), "0..1, but one is 1.5"),
    (lambda: figures.trade_off({"a": ([np.nan], [1])}), "but one is nan"),
    (lambda: figures.trade_off({"a": ([1, 1], [1])}), "global of 'a' has"),
    (lambda: figures.distribution({"a": GOOD}, of="all"), "'all'"),
    (lambda: figures.gains({"a": GOOD}, "b"), "'b' is not among"),
    (lambda: figures.gains({"a": GOOD}, "a"), "'a' alone"),
    (
      lambda: figures.gains({"a": GOOD, "b": ([1], [1])}, "a"),
      r"'b' has shape \[1\], but S of \[S\] is 2",
    ),
    (lambda: figures.schedules({"a": np.array([0, 2])}), "of 0 .* and 1"),
    (lambda: figures.schedules({"a": np.array([])}), "schedule of 'a'"),
    (lambda: figures.training_curves({"a": np.ones(3)}), r"of 'a' .* is \[3\]"),
    (lambda: figures.training_curves({"a": -np.ones((1, 3))}), "one is -1"),
    (
      lambda: figures.training_curves({"a": np.ones((1, 3))}, window=0),
      "=0 must",
    ),
    (lambda: figures.save(Figure(), "figure.jpg"), "'figure.jpg'"),
    (lambda: figures.handwriting(*make_handwriting(), [4]), "person 4"),
    (lambda: figures.handwriting(*make_handwriting(), []), "people must be"),
    (
      lambda: figures.handwriting(np.ones((2, 3, 3, 2)), [0, 0], [1, 1], [1]),
      r"n, H, W, 3\], but have shape \[2, 3, 3, 2\]",
    ),
    (
      lambda: figures.handwriting(make_handwriting()[0], [0], [3], [3]),
      r"labels has shape \[1\], but N of \[N\] is 8",
    ),
  ],
)
def test_bad_input_is_named(draw, message):
  with pytest.raises(ValueError, match=message):
    draw()


def test_runs_show_means_and_standard_deviations():
  accuracies = {
    "a": {m: pair[0] for m, pair in make_accuracies(size=9).items()},
    "b": {"tl:10": np.array([0.5, np.nan, 0.7]), "new": np.array([0.4])},
    "_c": {"tl:10": np.full(3, np.nan)},
  }
  axes = figures.runs(accuracies)
  names = [label.get_text() for label in axes.get_yticklabels()]
  methods = [*TABLE_1, "new"]
  assert names == [figures.method_name(method) for method in methods]
  shown = {}
  for run, container in zip(accuracies, axes.containers):
    points, _, (bars,) = container.lines
    for (x, y), bar in zip(points.get_xydata(), bars.get_segments()):
      shown[run, methods[round(y)]] = (x, y, bar)
  assert len(shown) == len(TABLE_1) + 2
  for (run, method), (x, _, bar) in shown.items():
    values = accuracies[run][method]
    values = values[~np.isnan(values)]
    assert x == pytest.approx(values.mean())
    if len(values) > 1:
      sd = values.std(ddof=1)
      np.testing.assert_allclose(bar[:, 0], [x - sd, x + sd])
  # Runs stand below each other within their row, and never touch.
  first, second = shown["a", "tl:10"][1], shown["b", "tl:10"][1]
  assert 5 - 0.5 < first < second < 5 + 0.5
  labels = [text.get_text().strip() for text in axes.get_legend().get_texts()]
  assert labels == list(accuracies)


def test_the_legend_of_runs_leaves_out_what_was_on_the_axes():
  axes = Figure().add_subplot()
  axes.errorbar([0.5], [0], xerr=[0.1], color="red", label="mine")
  figures.runs({"a": {"tl:10": np.array([0.5, 0.6])}}, axes)
  legend = axes.get_legend()
  assert [text.get_text() for text in legend.get_texts()] == ["a"]
  _, _, (bars,) = axes.containers[1].lines
  (shown,) = legend.legend_handles
  np.testing.assert_array_equal(shown.get_color(), bars.get_color())


@pytest.mark.parametrize("count", [2, 5, figures.MOST_RUNS])
def test_runs_can_be_told_apart(count):
  values = {m: pair[0] for m, pair in make_accuracies(size=9).items()}
  names = [f"a run called ${k}$ " + 90 * "x" for k in range(count)]
  axes = figures.runs({name: values for name in names})
  styles = [
    (container.lines[0].get_color(), container.lines[0].get_marker())
    for container in axes.containers
  ]
  assert len({colour for colour, _ in styles}) == count
  assert len({marker for _, marker in styles}) == count
  axes.figure.draw_without_rendering()
  heights = np.sort(
    [
      axes.transData.transform(point)[1]
      for container in axes.containers
      for point in container.lines[0].get_xydata()
    ]
  )
  size = axes.containers[0].lines[0].get_markersize() * axes.figure.dpi / 72
  assert np.diff(heights).min() > size
  legend = axes.get_legend().get_window_extent()
  assert legend.x1 <= axes.figure.bbox.x1
  assert legend.y1 <= axes.figure.bbox.y1


def test_runs_that_cannot_be_drawn():
  with pytest.raises(ValueError, match="nothing to draw"):
    figures.runs({"a": {}})
  one = {"tl:10": np.array([0.5, 0.6])}
  with pytest.raises(ValueError, match=f"at most {figures.MOST_RUNS}"):
    figures.runs({f"{k}": one for k in range(figures.MOST_RUNS + 1)})


def test_a_figure_that_cannot_be_written_leaves_the_one_before(
  tmp_path, monkeypatch
):
  """As on a full disk: never half a file, nor one of 0 bytes."""
  figure = Figure((1, 1))
  path = figures.save(figure, tmp_path / "a.png")
  before = path.read_bytes()

  def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")

  figure.suptitle("Another")
  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(OSError, match="No space"):
    figures.save(figure, path)
  with pytest.raises(OSError, match="No space"):
    figures.save(figure, tmp_path / "b.png")
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_methods_of_the_field_are_called_by_their_specs_and_drawn_apart():
  names = {
    "l2sp:300@0.1": "l2sp:300@0.1",
    "tl:300@best": "TL n=300, best step",
    "tl:300:last=1@lr=0.01": "TL n=300, last layer, lr=0.01",
    "reptile+tl:300": "reptile + TL n=300",
  }
  assert {spec: styles.method_name(spec) for spec in names} == names
  drawn = map(styles.method_style, SETS["field"])
  assert len(set(drawn)) == len(SETS["field"])
