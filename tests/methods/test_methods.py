from fractions import Fraction

import numpy as np
import pytest

from personalization_jax.checkpoints import files
from personalization_jax.methods import (
  Group,
  Method,
  known_method,
  parse_method,
  parse_methods,
)
from personalization_jax.methods.answers import LastLayers
from personalization_jax.methods.specs import GROUPING, SHAPING


def test_shaping_is_the_paper_s_seven_rows():
  methods = parse_methods("shaping")
  assert [method.spec for method in methods] == list(SHAPING)
  assert methods[0].baseline
  assert [m.early for m in methods] == [0, 40, 400, 0, 0, 0, 0]
  assert [m.period for m in methods] == [None] * 3 + [12, 2] + [None] * 2
  assert [m.late for m in methods] == [0] * 5 + [10, 300]


def test_combinations_are_put_in_order_of_time():
  method = parse_method("tl:10+es:40+sw:12")
  assert method == Method("es:40+sw:12+tl:10", 40, Fraction(12), 10)


@pytest.mark.parametrize("text", ["sw:1/4", "sw:0.25", "sw:.25"])
def test_periods_below_one(text):
  method = parse_method(text)
  assert method.period == Fraction(1, 4)
  assert method.spec == "sw:1/4"


@pytest.mark.parametrize(
  "spec",
  ["es:3@steps=9", "tl:3@steps=9", "sw:2+tl:3@steps=9", "global@steps=9"],
)
def test_a_number_of_steps_is_sample_weighing_s_or_the_baseline_s(spec):
  with pytest.raises(ValueError, match="steps, which are for sample weighing"):
    parse_method(spec)


def test_last_layers():
  method = parse_method("tl:300:last=2")
  assert (method.late, method.last_layers) == (300, 2)
  assert method.spec == "tl:300:last=2"
  assert method.phases(900) == [(600, None), (900, LastLayers(2))]
  assert parse_method("tl:300").phases(900) == [(900, None)]


def test_only_transfer_learning_shares_d_g():
  shares = [m.shares_global_phase for m in parse_methods("shaping")]
  assert shares == [False] * 5 + [True] * 2
  assert not parse_method("sw:2+tl:10").shares_global_phase
  assert not parse_method("es:1+tl:10").shares_global_phase


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("ess:40", "unknown method 'ess:40'"),
    ("", "a method is missing in ''"),
    ("es", "unknown method 'es'"),
    ("es:", "unknown method 'es:'"),
    ("es:-4", "unknown method 'es:-4'"),
    ("es:0", "'0' in method 'es:0' must be a whole number of 1 or more"),
    ("es:1.5", "must be a whole number"),
    ("sw:0.3", "n_I=3/10 is neither"),
    ("sw:2.5", "n_I=5/2 is neither"),
    ("sw:0", "n_I=0 must be above 0"),
    ("sw:1/0", "n_I='1/0' is no number"),
    ("sw:1//2", "is no number"),
    ("tl:10:last=0", "must be a whole number"),
    ("es:40:last=2", "':last=2' doesn't go with 'es'"),
    ("tl:40:only", "':only' doesn't go with 'tl'"),
    ("sg:1500:last=2", "':last=2' doesn't go with 'sg'"),
    ("sg:1500+ig:5", "a group stands twice"),
    ("ig:0", "must be a whole number"),
    ("random:1/2", "must be a whole number"),
    ("es:40+es:50", "'es' stands twice"),
    ("baseline+tl:10", "unknown method 'baseline'"),
    ("es:40,es:40", "'es:40' is given twice"),
    ("shaping,tl:10", "'tl:10' is given twice"),
    ("sw:0.5,sw:1/2", "'sw:1/2' is given twice"),
  ],
)
def test_malformed_specs_are_named(text, sentence):
  with pytest.raises(ValueError, match=sentence):
    parse_methods(text)


def test_table1_is_the_paper_s_thirteen_rows():
  methods = parse_methods("table1")
  assert [method.spec for method in methods] == [*SHAPING, *GROUPING]
  groups = [method.group for method in methods[7:]]
  assert groups == [
    Group("random", 1500),
    Group("random", 6500),
    Group("ig", 5),
    Group("ig", 21),
    Group("sg", 1500),
    Group("sg", 6500),
  ]
  assert all(method.period == 2 for method in methods[7:])
  assert parse_methods("grouping") == methods[7:]


@pytest.mark.parametrize(
  ("text", "method"),
  [
    (
      "sg:1500+tl:300",
      Method("sg:1500+tl:300", late=300, group=Group("sg", 1500)),
    ),
    (
      "tl:5+ig:3:only",
      Method("ig:3:only+tl:5", late=5, group=Group("ig", 3, only=True)),
    ),
    (
      "sg:9+sw:2",
      Method("sg:9", period=Fraction(2), group=Group("sg", 9)),
    ),
    (
      "sw:12+random:7",
      Method("random:7+sw:12", period=Fraction(12), group=Group("random", 7)),
    ),
  ],
)
def test_groups_go_with_any_schedule(text, method):
  assert parse_method(text) == method
  assert parse_method(method.spec) == method


def test_references_are_d_g_alone_and_d_i_alone():
  general, own = parse_methods("references")
  assert (general.spec, own.spec) == ("global", "local")
  assert general.shares_global_phase
  assert not own.shares_global_phase
  assert parse_method("local:30").early == 30
  for wrong in ("local:0", "local:x", "local+tl:3", "global:4"):
    with pytest.raises(ValueError, match="method"):
      parse_method(wrong)


def own_schedule(epochs, steps_per_epoch):
  return np.zeros(epochs * steps_per_epoch, int)


def test_a_schedule_of_one_s_own_is_no_known_method():
  method = Method("mine", schedule=own_schedule)
  assert not method.shares_global_phase
  assert not known_method("mine")
  assert known_method("tl:3") == parse_method("tl:3")
  for spec in ("tl:300", "global"):
    with pytest.raises(ValueError, match=f"'{spec}' has a schedule .* a name"):
      Method(spec, schedule=own_schedule)
  for answer in ("trainable", "loss", "predict"):
    with pytest.raises(ValueError, match=f"has a {answer} of its own"):
      Method("tl:300", late=300, **{answer: own_schedule})
  with pytest.raises(ValueError, match="isn't what that spec stands for"):
    Method("tl:300", late=300, reference=True)
  for fields in ({}, {"late": 3, "last_layers": 1}):
    with pytest.raises(ValueError, match="what its late batches train"):
      Method("mine", trainable=own_schedule, **fields)
  for replaced in (
    {"period": Fraction(2)},
    {"baseline": True},
    {"local": True},
  ):
    with pytest.raises(ValueError, match=f"{next(iter(replaced))} can't be"):
      Method("mine", schedule=own_schedule, **replaced)


@pytest.mark.parametrize(
  "name",
  [
    "", ".", "..", ".hidden", "-rf", "a/b", "../a", "my:a", "a\0b", "a\n", "a.",
    "a ", " a", "x" * 81, "é", "a\\b", "tl:0", "tl:" + "1" * 80,
  ],
)  # fmt: skip
def test_a_name_that_no_file_can_have_is_refused(name):
  with pytest.raises(ValueError, match="needs another name, since files"):
    Method(name, late=2)


@pytest.mark.parametrize(
  "name",
  [
    "sw-2", "SW-2", "sw-1_2", "Baseline", "LOCAL", "local-30", "sg-9-only",
    "es-40+sw-12+tl-10-last=2",
  ],
)  # fmt: skip
def test_a_name_whose_files_a_spec_has_is_refused(name):
  with pytest.raises(ValueError, match="has files of this one"):
    Method(name, schedule=own_schedule)


@pytest.mark.parametrize(
  "name", ["global_phase", "Global_Phase", "autoencoder", "model.json"]
)
def test_names_of_what_methods_share_are_taken(name):
  with pytest.raises(ValueError, match=f"'{name}' needs another name"):
    Method(name, schedule=own_schedule)


def test_no_method_of_a_name_of_its_own_has_another_s_files():
  """Whatever may stand in a name stands in its file's; specs have theirs."""
  names = [
    "my way",
    "a_b",
    "a-b",
    "a.b",
    "sw-2-slowly",
    "tl-300 (v2)",
    "x" * 80,
  ]
  names += [f"es-4_{end}" for end in "+=@,"]
  specs = [*SHAPING, *GROUPING, "sw:1/2", "tl:3:last=2", "sg:9:only", "local:3"]
  methods = [Method(name, late=3) for name in names]
  methods += [parse_method(spec) for spec in specs]
  made = {files.safe_name(method.spec).lower() for method in methods}
  assert len(made) == len(methods)
  assert [files.safe_name(name) for name in names] == names


@pytest.mark.parametrize(
  ("spec", "fields"),
  [
    ("sw:2", {}),
    ("sw:2", {"period": Fraction(2), "late": 1}),
    ("tl:300", {"late": 10}),
    ("sg:9", {"group": Group("sg", 9)}),
    ("tl:10+es:40", {"early": 40, "late": 10}),  # which is es:40+tl:10
    ("global", {"local": True}),
  ],
)
def test_a_spec_names_no_other_method(spec, fields):
  with pytest.raises(ValueError, match="isn't what that spec stands for: pars"):
    Method(spec, **fields)


@pytest.mark.parametrize(
  "make",
  [
    lambda: Method("mine", early=2.5),
    lambda: Method("mine", late=-1),
    lambda: Method("mine", late=1, last_layers=0),
    lambda: Group("random", 0),
    lambda: Group("ig", 2.0),
  ],
)
def test_counts_are_whole_numbers(make):
  with pytest.raises(ValueError, match=r"=\S+ must be"):
    make()


@pytest.mark.parametrize(
  ("spec", "canonical"),
  [
    ("l2sp:5@1000000", "l2sp:5@1000000"),
    ("l2sp:5@1e16", "l2sp:5@1e16"),
    ("ewc:5@0.12345678", "ewc:5@0.12345678"),
    ("tl:5@best@lr=0.000012345678", "tl:5@lr=1.2345678e-05@best"),
    ("distil:5", "distil:5@1"),
  ],
)
def test_numbers_in_specs_keep_all_their_digits(spec, canonical):
  method = parse_method(spec)
  assert method.spec == canonical
  assert parse_method(canonical) == method
