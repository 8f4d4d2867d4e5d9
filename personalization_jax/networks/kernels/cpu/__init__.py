"""Formulations that only a CPU wants."""
