"""The grammar of specs: `es:40+sw:12`, `l2sp:300@0.1`, `mix:tl:300` and so on.

A spec is words joined by `+`, in any order: a start (`reptile`, `ifca:K`), a
group, ES, SW, and what comes last. A word has its numbers after colons, and
options after `@`. Here a word becomes fields of a `Method`.
"""

from __future__ import annotations

import fractions
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from personalization_jax import checks, schedules
from personalization_jax.grouping.groups import Group
from personalization_jax.methods import clusters, knn, masks, mix, penalties
from personalization_jax.methods.reptile import Reptile

SHAPING = ("baseline", "es:40", "es:400", "sw:12", "sw:2", "tl:10", "tl:300")
GROUPING = ("random:1500", "random:6500", "ig:5", "ig:21", "sg:1500", "sg:6500")
SETS = {
  "shaping": SHAPING,
  "grouping": GROUPING,
  "table1": SHAPING + GROUPING,
  # What a personalised model has to be better than; not in the paper's table.
  "references": ("global", "local"),
  # Of other papers, as README lists them.
  "field": (
    "mix:tl:300", "knn:10", "l2sp:300@0.1", "ewc:300@100", "distil:300@1",
    "bias:300", "bn:300", "head:300", "lora:300:4", "lpft:100,200", "adabn",
    "reptile+tl:300", "ifca:2+tl:300", "tl:300@best",
  ),
}  # fmt: skip
HELP = (
  "a method is 'baseline', 'global', 'local', 'local:N', 'adabn', 'knn:K' or"
  " 'mix:METHOD'; or words joined by '+', as in 'es:40+sw:12+tl:10', of 'es:N',"
  " 'sw:N' (N a whole number or 1/M), a group 'sg:N', 'ig:N' or 'random:N'"
  " (with ':only' for the group alone), and fine-tuning: 'tl:N', 'tl:N:last=K',"
  " 'head:N', 'bias:N', 'bn:N', 'lora:N:R', 'lpft:N,M', 'l2sp:N@L', 'ewc:N@L'"
  " or 'distil:N@L' (without 'es' and 'sw' all take '@best' and '@lr=X'); or a"
  " start and fine-tuning, as in 'reptile+tl:300' or 'ifca:2+tl:300'."
  " 'baseline' and 'sw:N' take '@steps=N', their number of batches. Sets of"
  f" methods are {', '.join(map(repr, SETS))}"
)
# Section IV: data grouping trains by sample weighing with n_I = 2.
_GROUPING_PERIOD = fractions.Fraction(2)
# `tl:best` looks among so many batches.
_BEST_OF = 300
# Characters of a name; a file's may have 255, and more is added to it.
_LONGEST = 80
# Files and folders where those of methods are.
_TAKEN = ("global_phase", "autoencoder", "model.json", "identity.json")


def fields_of(spec: str) -> dict[str, Any]:
  """What a spec sets of a `Method`, its canonical spec included."""
  if spec.startswith("mix:"):
    return _mixture(fields_of(spec.removeprefix("mix:")))
  if match := re.fullmatch(r"(.+)@steps=([0-9./]+)", spec):
    steps = _count(spec, match[2])
    inner = fields_of(match[1])
    return {**inner, "spec": f"{inner['spec']}@steps={steps}", "steps": steps}
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
  for text in spec.split("+"):
    word, *options = text.split("@")
    kind = word.split(":")[0]
    slot, pattern, read = _WORDS.get(kind, (None, "", None))
    match = re.fullmatch(pattern, word.removeprefix(kind))
    if read is None or slot is None or match is None:
      raise ValueError(f"unknown method {text!r} in {spec!r}: {HELP}.")
    if slot in words:
      raise ValueError(
        f"{_SLOTS.get(slot, repr(kind))} stands twice in method {spec!r}."
      )
    words[slot], own = read(_Word(spec, kind, options), *match.groups())
    if options:
      raise ValueError(
        f"'@{options[0]}' doesn't go with {word!r} in {spec!r}: {HELP}."
      )
    fields |= own
  if set(words) == {"group"}:
    fields["period"] = _GROUPING_PERIOD
  elif set(words) == {"group", "sw"} and fields["period"] == _GROUPING_PERIOD:
    del words["sw"]  # as it would be without
  if "late" not in words and "start" in words:
    raise ValueError(
      f"method {spec!r} needs what goes on from its start, as in"
      f" '{spec}+tl:300'."
    )
  if "late" in words and not fields.get("late") and len(words) > 1:
    raise ValueError(
      f"{words['late']!r} trains nothing, so nothing can stand beside it in"
      f" {spec!r}."
    )
  order = ("start", "group", "es", "sw", "late")
  return {"spec": "+".join(words[s] for s in order if s in words), **fields}


class _Word(NamedTuple):
  """A word of a spec, but for its numbers."""

  spec: str  # the whole
  kind: str
  options: list[str]  # that nobody has taken yet

  def strength(self, default: float) -> float:
    """The option that is a number: the lambda of a penalty."""
    for option in self.options:
      if re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", option):
        self.options.remove(option)
        return _number(self.spec, option)
    return default

  def refuse(self, option: str | None) -> None:
    """Rejects what stands after another colon."""
    if option is not None:
      raise ValueError(
        f"':{option}' doesn't go with {self.kind!r} in {self.spec!r}."
      )


_Fields = tuple[str, dict[str, Any]]


def _early(word: _Word, steps: str, option: str | None) -> _Fields:
  word.refuse(option)
  count = _count(word.spec, steps)
  return f"es:{count}", {"early": count}


def _weighing(word: _Word, period: str, option: str | None) -> _Fields:
  word.refuse(option)
  exact = _period(word.spec, period)
  return f"sw:{exact}", {"period": exact}


def _group(word: _Word, count: str, option: str | None) -> _Fields:
  if option != "only":
    word.refuse(option)
  group = Group(word.kind, _count(word.spec, count), option == "only")
  return group.spec, {"group": group}


def _tuning(word: _Word, text: str, steps: int, **fields: Any) -> _Fields:
  """Fine-tuning by so many batches, with its options."""
  fields["late"] = steps
  for option in sorted(word.options, reverse=True):  # lr, then best
    if option.startswith("lr=") and "learning_rate" not in fields:
      rate = _number(word.spec, option.removeprefix("lr="))
      with checks.naming(f"method {word.spec!r}"):
        checks.positive("lr", rate)
      text, fields["learning_rate"] = f"{text}@lr={_text(rate)}", rate
    elif option == "best" and "best" not in fields:
      text, fields["best"] = f"{text}@best", True
    else:
      continue
    word.options.remove(option)
  return text, fields


def _transfer(word: _Word, steps: str, option: str | None) -> _Fields:
  if steps == "best":
    steps = str(_BEST_OF)
    word.options.append("best")
  count = _count(word.spec, steps)
  if option is None:
    return _tuning(word, f"tl:{count}", count)
  if not option.startswith("last="):
    word.refuse(option)
  last = _count(word.spec, option.removeprefix("last="))
  return _tuning(word, f"tl:{count}:last={last}", count, last_layers=last)


def _masked(word: _Word, steps: str) -> _Fields:
  count = _count(word.spec, steps)
  return _tuning(
    word, f"{word.kind}:{count}", count, trainable=_MASKS[word.kind]
  )


def _low_rank(word: _Word, steps: str, rank: str) -> _Fields:
  count, rank_ = _count(word.spec, steps), _count(word.spec, rank)
  mask = masks.Low(rank_)
  return _tuning(word, f"lora:{count}:{rank_}", count, trainable=mask)


def _probing(word: _Word, first: str, then: str) -> _Fields:
  of_head = _count(word.spec, first)
  of_all = _count(word.spec, then) if then.strip("0") else 0
  return _tuning(
    word,
    f"lpft:{of_head},{of_all}",
    of_head + of_all,
    trainable=masks.head,
    then=of_all,
  )


def _penalty(word: _Word, steps: str) -> _Fields:
  count = _count(word.spec, steps)
  kind, default = _PENALTIES[word.kind]
  strength = word.strength(default)
  text = f"{word.kind}:{count}@{_text(strength)}"
  if not strength:
    return _tuning(word, text, count)  # its bits are then those of TL
  return _tuning(
    word,
    text,
    count,
    loss=kind(strength),
    reference=True,
    **({"fisher": True} if word.kind == "ewc" else {}),
  )


def _neighbours(word: _Word, count: str) -> _Fields:
  rule = knn.neighbours(_count(word.spec, count))
  return f"knn:{rule.count}", {
    "fit": rule.fit,
    "predict": rule.predict,
    "reference": True,
  }


def _mixture(inner: dict[str, Any]) -> dict[str, Any]:
  """Of another method's fields, those of its mixture with D_G's model."""
  rule = mix.mixture(inner.get("predict"), inner.get("fit"))
  if inner["spec"] == "global" or inner["spec"].startswith("mix:"):
    raise ValueError(
      f"method 'mix:{inner['spec']}' mixes {inner['spec']!r} with D_G's model,"
      " which it is, or has, already: mix a person's own, as in 'mix:tl:300'."
    )
  return {
    **inner,
    "spec": f"mix:{inner['spec']}",
    "fit": rule.fit,
    "predict": rule.predict,
    "reference": True,
  }


def _own_statistics(word: _Word) -> _Fields:
  return word.kind, {"own_statistics": True}


def _reptile(word: _Word) -> _Fields:
  return word.kind, {"start": Reptile()}


def _clusters(word: _Word, count: str) -> _Fields:
  start = clusters.Clusters(_count(word.spec, count))
  return f"ifca:{start.count}", {"start": start}


_MASKS = {
  "bias": masks.biases,
  "bn": masks.batch_norm,
  "head": masks.head,
}
# With the lambda of a spec that has none.
_PENALTIES: dict[str, tuple[Callable[[float], Any], float]] = {
  "l2sp": (penalties.L2SP, 0.1),
  "ewc": (penalties.EWC, 100.0),
  "distil": (penalties.Distillation, 1.0),
}
_SLOTS = {
  "group": "a group",
  "late": "what comes last",
  "start": "a start",
}
_NUMBER = r":([0-9./]+)"
_OPTION = r"(?::(last=[0-9]+|only))?"
# By kind: its place in a spec, what follows it, and what it means.
_WORDS: dict[str, tuple[str, str, Callable[..., _Fields]]] = {
  "es": ("es", _NUMBER + _OPTION, _early),
  "sw": ("sw", _NUMBER + _OPTION, _weighing),
  **dict.fromkeys(("sg", "ig", "random"), ("group", _NUMBER + _OPTION, _group)),
  "tl": ("late", r":([0-9./]+|best)" + _OPTION, _transfer),
  **dict.fromkeys(_MASKS, ("late", _NUMBER, _masked)),
  **dict.fromkeys(_PENALTIES, ("late", _NUMBER, _penalty)),
  "lora": ("late", _NUMBER + _NUMBER, _low_rank),
  "lpft": ("late", _NUMBER + r",\s*([0-9./]+)", _probing),
  "knn": ("late", _NUMBER, _neighbours),
  "adabn": ("late", "", _own_statistics),
  "reptile": ("start", "", _reptile),
  "ifca": ("start", _NUMBER, _clusters),
}


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
  if lower in _TAKEN or lower.startswith("start_"):
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


def _number(spec: str, number: str) -> float:
  try:
    return float(number)
  except ValueError:
    raise ValueError(f"{number!r} in method {spec!r} is no number.") from None


def _text(number: float) -> str:
  """A number in a spec, with all its digits and without a plus: 1e16."""
  return repr(number).removesuffix(".0").replace("e+", "e")


def _period(spec: str, number: str) -> fractions.Fraction:
  try:
    return schedules.check_period(fractions.Fraction(number))
  except (ValueError, ZeroDivisionError) as error:
    reason = error if "n_I" in str(error) else f"n_I={number!r} is no number."
    raise ValueError(f"method {spec!r}: {reason}") from error
