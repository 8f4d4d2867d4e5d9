"""What a run says of results made by hand."""

import types

import numpy as np
import pytest
from absl import flags

from experiments import table1, table1_choice, table1_report, table1_rows
from personalization_jax import choice

NAN = float("nan")


def results(**diverged):
  return [
    types.SimpleNamespace(method=method, seed=0, diverged=np.array(gone, bool))
    for method, gone in diverged.items()
  ]


def test_models_that_diverged_are_counted_with_a_remedy():
  assert table1_report.divergence(results(a=[0, 0], b=[0, 0])) is None
  text = table1_report.divergence(results(a=[0, 1], b=[1, 1]))
  assert text.startswith("3 of 4 models diverged (a: 1, b: 2)")
  assert "--learning_rate" in text


@pytest.mark.parametrize(("second", "fails"), [([0, 1], False), ([1, 1], True)])
def test_only_a_run_without_any_model_fails(second, fails, monkeypatch):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  finished = results(a=[1, 1], b=second)
  trainer = types.SimpleNamespace(
    mesh=types.SimpleNamespace(
      size=1, devices=np.array([types.SimpleNamespace(device_kind="cpu")])
    )
  )
  rows = np.zeros((2, 3), int)
  study = types.SimpleNamespace(
    split=types.SimpleNamespace(
      individuals=[1, 2],
      train=rows,
      validation=rows[:, :0],
      test=rows,
      global_train=rows[0],
      global_people=[3],
    ),
    population=types.SimpleNamespace(num_classes=2),
    trainer=trainer,
    settings=types.SimpleNamespace(seed=0),
    keeper=types.SimpleNamespace(wait=lambda: None),
  )
  monkeypatch.setattr(table1, "find_groups", lambda *_: None)
  monkeypatch.setattr(table1, "train_all", lambda *_: finished)
  monkeypatch.setattr(table1_report, "write", lambda *_: None)
  prepared = table1.Prepared(
    workdir=None,
    studies=[study],
    methods=(),
    rows=table1_rows.Rows((), ()),
    drawn=study,
    factors=None,
    earlier={},
    made_with={},
  )
  if not fails:
    table1.run(prepared)
    return
  with pytest.raises(SystemExit) as stopped:
    table1.run(prepared)
  assert stopped.value.code == 1


def test_a_choice_without_anybody_to_compare_has_dashes(tmp_path):
  found = choice.judge_all(
    {"global": [NAN], "tl:2": [NAN]}, {"global": [NAN], "tl:2": [NAN]}, "global"
  )
  text, drawn = table1_choice.write(found, tmp_path)
  assert "nan" not in text
  assert drawn[0].exists()
