"""Hand-made runs, and what a report of them says."""

import csv
import html.parser
import json
import re

import numpy as np
from matplotlib.figure import Figure

from experiments.outputs.report import page
from personalization_jax import figures
from personalization_jax.analysis import columns

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


def read_csv(path):
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def make_run(
  folder,
  *,
  seeds=(0,),
  people=PEOPLE,
  methods=METHODS,
  shift=0.0,
  values=None,
  table=None,
  **config,
):
  """A finished run; returns method -> individual -> seed -> accuracies.

  These are drawn by chance, or given as `values`, with None for who diverged.
  table1.csv is of all methods and seeds, or of those given as `table`.
  """
  (folder / "figures").mkdir(parents=True)
  (folder / "config.json").write_text(
    json.dumps(
      {
        "settings": SETTINGS,
        "dataset_fingerprint": "f00d",
        "methods": methods,
        "seeds": seeds,
        "command": ["table1.py", "--workdir=<i>"],
        "commit": "c0ffee",
        "versions": {"jax": "0.10.2"},
        "device": "cpu",
        **config,
      }
    )
  )
  rng = np.random.default_rng([len(people), int(1000 * shift)])
  values = values or {
    method: {
      person: {seed: np.round(rng.uniform(0.4, 0.9, 2) + shift, 3)
               for seed in seeds}
      for person in people
    }
    for method in methods
  }  # fmt: skip
  write_csv(
    folder / "results.csv",
    columns.RESULT_COLUMNS,
    [
      (method, person, seed, *map(float, pair), 20, 30, "ok", "")
      if pair is not None
      else (method, person, seed, "", "", 20, 30, "diverged", "")
      for method, by_person in values.items()
      for person, by_seed in by_person.items()
      for seed, pair in by_seed.items()
    ],
  )
  row = dict.fromkeys(columns.TABLE_COLUMNS, 0.125)
  row |= {"p_individual_holm": 0.0123, "p_global_holm": 0.4, "diverged": 0}
  table_methods, table_seeds = table or (methods, seeds)
  row |= {"seeds": len(table_seeds), "individual_pairs": len(people)}
  if len(table_seeds) < 2:
    row |= dict.fromkeys(("individual_seed_sd", "global_seed_sd"), "nan")
  row |= {"individual_rank": 1, "global_rank": 2}
  write_csv(
    folder / "table1.csv",
    columns.TABLE_COLUMNS,
    [
      list((row | {"method": method, "individual_mean": 0.5 + k}).values())
      for k, method in enumerate(table_methods)
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
