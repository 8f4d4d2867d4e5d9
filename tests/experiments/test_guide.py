"""GUIDE.md's blocks run; the documents' flags, files and columns are there."""

import contextlib
import importlib
import io
import json
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from test_imports import FILES, ROOT, reached

from personalization_jax.analysis import columns
from personalization_jax.methods import specs
from personalization_jax.runs import saved_models
from personalization_jax.schedules import INDIVIDUAL

GUIDE = ROOT / "experiments" / "GUIDE.md"
README = ROOT / "README.md"
RESULTS = ROOT / "experiments" / "RESULTS.md"
PERFORMANCE = ROOT / "experiments" / "PERFORMANCE.md"
DEVICE_CHECK = ROOT / "experiments" / "device_check.sh"
DOCUMENTS = (GUIDE, README, RESULTS, PERFORMANCE)
PACKAGE = ROOT / "personalization_jax"
TO_COME: set[str] = set()  # files that documents name before they are there
SCRIPTS = ("table1", "plan", "personalize", "predict", "report", "benchmark")

_RUN = re.compile(r"<!-- run -->\n```(python|sh)\n(.*?)```", re.DOTALL)
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"python -m experiments\.(\w+)(.*)")
_FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)(?![\w-])")
_DEFINED = re.compile(r'flags\.DEFINE_(\w+)\(\s*"(\w+)"')
_CODE = re.compile(r"`([^`]+)`")


def flags_of(script):
  """The names that a script takes, of switches with `no` before them too.

  Read in the sources that it imports: two scripts that have a flag of one name
  can't both be imported.
  """
  names = {"flagfile"}  # absl's
  for module in reached(f"experiments.{script}"):
    for kind, name in _DEFINED.findall(FILES[module].read_text()):
      names |= {name, f"no{name}"} if kind == "bool" else {name}
  return names


def commands(text):
  """(script, what follows) of every command line, continued lines joined."""
  return _COMMAND.findall(text.replace("\\\n", " "))


def run_command(script, arguments):
  """One command line of the guide, in this process where it can be."""
  argv = [script, *shlex.split(arguments)]
  module = importlib.import_module(f"experiments.{script}")
  if script == "table1":
    with flagsaver.flagsaver():
      module.main(flags.FLAGS(argv))
    return
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["guide"])
  module.FLAGS.unparse_flags()
  for name in module.FLAGS:
    module.FLAGS[name].unparse()
  module.main(module.FLAGS(argv))


@pytest.fixture(scope="module")
def guide():
  return GUIDE.read_text()


@pytest.fixture(scope="module")
def ran(guide, tmp_path_factory):
  """The folder the blocks ran in, the names they left, and what they said."""
  folder = tmp_path_factory.mktemp("guide")
  names = {"__name__": "guide"}
  said = io.StringIO()
  blocks = _RUN.findall(guide)
  assert len(blocks) == guide.count("\n<!-- run -->\n") == 19
  with (
    contextlib.chdir(folder),
    contextlib.redirect_stdout(said),
    pytest.MonkeyPatch.context() as patched,
  ):
    patched.syspath_prepend(folder)  # where the guide's reader runs
    for language, block in blocks:
      if language == "python":
        if file := re.match(r"# (\w+\.py)\n", block):
          pathlib.Path(file[1]).write_text(block)
        exec(compile(block, str(GUIDE), "exec"), names)
        continue
      if "/ID " in block:
        anyone = next(pathlib.Path("runs/own/models/global").iterdir())
        block = block.replace("/ID ", f"/{anyone.name} ")
      found = commands(block)
      assert found
      for script, arguments in found:
        run_command(script, arguments)
  return folder, names, said.getvalue()


@pytest.mark.slow
def test_own_data_are_trained_on(ran):
  folder, _, said = ran
  lines = (folder / "runs/own/results.csv").read_text().splitlines()
  assert len(lines) == 1 + 4 * 10
  assert "Latent space: 8 features" in said
  # What the guide has new people's models start from is the same for all.
  models = [
    saved_models.load(path)[1]
    for path in sorted((folder / "runs/own/models/global").iterdir())
  ]
  assert len(models) == 10
  jax.tree.map(np.testing.assert_array_equal, models[0], models[-1])


@pytest.mark.slow
def test_own_model_has_learned(ran):
  _, names, _ = ran
  results = {result.method: result for result in names["results"]}
  assert [*results] == ["global", "tl:20", "sw:2"]
  for result in results.values():
    own, _ = result.individual_accuracy(names["people"].labels)
    assert own.mean() > 0.5  # of three classes


@pytest.mark.slow
def test_own_model_on_the_command_line_is_saved(ran, monkeypatch):
  folder, _, _ = ran
  people = folder / "runs/normed/models/tl-20"
  monkeypatch.syspath_prepend(folder)
  description, _, batch_stats = saved_models.load(next(people.iterdir()))
  assert type(description.network()).__name__ == "Normed"
  assert batch_stats
  # A file of other contents is another run.
  config = json.loads((folder / "runs/normed/config.json").read_text())
  assert config["settings"]["model"] == "my_models:Normed"
  assert len(config["settings"]["model_digest"]) == 16


@pytest.mark.slow
def test_a_new_person_gets_predictions(ran):
  folder, _, said = ran
  assert (folder / "models/anna/person.json").exists()
  assert "10 predictions: predictions.csv" in said
  lines = (folder / "predictions.csv").read_text().splitlines()
  assert len(lines) == 11


@pytest.mark.slow
def test_the_new_method_s_share_grows_from_0_to_1(ran):
  folder, names, said = ran
  sources = names["study"].batches.sources(names["curriculum"])
  quarters = [
    (part == INDIVIDUAL).mean() for part in np.array_split(sources, 4)
  ]
  np.testing.assert_allclose(quarters, [1 / 8, 3 / 8, 5 / 8, 7 / 8], atol=0.08)
  found = {result.method: result for result in names["found"]}
  assert len(sources) == found["sw:2"].losses.shape[1]
  assert np.isfinite(found["curriculum"].losses).all()
  assert "| curriculum |" in said
  table = (folder / "runs/curriculum/table1.csv").read_text()
  assert "\ncurriculum," in table


@pytest.mark.slow
def test_each_question_has_a_short_example(ran, guide):
  _, names, _ = ran
  of_section = section(guide, "A new method")
  blocks = [code for _, code in _RUN.findall(of_section)]
  assert max(block.count("\n") for block in blocks) <= 25
  questions = re.findall(r"^\*\*([^*]+\?)\*\*", of_section, re.MULTILINE)
  assert len(questions) == 4
  for question in questions:
    answer = of_section.split(f"**{question}**")[1]
    assert "= Method(" in _RUN.findall(answer)[0][1], question
  found = {result.method: result for result in names["found"]}
  labels = names["people"].labels
  for name in ("own-front", "trust", "prior"):
    own, _ = found[name].individual_accuracy(labels)
    assert own.mean() > 0.5  # of three classes
    ours = found[name].individual_log_probability
    for other in ("global", "tl:20"):
      assert not np.array_equal(ours, found[other].individual_log_probability)


@pytest.mark.slow
def test_an_own_front_leaves_the_rest_as_it_was(ran):
  _, names, _ = ran
  study, mask = names["study"], names["own_front"].trainable
  general, _ = study.global_phase()
  params = general.params
  trained = mask(jax.tree.map(lambda leaf: leaf[0], params))
  front = study.personalize(names["own_front"], keep_models=True)
  for layer, leaves in front.models["params"].items():
    for name, people_s in leaves.items():
      for leaf in people_s:
        same = np.array_equal(leaf, params[layer][name][0])
        assert same == (trained[layer][name] is False), (layer, name)


@pytest.mark.slow
def test_the_report_shows_both_runs(ran):
  folder, _, _ = ran
  page = (folder / "report.html").read_text()
  assert "own" in page
  assert "curves" in page


def section(guide, title):
  return guide.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.slow
def test_what_a_run_s_directory_holds_is_there(ran, guide):
  folder, _, _ = ran
  table = section(guide, "A run's directory").split("Columns of")[0]
  paths = [
    path
    for line in table.splitlines()
    if line.startswith("| `")
    for path in _CODE.findall(line.split("|")[1])
  ]
  assert len(paths) == 15
  of_seeds = [p for p in paths if p.startswith(("predict", "models", "check"))]
  assert len(of_seeds) == 3
  for path in [*paths, *(f"seeds/K/{path}" for path in of_seeds)]:
    pattern = re.sub(r"\b[A-Z]+\b", "*", path)
    assert list((folder / "runs/curves").glob(pattern)), path
  trained = (folder / "runs/curves/metrics.jsonl").read_text()
  assert '"individual_validation_accuracy"' in trained


def test_columns_are_those_of_the_files(guide):
  _, results, table = section(guide, "A run's directory").split("Columns of ")
  known = {*columns.RESULT_COLUMNS, "results.csv", "ok", "diverged"}
  assert set(_CODE.findall(results)) == known
  named = [
    column
    for line in table.splitlines()
    if line.startswith("| `")
    for column in _CODE.findall(line.split("|")[1])
  ]
  assert sorted(named) == sorted(columns.TABLE_COLUMNS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_flag_that_is_named_is_a_script_s(path):
  text = path.read_text()
  found = commands(text)
  assert found
  for script, arguments in found:
    assert script in SCRIPTS
    for name in _FLAG.findall(arguments):
      assert name in flags_of(script), f"{script} has no --{name}"
  # In sentences, where no script is named; other programs' are in blocks.
  named = set(_FLAG.findall(_FENCED.sub("", text)))
  assert path == README or len(named) > 3
  of_card = set(re.findall(r"--(\w+)(?:=\*)?\)", DEVICE_CHECK.read_text()))
  assert not named - of_card.union(*map(flags_of, SCRIPTS))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_are_there(path):
  text = _FENCED.sub("", path.read_text())
  titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
  anchors = {
    re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles
  }
  linked = set()
  for target in re.findall(r"\]\(([^)]+)\)", text):
    if target.startswith("#"):
      linked.add(target[1:])
    else:
      assert (path.parent / target).exists(), target
  assert path != GUIDE or linked == anchors
  folders = (ROOT, ROOT / "experiments", PACKAGE, PACKAGE / "networks")
  for name in _CODE.findall(text):
    if re.fullmatch(r"[\w.]+/[\w/.]+\.(py|ipynb|md|flags)", name):
      there = any((folder / name).exists() for folder in folders)
      assert there != (name in TO_COME), name


def test_readme_says_where_the_paper_is():
  """Its map names files of the package, and what they define."""
  section = README.read_text().split("\n## The paper, and where")[1]
  table = section.split("\n## ")[0]
  places = re.findall(
    r"`([\w/]+(?:\.py|/))`(?::\s((?:`[\w.]+`(?:,\s)?)+))?", table
  )
  assert len(places) > 20
  for path, names in places:
    files = (ROOT if path.startswith("experiments/") else PACKAGE) / path
    sources = files.rglob("*.py") if path.endswith("/") else [files]
    source = "".join(file.read_text() for file in sources)
    for name in re.findall(r"\w+", names):
      assert re.search(rf"^ *(def|class) {name}\b", source, re.M), (path, name)


def test_the_field_s_methods_are_in_both_tables(guide):
  """README has each one's source and file, GUIDE what it is without numbers."""
  of_guide = section(guide, "Methods of the field")
  defaults = re.findall(r"^\| `[^|]+` \| `([^`]+)` \|", of_guide, re.MULTILINE)
  assert defaults == [*specs.SETS["field"]]
  names = re.findall(r"^\| `([^|]+)` \| `[^`]+` \|", of_guide, re.MULTILINE)
  rows = section(README.read_text(), "What the methods are called")
  files = dict(
    re.findall(r"^\| `(\S+?)`.*`(\w+/\w+\.py)` \|$", rows, re.MULTILINE)
  )
  assert sorted(files) == sorted(names)
  for file in files.values():
    assert (PACKAGE / file).exists(), file


def test_readme_is_short():
  assert len(README.read_text().splitlines()) <= 160
