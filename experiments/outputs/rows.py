"""Which of a directory's finished results its tables and figures are of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence

from personalization_jax.methods import Method, known_method

# A method's spec and a seed.
Finished = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Rows:
  """What the tables of a run directory are of.

  Attributes:
    methods: specs, in the order of the table.
    seeds: with which each of them is finished.
    beside: finished as well, but not with these seeds: in results.csv alone.
    notes: sentences about what is left out.
  """

  methods: tuple[str, ...]
  seeds: tuple[int, ...]
  beside: tuple[Finished, ...] = ()
  notes: tuple[str, ...] = ()

  def to_json(self) -> str:
    """For `from_json` on another process."""
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, text: str) -> Rows:
    """What `to_json` gave."""
    fields = json.loads(text)
    fields["beside"] = map(tuple, fields["beside"])
    return cls(**{name: tuple(values) for name, values in fields.items()})

  @property
  def parsed(self) -> list[Method]:
    """The methods themselves."""
    return [method for method in map(known_method, self.methods) if method]


def choose(
  methods: Sequence[str],
  seeds: Sequence[int],
  finished: Collection[Finished],
  asked_methods: Sequence[str],
) -> Rows:
  """What was asked for, and all else that can be compared with it.

  Args:
    methods: all that were ever asked for, in order.
    seeds: likewise.
    finished: what there is, or will be once this start ends.
    asked_methods: of this start; they have the seeds asked for in common.

  Returns:
    The methods asked for with the seeds that they have in common, those of
    earlier starts too, and every other finished method that has all of these.
  """
  notes = []
  there = []
  for method in methods:
    if not any((method, seed) in finished for seed in seeds):
      continue
    if known_method(method) is None:
      notes.append(
        f"Method {method!r} is finished, but this version knows none of that"
        " name: it is left out of all tables."
      )
      continue
    there.append(method)
  common = [
    seed
    for seed in seeds
    if all((method, seed) in finished for method in asked_methods)
  ]
  rows = [
    method
    for method in there
    if all((method, seed) in finished for seed in common)
  ]
  everything = [
    (method, seed)
    for seed in seeds
    for method in there
    if (method, seed) in finished
  ]
  beside = [
    (method, seed)
    for method, seed in everything
    if method not in rows or seed not in common
  ]
  if beside:
    left = ", ".join(f"{method} with seed {seed}" for method, seed in beside)
    every = dict.fromkeys(seed for _, seed in everything)
    notes.append(
      "table1.csv and the figures compare methods that have the same seeds"
      f" ({', '.join(map(str, common))}); in results.csv alone: {left}."
      f" --methods={','.join(there)} --seeds={','.join(map(str, every))} would"
      " train what is missing and compare them all."
    )
  missing = [
    method
    for method in methods
    if not any((method, seed) in finished for seed in seeds)
  ]
  if missing:
    notes.append(
      f"Asked for before and not finished: {', '.join(missing)}; --methods has"
      " to name them to go on."
    )
  return Rows(tuple(rows), tuple(common), tuple(beside), tuple(notes))
