"""The benchmark's parts: does everybody really do the same work?"""

import dataclasses
import importlib.util
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import Tiny

from experiments.benchmarks import (
  flops,
  linen_peer,
  peers,
  report,
  timing,
  training,
)
from experiments.benchmarks.options import Options
from experiments.benchmarks.processes import Worker
from experiments.benchmarks.work import Ours, Work, population, rows
from personalization_jax.distributed import make_mesh
from personalization_jax.networks import classifier
from personalization_jax.settings import Settings
from personalization_jax.training.learner import Learner, make_learner
from personalization_jax.training.step import TrainState, loss_fn

CLASSES = 30
OPTIMIZER = optax.adam(1e-3)
WORK = Work(1 / 16, batch_size=8, individuals=3, steps=2, image_size=16)


@pytest.fixture
def torch():
  return pytest.importorskip("torch")


def remove_dropout(patch):
  layers = [layer._replace(dropout=0.0) for layer in classifier.FIG_4]
  patch.setattr(classifier, "FIG_4", tuple(layers))


@pytest.fixture
def no_dropout(monkeypatch):
  remove_dropout(monkeypatch)


@pytest.fixture
def quick_network(monkeypatch):
  """A network that compiles in no time."""
  monkeypatch.setattr(
    Work, "learner", lambda self, classes: Learner(Tiny(classes), OPTIMIZER)
  )


@pytest.fixture(scope="module")
def store():
  return population(WORK.image_size, WORK.individuals)


@pytest.fixture(scope="module")
def variables():
  """A model whose every weight and statistic differs from its default."""
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
  chosen = rows(WORK, store, slice(1))[0, 0]
  return chosen, store.images[chosen].astype(np.float32) / 255


def make_task(store, variables, work, precision="float32"):
  return peers.Task(
    store.images,
    store.labels,
    rows(work, store, slice(None)),
    variables["params"],
    variables["batch_stats"],
    precision=precision,
  )


@pytest.fixture(scope="module")
def our_step(store, variables, batch):
  """Loss, gradients and weights after one step of ours, without dropout."""
  chosen, images = batch
  learner = make_learner(Settings(width=WORK.width), CLASSES)
  with pytest.MonkeyPatch.context() as patch:
    remove_dropout(patch)
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
  for layer in range(classifier.NUM_LAYERS):
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


def test_torch_scores_as_we_do(torch, variables, batch):
  from experiments.benchmarks.torch_network import Network

  images = batch[1]
  model = classifier.Classifier(CLASSES, WORK.width)
  ours = jax.jit(model.apply)(variables, images)
  network = Network(variables["params"], variables["batch_stats"])
  with torch.no_grad():
    theirs = network.eval()(torch.from_numpy(np.moveaxis(images, 3, 1)))
  np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)


def test_torch_steps_as_we_do(torch, store, variables, our_step, no_dropout):
  from experiments.benchmarks import torch_peers

  loss, gradients, after = our_step
  task = make_task(store, variables, WORK)
  peer = torch_peers.OneByOne(task, torch.device("cpu"))
  peer._reset()
  theirs = peer._step(peer._store.rows[0, 0])
  np.testing.assert_allclose(theirs, loss, rtol=1e-3)
  params = list(peer._network.parameters())
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

  task = make_task(store, variables, WORK)
  loop = torch_peers.serve(task, "cpu", "eager", threads=1)()
  stacked = torch_peers.serve(task, "cpu", "func", together=2, threads=1)()
  assert loop.shape == stacked.shape == (3, 2)
  np.testing.assert_allclose(stacked, loop, rtol=1e-3)
  assert len(np.unique(loop[:, 0])) == 3


def test_a_loop_starts_afresh_with_every_individual(
  torch, store, variables, no_dropout
):
  from experiments.benchmarks import torch_peers

  task = make_task(store, variables, WORK)
  last = dataclasses.replace(task, rows=task.rows[2:])
  np.testing.assert_allclose(
    torch_peers.serve(task, "cpu", "eager", threads=1)()[2:],
    torch_peers.serve(last, "cpu", "eager", threads=1)(),
    rtol=1e-5,
  )


@pytest.mark.parametrize("variant", ["eager", "func"])
def test_torch_drops_out_and_casts(torch, store, variables, variant):
  from experiments.benchmarks import torch_peers

  # The same rows for everybody: they differ by their dropout.
  task = make_task(store, variables, WORK, precision="bfloat16")
  task = dataclasses.replace(task, rows=np.repeat(task.rows[:1], 3, axis=0))
  losses = torch_peers.serve(task, "cpu", variant, together=3, threads=1)()
  assert np.isfinite(losses).all()
  assert len(np.unique(losses[:, 0])) == 3


def test_plain_linen_steps_as_we_do(
  store, variables, batch, our_step, no_dropout
):
  loss, _, after = our_step
  peer = linen_peer.VmappedLinen(
    WORK, store.images, store.labels, rows(WORK, store, slice(None))
  )
  state = (
    variables["params"],
    variables["batch_stats"],
    OPTIMIZER.init(variables["params"]),
    jax.random.key(0),
  )
  (params, *_), theirs = jax.jit(peer.step)(
    state, batch[0], store.images, store.labels
  )
  np.testing.assert_allclose(theirs, loss, rtol=1e-4)
  for own, other in zip(jax.tree.leaves(after), jax.tree.leaves(params)):
    assert np.isclose(own, other, atol=1e-5).mean() > 0.9


# Counting


def test_multiply_adds_by_hand():
  macs = flops.forward_macs(1.0, 32, 30)
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
  own = flops.training_flops(0.5, 32, CLASSES)
  assert own == pytest.approx(per_image, rel=0.1)


def test_peaks():
  assert flops.peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
  assert flops.peak("NVIDIA H100 PCIe", "float32") == 378e12
  assert flops.peak("cpu", "float32") is None


# The work


def test_rows_belong_to_their_person(store):
  many = dataclasses.replace(WORK, individuals=7)
  drawn = rows(many, store, slice(None))
  assert drawn.shape == (7, WORK.steps, WORK.batch_size)
  for index, own in enumerate(drawn):
    assert (store.individuals[own] == index % 3).all()
  np.testing.assert_array_equal(rows(many, store, slice(3, 5)), drawn[3:5])
  assert not np.array_equal(drawn[0], drawn[3])


def test_a_digest_tells_results_apart(store, quick_network):
  def ours(devices):
    return Ours(WORK, store, make_mesh(jax.devices()[:devices]))

  one, two = ours(1), ours(2)
  assert one.digest() == two.digest()
  one.work = dataclasses.replace(WORK, individuals=2)
  assert one.digest() != two.digest()


# Timing and processes


def test_the_best_peer_comes_first_with_rates():
  fast, slow = (lambda s=s: time.sleep(s) for s in (0.02, 0.06))
  measured = timing.compare(
    "sleep", 12, slow, {"lazy": slow, "quick": fast}, 3, first=fast, goal="1"
  )
  assert [m.peer_name for m in measured] == ["quick (the best)", "lazy"]
  assert [m.goal for m in measured] == ["1", None]
  assert measured[0].ours == measured[1].ours < measured[0].peer
  assert measured[0].ratio < 1
  assert measured[0].unit == "samples/s"
  (alone,) = timing.compare("sleep", 12, slow, {}, 1, first=fast)
  assert alone.peer is None and alone.ratio is None


def prepare_division(dividend):
  def divide(divisor):
    time.sleep(30 * (divisor > 9))
    return dividend / divisor, os.environ.get("A_BENCHMARK_VARIABLE")

  return divide


def test_workers_work_fail_and_are_cut_off():
  with Worker(
    prepare_division, 6, environment={"A_BENCHMARK_VARIABLE": "x"}
  ) as worker:
    assert worker.wait() is None
    assert worker.call(3) == (2, "x")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
      worker.call(0)
  with Worker(prepare_division, 6) as worker:
    worker.wait()
    with pytest.raises(TimeoutError, match="0 s"):
      worker.call(10, limit=0.1)


# The script


def test_a_missing_peer_is_named_before_anything_is_measured(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"torch.*\[bench\].*--nopeers"):
    report.check_peers(["scaling", "training"], True)
  suites = ["training", "scaling", "grouping"]
  assert report.check_peers(suites, False) == ["training", "scaling"]


def test_the_table_shows_what_was_measured():
  lines = report.table(
    [
      timing.Measurement("one", "s", 2.0),
      timing.Measurement(
        "two", "samples/s", 300.0, 200.0, "them", 1.5, 7.0, "2", 5e9, 0.25
      ),
    ]
  ).splitlines()
  assert lines[1].split() == ["2", "-", "-", "s", "-", "-", "-", "one"]
  assert lines[2].split()[:7] == [
    "300", "200", "1.5", "samples/s", "7", "5", "25",
  ]  # fmt: skip
  assert lines[2].endswith("two; peer: them; goal: 2")


def test_the_suite_without_peers(quick_network):
  (row,) = training.run(Options(repeats=1, quick=True, peers=False))
  assert row.ours > 0 and row.first_call > 0 and row.peer is None
  expected = row.ours * flops.training_flops(1 / 32, 16, CLASSES)
  assert row.flops == pytest.approx(expected)
  assert not list(training.run(Options(only="no such row")))


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
