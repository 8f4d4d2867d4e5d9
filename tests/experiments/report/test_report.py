"""The report: what it says of hand-made runs, and how."""

import base64
import inspect
import itertools
import re

import pytest
from helpers.report_runs import (
  PICTURE,
  Reader,
  make_run,
  read_csv,
  report,
  write_csv,
)
from matplotlib.figure import Figure

from experiments import report as script
from experiments.outputs import agreement as table1_agreement
from experiments.outputs import choice, pictures
from experiments.outputs.report import page, runs
from personalization_jax import figures
from personalization_jax.analysis import columns

AGREEMENT = columns.AGREEMENT_COLUMNS[:8]  # older runs have no p-values


def test_a_run_is_told_whole(tmp_path):
  make_run(tmp_path / "a")
  write_csv(
    tmp_path / "a" / "group_agreement.csv",
    AGREEMENT,
    [
      ("ig:5", "recall", "style", "auto-encoder", 0.42, 0.274, 0.125, 6),
      ("ig:5", "recall", "style", "raw pixels", 0.38, "", 0.125, 6),
    ],
  )
  found = report(tmp_path, tmp_path / "a", title="A & <B>")
  flags = found.cells("Flags")
  assert flags["--epochs"] == ["3"]
  assert flags["--dataset"] == ["npz"]
  assert flags["--class_concentration"] == ["–"]
  about = found.cells("Made with")
  assert about["data"] == ["f00d"]
  assert about["commit"] == ["c0ffee"]
  assert about["jax"] == ["0.10.2"]
  assert about["command"] == ["table1.py --workdir=<i>"]
  shaping, grouping = found.cells("Shaping"), found.cells("Data grouping")
  assert list(shaping) == ["", "Method", "baseline", "tl:10"]
  assert list(grouping)[2:] == ["random:9"]
  assert list(found.cells("Other methods"))[2:] == ["<b>&co"]
  fair = ["0.1250"] * 3
  assert shaping["tl:10"] == [
    "1.5000", "1", "0.1250", "0.1250", "0.1250", "0.0123*",
    "0.1250", "2", "0.1250", "0.1250", "0.1250", "0.4000", *fair,
  ]  # fmt: skip
  agreement = found.cells(
    "Groups against the writers' hidden factors: mean (sd)"
  )
  assert agreement["ig:5"][:2] == ["recall", "style"]
  values = ["0.420 (0.274)", "0.380 (–)", "0.125", "–", "6"]
  assert agreement["ig:5"][2:] == values
  assert "Recall: of the n writers that IG found" in found.text
  assert "Finished: 4 methods." in found.text
  assert "Nobody: every model has an accuracy." in found.text
  assert ("title", {}) in found.elements
  assert found.headings[0] == (1, "A & <B>")


def test_who_is_hurt_is_told(tmp_path):
  make_run(tmp_path / "a")
  write_csv(
    tmp_path / "a" / "choice.csv",
    columns.CHOICE_COLUMNS,
    [
      ("tl:10", 0.25, 0.0, -0.0125, 0.02),
      ("local", 1.0, 0.0, float("nan"), 0.0),
    ],
  )
  found = report(tmp_path, tmp_path / "a")
  rows = found.cells("Against the model of D_G alone (global)")
  assert rows["tl:10"] == ["25%", "0%", "\N{MINUS SIGN}0.0125", "+0.0200"]
  assert rows["local"] == ["100%", "0%", "\N{EN DASH}", "+0.0000"]
  assert (3, "Who is hurt") in found.headings
  assert "Of several seeds the choice is made for each" in found.text


def test_measures_and_what_methods_are_compared_with_are_told(tmp_path):
  make_run(tmp_path / "a", compare_to="tl:10")
  measured = dict.fromkeys(columns.MEASURE_COLUMNS[1:], 0.25)
  measured |= {"individual_log_loss": "nan", "individual_pooled": 0.5}
  write_csv(
    tmp_path / "a" / "measures.csv",
    columns.MEASURE_COLUMNS,
    [("tl:10", *measured.values())],
  )
  found = report(tmp_path, tmp_path / "a")
  row = found.cells("People, samples and probabilities")["tl:10"]
  assert row[:2] == ["0.2500", "0.5000"]
  assert row[7] == "\N{EN DASH}"
  assert (3, "Further measures") in found.headings
  methods = ["baseline", "tl:10", "random:9", "<b>&co"]
  assert [*found.cells("Against tl:10")][2:] == methods
  assert "paired t-test against tl:10, Holm-corrected" in found.text
  assert "Shaping" not in found.tables


def test_figures_of_a_run_have_captions():
  drawn = re.findall(r'pages\["(\w+)"\]', inspect.getsource(pictures))
  names = {*drawn, choice.FILE, table1_agreement.FILE}
  assert {"choice", "validation_curves", "latent_map"} <= names
  assert names <= set(pictures.CAPTIONS)
  # Feature vectors have no auto-encoder.
  assert "standardised features" in pictures.CAPTIONS["latent_map"][1]


def test_significance_is_marked_by_more_than_colour(tmp_path):
  make_run(tmp_path / "a", methods=("baseline",))
  found = report(tmp_path, tmp_path / "a")
  assert [tag for tag, _ in found.elements].count("strong") == 1


def test_the_page_needs_nothing_else_and_can_be_heard(tmp_path):
  make_run(tmp_path / "a")
  make_run(tmp_path / "b", shift=0.05)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  text = (tmp_path / "out" / "report.html").read_text()
  assert text.startswith("<!DOCTYPE html>\n<html lang=")
  assert "http" not in text
  assert "url(" not in text
  tags = {tag for tag, _ in found.elements}
  assert not tags & {"script", "link", "iframe", "object"}
  links = [of["href"] for tag, of in found.elements if tag == "a"]
  ids = {of.get("id") for _, of in found.elements}
  assert len(links) == 3
  assert {link[1:] for link in links} <= ids
  images = [of for tag, of in found.elements if tag == "img"]
  assert len(images) == 5  # two of each run, and the comparison
  assert len({image["alt"] for image in images}) == 3
  own = [
    image
    for image in images
    if base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    == PICTURE
  ]
  assert len(own) == 4
  assert "hollow points are hurt" in own[0]["alt"]
  assert "odd <name>.png" in own[1]["alt"]
  levels = [level for level, _ in found.headings]
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
  assert re.search(r"\.scroll {[^}]*overflow-x: auto", text)


def test_svg_is_shown_and_of_pdf_is_said_where_it_is(tmp_path):
  make_run(tmp_path / "a")
  folder = tmp_path / "a" / "figures"
  (folder / "gains.png").unlink()
  for form in ("svg", "pdf"):
    figures.save(Figure((1, 1)), folder / f"gains.{form}")
  (folder / "choice.svg").write_bytes(b"<svg")
  found = report(tmp_path, tmp_path / "a")
  first, _ = [of for tag, of in found.elements if tag == "img"]
  kind, _, data = first["src"].partition(",")
  assert kind == "data:image/svg+xml;base64"
  assert base64.b64decode(data) == (folder / "gains.svg").read_bytes()
  assert "Who gains by shaping" in first["alt"]
  assert "isn't shown here: figures/gains.pdf." in found.text
  assert "Damaged, and left out: figures/choice.svg." in found.text


def test_what_files_say_is_never_markup(tmp_path):
  evil = "<script>x</script>"
  folder = tmp_path / 'a"><u>'
  make_run(
    folder,
    methods=("baseline", evil),
    settings={evil: evil},
    device=evil,
    versions={evil: evil},
  )
  make_run(tmp_path / "b", methods=("baseline", evil))
  found = report(tmp_path, folder, tmp_path / "b", title=evil)
  assert not {"script", "u", "b", "i"} & {tag for tag, _ in found.elements}
  assert (2, 'a"><u>') in found.headings
  assert found.text.count(evil) >= 9


def test_the_same_runs_make_the_same_bytes(tmp_path):
  for name in ("a", "b"):
    make_run(tmp_path / name)
  both = runs.read_all([str(tmp_path / "a"), str(tmp_path / "b")])
  assert page.page(both) == page.page(both)


def test_who_diverged_is_named(tmp_path):
  make_run(tmp_path / "a", seeds=(0, 1))
  path = tmp_path / "a" / "results.csv"
  first = path.read_text().splitlines()[1].split(",")
  assert first[:3] == ["baseline", "8", "0"]
  gone = ",".join([*first[:3], "", "", "20", "30", "diverged", ""])
  path.write_text(path.read_text().replace(",".join(first), gone))
  table = tmp_path / "a" / "table1.csv"
  lines = read_csv(table)
  lines[0]["diverged"] = 1
  write_csv(table, lines[0], [line.values() for line in lines])
  found = report(tmp_path, tmp_path / "a")
  (rows,) = (
    found.cells(caption) for caption in found.tables if "finite" in caption
  )
  assert rows["baseline"] == ["1", "8 (seed 0)"]
  assert found.cells("Shaping")["Method"][-2:] == ["diverged", "pairs"]
  assert found.cells("Shaping")["baseline"][-2:] == ["1", "6"]
  assert found.cells("Shaping")["tl:10"][-2:] == ["0", "6"]
  assert "Nobody" not in found.text


def test_notes_explain_the_columns_that_are_shown_and_no_others(tmp_path):
  explanations = {
    "fair rho:": False, "seed sd:": False, "diverged:": False,
    "pairs:": False, "p:": True,
  }  # fmt: skip

  def check(folder, **shown):
    found = report(tmp_path, folder)
    header = found.tables["Shaping"][0][1]
    for note, usual in explanations.items():
      expected = shown.get(note.split()[-1].rstrip(":"), usual)
      assert (f" {note}" in found.text) == expected, note
    assert ("seed sd(D_I)" in header) == shown.get("sd", False)
    assert ("fair rho" in header) == shown.get("rho", False)
    assert ("pairs" in header) == shown.get("pairs", False)

  def rewrite(folder, **cells):
    path = folder / "table1.csv"
    lines = [line | cells for line in read_csv(path)]
    write_csv(path, lines[0], [line.values() for line in lines])

  nothing = {n: "" for n in columns.TABLE_COLUMNS if "fairness" in n}
  make_run(tmp_path / "a")
  check(tmp_path / "a", rho=True)
  rewrite(tmp_path / "a", **nothing)
  check(tmp_path / "a")
  rewrite(tmp_path / "a", diverged=2)
  check(tmp_path / "a", diverged=True, pairs=True)
  # What an older run lacks isn't explained.
  rewrite(tmp_path / "a", individual_pairs="")
  check(tmp_path / "a", diverged=True)
  make_run(tmp_path / "b", seeds=(0, 1))
  rewrite(tmp_path / "b", **nothing)
  check(tmp_path / "b", sd=True)


def test_one_model_for_all_has_no_test_on_global_data(tmp_path):
  """Not in tables that were written before this was so, either."""
  make_run(tmp_path / "a", methods=("baseline", "global", "tl:10"))
  found = report(tmp_path, tmp_path / "a")
  rows = found.cells("Shaping")
  assert rows["global"][5] == "0.0123*"  # people's own data are many
  assert rows["global"][11] == "–"
  assert rows["tl:10"][11] == "0.4000"
  assert "global: one model for all individuals." in found.text
  make_run(tmp_path / "b", methods=("baseline", "tl:10"))
  assert "one model for all" not in report(tmp_path, tmp_path / "b").text


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
  for name in ("x/run", "y/run", "z"):
    make_run(tmp_path / name)
  found = runs.read_all([str(tmp_path / n) for n in ("x/run", "y/run/", "z")])
  assert [run.name for run in found] == ["x/run", "y/run", "z"]


def test_the_command_line(tmp_path, capsys):
  """In this process; the guide's test starts one."""
  make_run(tmp_path / "a")
  output = tmp_path / "x.html"

  def call(*arguments):
    script.FLAGS.unparse_flags()
    script.main(script.FLAGS(["report", *arguments]))

  call(str(tmp_path / "a"), f"--output={output}", "--title=Mine")
  assert capsys.readouterr().out.splitlines() == [
    "a: finished",
    f"Report: {output}",
  ]
  assert Reader(output).headings[0] == (1, "Mine")
  with pytest.raises(SystemExit, match=r"^error: no run is given.*\.$"):
    call(f"--output={output}")


def test_results_of_several_versions_are_told_apart(tmp_path):
  make_run(tmp_path / "one")
  assert "Which results" not in report(tmp_path, tmp_path / "one").text
  old, new = {"jax": "0.10.2", "numpy": "2.4"}, {"jax": "0.11", "numpy": "2.4"}
  same = {"commit": "c0ffee", "command": ["table1.py", "--workdir=<i>"]}
  made = [
    {"results": {"baseline": [0]}, **same, "versions": old},
    {"results": {"tl:10": [0], "random:9": [0]}, **same, "versions": new},
  ]
  make_run(tmp_path / "two", made_with=made)
  found = report(tmp_path, tmp_path / "two")
  about = found.cells("Made with")
  assert about["jax"] == ["0.10.2, 0.11"]
  assert (about["numpy"], about["commit"]) == (["2.4"], ["c0ffee"])
  assert found.tables["Which results were made with what"] == [
    [
      ["No.", "results", "jax", "command"],
      ["1", "baseline", "0.10.2", "table1.py --workdir=<i>"],
      ["2", "tl:10, random:9", "0.11", "table1.py --workdir=<i>"],
    ]
  ]
