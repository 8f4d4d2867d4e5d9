"""Networks, and how any model is called (JAX alone)."""
