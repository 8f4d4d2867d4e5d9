"""Populations: real, synthetic, and varied."""

from personalization_jax.datasets.population import Population as Population
