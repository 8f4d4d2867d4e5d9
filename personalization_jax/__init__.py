"""One model for each person: Personalization of Deep Learning in JAX."""

__version__ = "0.1.0"
