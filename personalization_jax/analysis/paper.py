"""The paper's Table I."""

from __future__ import annotations

from personalization_jax.analysis.columns import DATA
from personalization_jax.analysis.metrics import Spread

INDIVIDUALS = 100
# Method -> acc(D_I) and acc(D_G) over individuals: mean, sd, min, max.
# Source: J. Schneider and M. Vlachos, "Personalization of Deep Learning",
# Table I.
TABLE_1 = {
  method: (Spread(*own), Spread(*general))
  for method, own, general in (
    ("baseline", (0.980, 0.027, 0.860, 1.0), (0.979, 0.002, 0.971, 0.983)),
    ("es:40", (0.981, 0.031, 0.820, 1.0), (0.979, 0.002, 0.971, 0.982)),
    ("es:400", (0.983, 0.027, 0.859, 1.0), (0.980, 0.001, 0.977, 0.982)),
    ("sw:12", (0.980, 0.021, 0.904, 1.0), (0.971, 0.007, 0.951, 0.981)),
    ("sw:2", (0.984, 0.017, 0.920, 1.0), (0.968, 0.009, 0.946, 0.979)),
    ("tl:10", (0.982, 0.027, 0.851, 1.0), (0.980, 0.001, 0.974, 0.982)),
    ("tl:300", (0.983, 0.025, 0.859, 1.0), (0.979, 0.002, 0.964, 0.983)),
    ("random:1500", (0.975, 0.022, 0.884, 1.0), (0.962, 0.004, 0.949, 0.969)),
    ("random:6500", (0.975, 0.020, 0.929, 1.0), (0.965, 0.003, 0.956, 0.969)),
    ("ig:5", (0.978, 0.018, 0.931, 1.0), (0.961, 0.004, 0.942, 0.969)),
    ("ig:21", (0.977, 0.019, 0.922, 1.0), (0.964, 0.003, 0.949, 0.969)),
    ("sg:1500", (0.979, 0.018, 0.897, 1.0), (0.962, 0.003, 0.950, 0.966)),
    ("sg:6500", (0.978, 0.020, 0.915, 1.0), (0.963, 0.004, 0.952, 0.968)),
  )
}


def spread_of(data: str, method: str) -> Spread:
  """The paper's numbers of a method on "individual" or "global" data."""
  return TABLE_1[method][DATA.index(data)]
