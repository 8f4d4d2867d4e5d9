"""The converged run on real digits: its tables are its results', recomputed."""

import math

import numpy as np
import pandas as pd
import pytest
from test_imports import ROOT

from experiments.outputs.report import runs
from personalization_jax.analysis import claims, markdown, metrics, tables
from personalization_jax.analysis.columns import (
  CLAIM_COLUMNS,
  FAIRNESS,
  TABLE_COLUMNS,
)
from personalization_jax.analysis.paper import TABLE_1

FOLDER = ROOT / "experiments" / "results" / "nist_converged"
# Individual fairness is of latent spaces too, which no table has.
COLUMNS = [
  c for c in TABLE_COLUMNS if c not in (*FAIRNESS, "fairness_coincide")
]


@pytest.fixture(scope="module")
def run():
  if not (FOLDER / "results.csv").exists():
    pytest.skip(f"{FOLDER}/results.csv isn't committed yet")
  return runs.read_all([str(FOLDER)])[0]


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


def test_table_1_is_that_of_the_results(run):
  same(recomputed(run), pd.read_csv(FOLDER / "table1.csv"), COLUMNS)


def test_claims_are_those_of_the_results(run):
  found = claims.judge(run.values())
  same(found, pd.read_csv(FOLDER / "claims.csv"), CLAIM_COLUMNS)
  text = f"{markdown.beside_paper(run.values())}\n\n{claims.text(found)}"
  assert (FOLDER / "claims.md").read_text() == text


def rows_of(text):
  """A document's table rows, whatever the width of their columns."""
  lines = (line for line in text.splitlines() if line.startswith("|"))
  return {tuple(map(str.strip, line.split("|"))) for line in lines}


@pytest.mark.parametrize("name", ["README.md", "experiments/RESULTS.md"])
def test_documents_have_the_table(run, name):
  shown = rows_of((ROOT / name).read_text())
  rows = rows_of(markdown.beside_paper(run.values()))
  missing = [row[1] for row in rows if row not in shown and row[1] in TABLE_1]
  assert not missing, "remake it: python -m experiments.report --claims"


def test_the_run_converged_with_people_enough(run):
  values = run.values()
  means = {
    of: metrics.spread(metrics.mean_without_nan(own["baseline"])).mean
    for of, own in values.items()
  }
  assert means["individual"] > 0.92
  assert means["global"] > 0.94
  assert len(run.people) >= 40
  assert len(values["individual"]) >= 15
  for own in values["individual"].values():
    assert not math.isnan(own.mean())
