"""Methods: what a model is trained on, and when."""

from personalization_jax.methods.method import *  # noqa: F403
