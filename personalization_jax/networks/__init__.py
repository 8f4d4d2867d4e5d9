"""Networks, and how any model is called (JAX alone)."""

from personalization_jax.networks.classifier import Classifier as Classifier
from personalization_jax.networks.mlp import MLP as MLP
