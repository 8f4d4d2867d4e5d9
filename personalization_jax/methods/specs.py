"""The grammar of specs: `es:40+sw:12`, `sg:1500:only` and their like."""

from __future__ import annotations

import fractions
import re
from typing import Any

from personalization_jax import schedules
from personalization_jax.grouping.groups import Group

SHAPING = ("baseline", "es:40", "es:400", "sw:12", "sw:2", "tl:10", "tl:300")
GROUPING = ("random:1500", "random:6500", "ig:5", "ig:21", "sg:1500", "sg:6500")
SETS = {
  "shaping": SHAPING,
  "grouping": GROUPING,
  "table1": SHAPING + GROUPING,
  # What a personalised model has to be better than; not in the paper's table.
  "references": ("global", "local"),
}
HELP = (
  "a method is 'baseline', 'global', 'local', 'local:N', 'es:N', 'sw:N' (N a"
  " whole number or 1/M), 'tl:N', 'tl:N:last=K', 'sg:N', 'ig:N' or 'random:N'"
  " (with ':only' for the group alone), or several joined by '+', as in"
  " 'es:40+sw:12+tl:10' or 'sg:1500+tl:300'; sets of them are"
  f" {', '.join(map(repr, SETS))}"
)
# Section IV: data grouping trains by sample weighing with n_I = 2.
_GROUPING_PERIOD = fractions.Fraction(2)
# Characters of a name; a file's may have 255, and more is added to it.
_LONGEST = 80
# Files and folders where those of methods are.
_TAKEN = ("global_phase", "autoencoder", "model.json", "identity.json")


def fields_of(spec: str) -> dict[str, Any]:
  """What a spec sets of a `Method`, its canonical spec included."""
  if spec in ("baseline", "local"):
    return {"spec": spec, spec: True}
  if spec == "global":
    return {"spec": spec}
  if match := re.fullmatch(r"local:([0-9./]+)", spec):
    steps = _count(spec, match[1])
    return {"spec": f"local:{steps}", "early": steps, "local": True}
  fields: dict[str, Any] = {}
  # The canonical words of the spec, by their place in time.
  words: dict[str, str] = {}
  for word in spec.split("+"):
    match = re.fullmatch(
      r"(es|sw|tl|sg|ig|random):([0-9./]+)(?::(last=[0-9]+|only))?", word
    )
    if match is None:
      raise ValueError(f"unknown method {word!r} in {spec!r}: {HELP}.")
    kind, number, option = match.groups()
    slot = kind if kind in ("es", "sw", "tl") else "group"
    if slot in words:
      what = "a group" if slot == "group" else repr(kind)
      raise ValueError(f"{what} stands twice in method {spec!r}.")
    taken = {"group": "only", "tl": "last"}.get(slot)
    if option and option.split("=")[0] != taken:
      raise ValueError(f"':{option}' doesn't go with {kind!r} in {spec!r}.")
    if slot == "group":
      fields["group"] = Group(kind, _count(spec, number), option == "only")
      words[slot] = fields["group"].spec
    elif slot == "sw":
      fields["period"] = _period(spec, number)
      words[slot] = f"sw:{fields['period']}"
    else:
      name = "early" if slot == "es" else "late"
      fields[name] = _count(spec, number)
      words[slot] = f"{slot}:{fields[name]}"
      if option:
        fields["last_layers"] = _count(spec, option.split("=")[1])
        words[slot] += f":last={fields['last_layers']}"
  if set(words) == {"group"}:
    fields["period"] = _GROUPING_PERIOD
  elif set(words) == {"group", "sw"} and fields["period"] == _GROUPING_PERIOD:
    del words["sw"]  # as it would be without
  order = [slot for slot in ("group", "es", "sw", "tl") if slot in words]
  return {"spec": "+".join(words[slot] for slot in order), **fields}


def known_fields(spec: str) -> dict[str, Any] | None:
  """As `fields_of`; None for what is no spec, or too long for a file's name."""
  try:
    return fields_of(spec) if len(spec) <= _LONGEST else None
  except ValueError:
    return None


def check_name(name: str) -> None:
  """Rejects a name that files can't have, or that something else has."""
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
  if known_fields(spec) is not None:
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
