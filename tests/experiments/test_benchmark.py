"""The benchmark's parts: does everybody really do the same work?"""

import ast
import contextlib
import dataclasses
import graphlib
import json
import pathlib
import re
import subprocess
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers.tiny import Tiny

from experiments.benchmarks import (
  device_check,
  linen_peer,
  measuring,
  training,
  work,
)
from experiments.benchmarks.work import Task, Work, rows
from experiments.runtime import chips
from personalization_jax import study
from personalization_jax.datasets import Population
from personalization_jax.networks import classifier
from personalization_jax.networks.kernels import convolution
from personalization_jax.settings import Settings
from personalization_jax.training.learner import Learner, make_learner
from personalization_jax.training.step import TrainState, loss_fn

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = 30
OPTIMIZER = optax.adam(1e-3)
DIVISION = "helpers.division:prepare"
WORK = Work(1 / 16, batch_size=8, individuals=3, steps=2, image_size=16)


@pytest.fixture
def torch():
  return pytest.importorskip("torch")


def shorten(patch, **changes):
  """Of Fig. 4's layers one of each kind, with these changes."""
  layers = [classifier.FIG_4[index] for index in (0, 1, 5, 6)]
  layers = [layer._replace(**changes) for layer in layers]
  patch.setattr(classifier, "FIG_4", tuple(layers))


@pytest.fixture
def short(monkeypatch):
  shorten(monkeypatch)


@pytest.fixture
def no_dropout(monkeypatch):
  shorten(monkeypatch, dropout=0.0)


@pytest.fixture
def quick_network(monkeypatch):
  """A network that compiles in no time."""
  monkeypatch.setattr(
    study,
    "make_learner",
    lambda settings, classes, model, optimizer: Learner(
      Tiny(classes), OPTIMIZER
    ),
  )


@pytest.fixture(scope="module")
def store():
  """Three people with a sample of each class; drawing them takes longer."""
  count = 3 * CLASSES
  shape = (count, WORK.image_size, WORK.image_size, 1)
  return Population(
    images=np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    labels=np.arange(count, dtype=np.int32) % CLASSES,
    individuals=np.arange(count, dtype=np.int32) // CLASSES,
    originals=np.arange(count, dtype=np.int32),
    num_classes=CLASSES,
  )


@pytest.fixture(scope="module")
def variables():
  """A model whose every weight and statistic differs from its default."""
  with pytest.MonkeyPatch.context() as patch:
    shorten(patch)
    shapes = jax.eval_shape(
      classifier.Classifier(CLASSES, WORK.width).init,
      jax.random.key(0),
      jnp.zeros((1, WORK.image_size, WORK.image_size, 1)),
    )
  rng = np.random.default_rng(0)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      rng.normal(0, 0.3, leaf.shape).astype(np.float32)
      + (path[-1].key in ("scale", "var"))
    ),
    shapes,
  )


@pytest.fixture(scope="module")
def batch(store):
  chosen = rows(WORK, store)[0, 0]
  return chosen, store.images[chosen].astype(np.float32) / 255


def options_of(quick=False, only="", peers=False, **options):
  """What `training` reads of the script's flags; the others mean nothing."""
  return types.SimpleNamespace(
    quick=quick,
    only=only,
    repeats=1,
    peers=peers,
    individuals=0,
    steps=0,
    individuals_per_device=0,
    peak_tflops=None,
    **options,
  )


def make_task(store, variables, precision="float32"):
  settings = dataclasses.replace(WORK, precision=precision).settings()
  return Task(settings, store, rows(WORK, store), **variables)


@pytest.fixture(scope="module")
def our_step(store, variables, batch):
  """Loss, gradients and weights after one step of ours, without dropout."""
  chosen, images = batch
  learner = make_learner(Settings(width=WORK.width), CLASSES)
  with pytest.MonkeyPatch.context() as patch:
    shorten(patch, dropout=0.0)
    (loss, _), gradients = jax.jit(
      jax.value_and_grad(loss_fn, has_aux=True),
      static_argnums=(1, 7),
    )(
      variables["params"],
      learner,
      TrainState(0, None, variables["batch_stats"], None, None),
      images,
      store.labels[chosen],
      np.ones(len(chosen), bool),
      jax.random.key(0),
      0,
    )
  updates, _ = learner.optimizer.update(
    gradients, learner.optimizer.init(variables["params"])
  )
  return loss, gradients, optax.apply_updates(variables["params"], updates)


def as_flax(torch_layers):
  """Arrays of a PyTorch network, in Flax's order and layout."""
  arrays = [np.asarray(array) for array in torch_layers]
  return [
    array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    for array in arrays
  ]


def flax_leaves(tree):
  """The same of a Flax model: kernel, bias, scale, bias, layer by layer."""
  leaves = []
  for layer in range(len(classifier.FIG_4) + 1):
    leaves += [tree[f"layer_{layer}"][name] for name in ("kernel", "bias")]
    if f"norm_{layer}" in tree:
      leaves += [tree[f"norm_{layer}"][name] for name in ("scale", "bias")]
  return leaves


def assert_leaves_close(ours, theirs, tolerance):
  assert len(ours) == len(theirs)
  for own, other in zip(ours, theirs):
    scale = max(np.abs(own).max(), 1e-3)
    np.testing.assert_allclose(other / scale, own / scale, atol=tolerance)


# The same network


@pytest.mark.slow
def test_torch_scores_as_we_do(torch, variables, batch, short):
  from experiments.benchmarks.torch_peers import Network

  images = batch[1]
  model = classifier.Classifier(CLASSES, WORK.width)
  ours = jax.jit(model.apply)(variables, images)
  network = Network(variables["params"], variables["batch_stats"])
  with torch.no_grad():
    theirs = network.eval()(torch.from_numpy(np.moveaxis(images, 3, 1)))
  np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_torch_steps_as_we_do(torch, store, variables, our_step, no_dropout):
  from experiments.benchmarks import torch_peers

  loss, gradients, after = our_step
  task = make_task(store, variables)
  peer = torch_peers.OneByOne(task, torch.device("cpu"))
  theirs = peer.train(peer.rows[:1, :1])[0, 0]
  np.testing.assert_allclose(theirs, loss, rtol=1e-3)
  params = list(peer.network.parameters())
  assert_leaves_close(
    flax_leaves(gradients), as_flax(p.grad for p in params), 1e-3
  )
  # Adam's first step is the gradient's sign: those near zero may differ.
  moved = [
    np.isclose(own, other, atol=1e-4).mean()
    for own, other in zip(
      flax_leaves(after), as_flax(p.detach() for p in params)
    )
  ]
  assert min(moved) > 0.9


def test_torch_func_trains_as_the_loop(torch, store, variables, no_dropout):
  """Stacked, in groups of two and one, everybody's losses are the same."""
  from experiments.benchmarks import torch_peers

  task = make_task(store, variables)
  loop = torch_peers.serve(task)()
  stacked = torch_peers.serve(task, (), "cpu", "func", 2)()
  assert loop.shape == stacked.shape == (3, 2)
  np.testing.assert_allclose(stacked, loop, rtol=1e-3)
  assert len(np.unique(loop[:, 0])) == 3


def test_a_loop_starts_afresh_with_every_individual(
  torch, store, variables, no_dropout
):
  from experiments.benchmarks import torch_peers

  task = make_task(store, variables)
  last = task._replace(rows=task.rows[2:])
  np.testing.assert_allclose(
    torch_peers.serve(task)()[2:],
    torch_peers.serve(last)(),
    rtol=1e-5,
  )


@pytest.mark.parametrize("variant", ["eager", "func"])
def test_torch_drops_out_and_casts(torch, store, variables, variant, short):
  from experiments.benchmarks import torch_peers

  # The same rows for everybody: they differ by their dropout.
  task = make_task(store, variables, precision="bfloat16")
  task = task._replace(rows=np.repeat(task.rows[:1], 3, axis=0))
  together = 3 if variant == "func" else 1
  losses = torch_peers.serve(task, (), "cpu", variant, together)()
  assert np.isfinite(losses).all()
  assert len(np.unique(losses[:, 0])) == 3


@pytest.mark.slow
def test_plain_linen_steps_as_we_do(
  store, variables, batch, our_step, no_dropout
):
  loss, _, after = our_step
  state = linen_peer.first_state(make_task(store, variables), jax.random.key(0))
  state, theirs = jax.jit(linen_peer.train_step)(
    state, batch[0], store.images, store.labels
  )
  np.testing.assert_allclose(theirs, loss, rtol=1e-4)
  for own, other in zip(jax.tree.leaves(after), jax.tree.leaves(state.params)):
    assert np.isclose(own, other, atol=1e-5).mean() > 0.9


# Counting


def test_multiply_adds_by_hand():
  macs = work.forward_macs(1.0, 32, 30)
  assert macs == [
    1024 * 9 * 1 * 32,
    1024 * 9 * 32 * 64,
    256 * 9 * 64 * 128,
    256 * 9 * 128 * 128,
    64 * 9 * 128 * 128,
    64 * 128 * 128,
    16 * 128 * 256,
    256 * 30,
  ]


def test_operations_as_xla_counts_them():
  """XLA leaves padding out and counts what isn't a product."""
  images = jax.ShapeDtypeStruct((64, 32, 32, 1), jnp.float32)
  model = linen_peer.PlainClassifier(CLASSES, 0.5)
  variables = jax.eval_shape(
    lambda images: model.init(jax.random.key(0), images, False), images
  )

  def loss(params, batch_stats, images):
    state = {"params": params, "batch_stats": batch_stats}
    return model.apply(state, images, False).sum()

  counted = jax.jit(jax.grad(loss)).lower(
    variables["params"], variables["batch_stats"], images
  )
  per_image = counted.cost_analysis()["flops"] / len(images)
  own = work.training_flops(0.5, 32, CLASSES)
  assert own == pytest.approx(per_image, rel=0.1)


def test_peaks():
  assert chips.peaks("NVIDIA H100 80GB HBM3")["bfloat16"] == 989.4
  assert chips.peaks("NVIDIA H100 PCIe")["float32"] == 378
  assert not chips.peaks("cpu")


# The work


def test_rows_belong_to_their_person(store):
  many = dataclasses.replace(WORK, individuals=7)
  drawn = rows(many, store)
  assert drawn.shape == (7, WORK.steps, WORK.batch_size)
  for index, own in enumerate(drawn):
    assert (store.individuals[own] == index % 3).all()
  fewer = dataclasses.replace(WORK, individuals=4)
  np.testing.assert_array_equal(rows(fewer, store), drawn[:4])
  assert not np.array_equal(drawn[0], drawn[3])


# Timing and processes


def test_costs_are_compared_round_by_round():
  costs = pd.DataFrame({"ours": [1, 2, 8], "peer": [2, 6, 8]})
  assert measuring.compare(costs, "peer") == {
    "unit": "s", "ours": 2, "peer": 6, "peer_name": "peer", "ratio": 2,
  }  # fmt: skip
  rates = measuring.compare(costs, "peer", unit="samples/s")
  assert (rates["ours"], rates["peer"], rates["ratio"]) == (1 / 2, 1 / 6, 2)
  assert measuring.compare(costs, "ours") == {"unit": "s", "ours": 2}


def test_long_calls_are_not_repeated_as_often(monkeypatch):
  monkeypatch.setattr(measuring, "_LONG", 0.01)
  calls = {"ours": lambda: None, "peer": lambda: time.sleep(0.02)}
  assert measuring.rounds(calls, 4).count().to_dict() == {"ours": 4, "peer": 2}


@pytest.mark.slow
def test_workers_work_fail_and_are_cut_off():
  with measuring.workers([(DIVISION, 6), (DIVISION, 9)], 20) as divide:
    assert divide(3) == [2, 3]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
      divide(0)
  with (
    pytest.raises(TimeoutError),
    measuring.workers([(DIVISION, 6)], 0.5) as divide,
  ):
    divide(10)


def test_no_module_needs_one_that_needs_it():
  """Imports inside functions count too; PyTorch's peer alone imports it."""
  package = "experiments.benchmarks"
  needs, outside = {}, {}
  for path in pathlib.Path(training.__file__).parent.glob("*.py"):
    tree = ast.parse(path.read_text())
    nodes = [x for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)]
    needs[path.stem] = {
      name.name for x in nodes if x.module == package for name in x.names
    } | {
      x.module.removeprefix(f"{package}.")
      for x in nodes
      if x.module.startswith(f"{package}.")
    }
    outside[path.stem] = {
      name.name
      for x in tree.body
      if isinstance(x, ast.Import)
      for name in x.names
    }
  assert needs["torch_peers"] == {"work"}
  order = list(graphlib.TopologicalSorter(needs).static_order())
  assert set(order) == set(needs)
  assert {x for x in needs if {"torch", "faiss"} & outside[x]} == {
    "torch_peers"
  }


# The script


def test_a_row_shows_what_was_measured():
  row = {"name": "one", "unit": "s", "ours": 2 / 3, "peer_name": "two"}
  assert measuring.line(row) == "one: unit s, ours 0.6667, peer_name two"


@pytest.mark.slow
def test_the_suite_without_peers(store, quick_network, monkeypatch):
  # Drawing takes longer than all else. Flips make classes of their own.
  drawn = dataclasses.replace(
    store, labels=store.labels % 10, num_classes=CLASSES // 3
  )
  monkeypatch.setattr(
    work.synthetic, "make_population", lambda *_, **options: (drawn, options)
  )
  (row,) = training.run(options_of(quick=True))
  assert row["ours"] > 0 and row["first_call"] > 0
  expected = row["ours"] * work.training_flops(1 / 32, 16, CLASSES)
  assert row["flops"] == pytest.approx(expected)
  assert not list(training.run(options_of(only="no such row")))


@pytest.mark.slow
def test_the_best_way_that_works_meets_the_peers(
  store, quick_network, monkeypatch
):
  def alone(ours, options):
    together = ours.trainer.side_by_side
    if together == 2:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    return {"name": str(ours), "ours": together}

  @contextlib.contextmanager
  def workers(setups, limit):
    if setups[0][0].endswith("torch_peers:serve"):
      raise RuntimeError("Traceback\nNo GPU\n")
    yield lambda: None

  ways = [{"individuals_per_device": 3, "side_by_side": n} for n in (2, 3, 1)]
  monkeypatch.setattr(training, "ways", lambda *_: ways)
  monkeypatch.setattr(training, "alone", alone)
  monkeypatch.setattr(training, "population", lambda *_: store)
  monkeypatch.setattr(training, "_QUICK_CPU_ROWS", [(WORK, 2)])
  monkeypatch.setattr(training.run_info, "version", lambda package: "2")
  monkeypatch.setattr(training.measuring, "workers", workers)
  options = options_of(quick=True, peers=True)
  one, three, linen, *torch = training.run(options)
  assert one["name"] == f"{WORK}, 3 side by side" and three["ours"] == 1
  assert all(row["peer_name"].endswith("failed, No GPU") for row in torch)
  assert linen["name"] == one["name"] and linen["ratio"] > 0


def test_a_gpu_s_peers(store, variables, monkeypatch):
  monkeypatch.setattr(training.run_info, "version", lambda package: "2")
  device = types.SimpleNamespace(platform="gpu")
  mesh = types.SimpleNamespace(devices=np.array([device]))
  ours = types.SimpleNamespace(
    task=lambda: make_task(store, variables),
    trainer=types.SimpleNamespace(mesh=mesh),
  )
  linen, *torch = training.peers(ours, 2).items()
  names = ["eager", "graph", "compiled graph", "compiled"]
  names += ["torch.func, 3 stacked"]
  assert [name for name, _ in torch] == [f"PyTorch 2 {name}" for name in names]
  assert linen[1][0][1].rows.shape == (2, 2, WORK.batch_size)
  monkeypatch.setattr(training.run_info, "version", lambda package: None)
  assert [*training.peers(ours, 2)] == [linen[0]]


@pytest.mark.parametrize(
  ("individuals", "devices", "together"),
  [(8, 2, 4), (32, 2, 8), (10, 2, 5), (3, 4, 1), (22, 2, 1), (100, 2, 5)],
)
def test_no_device_trains_more_fillers_than_it_must(
  individuals, devices, together
):
  assert training.without_fillers(individuals, devices) == together
  calls = -(-individuals // (devices * together))
  assert calls * together == -(-individuals // devices)


# The check of a card


@pytest.fixture
def card(store, quick_network, monkeypatch):
  """The flags of a check with these people and small models."""
  monkeypatch.setattr(device_check.npz, "load", lambda path: store)
  return options_of(
    quick=True,
    data="people.npz",
    widths=["1"],
    precisions=["float32"],
    models=["2"],
    formulations=["rule", "xla"],
    side_by_side=["1", "9"],
    seconds=0.0,
  )


@pytest.mark.slow
def test_a_card_s_results_are_compared_with_the_cpu_s(card):
  *rows, groups = device_check.correctness(card)
  compared = [row["name"].split(" of ")[0] for row in rows]
  assert compared == [*device_check._TOLERANCES]
  assert all(row["within"] for row in [*rows, groups])


@pytest.mark.slow
def test_a_card_s_steps_are_timed_in_every_way_that_works(card, monkeypatch):
  def broken(images, kernel):
    raise TypeError("not on this card")

  monkeypatch.setitem(device_check.FORMULATIONS, "xla", (broken,))
  one, two, *failed = device_check.steps(card)
  assert one["name"].endswith("1 side by side, rule")
  assert two["name"].endswith("2 side by side, rule")
  assert two["steps_per_second"] == pytest.approx(two["ours"] / 16)
  assert two["planned_MiB"] > 1 and two["peak_MiB_so_far"] > 1
  assert [row["failed"] for row in failed] == 2 * [
    "TypeError: not on this card"
  ]


@pytest.mark.parametrize("name", ["xla", "patches", "cpu"])
def test_a_formulation_convolves_and_has_gradients(name):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(4, 8, 8, 8)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)

  def loss(images, kernel):
    return (convolution.convolve(images, kernel) ** 2).sum()

  expected = jax.grad(loss, (0, 1))(images, kernel)
  with device_check.formulation(name):
    found = jax.grad(loss, (0, 1))(images, kernel)
  for one, other in zip(found, expected):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_the_paper_s_study_gives_table_1_s_time(card):
  card.individuals = 1
  (row,) = device_check.paper(card)
  hours = device_check.TABLE_1 / row["ours"] / 3600
  assert row["table1_minutes"] == pytest.approx(60 * hours)


def test_a_check_s_rows_are_kept_one_by_one(tmp_path):
  path = tmp_path / "device_check-cpu.json"
  for suite in ("steps", "paper"):
    measuring.add({"suite": suite, "ours": np.float32(1)}, path, {"cores": 2})
  kept = json.loads(path.read_text())
  assert [row["suite"] for row in kept["measurements"]] == ["steps", "paper"]
  assert kept["environment"] == {"cores": 2}


def test_the_check_s_script_gives_flags_that_there_are():
  script = ROOT / "experiments" / "device_check.sh"
  subprocess.run(["bash", "-n", script], check=True)
  defined = re.findall(
    r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / "experiments/benchmark.py").read_text()
  )
  given = set(re.findall(r"--(?:no)?([a-z]\w*)", script.read_text()))
  assert given - {"rehearsal", "kill", "quiet"} <= {*defined}
