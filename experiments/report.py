r"""One HTML page of one or several runs, with all tables and figures in it.

    python -m experiments.report runs/a runs/b --output=report.html

Takes run directories of `experiments.table1`. The page needs no other file and
no network. For several runs it shows which flags differ, and compares every
method with that of the first run.

With --claims it also tests the paper's claims on the run (on the first of
several): claims.md has its Table I beside the paper's, as README and RESULTS
show it, and each claim with numbers, tests and a verdict.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from experiments.flags import people_flags
from experiments.outputs import claims
from experiments.outputs.report import page

FLAGS = flags.FlagValues()
# fmt: off
_OUTPUT = flags.DEFINE_string("output", "report.html",
    "The HTML file.", flag_values=FLAGS)
_TITLE = flags.DEFINE_string("title", None,
    "The page's title; by default the runs' names.", flag_values=FLAGS)
_CLAIMS = flags.DEFINE_string("claims", None,
    "A folder for claims.csv, claims.md and beside_paper.png: the paper's"
    " claims tested on the first run.", flag_values=FLAGS)
# fmt: on


def main(argv: Sequence[str]) -> None:
  """Writes the report of the run directories in argv[1:]."""
  output = pathlib.Path(_OUTPUT.value)
  try:
    runs = page.write(argv[1:], output, _TITLE.value)
    if _CLAIMS.value:
      print(claims.write(runs[0], pathlib.Path(_CLAIMS.value)))
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  for run in runs:
    print(f"{run.name}: {'finished' if run.finished else 'not finished'}")
  print(f"Report: {output}")


if __name__ == "__main__":
  people_flags.run(main, FLAGS)
