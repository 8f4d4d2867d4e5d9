"""How every model is trained, checked before anything is."""

from __future__ import annotations

import dataclasses

from personalization_jax import checks


@dataclasses.dataclass(frozen=True)
class Personal:
  """How people's models are trained on D_I after D_G (TL's late batches).

  Attributes:
    optimizer: "adam", or "sgd" without momentum.
    learning_rate: None for the one on D_G.
    weight_decay: decoupled from the gradients, a step's part of a parameter
      being learning_rate * weight_decay.
    fresh: whether Adam begins anew; else its moments on D_G go on.

  Raises:
    ValueError: naming what nothing can be trained with.
  """

  optimizer: str = "adam"
  learning_rate: float | None = None
  weight_decay: float = 0.0
  fresh: bool = False

  def __post_init__(self) -> None:
    if self.optimizer not in ("adam", "sgd"):
      raise ValueError(f"optimizer={self.optimizer!r} must be 'adam' or 'sgd'.")
    if self.learning_rate is not None:
      checks.positive("learning_rate", self.learning_rate)
    if self.weight_decay:
      checks.positive("weight_decay", self.weight_decay)
    checks.plain_numbers(self)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How every model is trained; by default as section IV says.

  It names Adam, epochs, batch size and network, but no learning rate or initial
  weights: README, "How the paper is read".

  Attributes:
    epochs: epochs on D_G.
    batch_size: samples in a batch.
    learning_rate: Adam's.
    width: factor on the channels of Fig. 4.
    precision: "float32" or "bfloat16", of activations.
    seed: of everything random.
    personal: how to train on D_I after D_G, if otherwise.
    initializer: of the weights of Fig. 4's network: "pytorch" (its
      default), "lecun_normal" (Flax's) or "glorot_uniform" (Keras'); see
      `Classifier`.

  Raises:
    ValueError: naming what nothing can be trained with.
  """

  epochs: int = 20
  batch_size: int = 128
  learning_rate: float = 1e-3
  width: float = 1.0
  precision: str = "float32"
  seed: int = 0
  personal: Personal = Personal()
  initializer: str = "pytorch"

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
