"""RESULTS says of the recipe at other widths and sizes what recipe.csv does."""

import pandas as pd
from helpers import documents, recipe
from test_imports import ROOT

FILE = ROOT / "experiments" / "results" / "recipe.csv"


def test_results_have_the_recipes_tables_and_sentences():
  runs = pd.read_csv(FILE)
  section = documents.section(documents.RESULTS, "The recipe")
  for table in (recipe.table(runs), recipe.short_table(runs)):
    rows = documents.rows_of(table)
    assert rows and rows <= documents.rows_of(section)
  text = documents.flat(section)
  for holds, sentence in recipe.sentences(runs):
    assert holds, f"no longer so: {sentence}"
    assert sentence in text, f"{documents.RESULTS} lacks: {sentence}"
