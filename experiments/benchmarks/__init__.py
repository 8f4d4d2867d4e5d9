"""Suites of measurements, one module each; see `experiments.benchmark`."""
