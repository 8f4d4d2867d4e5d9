"""One table says which formulation each platform gets."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

import personalization_jax
from personalization_jax.networks.kernels import platforms

PACKAGE = pathlib.Path(personalization_jax.__file__).parent
PERFORMANCE = PACKAGE.parent / "experiments" / "PERFORMANCE.md"
# Functions that StableHLO has by name.
MARKS = {"cpu": "floor", "tpu": "ceil", "default": "tanh"}


def test_the_platform_is_asked_in_one_place():
  asking = [
    path.name
    for path in PACKAGE.rglob("*.py")
    if "platform_dependent" in path.read_text()
  ]
  assert asking == ["platforms.py"]


def test_the_evidence_has_a_column_for_each_platform():
  _, section = PERFORMANCE.read_text().split("## What is used on which device")
  columns = next(line for line in section.splitlines() if line.startswith("|"))
  named = {"GPU": "default"}
  found = [
    named.get(name, name.lower()) for name in columns.strip("| ").split(" | ")
  ]
  assert found == [*platforms.BY_PLATFORM]


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_the_platform_of_the_program_has_its_own_function(
  platform, monkeypatch
):
  """Looked up when a program is traced."""
  for name, formulation in platforms.BY_PLATFORM.items():
    marked = formulation._replace(kernel_sign=getattr(jnp, MARKS[name]))
    monkeypatch.setitem(platforms.BY_PLATFORM, name, marked)
  function = jax.jit(lambda scale: platforms.call("kernel_sign", scale))
  lowered = function.trace(jnp.ones(3)).lower(lowering_platforms=(platform,))
  found = [each for each in MARKS.values() if each in lowered.as_text()]
  assert found == [MARKS.get(platform, MARKS["default"])]
