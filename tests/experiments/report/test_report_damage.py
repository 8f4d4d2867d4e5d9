"""What the report says of what is broken, or no run at all."""

import pytest
from helpers.report_runs import PICTURE, make_run, report

from experiments.outputs.report import page


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
    (break_file("config.json", b"\xff"), r"config\.json is broken.*utf-8"),
    (
      break_file("table1.csv", b""),
      r"table1\.csv is broken: it has no column 'method'",
    ),
    (cut("table1.csv"), r"table1\.csv is broken: row 5 has"),
    (replace("table1.csv", "0.5", "x"), r"table1\.csv is broken.*'x'"),
    (break_file("results.csv", b'a,"b'), r"results\.csv is broken"),
    (cut("results.csv"), r"results\.csv is broken: row 25 has 8 fields"),
    (replace("results.csv", "seed", "sead"), "no column 'seed'"),
    (
      replace("results.csv", ",0.", ",7."),
      r"must lie in 0..1, but one is 7\.\d+; delete",
    ),
    (replace("results.csv", ",0.", ",x."), "must be a number"),
    (repeat, r"individual 13 with method '<b>&co' and seed 0 twice"),
    (break_file("group_agreement.csv", b"a,b\n"), "no column 'group'"),
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
  with pytest.raises(ValueError, match=r"--output=.*Is a directory"):
    page.write([run], tmp_path)
  with pytest.raises(ValueError, match=r"--output=.*can't be written"):
    page.write([run], tmp_path / "a" / "config.json" / "report.html")


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"GIF",
    PICTURE[:8],
    PICTURE[: len(PICTURE) // 2],
    PICTURE[:-1],
    PICTURE[:60] + bytes([PICTURE[60] ^ 1]) + PICTURE[61:],
  ],
  ids=["empty", "another format", "start", "half", "cut", "one bit"],
)
def test_a_damaged_figure_is_named_and_left_out(tmp_path, content):
  make_run(tmp_path / "a")
  whole = report(tmp_path, tmp_path / "a")
  assert "amaged" not in whole.text
  (tmp_path / "a" / "figures" / "gains.png").write_bytes(content)
  found = report(tmp_path, tmp_path / "a")
  assert "Damaged, and left out: figures/gains.png. The same" in found.text

  def pictures(page):
    return [about["alt"] for tag, about in page.elements if tag == "img"]

  (left_out,) = set(pictures(whole)) - set(pictures(found))
  assert "Who gains" in left_out
  assert found.tables == whole.tables


def test_a_run_with_nothing_but_a_damaged_figure_says_so(tmp_path):
  make_run(tmp_path / "a")
  (tmp_path / "a" / "figures" / "odd <name>.png").unlink()
  (tmp_path / "a" / "figures" / "gains.png").write_bytes(b"")
  assert "left out: figures/gains.png" in report(tmp_path, tmp_path / "a").text
