"""HOUSE.md's rooms: what each may import and touch; and the public names.

`ROOMS` is HOUSE.md's table as data. `KNOWN` lists what still breaks it, and
fails for an entry that is no longer so.
"""

import ast
import functools
import graphlib
import importlib
import json
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "personalization_jax"

# What an import touches, by its longest prefix. NumPy and the rest of Python's
# library are free for all; any other library counts as itself.
TOUCHES = {
  **dict.fromkeys(("jax", "flax", "optax", "orbax", "chex"), "jax"),
  **dict.fromkeys(
    ("os", "shutil", "tempfile", "gzip", "lzma", "fcntl", "open()"), "disk"
  ),
  **dict.fromkeys(
    ("absl.flags", "absl.app", "sys", "signal", "print()", "exit()"), "shell"
  ),
  "pathlib": "paths",
  "numpy": "",
}
COMMON = "checks randomness distributed"
DATA = f"{COMMON} datasets datasets.synthetic networks checkpoints"
BELOW = f"{DATA} grouping settings schedules methods"
# Room: the rooms that it may import, and what it may touch.
ROOMS = {
  "checks": ("", ""),
  "randomness": ("checks", ""),
  "distributed": ("checks", "jax"),
  "datasets": (COMMON, "disk paths tensorflow_datasets tqdm"),
  # Writers are drawn by JAX; their images' bytes are what runs go on with.
  "datasets.synthetic": (f"{COMMON} datasets", "jax"),
  "networks": (COMMON, "jax"),
  "checkpoints": (COMMON, "disk paths jax"),
  "grouping": (DATA, "jax"),
  "settings": ("checks", ""),
  "schedules": (f"{DATA} grouping settings", ""),
  "methods": (f"{DATA} grouping settings schedules", "jax"),
  "analysis": (BELOW, "scipy pandas"),
  "training": (f"{BELOW} analysis", "jax"),
  # `figures.save` writes a file as all are written.
  "figures": ("checks checkpoints analysis", "matplotlib disk paths"),
  # Beside HOUSE.md's analysis, checkpoints and networks: what results and
  # saved models are described by.
  "runs": (f"{DATA} settings methods analysis", "disk paths jax pandas"),
  "study": (f"{BELOW} analysis training runs", "jax paths"),
  # The package's own names.
  "": (f"{BELOW} analysis training runs study", ""),
}
# No module in these rooms reaches JAX, through others either. Those of analysis
# may: methods know losses.
WITHOUT_JAX = "checks randomness datasets settings schedules figures"

KNOWN: set[str] = set()

# What users rely on beside what the documents' code uses: DESIGN.md's contract
# for Python, and the package's face.
CONTRACT = """
  Comparison Population Result Settings Split Study compare flips
  make_population resize split
  Result.individual_accuracy Result.validation_accuracy Study.find_groups
  datasets.Population.from_arrays datasets.npz.load
  schedules.GLOBAL schedules.INDIVIDUAL schedules.early_shaping
  schedules.sample_weighing schedules.transfer_learning
  grouping.single_sample_group grouping.class_means
  grouping.nearest_individuals
  methods.Method methods.Group methods.parse_method
"""
DOCUMENTS = (
  "README.md",
  "experiments/GUIDE.md",
  "experiments/walkthrough.ipynb",
)


def name_of(path: pathlib.Path) -> str:
  """personalization_jax/runs/__init__.py: personalization_jax.runs."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
  name_of(path): path
  for folder in (PACKAGE, "experiments")
  for path in sorted((ROOT / folder).rglob("*.py"))
}


def room(module: str) -> str:
  """The room with the longest name that the module's begins with."""
  path = module.split(".")[1:]
  names = (".".join(path[:end]) for end in range(len(path), -1, -1))
  return next(name for name in names if name in ROOMS or name.count(".") == 0)


@functools.cache
def uses(module: str) -> frozenset[str]:
  """What a module imports, and the bare names it calls, as `print()`."""
  found, todo = set(), [ast.parse(FILES[module].read_text())]
  while todo:
    node = todo.pop()
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
      continue  # for annotations alone
    todo += ast.iter_child_nodes(node)
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.module and not node.level, f"{module}: a relative import"
      names = {f"{node.module}.{alias.name}" for alias in node.names}
      inside = node.module in FILES and not names <= FILES.keys()
      found |= {node.module} if inside else names
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      found.add(f"{node.func.id}()")
  return frozenset(found)


def ours(module: str) -> set[str]:
  """The modules of this repository that a module imports."""
  return {used for used in uses(module) if used in FILES}


def top_names(module: str) -> set[str]:
  """The libraries that a module imports, but Python's own."""
  names = {used.split(".")[0] for used in uses(module) - FILES.keys()}
  return {
    name
    for name in names - sys.stdlib_module_names - {PACKAGE}
    if "(" not in name
  }


def touches(module: str) -> set[str]:
  """What a module touches by its own imports and calls."""
  found = top_names(module) - TOUCHES.keys() - {"absl"}
  for used in uses(module):
    names = (used, used.rpartition(".")[0], used.split(".")[0])
    found |= {TOUCHES[name] for name in names if name in TOUCHES}
  return found - {""}


def reached(module: str) -> set[str]:
  """All modules that importing one imports, but the package's own face."""
  found, todo = set(), {module}
  while todo:
    module = todo.pop()
    found.add(module)
    above = {module.rpartition(".")[0]} & FILES.keys()
    todo |= (ours(module) | above) - found - {PACKAGE}
  return found


def faults() -> set[str]:
  """Whatever the table doesn't allow, and a circle of imports."""
  found = set()
  for module in (name for name in FILES if name.startswith(PACKAGE)):
    here = room(module)
    short = module.removeprefix(f"{PACKAGE}.")
    if here not in ROOMS:
      found.add(f"{short} is in no room")
      continue
    rooms, things = (set(words.split()) for words in ROOMS[here])
    found |= {
      f"{short} imports {used}"
      for used in ours(module)
      if not used.startswith(PACKAGE) or room(used) not in {*rooms, here}
    }
    found |= {f"{short} touches {thing}" for thing in touches(module) - things}
    if here in WITHOUT_JAX.split() and any(
      "jax" in touches(other) for other in reached(module)
    ):
      found.add(f"{short} reaches JAX")
  try:
    graph = {module: ours(module) - {PACKAGE} for module in FILES}
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    found.add(f"a circle: {' '.join(sorted(set(error.args[1])))}")
  return found


def test_rooms_import_and_touch_what_the_table_allows():
  found = faults()
  assert not found - KNOWN, "new: forbidden by ROOMS"
  assert not KNOWN - found, "no longer so: take it out of KNOWN"


def test_a_room_imports_only_rooms_that_stand_above_it_in_the_table():
  rooms = [*ROOMS]
  for place, (imports, _) in enumerate(ROOMS.values()):
    assert {*imports.split()} <= {*rooms[:place]}


def python_of(document: str) -> str:
  """A document's Python: its blocks, or a notebook's cells without magics."""
  text = (ROOT / document).read_text()
  if not document.endswith(".ipynb"):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
  sources = [
    "".join(cell["source"])
    for cell in json.loads(text)["cells"]
    if cell["cell_type"] == "code"
  ]
  return re.sub(r"^%.*", "", "\n".join(sources), flags=re.M)


def names_in(code: str) -> set[str]:
  """The package's names that code imports, or uses as attributes of these."""
  tree = ast.parse(code)
  full = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      full |= {n.asname: n.name for n in node.names if n.asname}
    elif isinstance(node, ast.ImportFrom):
      full |= {
        n.asname or n.name: f"{node.module}.{n.name}" for n in node.names
      }
  names = {name for name in full.values() if name != PACKAGE}
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      top, _, rest = ast.unparse(node).partition(".")
      if rest.replace("_", "").replace(".", "").isalnum():
        names.add(f"{full.get(top)}.{rest}")
  return {name for name in names if name.startswith(f"{PACKAGE}.")}


def resolve(name: str) -> object:
  """What a dotted name is: a module, or something in one."""
  parts = name.split(".")
  found = importlib.import_module(parts[0])
  for end, part in enumerate(parts[1:], start=2):
    if not hasattr(found, part):
      importlib.import_module(".".join(parts[:end]))
    found = getattr(found, part)
  return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_that_a_document_uses_are_there(document):
  names = names_in(python_of(document))
  assert len(names) > 4 or document == "README.md"  # it may have no code
  for name in names:
    resolve(name)


@pytest.mark.parametrize("name", CONTRACT.split())
def test_names_that_users_rely_on_are_there(name):
  resolve(f"{PACKAGE}.{name}")


def test_names_in_code_are_found():
  code = "import personalization_jax as pj\n"
  code += "from personalization_jax import methods\n"
  code += "pj.Study(1, methods.Group(2)).groups\nother.name"
  found = {name.removeprefix(f"{PACKAGE}.") for name in names_in(code)}
  assert found == {"Study", "methods", "methods.Group"}
