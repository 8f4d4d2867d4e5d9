"""RESULTS says of the recipe what recipe.csv does."""

import pandas as pd
from helpers import documents, recipe, recipe_said
from test_imports import ROOT

FILE = ROOT / "experiments" / "results" / "recipe.csv"
# What was asked for, and times that the runs' logs have.
ASKED = [
  "batches of 128, 100 writers and 20 epochs (3,640 steps)",
  "16 pixels",
  "A seed takes 1.5 to 8 minutes",
  "10 to 12 at full width",
  "40 to 60 at both",
  "Few steps: 216, of 3 epochs and 40 writers",
  "32 pixels",
]


def test_results_have_the_recipes_tables_and_sentences():
  runs = pd.read_csv(FILE)
  section = documents.section(documents.RESULTS, recipe_said.TITLE)
  rows = set().union(
    *(documents.rows_of(table(runs)) for table in recipe.TABLES)
  )
  assert documents.rows_of(section) == rows
  said = recipe_said.sentences(runs)
  documents.check(documents.RESULTS, recipe_said.TITLE, said, ASKED)
  assert recipe_said.of_readme(runs) in (ROOT / documents.README).read_text()
