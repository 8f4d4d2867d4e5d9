"""The notebook runs from top to bottom, and its stored outputs are clean."""

import copy
import pathlib
import re

import nbclient
import nbformat
import pytest

PATH = pathlib.Path(__file__).parents[2] / "experiments" / "walkthrough.ipynb"
# A path on somebody's machine.
MACHINE = re.compile(r"/(home|root|tmp|work|Users|usr)/|[A-Z]:\\")
# They define things and show nothing.
SILENT = {"setup"}
# What the text says of the numbers, whatever they are next time.
CLAIMS = """
own = {method: pair[0].mean() for method, pair in accuracies.items()}
public = {method: pair[1].mean() for method, pair in accuracies.items()}
assert own["baseline"] > 10 / population.num_classes
assert own["tl:60"] > max(own["global"], own["baseline"]) + 0.05
assert min(own["sw:2"], own["local"]) > own["baseline"]
assert public["local"] < public["tl:60"] < public["global"]
weighed = own["sw:2"]
for result in grouped:
  assert result.individual_accuracy(population.labels)[0].mean() < weighed
"""


@pytest.fixture(scope="module")
def notebook():
  return nbformat.read(PATH, as_version=4)


def outputs(notebook):
  return [o for c in notebook.cells for o in c.get("outputs", [])]


def images(notebook):
  return [
    cell.id
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if "image/png" in output.get("data", {})
  ]


def faults(notebook):
  """Outputs that no reader wants: errors, warnings, bars, a machine's paths."""
  found = []
  for output in outputs(notebook):
    data = {k: v for k, v in output.get("data", {}).items() if "image" not in k}
    text = "".join(map(str, [output.get("text", ""), *data.values()]))
    if (
      output.output_type == "error"
      or output.get("name") == "stderr"
      or MACHINE.search(text)
      or re.search(r"\r|\x1b", text)
    ):
      found.append(output)
  return found


def test_stored_outputs_are_there_and_clean(notebook):
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert 8 <= len(code) <= 12
  assert {cell.id for cell in code if not cell.outputs} == SILENT
  assert [cell.execution_count for cell in code] == list(
    range(1, len(code) + 1)
  )
  assert len(images(notebook)) >= 5
  assert not faults(notebook)


def test_nothing_of_the_machine_is_stored(notebook):
  """But for what `jupyter execute` writes: times, and Python's version."""
  assert all(set(cell.metadata) <= {"execution"} for cell in notebook.cells)
  assert set(notebook.metadata) == {"kernelspec", "language_info"}
  assert notebook.metadata.kernelspec.name == "python3"
  assert notebook.metadata.language_info.name == "python"
  assert not MACHINE.search(str(notebook.metadata))
  assert all(re.fullmatch("[a-z-]+", cell.id) for cell in notebook.cells)


def test_it_is_a_small_file():
  assert PATH.stat().st_size < 400_000


@pytest.mark.parametrize(
  "output",
  [
    nbformat.v4.new_output(
      "error", ename="ValueError", evalue="", traceback=[]
    ),
    nbformat.v4.new_output("stream", name="stderr", text="a warning"),
    nbformat.v4.new_output("stream", text="10%\r20%"),
    nbformat.v4.new_output("display_data", {"text/plain": "/home/me/x.png"}),
  ],
)
def test_unclean_outputs_are_found(notebook, output):
  spoilt = copy.deepcopy(notebook)
  spoilt.cells[-1].outputs.append(output)
  assert faults(spoilt) == [output]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_says_what_is_so(notebook, tmp_path):
  fresh = copy.deepcopy(notebook)
  for cell in fresh.cells:
    if cell.cell_type == "code":
      cell.outputs, cell.execution_count = [], None
  fresh.cells.append(nbformat.v4.new_code_cell(CLAIMS, id="claims"))
  # In a folder of its own: it needs no file.
  nbclient.NotebookClient(
    fresh,
    timeout=1800,
    kernel_name="python3",
    resources={"metadata": {"path": str(tmp_path)}},
  ).execute()
  assert images(fresh) == images(notebook)
  assert not faults(fresh)
  assert not list(tmp_path.iterdir())
