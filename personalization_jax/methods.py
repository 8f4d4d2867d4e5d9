"""Method specs: `es:40+sw:12+tl:10` and its like, parsed and checked."""

from __future__ import annotations

import dataclasses
import fractions
import re

from personalization_jax import schedules

SHAPING = ("baseline", "es:40", "es:400", "sw:12", "sw:2", "tl:10", "tl:300")

HELP = (
  "a method is 'baseline', 'es:N', 'sw:N' (N a whole number or 1/M),"
  " 'tl:N' or 'tl:N:last=K', or several joined by '+', as in"
  " 'es:40+sw:12+tl:10'; 'shaping' is " + ",".join(SHAPING)
)


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
  """

  spec: str
  early: int = 0
  period: fractions.Fraction | None = None
  late: int = 0
  last_layers: int | None = None
  baseline: bool = False

  @property
  def shares_global_phase(self) -> bool:
    """Whether training begins with D_G alone, alike for every individual.

    Then that phase is trained once and copied (section III-C: a model trained
    for all users is adjusted to each).
    """
    return not self.baseline and self.early == 0 and self.period is None


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
    if item == "shaping":
      methods.extend(parse_method(spec) for spec in SHAPING)
    else:
      methods.append(parse_method(item))
  specs = [method.spec for method in methods]
  for spec in specs:
    if specs.count(spec) > 1:
      raise ValueError(f"method {spec!r} is given twice.")
  return tuple(methods)


def parse_method(spec: str) -> Method:
  """Parses one spec.

  Args:
    spec: for instance "es:40+sw:1/2+tl:300:last=2".

  Returns:
    The method; its `spec` is canonical, with parts in order of time.

  Raises:
    ValueError: saying what is wrong and what a spec looks like.
  """
  if spec == "baseline":
    return Method(spec, baseline=True)
  found: dict[str, tuple[str, str]] = {}
  for part in spec.split("+"):
    match = re.fullmatch(r"(es|sw|tl):([0-9./]+)((?::last=[0-9]+)?)", part)
    if match is None:
      raise ValueError(f"unknown method {part!r} in {spec!r}: {HELP}.")
    kind, number, option = match.groups()
    if kind in found:
      raise ValueError(f"{kind!r} stands twice in method {spec!r}.")
    if option and kind != "tl":
      raise ValueError(f"':last=' goes with 'tl' alone, not with {part!r}.")
    found[kind] = (number, option)
  fields: dict[str, int | fractions.Fraction] = {}
  if "es" in found:
    fields["early"] = _steps(spec, found["es"][0])
  if "sw" in found:
    fields["period"] = _period(spec, found["sw"][0])
  if "tl" in found:
    fields["late"] = _steps(spec, found["tl"][0])
    if found["tl"][1]:
      fields["last_layers"] = _steps(spec, found["tl"][1].split("=")[1])
  names = [
    f"{kind}:{fields[field]}"
    for kind, field in (("es", "early"), ("sw", "period"), ("tl", "late"))
    if field in fields
  ]
  if "last_layers" in fields:
    names[-1] += f":last={fields['last_layers']}"
  return Method("+".join(names), **fields)  # type: ignore[arg-type]


def _steps(spec: str, number: str) -> int:
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
