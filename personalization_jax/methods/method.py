"""Method specs: `es:40+sw:12`, `sg:1500` and their like, parsed and checked."""

from __future__ import annotations

import dataclasses
import fractions
import re
from typing import Any

from personalization_jax import checks, schedules

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
# Characters of a name; a file's may have 255, and more is added to it.
_LONGEST = 80
# Files and folders where those of methods are.
_TAKEN = ("global_phase", "autoencoder", "model.json", "identity.json")

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

  def __post_init__(self) -> None:
    """Refuses what is no number of samples or individuals."""
    checks.whole_number("n", self.n, 1)
    checks.plain_numbers(self)

  @property
  def spec(self) -> str:
    """As on the command line."""
    return f"{self.kind}:{self.n}" + (":only" if self.only else "")


@dataclasses.dataclass(frozen=True)
class Method:
  """One row of Table I: what is trained on, and when.

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

  Raises:
    ValueError: if `spec` stands for another method, or names no file; a count
      is no whole number; or `schedule` stands beside what it replaces.
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
    """Refuses what can't be told from another method, or from its files."""
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
    meant = _known_fields(self.spec)
    if meant is None or len(self.spec) > _LONGEST:
      _check_name(self.spec)
    elif self.schedule is not None:
      raise ValueError(
        f"method {self.spec!r} has a schedule of its own, so it needs a name of"
        " its own too."
      )
    elif any(
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
  return Method(**_fields(spec))


def known_method(spec: str) -> Method | None:
  """The method that a spec stands for.

  Args:
    spec: of a `Method`, or the name of one with a schedule of its own.

  Returns:
    The method; None for such a name, or any other that is no spec.
  """
  fields = _known_fields(spec)
  return None if fields is None else Method(**fields)


def _known_fields(spec: str) -> dict[str, Any] | None:
  """What a spec sets of a `Method`; None if it is none."""
  try:
    return _fields(spec)
  except ValueError:
    return None


def _fields(spec: str) -> dict[str, Any]:
  """What a spec sets of a `Method`, with the spec as it is written."""
  if spec == "baseline":
    return {"spec": spec, "baseline": True}
  if spec == "global":
    return {"spec": spec}
  if spec == "local":
    return {"spec": spec, "local": True}
  if match := re.fullmatch(r"local:([0-9./]+)", spec):
    steps = _count(spec, match[1])
    return {"spec": f"local:{steps}", "early": steps, "local": True}
  # What is set, and the parts of the spec by the time they come at.
  fields: dict[str, Any] = {}
  parts: dict[str, str] = {}
  for part in spec.split("+"):
    match = re.fullmatch(
      r"(es|sw|tl|sg|ig|random):([0-9./]+)(?::(last=[0-9]+|only))?", part
    )
    if match is None:
      raise ValueError(f"unknown method {part!r} in {spec!r}: {HELP}.")
    kind, number, option = match.groups()
    slot = "group" if kind in ("sg", "ig", "random") else kind
    if slot in parts:
      what = "a group" if slot == "group" else repr(kind)
      raise ValueError(f"{what} stands twice in method {spec!r}.")
    if option and (option == "only") != (slot == "group"):
      raise ValueError(f"':{option}' doesn't go with {kind!r} in {spec!r}.")
    if option and slot not in ("tl", "group"):
      raise ValueError(f"':{option}' doesn't go with {kind!r} in {spec!r}.")
    if slot == "group":
      fields["group"] = Group(kind, _count(spec, number), option == "only")
      parts[slot] = fields["group"].spec
    elif kind == "es":
      fields["early"] = _count(spec, number)
      parts[slot] = f"es:{fields['early']}"
    elif kind == "sw":
      fields["period"] = _period(spec, number)
      parts[slot] = f"sw:{fields['period']}"
    else:
      fields["late"] = _count(spec, number)
      parts[slot] = f"tl:{fields['late']}"
      if option:
        fields["last_layers"] = _count(spec, option.split("=")[1])
        parts[slot] += f":last={fields['last_layers']}"
  if set(parts) == {"group"}:
    fields["period"] = _GROUPING_PERIOD
  elif set(parts) == {"group", "sw"} and fields["period"] == _GROUPING_PERIOD:
    del parts["sw"]  # as it would be without
  order = [slot for slot in ("group", "es", "sw", "tl") if slot in parts]
  return {"spec": "+".join(parts[slot] for slot in order), **fields}


def _check_name(name: str) -> None:
  """Refuses a name that is no file's, or another method's or training's."""
  fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+=@,()-]*", name)
  if not fits or len(name) > _LONGEST or name[-1] in ". ":
    raise ValueError(
      f"method {name!r:.100} needs another name, since files have it: one of at"
      f" most {_LONGEST} characters that begins with a letter or a digit, holds"
      " no others than letters from a to z, digits and ' ._+=@,()-', and ends"
      " in no dot or space."
    )
  # Upper and lower case are one in many a file system.
  lower = name.lower()
  if lower in _TAKEN:
    raise ValueError(
      f"method {name!r} needs another name: what all methods share is called"
      " so."
    )
  # `files.safe_name`, backwards.
  spec = lower.replace("-", ":").replace("_", "/")
  if _known_fields(spec) is not None:
    raise ValueError(
      f"method {name!r} needs another name: {spec!r} has files of this one."
    )


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
