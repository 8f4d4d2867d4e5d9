"""How many operations a training step of Fig. 4 needs, and what chips can do.

Only the products of convolutions and of the dense layer count, two operations
each (a multiplication and an addition), zero padding included: what every
implementation of the network has to compute. Utilisation by this count says
how much of a chip's peak goes into the network, not how busy the chip is.
"""

from __future__ import annotations

from personalization_jax.networks import classifier

# Dense peaks in TFLOP/s by the makers' data sheets: products of bfloat16, and
# of float32 as JAX's and PyTorch's fast setting multiply them (TensorFloat-32).
# The first name that a device's name contains counts.
_PEAKS = (
  ("H100 PCIe", {"bfloat16": 756.0, "float32": 378.0}),
  ("H100 NVL", {"bfloat16": 835.0, "float32": 417.5}),
  ("H100", {"bfloat16": 989.4, "float32": 494.7}),
  ("H200", {"bfloat16": 989.4, "float32": 494.7}),
  ("A100", {"bfloat16": 312.0, "float32": 156.0}),
)


def forward_macs(
  width: float, image_size: int, num_classes: int, channels: int = 1
) -> list[int]:
  """Multiply-adds of each layer of Fig. 4, for one image.

  Args:
    width: factor on the channel counts.
    image_size: pixels a side.
    num_classes: classes.
    channels: of the images.

  Returns:
    One number for each layer with weights, in order.

  Source: Fig. 4.
  """
  macs = []
  side, inputs = image_size, channels
  for layer in classifier.FIG_4:
    outputs = int(layer.channels * width)
    macs.append((side * layer.size) ** 2 * inputs * outputs)
    inputs = outputs
    side //= 2 if layer.pool else 1
  # The last pooling is global, so the dense layer sees one vector.
  return [*macs, inputs * num_classes]


def training_flops(
  width: float, image_size: int, num_classes: int, channels: int = 1
) -> int:
  """Operations of one training step, for each of the batch's images.

  The gradient of each layer's weights and that of its input cost as much as
  the layer itself; nobody needs the gradient of the images.

  Args:
    width: factor on the channel counts.
    image_size: pixels a side.
    num_classes: classes.
    channels: of the images.

  Returns:
    Floating-point operations, two for a multiply-add.
  """
  macs = forward_macs(width, image_size, num_classes, channels)
  return 2 * (3 * sum(macs) - macs[0])


def peak(device_kind: str, precision: str) -> float | None:
  """The most operations a second that a device can do.

  Args:
    device_kind: as JAX names it.
    precision: "float32" or "bfloat16".

  Returns:
    FLOP/s, or None if the device isn't known here.
  """
  for name, peaks in _PEAKS:
    if name in device_kind:
      return 1e12 * peaks[precision]
  return None
