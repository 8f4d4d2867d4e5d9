import math

import numpy as np
import pytest

from personalization_jax import checks
from personalization_jax.datasets import new_people, splits, variations
from personalization_jax.grouping.groups import Groups
from personalization_jax.settings import Settings
from personalization_jax.training.latent_space import LatentSettings


@pytest.mark.parametrize("settings", [Settings, LatentSettings])
@pytest.mark.parametrize(
  ("name", "value", "wanted"),
  [
    ("epochs", 1e1, r"epochs=10.0 must be a whole number"),
    ("epochs", 0, "epochs=0 must be at least 1"),
    ("epochs", True, "epochs=True must be a whole number"),
    ("batch_size", 2.5, r"batch_size=2.5 must be a whole number"),
    ("batch_size", 0, "batch_size=0 must be at least 1"),
    ("batch_size", "8", "batch_size='8' must be a whole number"),
    ("learning_rate", 0.0, r"learning_rate=0.0 must be above 0"),
    ("learning_rate", math.nan, "learning_rate=nan must be above 0"),
    ("learning_rate", math.inf, "learning_rate=inf must be finite"),
    ("learning_rate", "1e-3", "learning_rate='1e-3' must be a number"),
    ("width", -1, "width=-1 must be above 0"),
    ("width", math.inf, "width=inf must be finite"),
    ("width", None, "width=None must be a number"),
    ("seed", 1.5, r"seed=1.5 must be a whole number"),
    ("seed", -1, "seed=-1 must be 0 or more"),
    ("seed", 2**32, r"seed=4294967296 must be below 2\*\*32"),
    ("seed", 2**63, r"seed=9223372036854775808 must be below 2\*\*32"),
  ],
)
def test_both_settings_refuse_the_same_numbers(settings, name, value, wanted):
  with pytest.raises(ValueError, match=wanted) as error:
    settings(**{name: value})
  assert "\n" not in str(error.value)


def test_no_two_seeds_share_their_keys(people):
  """JAX's keys hold 32 bits: 1 and 2**32 + 1 would have the same weights."""
  first, last = people.individuals[:1], people.individuals[-1:]
  parts = splits.split(people, first, last)
  for enters in (
    lambda seed: splits.split(people, first, last, seed=seed),
    lambda seed: splits.choose_people(people, 1, 1, seed),
    lambda seed: Groups(people, parts, seed=seed),
    lambda seed: variations.vary_class_counts(
      people, first, concentration=1.0, seed=seed
    ),
    lambda seed: new_people.hold_out(people, 0.5, seed=seed),
  ):
    for seed in (2**32, -1, 2**63, 0.5):
      with pytest.raises(ValueError, match=rf"^seed={seed} must be"):
        enters(seed)


@pytest.mark.parametrize("settings", [Settings, LatentSettings])
def test_numpy_s_numbers_are_numbers(settings):
  settings(
    epochs=np.int64(3),
    batch_size=np.int32(4),
    learning_rate=np.float32(0.1),
    width=1,
    seed=np.uint32(2**32 - 1),
  )


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (ValueError("one.\ntwo"), "one"),
    (KeyError("name"), "name"),
    (RuntimeError(""), "RuntimeError"),
    (RuntimeError("\n  \n"), "RuntimeError"),
    (RuntimeError("..."), "RuntimeError"),
  ],
)
def test_others_errors_are_quoted_in_one_line(error, line):
  assert checks.first_line(error) == line


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    (((2, 3), (3,), (2, 2)), None),
    (((2,), (3,), (2, 2)), r"a must be \[S, R\], none of them 0, but is \[2\]"),
    (((2, 0), (0,), (2, 2)), r"a must be .* but is \[2, 0\]"),
    (((2, 3), (4,), (2, 2)), r"b has shape \[4\], but R of \[R\] is 3"),
    (((2, 3), (3,), (2, 4)), r"c has .*\[2, 4\], but S of \[S, S\] is 2"),
  ],
)
def test_an_axis_has_one_size_in_all_arrays(sizes, message):
  arrays = [*zip("abc", map(np.zeros, sizes), ("SR", "R", "SS"))]
  if message is None:
    return checks.shapes(*arrays)
  with pytest.raises(ValueError, match=message):
    checks.shapes(*arrays)
  if 0 in sizes[0]:
    checks.shapes(*arrays, empty=True)
