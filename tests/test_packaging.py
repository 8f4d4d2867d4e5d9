"""What `pip install .` brings, and what it needs: setup.cfg, read as data."""

import configparser
import fnmatch
import pathlib

import pytest
from packaging.requirements import Requirement
from test_imports import FILES, PACKAGE, ROOT, top_names

# Distributions by another name than what is imported of them.
IMPORTED_AS = {
  "absl-py": "absl",
  "orbax-checkpoint": "orbax",
  "faiss-cpu": "faiss",
}
# tensorflow-datasets imports them without TensorFlow, and doesn't ask for both.
FOR_OTHERS = {"array_record", "importlib_resources"}
# matplotlib and Jinja2 are made with them, and bring them.
BROUGHT = {"PIL", "markupsafe"}
# Not imported yet; to be emptied.
KNOWN: set[str] = set()


@pytest.fixture(scope="module")
def config():
  parser = configparser.ConfigParser()
  parser.read(ROOT / "setup.cfg")
  return parser


def requirements(text):
  lines = text.strip().splitlines()
  return [Requirement(line) for line in lines if line[0] not in "#%"]


def imported_name(requirement):
  return IMPORTED_AS.get(requirement.name, requirement.name.replace("-", "_"))


def test_the_package_alone_is_installed(config):
  patterns = config["options.packages.find"]["include"].split()
  names = [path.name for path in ROOT.iterdir() if path.is_dir()]
  folders = [name for name in names if name.isidentifier()]  # as setuptools
  assert {"experiments", "tests", PACKAGE} <= {*folders}
  for folder, inside in ((name, f"{name}.x") for name in folders):
    for name in (folder, inside, f"{folder}_more"):
      installed = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
      assert installed == (name in (PACKAGE, f"{PACKAGE}.x"))


def test_every_module_lies_in_a_package():
  """Else setuptools leaves its folder out."""
  for path in FILES.values():
    assert (path.parent / "__init__.py").exists(), path


@pytest.mark.parametrize(
  ("system", "machine", "needed"),
  [
    ("linux", "x86_64", True),
    ("linux", "aarch64", True),
    ("darwin", "arm64", True),
    ("darwin", "x86_64", False),
    ("linux", "ppc64le", False),
    ("win32", "AMD64", False),
  ],
)
def test_array_record_is_needed_where_it_has_wheels(
  config, system, machine, needed
):
  (found,) = (
    requirement
    for requirement in requirements(config["options"]["install_requires"])
    if requirement.name == "array_record"
  )
  environment = {"sys_platform": system, "platform_machine": machine}
  assert found.marker.evaluate(environment) == needed


def test_every_library_is_required_and_every_requirement_imported(config):
  required = {
    imported_name(requirement)
    for requirement in requirements(config["options"]["install_requires"])
  }
  imported = {name for module in FILES for name in top_names(module)}
  extras = {
    imported_name(requirement)
    for extra in ("bench", "tensorboard")
    for requirement in requirements(config["options.extras_require"][extra])
  }
  of_the_package = {
    name
    for module in FILES
    if module.startswith(PACKAGE)
    for name in top_names(module)
  }
  assert of_the_package <= required
  assert imported - required <= extras | BROUGHT
  assert required - imported == FOR_OTHERS | KNOWN


def test_readme_and_ci_have_the_same_commands():
  script = (ROOT / ".ci" / "run").read_text()
  guide = (ROOT / "experiments" / "GUIDE.md").read_text()
  readme = (ROOT / "README.md").read_text()
  assert "ruff check ." in script
  assert "ruff check ." in guide
  first = "python -m experiments.table1 --flagfile="
  first += "experiments/presets/quickstart.flags"
  assert f"\npip install -e . && {first}\n" in readme
  assert "\npip install -e '.[test]' && python -m pytest -n 2\n" in readme
  assert pathlib.Path(ROOT / "pyproject.toml").read_text().count("[tool.ruff]")
