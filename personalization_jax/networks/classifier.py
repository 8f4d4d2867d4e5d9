"""Fig. 4's classifier, in Flax Linen (JAX)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from personalization_jax.networks.kernels.batch_norm import ReluBatchNorm
from personalization_jax.networks.kernels.convolution import Convolution
from personalization_jax.networks.kernels.dropout import Dropout


class Layer(NamedTuple):
  """A convolution with ReLU and batch normalisation, and what follows it."""

  size: int  # side of the kernel, in pixels
  channels: int  # output channels, at width 1
  pool: bool = False  # max-pooling, 2x2, or global after the last layer
  dropout: float = 0.0  # rate


# The fully connected layer follows, and counts as one of the layers.
FIG_4 = (
  Layer(3, 32),
  Layer(3, 64, pool=True, dropout=0.2),
  Layer(3, 128),
  Layer(3, 128, pool=True),
  Layer(3, 128),
  Layer(1, 128, pool=True),
  Layer(1, 256, pool=True, dropout=0.35),
)
IMAGE_SIZES = (16, 32, 64)
# How weights begin: as in Flax, in Keras and in PyTorch, by default.
INITIALIZERS = ("lecun_normal", "glorot_uniform", "pytorch")
# Numbers of channels have 31 bits.
_MOST = 2**31


class Classifier(nn.Module):
  """The VGG-style classifier of Fig. 4.

  The last pooling is global: the fully connected layer sees one vector whatever
  the image size.

  Attributes:
    num_classes: number of classes.
    width: factor on every channel count of Fig. 4.
    dtype: of activations; parameters stay float32.
    momentum: of the running means and variances of batch normalisation.
    initializer: of kernels and biases, one of `INITIALIZERS`:
      lecun_normal: truncated normal of deviation 1 / sqrt(fan_in); biases 0.
      glorot_uniform: within +-sqrt(6 / (fan_in + fan_out)); biases 0.
      pytorch: within +-1 / sqrt(fan_in), the layer's biases too.

  Source: Fig. 4.
  """

  num_classes: int
  width: float = 1.0
  dtype: Any = jnp.float32
  momentum: float = 0.9
  initializer: str = "pytorch"

  @nn.compact
  def __call__(
    self,
    images: Array,
    mask: Array | None = None,
    *,
    train: bool = False,
    frozen_layers: int = 0,
  ) -> Array:
    """Scores every class.

    Args:
      images: float [B, H, W, C], H = W a power of two of 16 or more.
      mask: bool [B], False where a row is padding and doesn't count in batch
        statistics; None if none is.
      train: whether batch statistics are used and updated and dropout drops
        (needs the "dropout" key).
      frozen_layers: number of leading layers that behave as in evaluation and
        pass no gradient on.

    Returns:
      Logits float32 [B, num_classes].
    """
    x = images.astype(self.dtype)
    weights = None
    if mask is not None:
      weights = mask / jnp.maximum(mask.sum(), 1).astype(jnp.float32)
    for index, layer in enumerate(FIG_4):
      channels, window = int(layer.channels * self.width), 1
      if layer.pool:
        window = 2 if index + 1 < len(FIG_4) else x.shape[1]
      norm = ReluBatchNorm(
        channels, self.momentum, window, self.dtype, name=f"norm_{index}"
      )
      x, bias = Convolution(
        channels,
        layer.size,
        self.dtype,
        **_initial(self.initializer, layer.size**2 * x.shape[-1]),
        name=f"layer_{index}",
      )(x, norm.kernel_sign())
      x = norm(
        x, bias, weights, use_running_average=not train or index < frozen_layers
      )
      if index + 1 == frozen_layers:
        x = jax.lax.stop_gradient(x)
      if layer.dropout:
        drops = train and index + 1 >= frozen_layers
        x = Dropout(layer.dropout)(x, drops=drops)
    x = x.reshape(len(x), -1)
    logits = nn.Dense(
      self.num_classes,
      dtype=self.dtype,
      **_initial(self.initializer, x.shape[-1]),
      name=f"layer_{len(FIG_4)}",
    )(x)
    return logits.astype(jnp.float32)


def _initial(name: str, fan_in: int) -> dict[str, Any]:
  """What a layer's kernel and bias begin with."""
  check_initializer(name)
  if name == "lecun_normal":
    return {}  # the layers' own
  if name == "glorot_uniform":
    return {"kernel_init": nn.initializers.glorot_uniform()}
  bound = 1 / math.sqrt(fan_in)

  def uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return {"kernel_init": uniform, "bias_init": uniform}


def check_initializer(name: str) -> None:
  """Rejects what isn't one of `INITIALIZERS`."""
  if name not in INITIALIZERS:
    raise ValueError(
      f"initializer={name!r} must be one of"
      f" {', '.join(map(repr, INITIALIZERS))}."
    )


def check_width(width: float) -> None:
  """Rejects a width that leaves a layer without channels, or with too many."""
  channels = [layer.channels for layer in FIG_4]
  if width * max(channels) >= _MOST:
    raise ValueError(
      f"width={width} must be below {_MOST // max(channels)}, or sizes of"
      " arrays overflow."
    )
  smallest = min(channels)
  if not width * smallest >= 1:
    raise ValueError(
      f"width={width} gives the layer of {smallest} channels none; it must be"
      f" at least {1 / smallest}."
    )


def check_image_size(image_size: int) -> None:
  """Rejects sizes, in pixels a side, that the network isn't made for."""
  if image_size not in IMAGE_SIZES:
    raise ValueError(
      f"image_size={image_size} must be one of"
      f" {', '.join(map(str, IMAGE_SIZES))}."
    )


def check_samples(sample_shape: tuple[int, ...]) -> None:
  """Rejects samples that Fig. 4's network isn't made for."""
  if len(sample_shape) != 3:
    raise ValueError(
      "the paper's network takes images [H, W, C], but samples have shape"
      f" {list(sample_shape)}: give a model of your own, for"
      " instance MLP."
    )
  height, width, _ = sample_shape
  if height != width:
    raise ValueError(
      f"images must be square for the paper's network, but are"
      f" {height}x{width}: pad=True pads them with zeros."
    )
  check_image_size(height)


def count_layers(params: Any) -> int:
  """Number of layers of a network, by the numbers in their names."""
  return max(map(layer_number, params)) + 1


def layer_number(name: str) -> int:
  """A layer's place in the network, from 0, by its parameters' name."""
  number = name.rsplit("_", 1)[-1]
  if not number.isdecimal():
    raise ValueError(
      f"parameters must be named by layer, 'layer_0' and so on, but there are"
      f" {name!r}."
    )
  return int(number)
