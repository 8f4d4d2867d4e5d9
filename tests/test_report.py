"""The report: what it says, of hand-made runs, and of what is broken."""

import base64
import csv
import dataclasses
import html.parser
import itertools
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from experiments.reports import comparison, page, runs
from personalization_jax import figures, metrics, table_files

METHODS = ("baseline", "tl:10", "random:9", "<b>&co")
SETTINGS = {"dataset": "npz", "epochs": 3, "class_concentration": None}
PEOPLE = tuple(f"{k}" for k in range(8, 14))  # as text, 10 comes before 8
PICTURE = figures.png(Figure(figsize=(0.4, 0.2)))


class Reader(html.parser.HTMLParser):
  """A page's elements, headings, tables (by caption) and text."""

  def __init__(self, path):
    super().__init__()
    self.elements, self.headings, self.tables, self.words = [], [], {}, []
    self.open = []
    self.feed(path.read_text())
    self.close()
    assert not self.open
    self.text = re.sub(r"\s+", " ", " ".join(self.words))

  def handle_starttag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))
    if tag not in ("meta", "img"):
      self.open.append(tag)
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")
    if tag == "table":
      self.rows = []

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "style" in self.open:
      return
    self.words.append(data)
    if self.open and re.fullmatch("h[1-6]", self.open[-1]):
      self.headings.append((int(self.open[-1][1]), data))
    if self.open and self.open[-1] == "caption":
      self.tables.setdefault(data, []).append(self.rows)
    if "td" in self.open or ("th" in self.open and self.rows):
      self.rows[-1][-1] += data.strip()

  def cells(self, caption, place=0):
    """Row name -> cells, of the table with this caption."""
    return {row[0]: row[1:] for row in self.tables[caption][place]}


def write_csv(path, header, lines):
  with path.open("w", newline="") as file:
    csv.writer(file).writerows([header, *lines])


def make_run(
  folder, *, seeds=(0,), people=PEOPLE, methods=METHODS, shift=0.0, **config
):
  """A finished run; returns method -> individual -> seed -> accuracies."""
  (folder / "figures").mkdir(parents=True)
  (folder / "config.json").write_text(
    json.dumps(
      {
        "settings": SETTINGS,
        "dataset_fingerprint": "f00d",
        "methods": methods,
        "command": ["table1.py", "--workdir=<i>"],
        "commit": "c0ffee",
        "versions": {"jax": "0.10.2"},
        "device": "cpu",
        **config,
      }
    )
  )
  rng = np.random.default_rng([len(people), int(1000 * shift)])
  values = {
    method: {
      person: {seed: np.round(rng.uniform(0.4, 0.9, 2) + shift, 3)
               for seed in seeds}
      for person in people
    }
    for method in methods
  }  # fmt: skip
  write_csv(
    folder / "results.csv",
    table_files.RESULT_COLUMNS,
    [
      (method, person, seed, *map(float, pair), 20, 30, "ok")
      for method, by_person in values.items()
      for person, by_seed in by_person.items()
      for seed, pair in by_seed.items()
    ],
  )
  row = dict.fromkeys(table_files.TABLE_COLUMNS, 0.125)
  row |= {"p_individual_holm": 0.0123, "p_global_holm": 0.4, "diverged": 0}
  row |= {"individual_rank": 1, "global_rank": 2}
  write_csv(
    folder / "table1.csv",
    table_files.TABLE_COLUMNS,
    [
      list((row | {"method": method, "individual_mean": 0.5 + k}).values())
      for k, method in enumerate(methods)
    ],
  )
  (folder / "table1.md").write_text("Shaping\n\n| a |\n\np: a <note>.\n")
  (folder / "figures" / "gains.png").write_bytes(PICTURE)
  (folder / "figures" / "odd <name>.png").write_bytes(PICTURE)
  return values


def report(tmp_path, *folders, title=None):
  output = tmp_path / "out" / "report.html"
  page.write([str(folder) for folder in folders], output, title)
  return Reader(output)


def test_a_run_is_told_whole(tmp_path):
  make_run(tmp_path / "a")
  write_csv(
    tmp_path / "a" / "group_agreement.csv",
    runs._AGREEMENT,
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
  assert agreement["ig:5"][2:] == ["0.420 (0.274)", "0.380 (–)", "0.125", "6"]
  assert "p: a <note>." in found.text
  assert "Finished: 4 methods." in found.text
  assert "Nobody: every model has an accuracy." in found.text
  assert ("title", {}) in found.elements
  assert found.headings[0] == (1, "A & <B>")


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
  assert (own[0]["width"], own[0]["height"]) == ("60", "30")
  assert "hollow points are hurt" in own[0]["alt"]
  assert "odd <name>.png" in own[1]["alt"]
  levels = [level for level, _ in found.headings]
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
  assert re.search(r"\.scroll {[^}]*overflow-x: auto", text)


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
  (folder / "table1.md").write_text(f"| a |\n{evil}\n")
  make_run(tmp_path / "b", methods=("baseline", evil))
  found = report(tmp_path, folder, tmp_path / "b", title=evil)
  assert not {"script", "u", "b", "i"} & {tag for tag, _ in found.elements}
  assert (2, 'a"><u>') in found.headings
  assert found.text.count(evil) >= 10


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
  gone = ",".join([*first[:3], "", "", "20", "30", "diverged"])
  path.write_text(path.read_text().replace(",".join(first), gone))
  table = tmp_path / "a" / "table1.csv"
  text = re.sub(
    r"(?m)^(baseline,.*),0((?:,[^,]*){3})$", r"\1,1\2", table.read_text()
  )
  table.write_text(text)
  found = report(tmp_path, tmp_path / "a")
  (rows,) = (
    found.cells(caption) for caption in found.tables if "finite" in caption
  )
  assert rows["baseline"] == ["1", "8 (seed 0)"]
  assert found.cells("Shaping")["Method"][-1] == "diverged"
  assert found.cells("Shaping")["baseline"][-1] == "1"
  assert found.cells("Shaping")["tl:10"][-1] == "0"
  assert "Nobody" not in found.text


@pytest.mark.parametrize("of", ["individual", "global"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_same_people_are_paired(tmp_path, of, seeds):
  column = ("individual", "global").index(of)
  here = make_run(tmp_path / "a", seeds=seeds)
  # The same people in another order: they are paired by their ids.
  there = make_run(tmp_path / "b", people=PEOPLE[::-1], shift=0.1)
  caption = f"acc(D_{of[0].upper()}) of each run, and its difference to a"
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = found.cells(caption)
  p = {"t": [], "w": []}
  for method in METHODS:
    a = np.array(
      [
        np.mean([pair[column] for pair in here[method][person].values()])
        for person in PEOPLE
      ]
    )
    b = np.array([there[method][person][0][column] for person in PEOPLE])
    cells = rows[method]
    assert cells[0] == f"{a.mean():.4f} ({a.std(ddof=1):.4f})"
    assert cells[1] == f"{b.mean():.4f} ({b.std(ddof=1):.4f})"
    assert float(cells[2].replace("−", "-")) == pytest.approx(
      (b - a).mean(), abs=6e-5
    )
    p["t"].append(stats.ttest_rel(b, a).pvalue)
    p["w"].append(stats.wilcoxon(np.round(b - a, 12)).pvalue)
    assert float(cells[3]) == pytest.approx(p["t"][-1], abs=6e-5)
    assert float(cells[5]) == pytest.approx(p["w"][-1], abs=6e-5)
  for place, test in ((4, "t"), (6, "w")):
    shown = [float(rows[method][place].strip("*")) for method in METHODS]
    assert shown == pytest.approx(metrics.holm(p[test]), abs=6e-5)
    assert shown != pytest.approx(p[test], abs=6e-5)
  assert "Wilcoxon's signed-rank test are paired over individuals" in found.text
  assert ("3 seeds" in found.text) == (len(seeds) == 3)


@pytest.mark.parametrize(
  "other",
  [{"people": PEOPLE[:-1]}, {"dataset_fingerprint": "beef"}],
  ids=["other people", "other data"],
)
def test_other_people_are_not_paired(tmp_path, other):
  here = make_run(tmp_path / "a", methods=METHODS[:2])
  there = make_run(tmp_path / "b", methods=METHODS[:2], shift=0.1, **other)
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = found.cells("acc(D_I) of each run, and its difference to a")
  p = []
  for method in METHODS[:2]:
    a, b = (
      [by_seed[0][0] for by_seed in run[method].values()]
      for run in (here, there)
    )
    p.append(stats.ttest_ind(b, a, equal_var=False).pvalue)
    assert len(rows[method]) == 5
    assert float(rows[method][3]) == pytest.approx(p[-1], abs=6e-5)
  shown = [float(rows[m][4].strip("*")) for m in METHODS[:2]]
  assert shown == pytest.approx(metrics.holm(p), abs=6e-5)
  assert "so it is Welch's t-test" in found.text
  assert "Wilcoxon" not in found.text.replace("Wilcoxon's test are in", "")


def test_who_diverged_in_all_seeds_is_left_out_of_the_test(tmp_path):
  make_run(tmp_path / "a", methods=("tl:10",))
  make_run(tmp_path / "b", methods=("tl:10",), shift=0.1)
  a, b = runs.read_all([str(tmp_path / "a"), str(tmp_path / "b")])
  values = comparison.accuracies(a, "individual")["tl:10"]
  path = tmp_path / "a" / "results.csv"
  lines = path.read_text().splitlines()
  cells = lines[3].split(",")
  lines[3] = ",".join([*cells[:3], "", "", *cells[5:7], "diverged"])
  path.write_text("\n".join(lines) + "\n")
  gone = runs.read(tmp_path / "a", "a")
  place = sorted(PEOPLE).index(cells[1])
  kept = np.arange(len(PEOPLE)) != place
  now = comparison.accuracies(gone, "individual")["tl:10"]
  assert np.isnan(now[place])
  np.testing.assert_array_equal(now[kept], values[kept])
  found = comparison.compare(gone, b, ["tl:10"], "individual")["tl:10"]
  other = comparison.accuracies(b, "individual")["tl:10"]
  expected = stats.ttest_rel(other[kept], values[kept]).pvalue
  assert found.t == pytest.approx(expected)


def test_methods_are_compared_where_two_have_them(tmp_path):
  make_run(tmp_path / "a", methods=("baseline", "tl:10", "sw:2"))
  make_run(tmp_path / "b", methods=("baseline", "es:40"))
  make_run(tmp_path / "c", methods=("tl:10",))
  found = report(tmp_path, *(tmp_path / name for name in "abc"))
  rows = found.cells("acc(D_I) of each run, and its difference to a")
  assert list(rows)[2:] == ["baseline", "tl:10"]
  assert rows["baseline"][7:] == ["–"] * 6
  assert rows["tl:10"][1:7] == ["–"] * 6
  assert "–" not in rows["baseline"][:7] + rows["tl:10"][7:]
  assert "a (sw:2); b (es:40)" in found.text


def test_runs_without_a_common_method_are_told_so(tmp_path):
  make_run(tmp_path / "a", methods=("baseline",))
  make_run(tmp_path / "b", methods=("es:40",))
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  assert "No two of the runs share a method." in found.text


def test_settings_that_differ(tmp_path):
  make_run(tmp_path / "a")
  make_run(
    tmp_path / "b",
    settings={**SETTINGS, "epochs": 5, "save_models": False, "new": True},
    versions={"jax": "0.11.0"},
    num_devices=2,
  )
  found = report(tmp_path, tmp_path / "a", tmp_path / "b")
  rows = found.cells("What differs")
  # What is off, and what one run doesn't say, is no difference.
  assert rows == {
    "Setting": ["a", "b"],
    "--epochs": ["3", "5"],
    "--new": ["–", "true"],
    "jax": ["0.10.2", "0.11.0"],
  }
  make_run(tmp_path / "c")
  assert (
    "No flag differs." in report(tmp_path, *map(tmp_path.joinpath, "ac")).text
  )


def test_an_unfinished_run_is_named_as_such(tmp_path):
  folder = tmp_path / "a"
  make_run(folder)
  for name in ("table1.csv", "table1.md", "results.csv"):
    (folder / name).unlink()
  (folder / "predictions").mkdir()
  (folder / "predictions" / "tl-10.npz").touch()
  (folder / "checkpoints" / "global_phase").mkdir(parents=True)
  make_run(tmp_path / "b")
  found = report(tmp_path, folder, tmp_path / "b")
  assert (
    "Not finished: there is no table1.csv yet. Trained: tl:10." in found.text
  )
  assert "Checkpoints: global_phase." in found.text
  assert "Not trained yet: baseline, random:9, <b>&co." in found.text
  assert "No results.csv yet: a." in found.text
  assert len(found.tables["Shaping"]) == 1
  assert len(found.tables["Flags"]) == 2


def test_a_run_that_grows_is_not_finished(tmp_path):
  make_run(tmp_path / "a", methods=("baseline",))
  config = json.loads((tmp_path / "a" / "config.json").read_text())
  config["methods"].append("es:40")
  (tmp_path / "a" / "config.json").write_text(json.dumps(config))
  found = report(tmp_path, tmp_path / "a")
  assert "Not finished: table1.csv has no es:40 yet." in found.text
  assert "Shaping" in found.tables


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
  for name in ("x/run", "y/run", "z"):
    make_run(tmp_path / name)
  found = runs.read_all([str(tmp_path / n) for n in ("x/run", "y/run/", "z")])
  assert [run.name for run in found] == ["x/run", "y/run", "z"]


def break_file(name, content):
  return lambda folder: (folder / name).write_bytes(content)


def cut(name):
  def shorten(folder):
    text = (folder / name).read_text().rstrip()
    (folder / name).write_text(text[: text.rindex(",")])

  return shorten


def replace(name, old, new):
  def edit(folder):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))

  return edit


def repeat(folder):
  lines = (folder / "results.csv").read_text().splitlines()
  (folder / "results.csv").write_text("\n".join([*lines, lines[-1]]))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (break_file("config.json", b'{"sett'), r"config\.json is broken"),
    (break_file("config.json", b"[1]"), r"config\.json is no run's"),
    (break_file("config.json", b'{"a": 1}'), r"config\.json is no run's"),
    (break_file("config.json", b"\xff"), r"config\.json is broken.*UTF-8"),
    (break_file("table1.csv", b""), r"table1\.csv has no column 'method'"),
    (cut("table1.csv"), r"table1\.csv is broken: row 5 has"),
    (replace("table1.csv", "0.5", "x"), r"table1\.csv is broken.*'x'"),
    (break_file("results.csv", b'a,"b'), r"results\.csv is broken"),
    (cut("results.csv"), r"results\.csv is broken: row 25 has 7 fields"),
    (replace("results.csv", "seed", "sead"), "no column 'seed'"),
    (replace("results.csv", ",0.", ",7."), "must be in 0..1"),
    (replace("results.csv", ",0.", ",x."), "must be a number"),
    (repeat, r"individual 13 with method '<b>&co' and seed 0 twice"),
    (break_file("group_agreement.csv", b"a,b\n"), "no column 'group'"),
    (break_file("figures/gains.png", b"GIF"), r"gains\.png is no PNG"),
  ],
)
def test_what_is_broken_is_named(tmp_path, damage, message):
  make_run(tmp_path / "a")
  damage(tmp_path / "a")
  with pytest.raises(ValueError, match=message) as caught:
    report(tmp_path, tmp_path / "a")
  assert str(tmp_path / "a") in str(caught.value)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_named(tmp_path):
  make_run(tmp_path / "a")
  output = tmp_path / "report.html"
  run = str(tmp_path / "a")
  for paths, message in (
    ([], "no run is given"),
    ([str(tmp_path / "b")], "is no directory"),
    ([str(tmp_path)], "holds no run of"),
    ([run, run + "/"], "is given twice"),
  ):
    with pytest.raises(ValueError, match=message):
      page.write(paths, output)
  with pytest.raises(ValueError, match=r"--output=.*is a folder"):
    page.write([run], tmp_path)
  with pytest.raises(ValueError, match=r"--output=.*can't be written"):
    page.write([run], tmp_path / "a" / "config.json" / "report.html")


def test_the_command_line(tmp_path):
  make_run(tmp_path / "a")

  def call(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "experiments.report", *arguments],
      cwd=pathlib.Path(__file__).parents[1],
      capture_output=True,
      text=True,
    )

  output = tmp_path / "x.html"
  done = call(str(tmp_path / "a"), f"--output={output}", "--title=Mine")
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == ["a: finished", f"Report: {output}"]
  assert Reader(output).headings[0] == (1, "Mine")
  failed = call(f"--output={output}")
  assert failed.returncode == 1
  assert failed.stderr.startswith("error: no run is given")
  assert failed.stderr.count("\n") == 1


def test_more_runs_than_the_figure_shows(tmp_path):
  make_run(tmp_path / "run", methods=("tl:10",))
  one = runs.read(tmp_path / "run", "run")
  many = [
    dataclasses.replace(one, name=f"run {k}")
    for k in range(figures.MOST_RUNS + 1)
  ]
  text = page.page(many)
  assert f"in {', '.join(run.name for run in many[:-1])};" in text
