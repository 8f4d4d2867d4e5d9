import pytest

from personalization_jax.training import pace


class Clock:
  """A device that computes one block after another, behind or at once."""

  def __init__(self, monkeypatch, seconds_a_step, compilation, at_once):
    self.now = 100.0
    self.free = 0.0
    self.cost = seconds_a_step
    self.compilation = compilation
    self.at_once = at_once
    monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)

  def run(self, steps):
    self.now += self.compilation
    self.compilation = 0.0
    self.free = max(self.free, self.now) + steps * self.cost
    if self.at_once:
      self.now = self.free
    return self.free


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
  ("seconds_a_step", "expected"), [(0.001, 50), (0.3, 10), (0.5, 6), (9.0, 1)]
)
def test_blocks_take_about_so_many_seconds(
  monkeypatch, at_once, seconds_a_step, expected
):
  clock = Clock(monkeypatch, seconds_a_step, 30.0, at_once)
  under_test = pace.Pace(50, 3.0)
  under_way, sizes = [], []
  for _ in range(40):
    steps = under_test.steps()
    under_way.append((clock.run(steps), steps))
    under_test.started()
    sizes.append(steps)
    if len(under_way) > 1:
      end, steps = under_way.pop(0)
      clock.now = max(clock.now, end)
      under_test.ended(steps)
  assert sizes[0] == 5
  assert max(sizes[:3]) <= 15
  assert sizes[-1] == pytest.approx(expected, rel=0.2)


def test_a_block_is_never_longer_than_its_program():
  assert pace.Pace(4, 3.0).steps() == 4
