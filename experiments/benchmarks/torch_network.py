"""Fig. 4's network in PyTorch, with the weights of a Flax model.

Imported only where the extra `bench` is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from personalization_jax.networks import classifier


class Network(nn.Module):
  """Fig. 4 with the weights of a Flax model.

  Args:
    params: see `peers.Task`.
    batch_stats: see `peers.Task`.
  """

  def __init__(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]):
    super().__init__()
    layers: list[nn.Module] = []
    last = len(classifier.FIG_4) - 1
    for index, layer in enumerate(classifier.FIG_4):
      layers.append(_convolution(params[f"layer_{index}"]))
      layers.append(nn.ReLU())
      name = f"norm_{index}"
      layers.append(_norm(params[name], batch_stats[name]))
      if layer.pool:
        layers.append(nn.MaxPool2d(2) if index < last else _GlobalMax())
      if layer.dropout:
        layers.append(nn.Dropout(layer.dropout))
    layers.append(_dense(params[f"layer_{last + 1}"]))
    self.layers = nn.Sequential(*layers)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Logits [B, classes] of images float [B, C, H, W]."""
    return self.layers(images)


class _GlobalMax(nn.Module):
  def forward(self, images: torch.Tensor) -> torch.Tensor:
    return images.amax(dim=(2, 3))


class Norm(nn.BatchNorm2d):
  """Batch normalisation, in float32 whatever the images' type if asked."""

  in_float32 = False

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Images [B, C, H, W], normalised, of the same type."""
    if not self.in_float32:
      return super().forward(images)
    return super().forward(images.float()).to(images.dtype)


def _copy(target: torch.Tensor | None, source: Any) -> None:
  assert target is not None
  with torch.no_grad():
    target.copy_(torch.from_numpy(np.array(source, np.float32)))


def _convolution(weights: Mapping[str, Any]) -> nn.Conv2d:
  kernel = np.transpose(weights["kernel"], (3, 2, 0, 1))
  outputs, inputs, size, _ = kernel.shape
  layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
  _copy(layer.weight, kernel)
  # Convolutions of channels-last weights give channels-last images.
  layer.weight = nn.Parameter(
    layer.weight.detach().contiguous(memory_format=torch.channels_last)
  )
  _copy(layer.bias, weights["bias"])
  return layer


def _norm(weights: Mapping[str, Any], statistics: Mapping[str, Any]) -> Norm:
  # PyTorch's momentum is the new value's share, Flax's the old one's. Its
  # running variance is the unbiased one; nothing that is timed reads it.
  layer = Norm(len(weights["scale"]), eps=1e-5, momentum=0.1)
  _copy(layer.weight, weights["scale"])
  _copy(layer.bias, weights["bias"])
  _copy(layer.running_mean, statistics["mean"])
  _copy(layer.running_var, statistics["var"])
  return layer


def _dense(weights: Mapping[str, Any]) -> nn.Linear:
  kernel = np.transpose(weights["kernel"])
  layer = nn.Linear(kernel.shape[1], kernel.shape[0])
  _copy(layer.weight, kernel)
  _copy(layer.bias, weights["bias"])
  return layer
