"""Schedules: which dataset each training batch comes from (NumPy)."""

from personalization_jax.schedules.sampling import *  # noqa: F403
from personalization_jax.schedules.shaping import *  # noqa: F403
