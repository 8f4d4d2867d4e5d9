"""What a study would take, before it is queued."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from helpers.small_run import SMALL
from helpers.small_study import make_study

from experiments import plan
from experiments.runtime import chips, costs
from personalization_jax.methods import parse_methods
from personalization_jax.networks.classifier import FIG_4
from personalization_jax.settings import Settings
from personalization_jax.training.learner import make_learner
from personalization_jax.training.step import create_state

TEXT = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b), backend_config={"estimated_cycles":"999"}
}

%inner (arg: (f32[8])) -> (f32[8]) {
  %arg = (f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%arg), index=0
  %twice = f32[8]{0} fusion(%x), backend_config={"estimated_cycles":"5"}
  ROOT %out = (f32[8]{0}) tuple(%twice)
}

%step (arg: (f32[100], u8[1000], bf16[4,2])) -> (f32[100], u8[1000], bf16[4]) {
  %arg.1 = (f32[100]{0}, u8[1000]{0}, bf16[4,2]{1,0}) parameter(0)
  %p = f32[100]{0} get-tuple-element(%arg.1), index=0
  %store = u8[1000]{0} get-tuple-element(%arg.1), index=1
  %h = bf16[4,2]{1,0} get-tuple-element(%arg.1), index=2
  %batch = f32[10]{0} gather(%store), backend_config={"estimated_cycles":"20"}
  %both = (f32[100]{0}, bf16[4,2]{1,0}) fusion(%p, %batch, /*index=2*/%h), CALL
  %loop = (f32[8]{0}) while(%start), condition=%c, body=%inner
  ROOT %next = (f32[100]{0}, u8[1000]{0}, bf16[4,2]{1,0}) tuple(%p, %store, %h)
}

%each (arg.2: (f32[1])) -> (f32[1]) {
  %turn = (f32[100]{0}) while(%begin), condition=%c, body=%step
  ROOT %copied = f32[1]{0} copy(%turn), backend_config={"estimated_cycles":"1"}
}

ENTRY %main (x: f32[1]) -> f32[1] {
  %all = (f32[1]{0}) while(%x), condition=%c, body=%each
  ROOT %sent = f32[9]{0} copy(%all), backend_config={"estimated_cycles":"7000"}
}
""".replace("CALL", 'calls=%add, backend_config={"estimated_cycles":"300"}')


@pytest.fixture(autouse=True)
def parsed():
  """As scripts begin."""
  plan._OWN(["plan"])
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["plan"])


def test_a_step_costs_what_the_loop_of_steps_does():
  """Not what is around it; of the store, a batch alone is read."""
  compiled = types.SimpleNamespace(as_text=lambda: TEXT)
  cost = costs.cost_of_step(compiled, store=1000)
  gather, both, inner = 40, (400 + 16) + (400 + 40 + 16), 32 + 32
  assert cost.moved == gather + both + inner
  assert cost.cycles == 20 + 300 + 5
  assert cost.kernels == 3
  assert cost.costliest[0][0] == 300
  assert cost.costliest[0][1].startswith("both = ")
  assert costs.cost_of_step(compiled).moved == cost.moved + 1000


def test_a_tpu_s_own_memory_is_not_counted_and_its_layouts_hide_no_result():
  text = """
%step (arg: (f32[8])) -> (f32[8]) {
  %arg = (f32[8]{0:T(128)}) parameter(0)
  %x = f32[8]{0:T(128)} get-tuple-element(%arg), index=0
  %two = (f32[8]{0:T(128)}, f32[4]{0:T(128)S(1)}) fusion(%x), kind=kLoop
  %near = (f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)
  ROOT %out = (f32[8]{0:T(128)}) tuple(%x)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  ROOT %all = (f32[8]{0:T(128)}) while(%x), condition=%c, body=%step
}
"""
  cost = costs.cost_of_step(types.SimpleNamespace(as_text=lambda: text))
  fusion, copy = 32 + 32, 32 + 0
  assert cost.moved == fusion + copy
  assert cost.kernels == 2


def test_a_program_without_a_loop_is_a_step_itself():
  array = jax.ShapeDtypeStruct((64, 64), jnp.float32)
  compiled = jax.jit(lambda x, y: x @ y).lower(array, array).compile()
  assert costs.cost_of_step(compiled).moved >= 3 * 4 * 64 * 64
  nothing = types.SimpleNamespace(as_text=lambda: None)
  assert costs.cost_of_step(nothing).moved == 0


def test_bytes_of_a_compiled_loop_are_its_operands_and_results():
  array = jax.ShapeDtypeStruct((256, 256), jnp.float32)
  compiled = (
    jax.jit(lambda x, y: jax.lax.fori_loop(0, 9, lambda _, z: z @ y, x))
    .lower(array, array)
    .compile()
  )
  size = 4 * 256 * 256
  # A CPU's compiler may copy the product once more.
  assert costs.cost_of_step(compiled).moved // size in (3, 5)


def row(individuals, seconds, *, fits=True):
  numbers = dict.fromkeys(plan.Row._fields, 0)
  return plan.Row(
    **{
      **numbers,
      "individuals": individuals,
      "fits": fits,
      "seconds": {"floor": 0.0, "compiler": seconds},
    }
  )


def test_the_fastest_that_fits_is_recommended():
  rows = [row(1, 1.0), row(8, 4.0), row(32, 15.9), row(64, 1.0, fits=False)]
  # 32 are hardly faster than 8 and take more memory.
  assert plan.recommended(rows) is rows[1]
  assert plan.recommended(rows[-1:]) is None


def test_hours_are_of_all_steps_that_training_takes(people):
  study = make_study(people)
  methods = parse_methods("baseline,es:3,sw:2,tl:4,global,local")
  alone, chosen = row(1, 36.0), row(2, 60.0)
  spent = plan.hours(study, methods, chosen, alone=alone, devices=1)
  count = len(study.split.individuals)
  chunks = -(-count // 2)
  own = study.num_steps(methods) - study.batches.num_shared_steps
  shared = spent.iloc[0]
  assert shared["steps"] == study.batches.num_shared_steps
  assert shared["hours (compiler)"] == pytest.approx(shared["steps"] / 100)
  assert spent["steps"][1:].sum() == chunks * own / count
  assert spent["hours (compiler)"][1:].sum() == pytest.approx(
    chunks * own / count / 60
  )
  assert list(spent.index[1:]) == [method.spec for method in methods]


def test_arithmetic_is_that_of_the_plain_network():
  """Three products a layer, but for the first one's gradient by its pixels."""
  shape = (32, 32, 1)
  trainer = types.SimpleNamespace(
    learner=make_learner(Settings(), 10),
    images=np.empty((1, *shape), np.uint8),
    labels=np.empty(1, np.int32),
  )
  trainer.shapes_of_one = jax.eval_shape(
    functools.partial(create_state, trainer.learner, image_shape=shape),
    jax.random.key(0),
  )
  products, size, before = 0, 32, 1
  for index, layer in enumerate(FIG_4):
    # What a kernel's pixels see of an image, which ends somewhere.
    pairs = (layer.size * size - 2 * (layer.size // 2)) ** 2
    products += (3 if index else 2) * before * layer.channels * pairs
    before, size = layer.channels, size // 2 if layer.pool else size
  found = plan.operations_of_sample(trainer, 4)
  assert 2 * products < found < 1.06 * 2 * products


@pytest.fixture
def planned(tmp_path, capsys):
  """The plan of a small study for this machine's CPU."""
  path = tmp_path / "plan.json"
  with flagsaver.flagsaver(
    **{**SMALL, "methods": "sw:2,tl:2"},
    json=str(path),
    dump=str(tmp_path / "texts"),
  ):
    plan.main(["plan"])
  return json.loads(path.read_text()), capsys.readouterr().out, tmp_path


def test_a_study_is_planned_for_this_machine(planned):
  found, told, folder = planned
  assert found["target"] == "cpu"
  (only,) = found["rows"]
  assert only["individuals"] == found["recommended"] == 1
  assert only["host"] > only["device"] > only["temporaries"] > 0
  assert only["seconds"]["measured"] > 0
  assert found["hours"]["all"]["steps"] == sum(
    each["steps"] for name, each in found["hours"].items() if name != "all"
  )
  assert (
    "estimates" in told and "Recommended: --individuals_per_device=1" in told
  )
  texts = {path.name for path in (folder / "texts").iterdir()}
  assert texts == {"cpu_1.txt", "cpu_1_costliest.txt"}


@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_without_a_chip_s_compiler_a_sentence_says_what_to_install(
  target, monkeypatch
):
  extra = "plan-tpu" if target == "v5e" else "cuda"

  def missing(name):
    raise ImportError(name)

  monkeypatch.setattr(chips.importlib, "import_module", missing)
  monkeypatch.setattr(chips.jax.config, "update", lambda *_: None)
  with (
    flagsaver.flagsaver(**SMALL, target=target),
    pytest.raises(SystemExit, match=rf"target={target} needs .*\[{extra}\]"),
  ):
    plan.main(["plan"])


def test_what_the_compiler_has_no_room_for_ends_the_table(monkeypatch, capsys):
  monkeypatch.setattr(plan, "_COUNTS", types.SimpleNamespace(value=["1", "2"]))
  planned = plan.plan_row

  def refuse(study, methods, trainer, *others):
    if trainer.individuals_per_device > 1:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of hbm.")
    return planned(study, methods, trainer, *others)

  monkeypatch.setattr(plan, "plan_row", refuse)
  with flagsaver.flagsaver(**{**SMALL, "methods": "sw:2"}):
    plan.main(["plan"])
  told = capsys.readouterr().out
  assert "2 on a device take more than a device has (RESOURCE" in told
  assert "Recommended: --individuals_per_device=1" in told


@pytest.mark.parametrize("flag", ["json", "dump"])
def test_where_nothing_can_be_written_nothing_is_compiled(flag):
  with (
    flagsaver.flagsaver(**SMALL, **{flag: "/dev/null/plan"}),
    pytest.raises(SystemExit, match=r"/dev/null(/plan)? can't be written"),
  ):
    plan.main(["plan"])


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"json": "/tmp"}, "json=/tmp is a folder"),
    ({"num_devices": 2}, "takes --cpu_devices"),
    ({}, "tfds isn't installed"),
  ],
  ids=str,
)
def test_a_mistake_is_told_in_a_sentence(given, said, monkeypatch):
  def load_people(*_):
    raise ImportError("tfds isn't installed")

  monkeypatch.setattr(plan.table1, "load_people", load_people)
  with (
    flagsaver.flagsaver(**{**SMALL, **given}),
    pytest.raises(SystemExit, match=said),
  ):
    plan.main(["plan"])


@pytest.mark.slow
def test_of_a_store_of_floats_a_batch_alone_is_read(people, monkeypatch):
  """Bytes tell the store, of which a number takes four."""
  stores = []

  def cost_of_step(compiled, store=0):
    stores.append(store)
    return costs.Cost(0, 0, 0, [])

  monkeypatch.setattr(plan.costs, "cost_of_step", cost_of_step)
  floats = dataclasses.replace(
    people, images=people.images.astype(np.float32) / 255
  )
  study = make_study(floats)
  methods = parse_methods("local")
  plan.plan_row(study, methods, study.trainer, "cpu", [])
  assert stores == [floats.images.nbytes]


def test_numbers_on_a_device_are_whole(monkeypatch):
  monkeypatch.setattr(plan, "_COUNTS", types.SimpleNamespace(value=["8", "x"]))
  with (
    flagsaver.flagsaver(**SMALL),
    pytest.raises(SystemExit, match="individuals_per_device=8,x must be whole"),
  ):
    plan.main(["plan"])


def test_every_chip_has_its_data_sheet():
  for name, chip in chips.CHIPS.items():
    assert bool(chip.topology) == bool(chip.clock) == name.startswith("v")
    assert bool(chip.config) == bool(chip.launch) == (not chip.topology)
    assert chip.peak["bfloat16"] >= chip.peak["float32"] > 50 * chip.bandwidth
