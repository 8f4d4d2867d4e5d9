"""The converged run on real digits: its tables are its results', recomputed."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers import converged, documents, forms
from test_imports import ROOT

from experiments.outputs import choice
from experiments.outputs.report import runs
from personalization_jax.analysis import (
  claims,
  markdown,
  metrics,
  model_choice,
)
from personalization_jax.analysis.columns import (
  CHOICE_COLUMNS,
  CLAIM_COLUMNS,
)
from personalization_jax.analysis.paper import TABLE_1

RESULTS_OF = ROOT / "experiments" / "results"
FOLDER = RESULTS_OF / "nist_converged"
README, RESULTS = documents.README, documents.RESULTS
# The documents' sections on the run, and which sentences they have.
SECTIONS = {
  README: ("Real digits", converged.readme),
  RESULTS: ("Real digits: Table I, converged", converged.results),
}
REMAKE = "remake them: python -m experiments.report --claims"


@pytest.fixture(scope="module")
def run():
  return runs.read_all([str(FOLDER)])[0]


@pytest.fixture(scope="module")
def further():
  return runs.read_all([str(RESULTS_OF / "nist_forms")])[0]


def test_table_1_is_that_of_the_results(run):
  documents.same(
    documents.recomputed(run),
    pd.read_csv(FOLDER / "table1.csv"),
    documents.COLUMNS,
  )


def test_claims_are_those_of_the_results(run):
  found = claims.judge(run.values())
  documents.same(found, pd.read_csv(FOLDER / "claims.csv"), CLAIM_COLUMNS)
  text = f"{markdown.beside_paper(run.values())}\n\n{claims.text(found)}"
  assert (FOLDER / "claims.md").read_text() == text


def rows_of(name):
  title, _ = SECTIONS[name]
  return documents.rows_of(documents.section(name, title))


def test_readme_has_the_table(run):
  """The paper's methods and the references."""
  shown = {"method", *TABLE_1, "global", "local"}
  rows = documents.rows_of(markdown.beside_paper(run.values()))
  assert rows_of(README) == {r for r in rows if r[1] in shown}, REMAKE


def test_results_have_the_tables(run):
  """All methods, the claims and the choice; no other row."""
  texts = (
    markdown.beside_paper(run.values()),
    claims.text(claims.judge(run.values())),
    markdown.aligned(choice.columns(run.choice), choice.NAMES),
  )
  rows = set().union(*map(documents.rows_of, texts))
  assert rows_of(RESULTS) == rows, REMAKE


@pytest.mark.parametrize("name", SECTIONS)
def test_documents_say_what_the_results_do(run, further, name):
  title, sentences = SECTIONS[name]
  numbers = converged.Numbers(run)
  said = sentences(numbers)
  if name == RESULTS:
    said.append((True, documents.flat(claims.text(numbers.claims))))
  else:
    said += forms.of_readme(run, further)
  documents.check(name, title, said, converged.ELSEWHERE)


def test_the_choice_is_that_of_each_person(run):
  by_person = pd.read_csv(FOLDER / "choice_by_person.csv", dtype={"seed": str})
  by_person["individual"] = by_person["individual"].astype(str)
  rows = []
  for method, own in by_person.groupby("method", sort=False):
    own = own.set_index("individual").loc[run.people]
    validated, tested = (
      {method: own[f"{of}_accuracy"], "global": own[f"{of}_accuracy_of_global"]}
      for of in ("validation", "test")
    )
    for name, accuracies in tested.items():
      of_run = run.accuracies(name, "individual", run.people)
      np.testing.assert_allclose(accuracies, of_run, rtol=1e-12)
    found = model_choice.judge_all(validated, tested, "global")[method]
    assert [*(own["chosen"] == method)] == [*found.personal]
    rows.append({"method": method} | vars(found))
  documents.same(pd.DataFrame(rows), run.choice, CHOICE_COLUMNS)
  assert {*run.choice["method"]} == {*run.seeds_of} - {"global"}


def test_measures_are_of_the_same_accuracies(run):
  found = documents.recomputed(run)
  columns = [f"{of}_mean" for of in ("individual", "global")]
  documents.same(
    found, pd.read_csv(FOLDER / "measures.csv"), ["method", *columns]
  )


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
