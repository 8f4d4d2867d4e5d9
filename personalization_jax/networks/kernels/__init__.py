"""Convolution, batch normalisation and pooling (JAX alone)."""
