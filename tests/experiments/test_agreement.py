import math

import numpy as np
import pytest
from helpers.small_run import read

from experiments.outputs import agreement
from personalization_jax.analysis import group_agreement


def test_means_leave_out_who_has_no_value(tmp_path):
  one = group_agreement.Agreement(
    "ig", "rank correlation", "all", np.array([0.2, np.nan, 0.6]), np.zeros(3)
  )
  assert (one.mean, one.sd) == (pytest.approx(0.4), pytest.approx(0.08**0.5))
  assert one.count == 2
  spaces = (agreement.AUTO_ENCODER, agreement.PIXELS)
  both = {space: [one] for space in spaces}
  assert "over 2 individuals" in agreement.write(both, tmp_path)[0]
  nobody = group_agreement.Agreement(
    "", "", "", np.full(2, np.nan), np.zeros(2)
  )
  assert math.isnan(nobody.mean)
  assert math.isnan(nobody.sd)
  assert nobody.count == 0


def test_what_cannot_be_told_is_a_dash_and_counts_those_who_are_compared(
  tmp_path,
):
  def one(measure, *values):
    return group_agreement.Agreement(
      "ig", measure, "style", np.array(values), np.zeros(len(values))
    )

  # Everybody differs by the same; one person alone; nobody.
  spaces = ([0.5, 0.5, 0.5], [0.5, np.nan, np.nan], [np.nan] * 3)
  found = {
    agreement.AUTO_ENCODER: [
      one(f"measure {k}", *values) for k, values in enumerate(spaces)
    ],
    agreement.PIXELS: [one(f"measure {k}", 0.2, 0.2, 0.2) for k in range(3)],
  }
  text, _ = agreement.write(found, tmp_path)
  assert "nan" not in text
  table = [line.split("|")[4:-1] for line in text.splitlines()[2:5]]
  assert [[cell.strip() for cell in line] for line in table] == [
    ["0.500 (0.000)", "0.200 (0.000)", "0.000", "-"],
    ["0.500 (-)", "0.200 (0.000)", "0.000", "-"],
    ["- (-)", "0.200 (0.000)", "0.000", "-"],
  ]
  lines = read(tmp_path / "group_agreement.csv")
  assert [line["individuals"] for line in lines] == ["3", "1", "0"] + ["3"] * 3
  assert {line["p_random"] for line in lines} == {""}
