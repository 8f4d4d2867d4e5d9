"""Results, metrics and tables (NumPy, SciPy; no disk, no JAX)."""
