"""How every model is trained, checked before anything is."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from personalization_jax import checks
from personalization_jax.networks import classifier
from personalization_jax.training.step import Learner


@dataclasses.dataclass(frozen=True)
class Settings:
  """How every model is trained; the defaults are the paper's (section IV).

  Attributes:
    epochs: epochs on D_G.
    batch_size: samples in a batch.
    learning_rate: Adam's.
    width: factor on the channels of Fig. 4.
    precision: "float32" or "bfloat16", of activations.
    seed: of everything random.
  """

  epochs: int = 20
  batch_size: int = 128
  learning_rate: float = 1e-3
  width: float = 1.0
  precision: str = "float32"
  seed: int = 0

  def __post_init__(self) -> None:
    """Refuses what can't be trained with, naming it."""
    checks.training(self)
    if self.precision not in ("float32", "bfloat16"):
      raise ValueError(
        f"precision={self.precision!r} must be 'float32' or 'bfloat16'."
      )
    classifier.check_width(self.width)
    checks.plain_numbers(self)


def make_learner(
  settings: Settings, num_classes: int, model: nn.Module | None = None
) -> Learner:
  """The paper's classifier, or another model, and the paper's optimiser.

  Args:
    settings: width, precision and learning rate.
    num_classes: classes to tell apart.
    model: by default Fig. 4's network; another one has its own width and
      precision. See `own_model` for how it is called.

  Returns:
    The model with Adam.
  """
  if model is None:
    model = classifier.Classifier(
      num_classes=num_classes,
      width=settings.width,
      dtype=jnp.dtype(settings.precision),
    )
  return Learner.with_adam(model, settings.learning_rate)
