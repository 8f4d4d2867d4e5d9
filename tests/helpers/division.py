"""Work for a process of its own, without an import that takes time."""

import time


def prepare(dividend):
  """A function that divides, slowly by large numbers."""

  def divide(divisor):
    time.sleep(30 * (divisor > 9))
    return dividend / divisor

  return divide
