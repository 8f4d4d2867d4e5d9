"""The whole report: one HTML page that needs no other file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from experiments.outputs.report import comparison_section, run_section, runs
from experiments.outputs.report.markup import Html, element
from experiments.outputs.report.runs import Run
from experiments.outputs.report.style import CSS
from personalization_jax.checkpoints import files


def write(
  paths: Sequence[str], output: pathlib.Path, title: str | None = None
) -> list[Run]:
  """Reads runs and writes their report.

  Args:
    paths: run directories.
    output: the HTML file.
    title: the page's; by default the runs' names.

  Returns:
    The runs.

  Raises:
    ValueError: if a directory holds no run, a file of it is broken, or the
      output can't be written.
  """
  found = runs.read_all(paths)
  content = page(found, title)
  if output.is_dir():
    raise ValueError(f"--output={output} is a folder, not a file.")
  try:
    files.write_atomically(output, content.encode(errors="replace"))
  except OSError as error:
    raise ValueError(
      f"--output={output} can't be written ({error.strerror}): take another"
      " file."
    ) from error
  return found


def page(found: Sequence[Run], title: str | None = None) -> str:
  """The report as text: the same bytes for the same runs.

  Args:
    found: at least one run.
    title: see `write`.

  Returns:
    An HTML document.
  """
  names = [run.name for run in found]
  title = title or f"Personalization: {', '.join(names)}"
  sections: list[tuple[str, str, Html]] = []
  if len(found) > 1:
    section = comparison_section.section(found, "comparison")
    sections.append(("comparison", "Comparison", section))
  for k, run in enumerate(found, 1):
    anchor = f"run-{k}"
    sections.append((anchor, run.name, run_section.section(run, anchor)))
  links = [
    element("li", element("a", name, href=f"#{anchor}"))
    for anchor, name, _ in sections
  ]
  return "<!DOCTYPE html>\n" + element(
    "html",
    element(
      "head",
      element("meta", charset="utf-8"),
      element(
        "meta", name="viewport", content="width=device-width, initial-scale=1"
      ),
      element("title", title),
      element("style", Html(CSS)),
    ),
    element(
      "body",
      element(
        "main",
        element("h1", title),
        element(
          "p",
          "One model for each person, by each method: runs of"
          " experiments.table1.",
        ),
        *(
          [element("nav", element("ul", *links), aria_label="Contents")]
          if len(links) > 1
          else []
        ),
        *(section for _, _, section in sections),
      ),
    ),
    lang="en",
  )
