"""What a compiled step costs, by its text: bytes moved, a TPU's cycles."""

from __future__ import annotations

import collections
import functools
import math
import re
from typing import NamedTuple

import jax

_BYTES = {
  "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
  "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8,
}  # fmt: skip
# Instructions that read their operands from memory, and write to it; of pairs
# that begin and end, one.
_MOVING = {
  "concatenate", "convolution", "copy", "copy-start", "custom-call", "dot",
  "dynamic-slice", "dynamic-update-slice", "fusion", "gather", "reduce",
  "reduce-window", "scatter", "select-and-scatter", "sort", "transpose",
}  # fmt: skip
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OPERATION = re.compile(r"[\]})] ([\w\-]+)\(")
# With its layout: S(1) and others are a TPU's memories on the chip.
_ARRAY = re.compile(
  rf"\b({'|'.join(_BYTES)})\[([0-9,]*)\](?!\{{[^}}]*S\([1-9])"
)


class Cost(NamedTuple):
  """Of the loop's body that costs most: a training program's step."""

  moved: int  # bytes, to and from memory
  cycles: int  # as a TPU's compiler estimates them; 0 elsewhere
  kernels: int  # instructions that move something
  costliest: list[tuple[int, str]]  # cycles, or bytes, and the instruction


def cost_of_step(compiled: jax.stages.Compiled, store: int = 0) -> Cost:
  """What a step of a training program costs.

  Operands of exactly `store` bytes are all samples, of which a batch is read:
  they aren't counted.
  """
  computations: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
  current = ""
  for line in (compiled.as_text() or "").splitlines():
    if head := _COMPUTATION.match(line):
      current = head[1]
    elif item := _INSTRUCTION.match(line):
      computations[current].append((item[1], item[2]))

  @functools.cache
  def cost(body: str) -> Cost:
    """A loop's turn; loops inside of it turn once."""
    instructions = computations[body]
    shapes = {name: _shape(text) for name, text in instructions}
    moved, cycles, kernels, listed = 0, 0, 0, []
    for name, text in instructions:
      size = _moved(name, text, shapes, store)
      found = _CYCLES.search(text)
      own = int(found[1]) if found else 0
      moved, cycles, kernels = moved + size, cycles + own, kernels + bool(size)
      listed.append((own or size, f"{name} = {text[:160]}"))
      if inner := _BODY.search(text):
        also = cost(inner[1])
        moved, cycles = moved + also.moved, cycles + also.cycles
        kernels += also.kernels
    return Cost(moved, cycles, kernels, sorted(listed, reverse=True))

  bodies = {
    name
    for items in computations.values()
    for _, text in items
    for name in _BODY.findall(text)
  }
  # Loops around it, over individuals or devices, do little of their own.
  own = {name: sum(size for size, _ in cost(name).costliest) for name in bodies}
  # Without a loop it is what comes last, the whole program.
  return cost(max(own, key=own.__getitem__, default=current))


def _shape(text: str) -> str:
  """An instruction's result."""
  # A layout may have parentheses, too.
  end = _OPERATION.search(text)
  return text[: end.start() + 1] if end else text.split(" ")[0]


def _moved(name: str, text: str, shapes: dict[str, str], store: int) -> int:
  operation = _OPERATION.search(text)
  if not operation or operation[1] not in _MOVING:
    return 0
  operands = re.findall(
    r"%([\w.\-]+)", text[operation.end() :].split("), ", 1)[0]
  )
  sizes = [_size(shapes.get(each, "")) for each in operands]
  if operation[1] == "copy-start":  # its result names what it copies, too
    sizes = []
  return _size(shapes[name]) + sum(size for size in sizes if size != store)


def _size(shape: str) -> int:
  return sum(
    _BYTES[kind] * math.prod(int(n) for n in dimensions.split(",") if n)
    for kind, dimensions in _ARRAY.findall(shape)
  )
