"""Skeletons of handwritten digits (NumPy).

A digit has several allographs, the ways in which people write it. Each is a few
strokes, divided by "/", each stroke "x,y" control points in hundredths of the
digit's height: x grows to the right and y downwards, both from the centre. A
stroke is a smooth curve through its points; a sharp corner is where one stroke
ends and the next one starts.
"""

from __future__ import annotations

import numpy as np

# Some allographs of different digits resemble each other on purpose (1 with a
# long flag and 7; closed 4 and 9; 6 with a short stem and 0; S-like 5 and 3):
# what is ambiguous between writers, and clear once the writer is known, is
# what a personal model has to learn.
_ALLOGRAPHS = (
  (  # 0: closed, overlapping at the top, with a slash, left open
    "6,-47 -12,-46 -25,-22 -26,8 -16,40 4,50 22,34 26,0 18,-34 -2,-50",
    "14,-40 -8,-50 -24,-20 -25,14 -8,48 14,44 27,10 22,-26 8,-40 -6,-38",
    "4,-50 -18,-40 -27,-8 -22,30 -2,50 18,38 27,4 20,-34 2,-50 / 32,-44 0,2"
    " -32,48",
    "-14,-42 -26,-14 -24,22 -6,48 14,42 26,12 22,-24 6,-46",
  ),
  (  # 1: bar, short flag, flag and foot, flag as long as a 7's roof
    "6,-50 2,-16 -1,18 -2,50",
    "-16,-30 -6,-38 4,-50 / 4,-50 2,0 0,50",
    "-20,-26 -8,-34 4,-50 / 4,-50 3,0 2,50 / -18,50 2,50 22,49",
    "-26,-16 -8,-32 10,-50 / 10,-50 2,0 -2,50",
  ),
  (  # 2: flat base, looped base, Z-like, swan's neck
    "-24,-30 -10,-48 12,-46 22,-26 10,2 -8,26 -24,48 / -24,48 0,47 28,48",
    "-22,-32 -8,-49 12,-44 18,-20 6,10 -10,34 -24,44 -27,34 -15,30 0,42 14,50"
    " 30,40",
    "-24,-44 0,-46 22,-46 / 22,-46 0,0 -24,46 / -24,46 0,47 26,46",
    "-18,-24 -16,-44 2,-50 18,-38 14,-12 -4,18 -20,42 -4,42 10,50 28,46",
  ),
  (  # 3: two bowls, flat roof, looped waist, shallow and S-like
    "-22,-40 -4,-50 16,-42 16,-20 -6,-6 / -6,-6 18,2 24,24 10,46 -10,49 -26,38",
    "-22,-48 0,-49 20,-48 / 20,-48 8,-28 -4,-10 / -4,-10 20,0 22,28 4,48"
    " -24,42",
    "-20,-42 0,-50 16,-36 8,-14 -8,-4 -12,-10 -2,-12 18,4 22,28 4,49 -24,40",
    "-12,-46 10,-48 18,-32 6,-12 4,-4 22,12 22,34 4,49 -26,46",
  ),
  (  # 4: open, closed, open with a curved left stroke, closed and 9-like
    "-16,-48 -20,-20 -26,8 / -26,8 0,8 30,6 / 14,-34 12,8 10,50",
    "10,-50 -10,-20 -30,14 / -30,14 0,14 30,13 / 10,-50 9,0 8,50",
    "-20,-46 -24,-20 -14,0 6,2 22,-8 / 22,-46 18,0 12,50",
    "16,-48 -6,-40 -24,-12 / -24,-12 -4,-2 18,-8 / 16,-48 16,0 14,50",
  ),
  (  # 5: bar on top, bar apart, S-like in one stroke, nearly closed below
    "22,-48 0,-47 -16,-47 / -16,-47 -18,-28 -20,-10 / -20,-10 2,-16 22,2"
    " 20,32 0,49 -24,42",
    "-14,-40 -16,-24 -20,-6 / -20,-6 0,-10 20,6 18,34 -2,49 -24,40 / -12,-44"
    " 6,-47 28,-50",
    "22,-46 4,-50 -14,-38 -12,-16 10,-2 20,18 10,42 -8,49 -26,42",
    "24,-50 4,-48 -14,-44 / -14,-44 -18,-20 -20,-2 / -20,-2 2,-10 22,8 16,38"
    " -6,50 -24,30",
  ),
  (  # 6: tall stem, curved stem and big bowl, short stem like a 0, open bowl
    "8,-50 -10,-20 -22,14 -18,42 2,50 20,36 18,12 0,6 -20,24",
    "18,-46 -4,-44 -22,-16 -26,18 -12,46 10,48 24,26 14,2 -8,4 -22,22",
    "8,-50 -14,-36 -25,-4 -22,32 0,50 22,34 24,0 8,-20 -10,-14 -22,4",
    "6,-50 -14,-18 -22,16 -12,44 8,48 22,30 16,12 4,12",
  ),
  (  # 7: plain, crossed, with a serif, with a short and sloping roof
    "-26,-46 0,-46 24,-47 / 24,-47 8,-8 -4,50",
    "-26,-46 0,-46 24,-47 / 24,-47 6,-4 -8,50 / -18,2 4,0 24,-2",
    "-26,-32 -24,-48 / -24,-48 0,-44 24,-48 / 24,-48 2,-14 -6,50",
    "-26,-36 -4,-42 20,-48 / 20,-48 8,-6 -4,50",
  ),
  (  # 8: S and back, two rings, open at the top, narrow waist
    "14,-42 -4,-50 -18,-36 -6,-14 14,8 20,30 2,50 -18,34 -10,6 8,-12 18,-30"
    " 12,-46",
    "0,-8 -16,-16 -16,-40 0,-50 16,-40 16,-16 0,-8 / 0,-8 -20,4 -23,32 0,50"
    " 23,32 20,4 0,-8",
    "22,-48 4,-50 -16,-38 -10,-14 14,8 16,36 -2,50 -18,36 -12,8 8,-14 24,-36",
    "4,-50 -16,-38 -10,-18 4,-4 18,18 14,42 -4,50 -20,38 -14,12 0,-4 12,-18"
    " 18,-38 4,-50",
  ),
  (  # 9: straight stem, curved stem, open like a 4, hooked like a g
    "20,-42 0,-50 -20,-36 -18,-12 4,-8 20,-40 / 20,-40 18,0 14,50",
    "20,-30 6,-50 -16,-42 -20,-18 -2,-4 18,-18 22,-36 18,10 -4,49",
    "6,-48 -14,-44 -22,-22 -10,-4 18,-10 / 18,-46 17,0 14,50",
    "18,-40 -2,-50 -20,-36 -16,-12 4,-8 19,-38 / 19,-38 20,10 12,42 -6,50"
    " -22,42",
  ),
)


def skeletons(num_points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Every allograph of every digit, as polylines of P points in its height.

  Points (x, y) float32 [10, A, P, 2] between the control points, and along
  smooth curves; and whether the pen is down from each to the next one, bool
  [10, A, P - 1]. Strokes share the points by their lengths.
  """
  sampled = [
    [_sample_allograph(allograph, num_points) for allograph in allographs]
    for allographs in _ALLOGRAPHS
  ]
  chords, curves, pen_down = (
    np.array([[allograph[k] for allograph in row] for row in sampled])
    for k in range(3)
  )
  return chords.astype(np.float32), curves.astype(np.float32), pen_down


def _sample_allograph(
  allograph: str, num_points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Chord points [P, 2], curve points [P, 2] and pen_down [P - 1]."""
  controls = [
    np.array([pair.split(",") for pair in stroke.split()], np.float64) / 100.0
    for stroke in allograph.split("/")
  ]
  lengths = [np.hypot(*np.diff(points, axis=0).T).sum() for points in controls]
  # Ends of the strokes on the scale of all points; everyone gets at least two.
  spare = num_points - 2 * len(controls)
  ends = np.round(np.cumsum(lengths) / np.sum(lengths) * spare).astype(int)
  counts = np.diff(ends, prepend=0) + 2
  sampled = [_sample_stroke(p, n) for p, n in zip(controls, counts)]
  pen_down = np.ones(num_points - 1, bool)
  pen_down[np.cumsum(counts)[:-1] - 1] = False
  chords, curves = (np.concatenate(points) for points in zip(*sampled))
  return chords, curves, pen_down


def _sample_stroke(
  controls: np.ndarray, num_points: int
) -> tuple[np.ndarray, np.ndarray]:
  """Points [n, 2] on the chords and on the Catmull-Rom curve of controls."""
  if (controls[0] == controls[-1]).all():  # A ring: smooth where it closes.
    before, after = controls[-2], controls[1]
  else:  # Reflecting the neighbours lets the ends run out straight.
    before = 2 * controls[0] - controls[1]
    after = 2 * controls[-1] - controls[-2]
  padded = np.concatenate([before[None], controls, after[None]])
  tangents = (padded[2:] - padded[:-2]) / 2
  position = np.linspace(0, len(controls) - 1, num_points)
  left = np.minimum(position.astype(int), len(controls) - 2)
  u = (position - left)[:, None]
  chords = (1 - u) * controls[left] + u * controls[left + 1]
  # The cubic Hermite curve, written as its departure from the chord.
  step = controls[left + 1] - controls[left]
  curves = chords + u * (1 - u) * (
    (1 - u) * (tangents[left] - step) - u * (tangents[left + 1] - step)
  )
  return chords, curves
