"""Table I as a figure: ours, and the paper's below each."""

import itertools

import numpy as np
import pytest
from helpers.accuracies import TABLE_1, make_accuracies, overlap
from scipy import stats

from personalization_jax import figures
from personalization_jax.analysis import paper

COMBINED = "es:40+sw:12+tl:10"


def test_points_and_intervals_are_ours_and_the_paper_s():
  methods = (*TABLE_1, COMBINED, "global")
  accuracies = make_accuracies(methods, size=40)
  accuracies["global"][1][:] = 0.97  # one model for all
  accuracies["sw:2"][0][3] = np.nan
  figure = figures.beside_paper(accuracies)
  assert len(figure.axes) == 2
  for k, axes in enumerate(figure.axes):
    here, there = axes.containers
    assert (here.get_label(), there.get_label()) == ("here", "the paper")
    means = [np.nanmean(pair[k]) for pair in accuracies.values()]
    np.testing.assert_allclose(here.lines[0].get_xdata(), means)
    rows = np.round(here.lines[0].get_ydata() + 0.1)
    np.testing.assert_array_equal(rows, range(len(methods)))
    theirs = [paper.TABLE_1[method][k] for method in TABLE_1]
    shown = there.lines[0].get_xdata()
    np.testing.assert_allclose(shown, [its.mean for its in theirs])
    rows = np.round(there.lines[0].get_ydata() - 0.1)
    np.testing.assert_array_equal(rows, range(len(TABLE_1)))
    error = 1.96 * stats.sem(accuracies["es:40"][k])
    bars = here.lines[2][0].get_segments()
    expected = [means[1] - error, means[1] + error]
    np.testing.assert_allclose(bars[1][:, 0], expected)
    bars = there.lines[2][0].get_segments()
    assert np.ptp(bars[4][:, 0]) == pytest.approx(2 * 1.96 * theirs[4].sd / 10)
  names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
  assert names == [figures.method_name(method) for method in methods]
  assert len(bars[0]) == 2
  last = figure.axes[1].containers[0].lines[2][0].get_segments()[-1]
  assert np.isnan(last).any() or not len(last)


def test_names_and_captions_have_room():
  figure = figures.beside_paper(make_accuracies((*TABLE_1, COMBINED)))
  figure.draw_without_rendering()
  own, general = figure.axes
  assert not any(text.get_text() for text in general.get_yticklabels())
  texts = [
    *own.get_yticklabels(),
    *(axis.xaxis.label for axis in figure.axes),
    *(axis._left_title for axis in figure.axes),
    *own.get_legend().get_texts(),
  ]
  boxes = [t.get_window_extent().extents for t in texts if t.get_text()]
  assert len(boxes) == 14 + 2 + 1 + 2
  for a, b in itertools.combinations(map(np.array, boxes), 2):
    assert not overlap(a, b)
  for box in boxes:
    assert (box[:2] >= 0).all()
    assert (box[2:] <= figure.bbox.extents[2:]).all()


def test_what_is_far_below_is_a_number_at_the_edge():
  accuracies = make_accuracies((*TABLE_1, "global", "local"), size=40)
  accuracies["local"][1][:] = 0.2
  own, general = figures.beside_paper(accuracies).axes
  assert [text.get_text() for text in general.texts] == ["← 0.200"]
  assert general.texts[0].get_position()[1] == len(TABLE_1) + 1
  shown = [np.mean(accuracies[method][1]) for method in (*TABLE_1, "global")]
  assert 0.2 < general.get_xlim()[0] < min(shown)
  assert not own.texts


def test_nothing_is_refused():
  with pytest.raises(ValueError, match="at least one"):
    figures.beside_paper({})
