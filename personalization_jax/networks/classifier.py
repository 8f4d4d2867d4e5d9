"""The networks, in Flax Linen (JAX): Fig. 4's classifier, and an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from personalization_jax.networks.kernels import batch_norm, convolution

# Fig. 4, in order: a (kernel size, channels) convolution, a pooling, or a
# dropout rate. Every layer with weights counts as one of `num_layers`; the
# fully connected one comes last.
_POOL = "pool"
FIG_4: tuple[Any, ...] = (
  (3, 32),
  (3, 64),
  _POOL,
  0.2,
  (3, 128),
  (3, 128),
  _POOL,
  (3, 128),
  (1, 128),
  _POOL,
  (1, 256),
  _POOL,
  0.35,
)
NUM_LAYERS = sum(isinstance(layer, tuple) for layer in FIG_4) + 1
IMAGE_SIZES = (16, 32, 64)


class Classifier(nn.Module):
  """The VGG-style classifier of Fig. 4.

  Each convolution is followed by ReLU and batch normalisation. The last
  pooling is global, so that the fully connected layer sees one vector whatever
  the image size.

  Attributes:
    num_classes: number of classes.
    width: factor on every channel count of Fig. 4.
    dtype: what activations are computed in; parameters stay float32.
    momentum: of the running means and variances of batch normalisation.
  """

  num_classes: int
  width: float = 1.0
  dtype: Any = jnp.float32
  momentum: float = 0.9

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    mask: jax.Array | None = None,
    *,
    train: bool = False,
    frozen_layers: int = 0,
  ) -> jax.Array:
    """Scores every class.

    Args:
      images: float [B, H, W, C], H = W a power of two of 16 or more.
      mask: bool [B], False where a row is padding and must not count in the
        batch statistics; None if none is.
      train: whether batch statistics are used and updated and dropout drops
        (needs the "dropout" key).
      frozen_layers: so many first layers behave as in evaluation and pass no
        gradient on.

    Returns:
      Logits float32 [B, num_classes].
    """
    x = images.astype(self.dtype)
    weights = None
    if mask is not None:
      weights = mask / jnp.maximum(mask.sum(), 1).astype(jnp.float32)
    layer = 0
    for index, spec in enumerate(FIG_4):
      training = train and layer >= frozen_layers
      if isinstance(spec, float):
        x = nn.Dropout(spec, deterministic=not training)(x)
      elif spec != _POOL:  # Which the normalisation before it does.
        size, channels = spec
        layer_name = f"layer_{layer}"
        x, shift = _Convolution(
          _channels(channels, self.width), size, self.dtype, name=layer_name
        )(x)
        window = 1
        if FIG_4[index + 1] == _POOL:
          window = 2 if layer < NUM_LAYERS - 2 else x.shape[1]
        x = batch_norm.ReluBatchNorm(
          momentum=self.momentum,
          window=window,
          dtype=self.dtype,
          name=f"norm_{layer}",
        )(x, shift, weights, use_running_average=not training)
        layer += 1
        if layer == frozen_layers:
          x = jax.lax.stop_gradient(x)
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name=f"layer_{layer}")
    return logits(x.reshape(len(x), -1)).astype(jnp.float32)


class MLP(nn.Module):
  """Dense layers with ReLU between them: for feature vectors.

  An example of a model of one's own; see `own_model`. Features of very
  different sizes want to be scaled beforehand: they are used as they are.

  Attributes:
    num_classes: number of classes.
    hidden: how wide the hidden layers are.
    dtype: what activations are computed in; parameters stay float32.
  """

  num_classes: int
  hidden: Sequence[int] = (64, 64)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, samples: jax.Array, *, frozen_layers: int = 0
  ) -> jax.Array:
    """Scores every class.

    Args:
      samples: float [B, ...]; all axes but the first are one vector.
      frozen_layers: so many first layers pass no gradient on.

    Returns:
      Logits float32 [B, num_classes].
    """
    x = samples.reshape(len(samples), -1).astype(self.dtype)
    for layer, size in enumerate(self.hidden):
      x = nn.relu(nn.Dense(size, dtype=self.dtype, name=f"layer_{layer}")(x))
      if layer + 1 == frozen_layers:
        x = jax.lax.stop_gradient(x)
    last = nn.Dense(
      self.num_classes, dtype=self.dtype, name=f"layer_{len(self.hidden)}"
    )
    return last(x).astype(jnp.float32)


class _Convolution(nn.Module):
  """`flax.linen.Conv`, its bias not yet added: the same parameters."""

  channels: int
  size: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    shape = (self.size, self.size, x.shape[-1], self.channels)
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), shape, jnp.float32
    )
    bias = self.param("bias", nn.initializers.zeros, (self.channels,))
    return convolution.convolve(x, kernel.astype(self.dtype)), bias


def _channels(full: int, width: float) -> int:
  return int(full * width)


# Numbers of channels have 31 bits.
_MOST = 2**31


def check_width(width: float) -> None:
  """Refuses a width that leaves a layer without channels, or with too many.

  Args:
    width: the multiplier.

  Raises:
    ValueError: naming the smallest or the largest width that works.
  """
  channels = [spec[1] for spec in FIG_4 if isinstance(spec, tuple)]
  if width * max(channels) >= _MOST:
    raise ValueError(
      f"width={width} must be below {_MOST // max(channels)}, or sizes of"
      " arrays overflow."
    )
  smallest = min(channels)
  if not (width > 0 and _channels(smallest, width) >= 1):
    raise ValueError(
      f"width={width} gives the layer of {smallest} channels none; it must be"
      f" at least {1 / smallest}."
    )


def check_image_size(image_size: int) -> None:
  """Refuses sizes that the network isn't made for.

  Args:
    image_size: pixels a side.

  Raises:
    ValueError: naming the sizes there are.
  """
  if image_size not in IMAGE_SIZES:
    raise ValueError(
      f"image_size={image_size} must be one of"
      f" {', '.join(map(str, IMAGE_SIZES))}."
    )


def trainable(variables: Any, frozen_layers: int) -> Any:
  """Which leaves a step that freezes the first layers may change.

  Args:
    variables: parameters, or batch statistics, named by layer.
    frozen_layers: how many first layers stay as they are.

  Returns:
    A tree of bools of the same structure.
  """

  def of_layer(path: tuple[Any, ...], _: Any) -> bool:
    return _layer(path[0].key) >= frozen_layers

  return jax.tree_util.tree_map_with_path(of_layer, variables)


def count_layers(params: Any) -> int:
  """How many layers a network has, by the numbers in their names.

  Args:
    params: its parameters, `layer_0` and so on.

  Returns:
    The number.

  Raises:
    ValueError: if a name has no number.
  """
  return max(map(_layer, params)) + 1


def _layer(name: str) -> int:
  number = name.rsplit("_", 1)[-1]
  if not number.isdecimal():
    raise ValueError(
      f"parameters must be named by layer, 'layer_0' and so on, but there are"
      f" {name!r}."
    )
  return int(number)
