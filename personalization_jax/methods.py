"""Method specs: `es:40+sw:12`, `sg:1500` and their like, parsed and checked."""

from __future__ import annotations

import dataclasses
import fractions
import re

from personalization_jax import schedules

SHAPING = ("baseline", "es:40", "es:400", "sw:12", "sw:2", "tl:10", "tl:300")
GROUPING = ("random:1500", "random:6500", "ig:5", "ig:21", "sg:1500", "sg:6500")
# What a personalised model has to be better than; not in the paper's table.
REFERENCES = ("global", "local")
SETS = {
  "shaping": SHAPING,
  "grouping": GROUPING,
  "table1": SHAPING + GROUPING,
  "references": REFERENCES,
}
# Section IV: data grouping trains by sample weighing with n_I = 2.
_GROUPING_PERIOD = fractions.Fraction(2)

HELP = (
  "a method is 'baseline', 'global', 'local', 'local:N', 'es:N', 'sw:N' (N a"
  " whole number or 1/M), 'tl:N', 'tl:N:last=K', 'sg:N', 'ig:N' or 'random:N'"
  " (with ':only' for the group alone), or several joined by '+', as in"
  " 'es:40+sw:12+tl:10' or 'sg:1500+tl:300'; sets of them are"
  f" {', '.join(map(repr, SETS))}"
)


@dataclasses.dataclass(frozen=True)
class Group:
  """What D_I is enlarged with (section III, data grouping).

  Attributes:
    kind: "sg" for similar samples, "ig" for similar individuals, "random" for
      the baseline's random samples.
    n: samples in all, or individuals for "ig".
    only: the group takes D_I's place instead of enlarging it.
  """

  kind: str
  n: int
  only: bool = False

  @property
  def spec(self) -> str:
    """As on the command line."""
    return f"{self.kind}:{self.n}" + (":only" if self.only else "")


@dataclasses.dataclass(frozen=True)
class Method:
  """One row of Table I: what is trained on, and when.

  Attributes:
    spec: the canonical spec, which names the method everywhere.
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
      `schedules.INDIVIDUAL`, the same at every call. `spec` is then any name
      that no other method has.

  Raises:
    ValueError: if `schedule` stands beside what it replaces, or has no name of
      its own.
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

  def __post_init__(self) -> None:
    """Refuses a schedule of one's own that can't be told from the paper's."""
    if self.schedule is None:
      return
    for name in ("period", "baseline", "local"):
      if getattr(self, name):
        raise ValueError(
          f"method {self.spec!r} has a schedule of its own, so {name} can't be"
          " set beside it."
        )
    if not self.spec or known_method(self.spec):
      raise ValueError(
        f"method {self.spec!r} has a schedule of its own, so it needs a name of"
        " its own too."
      )

  @property
  def needs_latents(self) -> bool:
    """Whether the group is chosen by similarity, in a latent space."""
    return self.group is not None and self.group.kind in ("sg", "ig")

  @property
  def shares_global_phase(self) -> bool:
    """Whether training begins with D_G alone, alike for every individual.

    Then that phase is trained once and copied (section III-C: a model trained
    for all users is adjusted to each).
    """
    return (
      not self.baseline
      and not self.local
      and self.early == 0
      and self.period is None
      and self.schedule is None
    )

  @property
  def one_model(self) -> bool:
    """Whether everybody has one and the same model: that of D_G alone."""
    return self.shares_global_phase and self.late == 0


def parse_methods(text: str) -> tuple[Method, ...]:
  """Parses a comma list of specs, or the name of a set of them.

  Args:
    text: for instance "shaping" or "baseline,es:40,tl:300:last=2".

  Returns:
    The methods in the order given.

  Raises:
    ValueError: if a spec is unknown, malformed or given twice.
  """
  methods: list[Method] = []
  for item in (item.strip() for item in text.split(",")):
    if not item:
      raise ValueError(
        f"a method is missing in {text!r}: give one or several with single"
        " commas between them, such as 'shaping' or 'baseline,tl:300'."
      )
    methods.extend(parse_method(spec) for spec in SETS.get(item, (item,)))
  specs = [method.spec for method in methods]
  for spec in specs:
    if specs.count(spec) > 1:
      raise ValueError(f"method {spec!r} is given twice.")
  return tuple(methods)


def parse_method(spec: str) -> Method:
  """Parses one spec.

  Args:
    spec: for instance "es:40+sw:1/2+tl:300:last=2", "sg:1500" or "global".

  Returns:
    The method; its `spec` is canonical: the group, then the parts in order of
    time.

  Raises:
    ValueError: saying what is wrong and what a spec looks like.
  """
  if spec == "baseline":
    return Method(spec, baseline=True)
  if spec == "global":
    return Method(spec)
  if spec == "local":
    return Method(spec, local=True)
  if match := re.fullmatch(r"local:([0-9./]+)", spec):
    steps = _count(spec, match[1])
    return Method(f"local:{steps}", early=steps, local=True)
  method = Method(spec="")
  kinds: list[str] = []
  for part in spec.split("+"):
    match = re.fullmatch(
      r"(es|sw|tl|sg|ig|random):([0-9./]+)(?::(last=[0-9]+|only))?", part
    )
    if match is None:
      raise ValueError(f"unknown method {part!r} in {spec!r}: {HELP}.")
    kind, number, option = match.groups()
    slot = "group" if kind in ("sg", "ig", "random") else kind
    if slot in kinds:
      what = "a group" if slot == "group" else repr(kind)
      raise ValueError(f"{what} stands twice in method {spec!r}.")
    if option and (option == "only") != (slot == "group"):
      raise ValueError(f"':{option}' doesn't go with {kind!r} in {spec!r}.")
    if option and slot not in ("tl", "group"):
      raise ValueError(f"':{option}' doesn't go with {kind!r} in {spec!r}.")
    kinds.append(slot)
    if slot == "group":
      group = Group(kind, _count(spec, number), option == "only")
      method = dataclasses.replace(method, group=group)
    elif kind == "es":
      method = dataclasses.replace(method, early=_count(spec, number))
    elif kind == "sw":
      method = dataclasses.replace(method, period=_period(spec, number))
    else:
      last = _count(spec, option.split("=")[1]) if option else None
      method = dataclasses.replace(
        method, late=_count(spec, number), last_layers=last
      )
  if kinds == ["group"]:
    method = dataclasses.replace(method, period=_GROUPING_PERIOD)
  return dataclasses.replace(method, spec=_canonical(method))


def known_method(spec: str) -> Method | None:
  """The method that a spec stands for.

  Args:
    spec: of a `Method`, or the name of one with a schedule of its own.

  Returns:
    The method; None for such a name, or any other that is no spec.
  """
  try:
    return parse_method(spec)
  except ValueError:
    return None


def _canonical(method: Method) -> str:
  parts = []
  if method.early:
    parts.append(f"es:{method.early}")
  if method.period is not None:
    parts.append(f"sw:{method.period}")
  if method.late:
    last = f":last={method.last_layers}" if method.last_layers else ""
    parts.append(f"tl:{method.late}{last}")
  if method.group is not None:
    if parts == [f"sw:{_GROUPING_PERIOD}"]:
      parts = []
    parts.insert(0, method.group.spec)
  return "+".join(parts)


def _count(spec: str, number: str) -> int:
  if not number.isdecimal() or int(number) < 1:
    raise ValueError(
      f"{number!r} in method {spec!r} must be a whole number of 1 or more."
    )
  return int(number)


def _period(spec: str, number: str) -> fractions.Fraction:
  try:
    return schedules.check_period(fractions.Fraction(number))
  except (ValueError, ZeroDivisionError) as error:
    reason = error if "n_I" in str(error) else f"n_I={number!r} is no number."
    raise ValueError(f"method {spec!r}: {reason}") from error
