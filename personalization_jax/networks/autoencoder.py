"""The network of Fig. 5's auto-encoder, in Flax Linen (JAX)."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from personalization_jax.networks.kernels import pooling
from personalization_jax.networks.kernels.convolution import Convolution

NUM_LATENTS = 16
MIN_IMAGE_SIZE = 8
# Fig. 5: output channels of the 3x3 convolutions, in order. The decoder has one
# more, whose channels are the images'.
ENCODER = (16, 32, 64, 128, 128)
DECODER = (128, 64, 32, 16)
# Fig. 5's "Dense 512", reshaped: side and channels of the decoder's input.
_START_SIZE, _START_CHANNELS = 2, 128
# The last ReLU could die: a pixel negative in every image gets no gradient. So
# each starts near this grey, about the mean of handwriting, by a small kernel.
# (720 synthetic digits, width 0.25, six epochs, four seeds: error 0.048 to
# 0.057, and 0.064 to 0.070 by Flax's defaults.)
_FIRST_GREY = 0.2
_LAST_KERNEL_VARIANCE = 0.001


class AutoEncoder(nn.Module):
  """The auto-encoder of Fig. 5, for square images of a power of two a side.

  Source: Fig. 5 and section IV.
  """

  # Factor on every channel count of Fig. 5 (at least one channel stays); the
  # latents stay 16, and the last convolution has the images' channels.
  width: float = 1.0

  def setup(self) -> None:
    """The two halves."""
    self.encoder = _Encoder(self.width)
    self.decoder = _Decoder(self.width)

  def __call__(
    self, images: Array, mask: Array | None = None, *, train: bool = False
  ) -> Array:
    """X' of X: of images [B, H, W, C] in 0..1, float32 and 0 or more.

    Where the mask, bool [B], is False a row is padding, which doesn't count in
    batch statistics.
    """
    latents = self.encode(images, mask, train=train)
    return self.decoder(latents, images.shape[1:], mask, train)

  def encode(
    self, images: Array, mask: Array | None = None, *, train: bool = False
  ) -> Array:
    """AE(X) of the paper: latents float32 [B, 16]."""
    check_image_shape(images.shape[1:])
    return self.encoder(images, mask, train)


class _Half(nn.Module):
  """What encoder and decoder share."""

  width: float

  def channels(self, full: int) -> int:
    return max(1, int(full * self.width))

  def convolved(
    self, layer: int, full: int, x: Array, mask: Array | None, train: bool
  ) -> Array:
    """Convolution, ReLU, batch normalisation."""
    x, bias = Convolution(self.channels(full), name=f"layer_{layer}")(x)
    x = nn.relu(x + bias)
    norm = nn.BatchNorm(not train, momentum=0.9, name=f"norm_{layer}")
    return norm(x, mask=None if mask is None else mask[:, None, None, None])


class _Encoder(_Half):
  @nn.compact
  def __call__(self, images: Array, mask: Array | None, train: bool) -> Array:
    x = images.astype(jnp.float32)
    for layer, full in enumerate(ENCODER):
      x = self.convolved(layer, full, x, mask, train)
      if x.shape[1] > 1:
        x = pooling.max_pool(x)
    return nn.Dense(NUM_LATENTS, name="latents")(x.reshape(len(x), -1))


class _Decoder(_Half):
  @nn.compact
  def __call__(
    self,
    latents: Array,
    image_shape: tuple[int, ...],
    mask: Array | None,
    train: bool,
  ) -> Array:
    start = (_START_SIZE, _START_SIZE, self.channels(_START_CHANNELS))
    x = nn.Dense(math.prod(start), name="start")(latents)
    x = x.reshape(len(x), *start)
    for layer, (full, factor) in enumerate(
      zip(DECODER, upsampling(image_shape[0]))
    ):
      x = _enlarge(self.convolved(layer, full, x, mask, train), factor)
    x, bias = Convolution(
      image_shape[2],
      kernel_init=nn.initializers.variance_scaling(
        _LAST_KERNEL_VARIANCE, "fan_in", "truncated_normal"
      ),
      bias_init=nn.initializers.constant(_FIRST_GREY),
      name=f"layer_{len(DECODER)}",
    )(x)
    return nn.relu(x + bias)


def upsampling(image_size: int) -> tuple[int, ...]:
  """Factors on height and width after each of the first four convolutions.

  Fig. 5 as printed goes from 2x2 to 16x16: by 2 after each of the first three
  convolutions. Other powers of two are this project's reading: 8x8 leaves out
  the third, 32x32 adds one after the fourth, and larger ones do the rest at
  once after the first, so that most of the network sees the finer image.
  """
  doublings = (image_size // _START_SIZE).bit_length() - 1
  layers = len(DECODER)
  first = 2 ** max(1, doublings - layers + 1)
  return first, *(2 if layer < doublings else 1 for layer in range(1, layers))


def check_image_shape(image_shape: tuple[int, ...]) -> None:
  """Rejects samples, (H, W, C) if images, that the network isn't made for."""
  if len(image_shape) != 3:
    raise ValueError(
      "the auto-encoder takes images [H, W, C], but samples have shape"
      f" {list(image_shape)}."
    )
  height, width, channels = image_shape
  power_of_two = height >= MIN_IMAGE_SIZE and height & (height - 1) == 0
  if height != width or not power_of_two or channels not in (1, 3):
    raise ValueError(
      f"images for the auto-encoder are {height}x{width} with {channels}"
      f" channels, but must be square, a power of two of {MIN_IMAGE_SIZE} or"
      " more a side, with 1 channel or 3."
    )


def _enlarge(images: Array, factor: int) -> Array:
  """Nearest-neighbour upsampling of [B, H, W, C]."""
  if factor == 1:
    return images
  count, height, width, channels = images.shape
  squares = jnp.broadcast_to(
    images[:, :, None, :, None],
    (count, height, factor, width, factor, channels),
  )
  return squares.reshape(count, height * factor, width * factor, channels)
