"""How every model is trained, checked before anything is."""

from __future__ import annotations

import dataclasses

from personalization_jax import checks


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
    initializer: of the weights of Fig. 4's network: "lecun_normal" (Flax's
      default), "glorot_uniform" (Keras') or "pytorch"; see `Classifier`.

  Raises:
    ValueError: naming what nothing can be trained with.
  """

  epochs: int = 20
  batch_size: int = 128
  learning_rate: float = 1e-3
  width: float = 1.0
  precision: str = "float32"
  seed: int = 0
  initializer: str = "lecun_normal"

  def __post_init__(self) -> None:
    checks.training(self)
    if self.precision not in ("float32", "bfloat16"):
      raise ValueError(
        f"precision={self.precision!r} must be 'float32' or 'bfloat16'."
      )
    if self.initializer not in ("lecun_normal", "glorot_uniform", "pytorch"):
      raise ValueError(
        f"initializer={self.initializer!r} must be 'lecun_normal',"
        " 'glorot_uniform' or 'pytorch'."
      )
    checks.plain_numbers(self)
