"""Whether a document says what files of results do, and no other number."""

import re

import numpy as np
import pandas as pd
from test_imports import ROOT

from experiments.outputs.report import runs
from personalization_jax.analysis import tables
from personalization_jax.analysis.columns import FAIRNESS, TABLE_COLUMNS

README, RESULTS = "README.md", "experiments/RESULTS.md"
# Individual fairness is of latent spaces too, which no table has.
COLUMNS = [
  c for c in TABLE_COLUMNS if c not in (*FAIRNESS, "fairness_coincide")
]


def recomputed(run):
  gone = run.results[run.results["status"] == "diverged"]
  methods = [*run.table["method"]]
  gone = gone[gone["seed"].isin(run.table_seeds)]["method"].value_counts()
  values = run.values()
  return tables.of_accuracies(
    {of: {m: own[m] for m in methods} for of, own in values.items()},
    {method: int(gone.get(method, 0)) for method in methods},
    {method for method in methods if runs.one_model(method)},
    baseline=run.baseline,
  )


def same(found, committed, columns):
  """Compares texts exactly, and numbers but for their last digits."""
  assert len(found) == len(committed)
  for column in columns:
    own, its = found[column], committed[column]
    if pd.api.types.is_numeric_dtype(its):
      own, its = (c.to_numpy(float) for c in (own, its))
      np.testing.assert_allclose(own, its, rtol=1e-6, atol=1e-9, err_msg=column)
    else:
      assert [*own] == [*its], column


def section(name, title):
  """The text below a heading of the second level."""
  text = (ROOT / name).read_text().split(f"\n## {title}\n")[1]
  return text.split("\n## ")[0]


def rows_of(text):
  """A text's table rows, whatever the width of their columns."""
  rule = r"\|(?!\s?-+[-:| ]*$)"
  lines = (line for line in text.splitlines() if re.match(rule, line))
  return {tuple(map(str.strip, line.split("|"))) for line in lines}


def flat(text):
  """Prose in one line: no tables, blocks, pictures, headings or list marks."""
  text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
  text = re.sub(r"^(\||#|!\[).*$", "", text, flags=re.MULTILINE)
  return " ".join(re.sub(r"^- ", "", text, flags=re.MULTILINE).split())


def check(name, title, sentences, elsewhere=()):
  """Each sentence holds and is there; no number is in any other one."""
  text = flat(section(name, title))
  for holds, sentence in sentences:
    assert holds, f"no longer so: {sentence}"
    assert sentence in text, f"{name} lacks: {sentence}"
    text = text.replace(sentence, "")
  rest = re.sub(r"`[^`]*`|\bn=\d+", "", text)
  for known in elsewhere:
    rest = rest.replace(known, "")
  assert not re.findall(r"[^.]*\d[^.]*", rest)
