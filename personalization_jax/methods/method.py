"""A method: which data when, what is trained, its loss, how it answers."""

from __future__ import annotations

import dataclasses
import fractions
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

from personalization_jax import checks, schedules
from personalization_jax.grouping.groups import Group
from personalization_jax.methods import specs
from personalization_jax.networks import classifier, interface

# What is trained: from parameters to a tree of bools.
Trainable = Callable[[Any], Any]
# Against what: from logits [B, C], labels [B], parameters and the reference
# (see `Method.reference`) to each sample's loss [B] in nats.
Loss = Callable[[jax.Array, jax.Array, Any, Any], jax.Array]
# How it answers: from the model, its `TrainState` and samples [B, ...] to
# scores [B, C], of which the highest is the answer, and whose softmax are the
# probabilities.
Predict = Callable[[nn.Module, Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class LastLayers:
  """Trains so many last layers alone (III-C, "fewer layers adjusted")."""

  count: int

  def __call__(self, params: Any) -> Any:
    """Which parameters are trained."""
    first = classifier.count_layers(params) - self.count
    return jax.tree_util.tree_map_with_path(
      lambda path, _: classifier.layer_number(path[0].key) >= first, params
    )


def cross_entropy(
  logits: jax.Array, labels: jax.Array, params: Any, reference: Any
) -> jax.Array:
  """Softmax cross-entropy, float [B] in nats."""
  del params, reference
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def by_model(model: nn.Module, state: Any, samples: jax.Array) -> jax.Array:
  """The model's own logits, float [B, C]."""
  return interface.apply(model, state.variables, samples, state.key)


@dataclasses.dataclass(frozen=True)
class Method:
  """One row of Table I, or of another table.

  Whatever trains, saves or tests a method asks it these questions, and knows
  nothing of its name:

      which data, when    `batches.Batches`, by early, period, late, baseline,
                          group and local, or by a schedule of its own
      what is trained     `phases`, by last_layers or trainable
      against what        loss
      how it answers      predict

  Attributes:
    spec: the canonical spec, which names the method everywhere. A method that
      has none takes any other name that files can have.
    early: n of ES(n), batches from D_I before; 0 for none.
    period: n_I of SW; None for D_G alone.
    late: n of TL(n), batches from D_I after; 0 for none.
    last_layers: TL trains only so many layers, the last ones; None for all.
    baseline: trained on the union of D_G and another individual's D_I'
      (section IV), and not shaped.
    group: what D_I is enlarged with for training; None for nothing.
    local: trained on D_I alone, for `early` batches; for as many as D_G's
      epochs have if that is 0.
    schedule: a schedule of one's own in SW's place: a function from epochs and
      batches an epoch to integers [T], `schedules.GLOBAL` or
      `schedules.INDIVIDUAL`, the same at every call. `spec` is then a name of
      its own.
    trainable: says which parameters the last `late` batches train, from the
      parameters to a tree of bools, in last_layers' place. Layers before the
      first of them behave as in evaluation, if the model takes frozen_layers.
    loss: from logits [B, C], labels [B], parameters and the reference to each
      sample's loss [B] in nats; None for cross-entropy.
    predict: from the model, its state (`params`, `batch_stats`, `reference`)
      and samples [B, ...] to scores [B, C]; None for the model's logits.
    reference: whether loss and predict are given the `params` and
      `batch_stats` that the individual's training began with, which are
      D_G's model in transfer learning; else they are given None.

  Raises:
    ValueError: if `spec` stands for another method, or names no file; a count
      is no whole number; or a field is set beside what it replaces.
  """

  spec: str
  early: int = 0
  period: fractions.Fraction | None = None
  late: int = 0
  last_layers: int | None = None
  baseline: bool = False
  group: Group | None = None
  local: bool = False
  schedule: schedules.Schedule | None = None
  trainable: Trainable | None = None
  loss: Loss | None = None
  predict: Predict | None = None
  reference: bool = False

  def __post_init__(self) -> None:
    """Rejects what can't be told from another method, or from its files."""
    for name, least in (("early", 0), ("late", 0), ("last_layers", 1)):
      if getattr(self, name) is not None:
        checks.whole_number(name, getattr(self, name), least)
    checks.plain_numbers(self)
    for name in ("period", "baseline", "local"):
      if self.schedule is not None and getattr(self, name):
        raise ValueError(
          f"method {self.spec!r} has a schedule of its own, so {name} can't be"
          " set beside it."
        )
    if self.trainable is not None and (self.last_layers or not self.late):
      raise ValueError(
        f"method {self.spec!r} says what its late batches train: late must be"
        " above 0, and last_layers can't be set beside trainable."
      )
    meant = specs.known_fields(self.spec)
    if meant is None:
      specs.check_name(self.spec)
      return
    for name in ("schedule", "trainable", "loss", "predict"):
      if getattr(self, name) is not None:
        raise ValueError(
          f"method {self.spec!r} has a {name} of its own, so it needs a name of"
          " its own too."
        )
    if any(
      getattr(self, field.name) != meant.get(field.name, field.default)
      for field in dataclasses.fields(self)
    ):
      raise ValueError(
        f"method {self.spec!r} isn't what that spec stands for:"
        f" parse_method({self.spec!r}) is, and another method needs a name of"
        " its own."
      )

  @property
  def needs_latents(self) -> bool:
    """Whether the group is chosen by similarity, in a latent space."""
    return self.group is not None and self.group.needs_latents

  @property
  def shares_global_phase(self) -> bool:
    """Whether training begins with D_G alone, alike for every individual.

    Then that phase is trained once, against cross-entropy, and copied (section
    III-C: a model trained for all users is adjusted to each).
    """
    shaped = self.early or self.period or self.schedule
    return not (self.baseline or self.local or shaped)

  @property
  def one_model(self) -> bool:
    """Whether everybody has one and the same model: that of D_G alone."""
    return self.shares_global_phase and self.late == 0

  def phases(self, steps: int) -> list[tuple[int, Trainable | None]]:
    """Of a schedule of so many steps, each phase's last one and what it trains.

    None trains all parameters.
    """
    trainable = self.trainable
    if self.last_layers:
      trainable = LastLayers(self.last_layers)
    if trainable is None:
      return [(steps, None)]
    return [(steps - self.late, None), (steps, trainable)]


def parse_methods(text: str) -> tuple[Method, ...]:
  """Parses a comma list of specs or names of sets: "shaping,tl:300:last=2".

  Raises a ValueError if a spec is unknown, malformed or given twice.
  """
  methods: list[Method] = []
  for item in (item.strip() for item in text.split(",")):
    if not item:
      raise ValueError(
        f"a method is missing in {text!r}: give one or several with single"
        " commas between them, such as 'shaping' or 'baseline,tl:300'."
      )
    methods.extend(parse_method(spec) for spec in specs.SETS.get(item, (item,)))
  names = [method.spec for method in methods]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"method {name!r} is given twice.")
  return tuple(methods)


def parse_method(spec: str) -> Method:
  """Parses one spec.

  Args:
    spec: for instance "es:40+sw:1/2+tl:300:last=2", "sg:1500" or "global".

  Returns:
    The method; its `spec` is canonical: the group, then what comes before,
    between and after D_G.

  Raises:
    ValueError: saying what is wrong and what a spec looks like.
  """
  return Method(**specs.fields_of(spec))


def known_method(spec: str) -> Method | None:
  """The method of a spec; None for a name of one's own, or any other text."""
  fields = specs.known_fields(spec)
  return None if fields is None else Method(**fields)
