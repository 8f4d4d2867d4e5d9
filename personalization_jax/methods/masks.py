"""What is a person's own: masks of parameters, and low-rank additions.

A mask is a tree like the parameters. Its leaves are False (D_G's model's,
shared by everybody), True (the person's own) or `LowRank(rank)` (D_G's, and an
addition of the person's own). A partial tree then has None, an array or
`Factors` in their places.

Sources: head, Arivazhagan et al., FedPer (2019), arXiv 1912.00818, and Oh et
al., FedBABU (2022), arXiv 2106.06042; biases, Ben Zaken et al., BitFit (2022),
arXiv 2106.10199; batch normalisation, Li et al., FedBN (2021), arXiv
2102.07623; low rank, Hu et al., LoRA (2021), arXiv 2106.09685.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from personalization_jax import checks


@dataclasses.dataclass(frozen=True)
class LowRank:
  """A mask's leaf: an addition of at most this rank is the person's own."""

  rank: int

  def __post_init__(self) -> None:
    """Rejects what is no rank."""
    checks.whole_number("rank", self.rank, 1)


class Factors(flax.struct.PyTreeNode):
  """An addition to a kernel [..., O]: down @ up, in the kernel's shape.

  Convolutions' kernels [h, w, i, o] are matrices [h * w * i, o].
  """

  down: Array  # [I, R]
  up: Array  # [R, O]

  @classmethod
  def create(cls, key: Array, rank: int, kernel: Array) -> Factors:
    """A random `down` and an `up` of zeros: training begins at the kernel.

    The rank is at most the matrix's smaller side. Entries of `down` are normal
    with variance 1 / I, so that its products are as large as its inputs.
    """
    *inputs, size = kernel.shape
    fan_in = math.prod(inputs)
    rank = min(rank, fan_in, size)
    down = jax.random.normal(key, (fan_in, rank), kernel.dtype)
    return cls(down / math.sqrt(fan_in), jnp.zeros((rank, size), kernel.dtype))

  def added_to(self, kernel: Array) -> Array:
    """The kernel that the network sees."""
    return kernel + (self.down @ self.up).reshape(kernel.shape)


@dataclasses.dataclass(frozen=True)
class Low:
  """Additions of low rank to every kernel of a dense layer or a convolution.

  Attributes:
    rank: of each addition; the full one where a kernel has less.
  """

  rank: int

  def __post_init__(self) -> None:
    """Rejects what is no rank."""
    checks.whole_number("rank", self.rank, 1)

  def __call__(self, params: Any) -> Any:
    """Which parameters get an addition: `LowRank`, and False for the rest."""
    mask = _by_path(
      params, lambda path, leaf: path[-1] == "kernel" and leaf.ndim >= 2
    )
    _check_any("low rank", mask, "no kernel of a dense layer or convolution")
    return jax.tree.map(lambda low: LowRank(self.rank) if low else False, mask)


def head(params: Any) -> Any:
  """Trains the last layer alone: the dense one that gives the logits.

  Raises:
    ValueError: if names don't tell which one it is.
  """
  dense = [
    path[:-1]
    for path, leaf in _leaves(params)
    if path[-1] == "kernel" and leaf.ndim == 2
  ]
  stems = {"/".join(path).rstrip("0123456789") for path in dense}
  if not (len(dense) == 1 or (len(stems) == 1 and all(map(_number, dense)))):
    names = ", ".join("/".join(path) for path in dense) or "none"
    raise ValueError(
      "head: the last layer must be the only dense one, or the one with the"
      " highest number (layer_2 of layer_0 to layer_2), but the dense ones are:"
      f" {names}."
    )
  last = max(dense, key=lambda path: int(_number(path) or 0))
  return _by_path(params, lambda path, _: path[:-1] == last)


def biases(params: Any) -> Any:
  """Trains every bias, those of normalisation too.

  Raises:
    ValueError: if there is none.
  """
  mask = _by_path(params, lambda path, _: path[-1] == "bias")
  return _check_any("biases", mask, "no parameter is named bias")


def batch_norm(params: Any) -> Any:
  """Trains the scales and biases of batch normalisation.

  Its layers are those that have a scale, or "norm" in their names.

  Raises:
    ValueError: if there is none.
  """
  scaled = {path[:-1] for path, _ in _leaves(params) if path[-1] == "scale"}

  def normalises(path: tuple[str, ...], _: Any) -> bool:
    *_, layer = ("", *path[:-1])
    known = path[:-1] in scaled or "norm" in layer.lower()
    return known and path[-1] in ("scale", "bias")

  return _check_any(
    "batch_norm", _by_path(params, normalises), "no layer normalises"
  )


def own_of(params: Any, mask: Any, key: Array) -> Any:
  """What a person has of their own to begin with: a partial tree.

  Args:
    params: D_G's model's parameters.
    mask: of them, with False, True or `LowRank` for each.
    key: the person's, for low-rank additions.

  Returns:
    None, the parameter itself, or new `Factors` for each: `merged` gives
    `params` again.
  """
  leaves, structure = jax.tree.flatten(params)
  places = jax.tree.unflatten(structure, range(len(leaves)))

  def begin(leaf: Array, kind: Any, place: int) -> Any:
    if isinstance(kind, LowRank):
      return Factors.create(jax.random.fold_in(key, place), kind.rank, leaf)
    return leaf if kind else None

  return jax.tree.map(begin, params, mask, places)


def merged(own: Any, base: Any) -> Any:
  """All parameters of a person: D_G's model's where they have none.

  Args:
    own: a partial tree, as `own_of` gives it.
    base: D_G's model's parameters.

  Returns:
    A tree like `base`.
  """

  def join(mine: Any, shared: Array) -> Array:
    if mine is None:
      return shared
    return mine.added_to(shared) if isinstance(mine, Factors) else mine

  return jax.tree.map(
    join,
    own,
    base,
    is_leaf=lambda node: node is None or isinstance(node, Factors),
  )


def _leaves(params: Any) -> list[tuple[tuple[str, ...], Any]]:
  """Each parameter with the names on its path."""
  return [
    (_names(path), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  ]


def _by_path(
  params: Any, function: Callable[[tuple[str, ...], Any], bool]
) -> Any:
  """A tree of bools, from names and parameters."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: function(_names(path), leaf), params
  )


def _names(path: Any) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _number(path: tuple[str, ...]) -> str:
  """The digits at the end of a layer's name; none if there are none."""
  return "".join(re.findall(r"\d+$", path[-1])) if path else ""


def _check_any(name: str, mask: Any, fault: str) -> Any:
  """The mask, if there is something to train."""
  if not any(jax.tree.leaves(mask)):
    raise ValueError(f"{name}: there is nothing to train, as {fault}.")
  return mask
