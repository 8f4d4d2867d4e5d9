"""RESULTS says of the runs beside the converged one what their files do."""

import numpy as np
import pandas as pd
import pytest
from helpers import class_counts, documents, forms, small_preset
from test_imports import ROOT

from experiments.outputs.report import runs
from personalization_jax.datasets import nist_digits, variations

FOLDER = ROOT / "experiments" / "results"
FORMS = "The forms combined, and more steps"
RESULTS = documents.RESULTS
SMALL = "Real digits in ten minutes"
CLASSES = "Class counts of people's own"
KINDS = {c: f"class_counts/{c}" for c in class_counts.CONCENTRATIONS}


def read(name):
  return runs.read_all([str(FOLDER / name)])[0]


@pytest.mark.parametrize(
  "name",
  ["nist_forms", "nist_small", *forms.CONTROLS.values(), *KINDS.values()],
)
def test_tables_are_those_of_the_results(name):
  run = read(name)
  assert run.finished
  table = pd.read_csv(FOLDER / name / "table1.csv")
  documents.same(documents.recomputed(run), table, documents.COLUMNS)


def test_results_have_the_forms_and_the_controls():
  run, further = map(read, ("nist_converged", "nist_forms"))
  controls = {steps: read(name) for steps, name in forms.CONTROLS.items()}
  values = forms.both(run, further)
  texts = (
    forms.levels(values, forms.SHOWN),
    forms.table(values, forms.OF_FORMS),
    *(
      forms.table(forms.both(run, control), forms.of_longer(steps))
      for steps, control in controls.items()
    ),
  )
  rows = set().union(*map(documents.rows_of, texts))
  assert documents.rows_of(documents.section(RESULTS, FORMS)) == rows
  said = forms.of_forms(run, further)
  said += forms.of_controls(run, further, controls)
  documents.check(RESULTS, FORMS, said, ["H100"])


def test_results_have_the_small_preset():
  said = small_preset.sentences(*map(read, ("nist_small", "nist_converged")))
  documents.check(RESULTS, SMALL, said)


def test_class_counts_are_those_of_the_digits(shared_data):
  """As RESULTS has them, of the ten people of these runs."""
  digits = nist_digits.load("mnist", manual_dir=str(shared_data))
  digits = variations.flips(digits)
  people = np.array([*map(int, read(KINDS["1"]).people)])
  found = {}
  for concentration in class_counts.CONCENTRATIONS:
    varied = variations.vary_class_counts(
      digits, people, concentration=float(concentration)
    )
    counts = np.array(
      [
        np.bincount(varied.labels[varied.individuals == person], minlength=30)
        for person in people
      ]
    )
    there = (counts > 0).sum(axis=1)
    largest = np.sort(counts, axis=1)[:, -2:].sum(axis=1) / counts.sum(axis=1)
    share = f"{np.median(largest):.0%}"
    found[concentration] = (min(there), max(there), share)
  assert found == {
    "0.1": (16, 20, "15%"),
    "1": (27, 30, "14%"),
    "100": (30, 30, "8%"),
  }


def test_results_have_the_class_counts():
  found = {c: read(name) for c, name in KINDS.items()}
  rows = documents.rows_of(class_counts.table(found))
  assert documents.rows_of(documents.section(RESULTS, CLASSES)) == rows
  documents.check(RESULTS, CLASSES, class_counts.sentences(found))
