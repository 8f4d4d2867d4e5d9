"""`report --claims`: what it writes of a run, and the documents' paper."""

import pytest
from helpers.report_runs import make_run, read_csv
from test_imports import ROOT

from experiments import report
from experiments.outputs import claims
from experiments.outputs.report import runs
from personalization_jax.analysis import paper
from personalization_jax.analysis.columns import CLAIM_COLUMNS


def run_report(*arguments):
  report.FLAGS.unparse_flags()
  for name in report.FLAGS:
    report.FLAGS[name].unparse()
  report.main(report.FLAGS(["report", *map(str, arguments)]))


def test_claims_are_written_and_told(tmp_path, capsys):
  # In the order in which they were trained.
  methods = ("tl:10", "es:40", "mine", "baseline")
  make_run(tmp_path / "a", methods=methods, seeds=(0, 1))
  folder = tmp_path / "claims"
  run_report(
    tmp_path / "a", f"--claims={folder}", f"--output={tmp_path / 'r.html'}"
  )
  text = (folder / "claims.md").read_text()
  assert text in capsys.readouterr().out
  names = [line.split("|")[1].strip() for line in text.splitlines()[2:6]]
  assert names == ["baseline", "es:40", "tl:10", "mine"]
  rows = read_csv(folder / "claims.csv")
  assert (*rows[0],) == CLAIM_COLUMNS
  assert float(rows[0]["pairs"]) == 6
  assert rows[1]["verdict"] == "lacks es:400"
  assert rows[1]["difference"] == "nan"
  assert (folder / "beside_paper.png").stat().st_size > 10_000
  assert (tmp_path / "r.html").exists()


def test_a_run_without_results_has_no_claims(tmp_path):
  make_run(tmp_path / "a")
  for name in ("results.csv", "table1.csv"):
    (tmp_path / "a" / name).unlink()
  (run,) = runs.read_all([str(tmp_path / "a")])
  with pytest.raises(ValueError, match=r"a has no results\.csv"):
    claims.write(run, tmp_path)
  with pytest.raises(SystemExit, match=r"no results\.csv"):
    run_report(
      tmp_path / "a",
      f"--claims={tmp_path}",
      f"--output={tmp_path / 'report.html'}",
    )


@pytest.mark.parametrize("name", ["README.md", "experiments/RESULTS.md"])
def test_documents_have_the_paper_s_numbers(name):
  """Wherever they stand beside ours."""
  lines = (ROOT / name).read_text().splitlines()
  heads = [k for k, line in enumerate(lines) if line.count("| paper") == 2]
  assert heads
  for head in heads:
    columns = [cell.strip() for cell in lines[head].split("|")]
    places = [k for k, column in enumerate(columns) if column == "paper"]
    for line in lines[head + 2 :]:
      if not line.startswith("|"):
        break
      cells = [cell.strip() for cell in line.split("|")]
      if of_both := paper.TABLE_1.get(cells[1]):
        expected = [f"{x.mean:.3f} ({x.sd:.3f})" for x in of_both]
        found = [cells[k] for k in places]
        assert found == [text.replace("0.", ".") for text in expected]
