"""Which of a directory's finished results its tables and figures are of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from personalization_jax.methods import Method, known_method

# A method's spec and a seed.
Finished = tuple[str, int]


class Rows(NamedTuple):
  """What the tables of a run directory are of."""

  methods: list[str]  # specs, in the order of the table
  seeds: list[int]  # with which each of them is finished
  beside: list[Finished]  # with other seeds: in results.csv alone
  notes: list[str]  # sentences about what is left out

  @property
  def parsed(self) -> list[Method]:
    """The methods themselves."""
    return [method for method in map(known_method, self.methods) if method]


def choose(
  asked: Mapping[str, Collection[int]],
  seeds: Sequence[int],
  finished: Collection[Finished],
  now: Sequence[str],
) -> Rows:
  """The methods `now` asked for, and all else that can be compared with them.

  That is every method of before which is finished with all seeds that they have
  in common. `asked` is spec -> seeds, and `seeds` are all that were ever asked
  for, in order; runs of old versions list finished seeds alone. `finished` is
  what there will be once this start ends.
  """
  notes = []
  there: dict[str, list[int]] = {}
  for method in asked:
    its = [seed for seed in seeds if (method, seed) in finished]
    if its and known_method(method) is None:
      notes.append(
        f"Method {method!r} is finished, but this version knows none of that"
        " name: it is left out of all tables."
      )
    elif its:
      there[method] = its
  common = [s for s in seeds if all(s in there[method] for method in now)]
  methods = [method for method in there if {*common} <= {*there[method]}]
  beside = [
    (method, seed)
    for seed in seeds
    for method, its in there.items()
    if seed in its and not (method in methods and seed in common)
  ]
  if beside:
    every = [s for s in seeds if any(s in its for its in there.values())]
    notes.append(
      "table1.csv and the figures compare methods that have the same seeds"
      f" ({_list(common)}); in results.csv alone:"
      f" {_list(f'{method} with seed {seed}' for method, seed in beside)}."
      f" --methods={','.join(there)} --seeds={','.join(map(str, every))} would"
      " train what is missing and compare them all."
    )
  missing = []
  for method, its_seeds in asked.items():
    lost = [str(seed) for seed in its_seeds if (method, seed) not in finished]
    if method in there and lost:
      missing.append(f"{method} with seed {' and '.join(lost)}")
    elif lost or not its_seeds:
      missing.append(method)
  if missing:
    notes.append(
      f"Asked for before and not finished: {_list(missing)}; --methods and"
      " --seeds have to name them to go on."
    )
  return Rows(methods, common, beside, notes)


def _list(things: Iterable[object]) -> str:
  return ", ".join(map(str, things))
