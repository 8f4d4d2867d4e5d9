"""A method: which data when, what is trained, its loss, how it answers."""

from __future__ import annotations

import dataclasses
import fractions
import re

from personalization_jax import checks, schedules
from personalization_jax.grouping.groups import Group
from personalization_jax.methods import specs
from personalization_jax.methods.answers import (
  Fit,
  LastLayers,
  Loss,
  Predict,
  Trainable,
)
from personalization_jax.methods.clusters import Clusters
from personalization_jax.methods.reptile import Reptile


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
      parameters to a tree of bools, and of `masks.LowRank` for additions of
      low rank, in last_layers' place. Layers before the first of them behave
      as in evaluation, if the model takes frozen_layers. People who go on with
      D_G's model share with it what isn't trained.
    then: how many of the late batches, the last ones, train all parameters.
    loss: from logits [B, C], labels [B], parameters and the reference to each
      sample's loss [B] in nats; None for cross-entropy.
    predict: from the model, its state (`params`, `batch_stats`, `reference`,
      `answer`) and samples [B, ...] to scores [B, C]; None for the model's
      logits.
    fit: what predict needs beside the model, found when all is trained: from
      the model, its state and the person's training and validation data, each
      samples [R, ...], labels int32 [R] and a mask bool [R], to any tree of
      arrays, which is `state.answer`.
    reference: whether loss, fit and predict are given D_G's model: a dict of
      `params` and `batch_stats`, and for a loss its `logits` [B, C] of the
      batch; else they are given None.
    fisher: whether the reference has the diagonal of the Fisher information of
      its parameters on D_G too, as `fisher`.
    own_statistics: whether batch statistics are computed anew at the end, over
      all of a person's training data.
    start: what training begins with in place of D_G's model, such as
      `reptile.Reptile`; None for that model.
    best: whether everybody keeps the model that was best on their validation
      data, after 0 (D_G's model), late, late / 2, late / 4, ... or 1 of the
      late batches; of equals the earliest.
    learning_rate: of the late batches; None for that of the settings.
    steps: how many batches SW or the baseline has in all, as a control of their
      number: D_G's epochs go on for so many; None for the settings' epochs.

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
  then: int = 0
  loss: Loss | None = None
  predict: Predict | None = None
  fit: Fit | None = None
  reference: bool = False
  fisher: bool = False
  own_statistics: bool = False
  start: Reptile | Clusters | None = None
  best: bool = False
  learning_rate: float | None = None
  steps: int | None = None

  def __post_init__(self) -> None:
    """Rejects what can't be told from another method, or from its files."""
    for name, least in (
      ("early", 0), ("late", 0), ("last_layers", 1), ("then", 0),
      ("steps", 1),
    ):  # fmt: skip
      if getattr(self, name) is not None:
        checks.whole_number(name, getattr(self, name), least)
    checks.plain_numbers(self)
    if self.steps and (
      self.early or self.late or not (self.period or self.baseline)
    ):
      raise ValueError(
        f"method {self.spec!r} has steps, which are for sample weighing or the"
        " baseline alone, without early and late."
      )
    for name in ("period", "baseline", "local", "steps"):
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
    if self.then > self.late:
      raise ValueError(
        f"then={self.then} of method {self.spec!r} must be at most its"
        f" late={self.late}."
      )
    if self.learning_rate is not None:
      checks.positive("learning_rate", self.learning_rate)
    for name in ("start", "best", "learning_rate"):
      if getattr(self, name) and not (self.late and self.shares_global_phase):
        raise ValueError(
          f"method {self.spec!r} has {name}, which is for training on D_I after"
          " D_G alone (late, without early, period, schedule, baseline and"
          " local)."
        )
    meant = specs.known_fields(self.spec)
    if meant is None:
      specs.check_name(self.spec)
      return
    for name in ("schedule", "trainable", "loss", "predict", "fit"):
      if getattr(self, name) != meant.get(name):
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
    III-C: a model trained for all users is adjusted to each). So is what a
    `start` gives in its place.
    """
    shaped = self.early or self.period or self.schedule
    return not (self.baseline or self.local or shaped)

  @property
  def one_model(self) -> bool:
    """Whether everybody has one and the same model: that of D_G alone."""
    of_their_own = self.late or self.own_statistics or self.fit or self.predict
    return self.shares_global_phase and not of_their_own

  @property
  def is_lean(self) -> bool:
    """Whether people share with D_G's model all that isn't trained."""
    of_global = self.shares_global_phase and self.start is None
    masked = self.trainable is not None and not self.then
    return of_global and not self.one_model and (masked or not self.late)

  @property
  def lack(self) -> str | None:
    """Why D_G's model without its data doesn't do; None if it does."""
    if self.baseline:
      return "it trains on D_G and another person's data from the first step"
    if self.group is not None:
      return "its group is chosen among D_G's samples"
    if self.fisher:
      return "the Fisher information that it weighs by is of D_G's samples"
    if self.start is not None:
      return "its start is trained on D_G's samples"
    if self.local and not self.early:
      return (
        "it takes as many steps as D_G's epochs have: say how many, as in"
        " 'local:300'"
      )
    if not (self.local or self.shares_global_phase):
      return "it trains on D_G's batches among the person's own"
    return None

  @property
  def needs_global_model(self) -> bool:
    """Whether D_G's model is at hand while people's are trained."""
    return self.reference or self.is_lean

  def phases(self, steps: int) -> list[tuple[int, Trainable | None]]:
    """Of a schedule of so many steps, each phase's last one and what it trains.

    None trains all parameters.
    """
    trainable = self.trainable
    if self.last_layers:
      trainable = LastLayers(self.last_layers)
    if trainable is None:
      return [(steps, None)]
    phases = [(steps - self.late, None), (steps - self.then, trainable)]
    return phases + [(steps, None)] * bool(self.then)


def parse_methods(text: str) -> tuple[Method, ...]:
  """Parses a comma list of specs or names of sets: "shaping,tl:300:last=2".

  Raises a ValueError if a spec is unknown, malformed or given twice.
  """
  methods: list[Method] = []
  # No spec begins with a digit, but that of lpft has two numbers.
  for item in map(str.strip, re.split(r",(?!\s*\d)", text)):
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
