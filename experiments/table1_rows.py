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
  asked_seeds: Sequence[int],
) -> Rows:
  """Everything that is finished, as far as it can be compared.

  Args:
    methods: all that were ever asked for, in order.
    seeds: likewise.
    finished: what there is, or will be.
    asked_methods: of this start; every one of them is finished with each of
      `asked_seeds`.
    asked_seeds: likewise.

  Returns:
    All finished methods, with the seeds that they have in common; what was
    asked for alone if they have none.
  """
  notes = []
  rows = []
  for method in methods:
    if not any((method, seed) in finished for seed in seeds):
      continue
    if known_method(method) is None:
      notes.append(
        f"Method {method!r} is finished, but this version knows none of that"
        " name: it is left out of all tables."
      )
      continue
    rows.append(method)
  common = [
    seed for seed in seeds if all((method, seed) in finished for method in rows)
  ]
  everything = [
    (method, seed)
    for seed in seeds
    for method in rows
    if (method, seed) in finished
  ]
  if not common:
    rows, common = list(asked_methods), list(asked_seeds)
  beside = [
    (method, seed)
    for method, seed in everything
    if method not in rows or seed not in common
  ]
  if beside:
    left = ", ".join(f"{method} with seed {seed}" for method, seed in beside)
    notes.append(
      "table1.csv and the figures compare methods that have the same seeds"
      f" ({', '.join(map(str, common))}); in results.csv alone: {left}."
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
