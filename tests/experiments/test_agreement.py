import numpy as np
from helpers.small_run import read

from experiments.outputs import agreement, summary
from personalization_jax.analysis import group_agreement


def test_what_cannot_be_told_is_a_dash_and_counts_those_who_are_compared(
  tmp_path, capsys
):
  def one(measure, *values):
    return group_agreement.Agreement(
      "ig", measure, "style", np.array(values), np.zeros(len(values))
    )

  # Everybody differs by the same; two people; one alone; nobody.
  spaces = (
    [0.5, 0.5, 0.5], [0.2, np.nan, 0.6], [0.5, np.nan, np.nan], [np.nan] * 3
  )  # fmt: skip
  found = {
    agreement.AUTO_ENCODER: [
      one(f"measure {k}", *values) for k, values in enumerate(spaces)
    ],
    agreement.PIXELS: [one(f"measure {k}", 0.2, 0.2, 0.2) for k in range(4)],
  }
  summary.write_further(agreement, found, tmp_path)
  text = capsys.readouterr().out
  assert "nan" not in text
  table = [line.split("|")[4:-1] for line in text.splitlines()[4:8]]
  assert [[cell.strip() for cell in line] for line in table] == [
    ["0.500 (0.000)", "0.200 (0.000)", "0.000", "-", "3"],
    ["0.400 (0.283)", "0.200 (0.000)", "0.000", "0.500", "2, 3"],
    ["0.500 (-)", "0.200 (0.000)", "0.000", "-", "1, 3"],
    ["- (-)", "0.200 (0.000)", "0.000", "-", "0, 3"],
  ]
  lines = read(tmp_path / "group_agreement.csv")
  counts = [line["individuals"] for line in lines]
  assert counts == ["3", "2", "1", "0"] + ["3"] * 4
  assert [line["p_random"] != "" for line in lines] == [0, 1] + [0] * 6
