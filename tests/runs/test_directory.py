import concurrent.futures
import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers.small_run import read

import personalization_jax as pj
from personalization_jax.analysis import columns, markdown, metrics, tables
from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files
from personalization_jax.datasets import Population
from personalization_jax.runs import directory, table_files

LABELS = np.random.default_rng(0).integers(0, 4, 80).astype(np.int32)
# Every third sample of a file: the others are people that a run left out.
POPULATION = dataclasses.replace(
  Population.from_arrays(np.zeros((80, 1)), LABELS, np.arange(80) // 8),
  file_rows=np.arange(2, 242, 3, dtype=np.int32),
)


def make_result(method, seed=0, skill=0.7):
  """Five people, ragged test rows, right with probability `skill`."""
  split = np.random.default_rng(seed)  # the same for all methods
  rows = split.permutation(60)[: 5 * 9].reshape(5, 9).astype(np.int32)
  rows[1, 6:] = -1
  general = np.arange(60, 80, dtype=np.int32)
  rng = np.random.default_rng([len(method), seed])

  def predict(rows):
    right = rng.random(rows.shape) < skill
    guess = np.where(right, LABELS[rows], (LABELS[rows] + 1) % 4)
    return np.where(rows < 0, -1, guess).astype(np.int32)

  losses = rng.random((5, 3)).astype(np.float32)
  losses[2, 2] = np.nan
  return Result(
    method=method,
    seed=seed,
    individuals=np.arange(5, dtype=np.int32) * 10,
    individual_rows=rows,
    individual_predictions=predict(rows),
    global_rows=general,
    global_predictions=predict(np.tile(general, (5, 1))),
    losses=losses,
    individual_labels=np.where(rows < 0, -1, LABELS[rows]),
    global_labels=LABELS[general],
  )


FINISHED = [
  make_result("baseline", skill=0.6),
  make_result("sw:1/2", skill=0.9),
  make_result("tl:10:last=2", skill=0.7),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  for result in FINISHED:
    directory.save_result(workdir, result, POPULATION)
  table_files.write_tables(workdir, FINISHED, LABELS)
  return workdir


def test_results_survive_the_disk(run):
  for result in FINISHED:
    loaded = directory.load_result(run, result.method, POPULATION)
    for name, value in vars(result).items():
      np.testing.assert_array_equal(getattr(loaded, name), value)
  assert directory.load_result(run, "es:40") is None


def test_probabilities_survive_the_disk(tmp_path):
  """And a result that has none, as of an older version, has none there."""
  logs = np.random.default_rng(0).normal(size=(5, 9, 4)).astype(np.float32)
  result = dataclasses.replace(
    make_result("tl:3"),
    individual_log_probability=logs[..., 0],
    individual_log_probabilities=logs,
    train_size=np.arange(5),
  )
  directory.save_result(tmp_path, result, POPULATION)
  loaded = directory.load_result(tmp_path, "tl:3", POPULATION)
  for name in vars(result):
    np.testing.assert_array_equal(getattr(loaded, name), getattr(result, name))
  assert loaded.global_log_probability is None
  with pytest.raises(ValueError, match=r"individual_log_probability has shape"):
    dataclasses.replace(result, individual_log_probability=logs[:, :3, 0])


def test_what_tables_are_compared_with_is_told_while_it_is_so(tmp_path):
  directory.open_run(tmp_path, {}, "f00d", {"commit": "c0ffee"})
  before = (tmp_path / "config.json").read_bytes()
  directory.tell_baseline(tmp_path, "global")
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["compare_to"] == "global"
  directory.tell_baseline(tmp_path, None)
  assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
  ("method", "one_model"),
  [("global", True), ("tl:3", False), ("baseline", False), ("mine", False)],
)
def test_whether_all_share_one_model_is_kept(tmp_path, method, one_model):
  """Under any name; in files from before it was, the name says so."""
  for kept in (True, False):
    result = dataclasses.replace(make_result(method), one_model=kept)
    directory.save_result(tmp_path, result, POPULATION)
    assert directory.load_result(tmp_path, method).one_model is kept
  (path,) = (tmp_path / "predictions").iterdir()
  with np.load(path) as arrays:
    before = {k: arrays[k] for k in arrays if k != "one_model"}
  np.savez_compressed(path, **before)
  assert directory.load_result(tmp_path, method).one_model is one_model


def test_every_csv_row_is_what_the_saved_predictions_say(run):
  rows = read(run / "results.csv")
  assert list(rows[0]) == list(columns.RESULT_COLUMNS)
  assert len(rows) == 15
  for row in rows:
    saved = directory.load_result(run, row["method"], POPULATION)
    index = list(saved.individuals).index(int(row["individual"]))
    own = saved.individual_rows[index]
    hits = [
      int(p == LABELS[r])
      for p, r in zip(saved.individual_predictions[index], own)
      if r >= 0
    ]
    assert float(row["individual_accuracy"]) == sum(hits) / len(hits)
    assert int(row["individual_test_size"]) == len(hits) == (own >= 0).sum()
    hits = saved.global_predictions[index] == LABELS[saved.global_rows]
    assert float(row["global_accuracy"]) == pytest.approx(
      hits.mean(), rel=1e-15
    )
    assert int(row["global_test_size"]) == 20


def test_saved_predictions_are_of_rows_of_the_user_s_file(run):
  in_file = np.full(242, 99, np.int32)
  in_file[POPULATION.file_rows] = LABELS
  for result in FINISHED:
    loaded = directory.load_result(run, result.method)
    own = result.individual_rows
    np.testing.assert_array_equal(
      loaded.individual_rows, np.where(own < 0, -1, 3 * own + 2)
    )
    for labels in (None, in_file):
      for got, expected in (
        (loaded.individual_accuracy(labels), result.individual_accuracy()),
        (loaded.global_accuracy(labels), result.global_accuracy()),
      ):
        np.testing.assert_array_equal(got, expected)
    # The run's own store has others in these rows.
    with pytest.raises(ValueError, match="the one that it was made of"):
      loaded.individual_accuracy(LABELS)


def test_predictions_of_another_population_are_refused(run):
  others = dataclasses.replace(POPULATION, labels=(LABELS + 1) % 4)
  with pytest.raises(ValueError, match=r"tl-10.*made of another population"):
    directory.load_result(run, "tl:10:last=2", others)
  with pytest.raises(ValueError, match="samples of other classes"):
    pj.compare(FINISHED, others)
  assert str(pj.compare(FINISHED)) == str(pj.compare(FINISHED, POPULATION))


def test_predictions_of_older_runs_get_their_labels(run, tmp_path):
  old = make_old(run / "predictions" / "baseline.npz", tmp_path, "baseline")
  with pytest.raises(ValueError, match=r"older version.*give the population"):
    directory.load_result(old, "baseline")
  loaded = directory.load_result(old, "baseline", POPULATION)
  np.testing.assert_array_equal(
    loaded.individual_accuracy(), FINISHED[0].individual_accuracy()
  )
  # What SG chose then depended on the order of the file.
  old = make_old(run / "predictions" / "baseline.npz", tmp_path, "sg:4")
  with pytest.raises(ValueError, match="SG took D_I in the order of its file"):
    directory.load_result(old, "sg:4", POPULATION)


def make_old(path, folder, method):
  """A copy as versions wrote it that kept no labels."""
  with np.load(path) as file:
    arrays = {
      name.removeprefix("store_"): array
      for name, array in sorted(file.items())
      if not name.endswith("_labels") and name != "fingerprint"
    }
  (folder / "predictions").mkdir(exist_ok=True)
  name = f"{files.safe_name(method)}.npz"
  np.savez(folder / "predictions" / name, **{**arrays, "method": method})
  return folder


def test_table_has_the_contract_s_columns(run):
  rows = read(run / "table1.csv")
  spread = ("mean", "rank", "sd", "min", "max")
  contract = [
    "method",
    *(f"individual_{column}" for column in spread),
    *(f"global_{column}" for column in spread),
    "p_individual",
    "p_global",
  ]
  assert list(rows[0])[: len(contract)] == contract
  assert [row["method"] for row in rows] == [r.method for r in FINISHED]


def test_table_is_computed_from_the_results(run):
  table = {row["method"]: row for row in read(run / "table1.csv")}
  rows = read(run / "results.csv")
  values = {
    (row["method"], column): np.array(
      [
        float(other[column])
        for other in rows
        if other["method"] == row["method"]
      ]
    )
    for row in rows
    for column in ("individual_accuracy", "global_accuracy")
  }
  for method in table:
    own = values[method, "individual_accuracy"]
    assert float(table[method]["individual_mean"]) == pytest.approx(own.mean())
    assert float(table[method]["individual_sd"]) == pytest.approx(
      own.std(ddof=1)
    )
    assert float(table[method]["individual_min"]) == own.min()
    general = values[method, "global_accuracy"]
    assert float(table[method]["global_max"]) == general.max()
    means = [values[m, "global_accuracy"].mean() for m in table]
    rank = 1 + sum(m > general.mean() + 1e-12 for m in means)
    assert int(table[method]["global_rank"]) == rank
  assert table["baseline"]["p_individual"] == ""
  expected = metrics.significance(
    {m: values[m, "individual_accuracy"] for m in table}, "baseline"
  )["sw:1/2"]
  assert float(table["sw:1/2"]["p_individual"]) == expected.t
  assert float(table["sw:1/2"]["p_individual_holm"]) == expected.t_holm


def test_markdown_has_a_line_for_each_method(run):
  lines = (run / "table1.md").read_text().splitlines()
  table = [line for line in lines if line.startswith("|")]
  assert len(table) == 2 + len(FINISHED)
  assert len({len(line) for line in table}) == 1
  assert table[2].startswith("| baseline")
  mean = FINISHED[1].individual_accuracy(LABELS)[0].mean()
  assert f"{mean:.4f}" in table[3]


def test_what_a_table_lacks_is_nan_in_records_and_empty_in_csv(run):
  records = pj.compare(FINISHED).records()
  assert list(records[0]) == list(columns.TABLE_COLUMNS)
  line = read(run / "table1.csv")[0]
  for column, text in (
    ("p_individual", ""),
    ("fairness_max_ratio", ""),
    ("individual_seed_sd", "nan"),
  ):
    assert np.isnan(records[0][column])
    assert line[column] == text
  # Numbers, so that means and comparisons of a column work.
  assert all(
    isinstance(value, int | float)
    for record in records
    for name, value in record.items()
    if name != "method"
  )


def test_metrics_are_json_where_d_g_has_no_validation_data(tmp_path):
  curve = np.array([[0.5]] * 5, np.float32)
  result = dataclasses.replace(
    FINISHED[0],
    curve_steps=np.array([2]),
    individual_curve=curve,
    global_curve=curve * np.nan,
  )
  table_files.write_tables(tmp_path, [result], LABELS)
  *_, line = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(line, parse_constant=pytest.fail) == {
    "method": "baseline",
    "seed": 0,
    "step": 2,
    "individual": 40,
    "individual_validation_accuracy": 0.5,
    "global_validation_accuracy": None,
  }


def test_metrics_leave_padded_steps_out(run):
  lines = [
    json.loads(line)
    for line in (run / "metrics.jsonl").read_text().splitlines()
  ]
  assert len(lines) == 9
  assert [line["individuals"] for line in lines[:3]] == [5, 5, 4]
  assert lines[0]["loss_mean"] == pytest.approx(FINISHED[0].losses[:, 0].mean())


def test_the_mean_loss_lies_between_the_smallest_and_the_largest(tmp_path):
  losses = np.full((5, 1), np.float32(0.1))
  result = dataclasses.replace(FINISHED[0], losses=losses)
  table_files.write_tables(tmp_path, [result], LABELS)
  line = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert line["loss_min"] <= line["loss_mean"] <= line["loss_max"]


def test_every_column_of_a_table_has_a_rule_of_markdown():
  text = markdown.aligned([("", "M", "a"), ("", "p", "-")])
  rule = text.splitlines()[1]
  assert rule == "| --- | --: |"
  assert len({len(line) for line in text.splitlines()}) == 1


def test_without_a_baseline_there_are_no_p_values():
  table = tables.of_results(FINISHED[1:], LABELS)
  assert list(table["p_individual"]) == [None, None]


SETTINGS = {"epochs": 5, "width": 0.25, "dataset": "synthetic"}


def test_the_same_run_goes_on(tmp_path):
  for _ in range(2):
    directory.open_run(tmp_path / "run", SETTINGS, "abc", {"device": "cpu"})
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  assert config["settings"] == SETTINGS
  assert config["dataset_fingerprint"] == "abc"
  assert config["device"] == "cpu"


def test_a_run_of_classes_of_other_names_is_refused(tmp_path):
  """Its models and predictions would go by the new names."""
  names = {"label_names": ("ant", "bee")}
  directory.open_run(tmp_path, SETTINGS, "abc", names)
  directory.open_run(tmp_path, SETTINGS, "abc", names)
  for other in ({"label_names": ("bee", "cat")}, {}):
    with pytest.raises(ValueError, match=r"classes are called .*'ant'"):
      directory.open_run(tmp_path, SETTINGS, "abc", other)


@pytest.mark.parametrize("flag", list(SETTINGS))
def test_another_run_is_refused_by_the_flag_that_differs(tmp_path, flag):
  directory.open_run(tmp_path, SETTINGS, "abc", {})
  before = (tmp_path / "config.json").read_text()
  with pytest.raises(ValueError, match=f"{flag}={SETTINGS[flag]}.*{flag}=7"):
    directory.open_run(tmp_path, {**SETTINGS, flag: 7}, "abc", {})
  without = {name: value for name, value in SETTINGS.items() if name != flag}
  with pytest.raises(
    ValueError, match=f"with {flag}=.*, but this one is without --{flag}:"
  ):
    directory.open_run(tmp_path, without, "abc", {})
  with pytest.raises(
    ValueError, match="holds a run without --later, but this one has later=7:"
  ):
    directory.open_run(tmp_path, {**SETTINGS, "later": 7}, "abc", {})
  assert (tmp_path / "config.json").read_text() == before


def test_what_an_older_run_holds_and_nothing_depends_on_may_differ(tmp_path):
  directory.open_run(tmp_path, {**SETTINGS, "nist_config": "mnist"}, "abc", {})
  with pytest.raises(ValueError, match="nist_config=mnist"):
    directory.open_run(tmp_path, SETTINGS, "abc", {})
  directory.open_run(tmp_path, SETTINGS, "abc", {}, inert=["nist_config"])
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["settings"] == SETTINGS


def test_other_data_are_refused(tmp_path):
  directory.open_run(tmp_path, SETTINGS, "abc", {})
  with pytest.raises(ValueError, match="on other data"):
    directory.open_run(tmp_path, SETTINGS, "abd", {})


def test_a_config_that_is_no_run_s_is_refused(tmp_path):
  for content in (
    '{"a": 1}',
    "null",
    "[]",
    *(
      f'{{"settings": {settings}, "dataset_fingerprint": "abc"}}'
      for settings in ("null", "7", '"text"', "[1]")
    ),
  ):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json that is no run's"):
      directory.open_run(tmp_path, SETTINGS, "abc", {})


def test_a_damaged_result_is_named(run, tmp_path):
  path = tmp_path / "predictions" / "sw-2.npz"
  path.parent.mkdir()
  path.write_bytes(b"PK\x03\x04 half a file")
  with pytest.raises(ValueError, match=r"sw-2\.npz can't be read"):
    directory.load_result(tmp_path, "sw:2")


def test_a_result_in_another_s_place_is_found_and_counted_once(tmp_path):
  """Another seed's, the first one's too, and another method's."""
  for seed in (0, 1):
    home = tmp_path / "seeds" / "1" if seed else tmp_path
    directory.save_result(home, make_result("sw:2", seed), POPULATION)
  first, second = (
    home / "predictions" for home in (tmp_path, tmp_path / "seeds" / "1")
  )
  assert directory.saved(tmp_path) == [("sw:2", 0), ("sw:2", 1)]
  shutil.copy(first / "sw-2.npz", first / "sw-12.npz")
  assert directory.saved(tmp_path) == [("sw:2", 0), ("sw:2", 1)]
  assert directory.load_result(second.parent, "sw:2", POPULATION, 1).seed == 1
  kept = (second / "sw-2.npz").read_bytes()
  shutil.copy(first / "sw-2.npz", second)
  assert directory.saved(tmp_path) == [("sw:2", 0)]
  with pytest.raises(ValueError, match=r"sw-2\.npz.*it holds seed 0.*delete"):
    directory.load_result(second.parent, "sw:2", POPULATION, 1)
  (second / "sw-2.npz").write_bytes(kept)
  shutil.copy(second / "sw-2.npz", first)
  assert directory.saved(tmp_path) == [("sw:2", 1)]
  with pytest.raises(ValueError, match="it holds seed 1"):
    directory.load_result(tmp_path, "sw:2", POPULATION, 0)


def test_files_are_whole_or_as_before(tmp_path):
  path = tmp_path / "table.csv"
  files.write_atomically(path, "before")

  class Unwritable:
    pass

  with pytest.raises(TypeError):
    files.write_atomically(path, Unwritable())
  assert path.read_text() == "before"
  assert list(tmp_path.iterdir()) == [path]


def test_who_diverged_is_named_and_kept_out_of_means(tmp_path):
  gone = np.array([False, True, False, False, False])
  first, *others = FINISHED
  finished = [dataclasses.replace(first, diverged=gone), *others]
  table_files.write_tables(tmp_path, finished, LABELS, np.ones((5, 5)))
  lines = read(tmp_path / "results.csv")
  assert [line["status"] for line in lines[:5]] == [
    "diverged" if one else "ok" for one in gone
  ]
  assert lines[1]["individual_accuracy"] == lines[1]["global_accuracy"] == ""
  own = first.individual_accuracy(LABELS)[0][~gone]
  table = read(tmp_path / "table1.csv")
  assert float(table[0]["individual_mean"]) == pytest.approx(own.mean())
  assert float(table[0]["individual_sd"]) == pytest.approx(own.std(ddof=1))
  assert [row["diverged"] for row in table] == ["1", "0", "0"]
  # Pairs of which one diverged are no pairs.
  values = {
    method: pair[0][~gone]
    for method, pair in tables.accuracies(FINISHED, LABELS).items()
  }
  expected = metrics.significance(values, "baseline")["sw:1/2"]
  assert float(table[1]["p_individual"]) == expected.t
  assert float(table[1]["p_individual_wilcoxon_holm"]) == expected.wilcoxon_holm
  assert table[1]["individual_pairs"] == str(expected.pairs) == "4"
  text = (tmp_path / "table1.md").read_text()
  assert "| diverged |" in text
  assert "diverged: models whose loss" in text


def test_if_everybody_diverged_there_is_still_a_table(tmp_path):
  finished = [
    dataclasses.replace(result, diverged=np.ones(5, bool))
    for result in FINISHED[:2]
  ]
  table_files.write_tables(tmp_path, finished, LABELS, np.ones((5, 5)))
  text = (tmp_path / "table1.md").read_text()
  assert "nan" not in text
  line = next(line for line in text.splitlines() if "| sw:1/2" in line)
  assert set(line.split("|")[2].split()) == {"-"}
  assert line.split("|")[3].split() == ["-"]  # no mean, no rank
  table = read(tmp_path / "table1.csv")
  assert [line["individual_rank"] for line in table] == ["", ""]
  assert [line["individual_mean"] for line in table] == ["nan", "nan"]
  assert [line["diverged"] for line in table] == ["5", "5"]


def test_people_who_cannot_be_compared_leave_fairness_out(run, tmp_path):
  """Such as two without a common class: everything else is still written."""
  apart = np.where(np.eye(5), 0.0, np.inf)
  table_files.write_tables(tmp_path, FINISHED, LABELS, apart)
  fairness = ("max_ratio", "mean_ratio", "rank_correlation", "coincide")
  for line, plain in zip(
    read(tmp_path / "table1.csv"), read(run / "table1.csv")
  ):
    cells = [line.pop(f"fairness_{name}") for name in fairness]
    assert cells == ["nan", "nan", "nan", "0"]
    assert line.items() <= plain.items()
  assert len(read(tmp_path / "results.csv")) == 15
  assert "| sw:1/2" in (tmp_path / "table1.md").read_text()


def test_a_method_whose_models_all_diverged_has_no_rank(tmp_path):
  finished = [
    dataclasses.replace(FINISHED[0], diverged=np.ones(5, bool)),
    FINISHED[1],
  ]
  table = table_files.write_tables(tmp_path, finished, LABELS)
  assert list(table["individual_rank"]) == [None, 1]
  assert np.isnan(table["p_individual"][1])


def test_a_run_killed_in_its_first_write_goes_on(tmp_path):
  (tmp_path / ".config.json.4711.part").write_text('{"sett')
  directory.open_run(tmp_path, SETTINGS, "abc", {})
  assert (tmp_path / "config.json").exists()


def test_methods_of_one_s_own_stand_with_shaping():
  halves = tables.halves(["mine", "random:5", "baseline", "sg:3"])
  assert halves == {
    tables.SHAPING: ["mine", "baseline"],
    tables.GROUPING: ["random:5", "sg:3"],
  }
  assert tables.baseline_of(halves[tables.SHAPING]) == "baseline"
  assert tables.baseline_of(["mine"]) is None


def state(folder):
  """Every file's content and time of change, and the folders'."""
  return {
    path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
    for path in [folder, *folder.rglob("*")]
  }


def test_a_directory_that_is_refused_stays_as_it_is(tmp_path):
  used, foreign = tmp_path / "used", tmp_path / "foreign"
  foreign.mkdir()
  (foreign / "thesis.tex").write_text("...")
  with directory.alone_in(used, "mine"):
    directory.open_run(used, SETTINGS, "abc", {})
    before = state(tmp_path)
    for folder, words in (
      (used, "is in use by another process"),
      (foreign, "is not empty and holds no run"),
    ):
      with (
        pytest.raises(ValueError, match=words),
        directory.alone_in(folder, "another's"),
      ):
        pytest.fail("it was taken")
    assert state(tmp_path) == before


def test_a_start_that_wrote_nothing_leaves_no_directory(tmp_path):
  with pytest.raises(KeyError), directory.alone_in(tmp_path / "run"):
    raise KeyError
  assert not (tmp_path / "run").exists()
  with directory.alone_in(tmp_path / "run"):
    directory.open_run(tmp_path / "run", SETTINGS, "abc", {})
  assert (tmp_path / "run" / "config.json").exists()


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
  home = tmp_path / "run"
  left = [
    home / folder / f".{name}.4711.part"
    for folder, name in (
      ("", "results.csv"),
      ("predictions", "sw-2.npz"),
      ("seeds/1/predictions", "sw-2.npz"),
      ("figures", "gains.png"),
    )
  ]
  for path in left:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half")
  others = [home / "notes.part", home / "predictions" / "sw-2.npz"]
  for path in [*others, home / "config.json"]:
    path.write_text("{}")
  with directory.alone_in(home):
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_a_start_leaves_a_directory_that_was_there(tmp_path):
  (tmp_path / "mine").mkdir()
  with directory.alone_in(tmp_path / "mine"):
    pass
  assert (tmp_path / "mine").is_dir()


def test_of_many_starts_at_once_one_at_a_time_has_the_directory(tmp_path):
  """Though each makes it, and removes it again."""
  inside, most, refused = [], [], []

  def start(number):
    for _ in range(40):
      try:
        with directory.alone_in(tmp_path / "run"):
          inside.append(number)
          most.append(len(inside))
          inside.remove(number)
      except ValueError as error:
        refused.append(str(error))

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(start, range(8)))
  assert set(most) == {1}
  assert all("is in use" in text for text in refused)


def test_the_directory_is_known_by_its_token(tmp_path):
  with (
    directory.alone_in(tmp_path / "a", "7f"),
    directory.alone_in(tmp_path / "b"),
  ):
    assert directory.holds_token(tmp_path / "a", "7f")
    assert not directory.holds_token(tmp_path / "b", "7f")
    assert not directory.holds_token(tmp_path / "c", "7f")


def test_what_was_asked_for_only_grows(tmp_path):
  for methods, seeds in ((["a", "b"], [0]), (["c", "a"], [0]), (["b"], [2])):
    asked = [(method, seed) for method in methods for seed in seeds]
    config = directory.open_run(tmp_path, SETTINGS, "abc", {}, asked=asked)
  assert config["methods"] == ["a", "b", "c"]
  assert config["seeds"] == [0, 2]
  assert config["asked"] == {"a": [0], "b": [0, 2], "c": [0]}
  assert config == json.loads((tmp_path / "config.json").read_text())


def test_what_is_no_name_or_seed_in_a_config_is_not_taken(tmp_path):
  content = {"settings": SETTINGS, "dataset_fingerprint": "abc"}
  odd = {"methods": [1, ["a"], "b"], "seeds": [[1], "x", 2], "asked": [3]}
  (tmp_path / "config.json").write_text(json.dumps(content | odd))
  config = directory.open_run(tmp_path, SETTINGS, "abc", {}, asked=[("a", 0)])
  assert config["methods"] == ["b", "a"]
  assert config["seeds"] == [2, 0]
  assert config["asked"] == {"a": [0]}


def test_finished_results_are_told_apart_by_what_made_them(tmp_path):
  def start(jax, *methods):
    about = {"versions": {"jax": jax}, "command": [jax]}
    directory.open_run(
      tmp_path, SETTINGS, "abc", about, asked=[(m, 0) for m in methods]
    )
    return about

  start("0.9")  # killed before anything was finished
  first = start("1.0", "baseline", "sw:1/2")
  directory.save_result(tmp_path, FINISHED[0], POPULATION, first)
  second = start("2.0", "baseline", "sw:1/2", "tl:10:last=2")
  for result in FINISHED[1:]:
    directory.save_result(tmp_path, result, POPULATION, second)
  seeded = make_result("baseline", seed=4)
  directory.save_result(tmp_path / "seeds" / "4", seeded, POPULATION, first)
  directory.tell_origins(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["versions"] == {"jax": "1.0"}
  made = {one["versions"]["jax"]: one["results"] for one in config["made_with"]}
  assert made == {
    "1.0": {"baseline": [0, 4]},
    "2.0": {"sw:1/2": [0], "tl:10:last=2": [0]},
  }
  assert directory.load_result(tmp_path, "baseline").method == "baseline"


def test_results_of_older_versions_are_their_config_s(tmp_path):
  """Which didn't keep what made each, and had one config.json for all."""
  directory.save_result(tmp_path, FINISHED[0], POPULATION)
  old = {"settings": SETTINGS, "dataset_fingerprint": "abc", "commit": "c0ffee"}
  (tmp_path / "config.json").write_text(json.dumps({**old, "methods": ["x"]}))
  config = directory.open_run(
    tmp_path, SETTINGS, "abc", {"commit": "new"}, asked=[("y", 0)]
  )
  assert config["commit"] == "c0ffee"
  assert config["methods"] == ["x", "baseline", "y"]
  assert config["made_with"] == [
    {"results": {"baseline": [0]}, "commit": "c0ffee"}
  ]


def test_what_is_finished_with_other_seeds_is_in_results_alone(tmp_path):
  table = table_files.write_tables(
    tmp_path, FINISHED, LABELS, beside=[make_result("es:4", seed=1)]
  )
  assert list(table["method"]) == [result.method for result in FINISHED]
  found = {
    (row["method"], row["seed"]) for row in read(tmp_path / "results.csv")
  }
  assert ("es:4", "1") in found
  assert len(found) == 4
