"""What samples may be, and what a population stores of them (NumPy, host).

    samples [N, F]     float32 as they are
    images             uint8 that reach from 0 to 255, or float32

`GUIDE` has the table of all kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from personalization_jax.datasets.intake import Say, shape_of

LAYOUTS = ("auto", "channels_last", "channels_first", "grey", "features")
_CHANNELS = {1, 3, 4}


def samples(
  images: Any,
  *,
  layout: str = "auto",
  pad: bool = False,
  white: float | None = None,
  say: Say,
) -> tuple[np.ndarray, float | None]:
  """Samples as they are stored: uint8 [N, H, W, C] or float32 [N, ...].

  `white` is the number in the file that is full ink, 0 if numbers stay as they
  are; None finds it out. It is given back if there is one; None where images
  are as models see them.
  """
  images = np.asarray(images)
  if images.dtype.kind not in "biuf":
    raise ValueError(
      f"images must be bool, integers or floats, but are {images.dtype}."
    )
  if 0 in images.shape:
    raise ValueError(
      f"images holds no samples, or has an empty axis: shape {images.shape}."
    )
  images = _laid_out(images, layout)
  if layout == "features":
    white = 0
  if images.ndim == 4:
    if white is None:
      white = _white(images, say)
    images = _pixels(images, white)
    images = _squared(images) if pad else images
  else:
    white = None
  if images.dtype != np.uint8 or images.ndim != 4:
    with np.errstate(over="ignore"):  # `check_finite` names too large a number
      images = images.astype(np.float32, copy=False)
  return images, white


def ask_layout(images: np.ndarray, layout: str) -> None:
  """Rejects floats of a file that may be images without a channel, or not."""
  if layout == "auto" and images.ndim == 3 and images.dtype.kind == "f":
    raise ValueError(
      f"images are floats {shape_of(images)}, which may be images without a"
      " channel, or sequences: say layout=grey or layout=features."
    )


def layout_of(shape: Sequence[int], wanted: Sequence[int]) -> str:
  """The one layout in which samples [N, ...] suit a model; auto without."""
  if len(wanted) != 3:
    return "features" if [*shape[1:]] == [*wanted] else "auto"
  if len(shape) == 3 and wanted[2] == 1:
    return "grey"
  if len(shape) == 4 and shape[3] == wanted[2]:
    return "channels_last"
  if len(shape) == 4 and shape[1] == wanted[2]:
    return "channels_first"
  return "auto"


def _laid_out(images: np.ndarray, layout: str) -> np.ndarray:
  """Images [N, H, W, C], or samples of other axes as they are."""
  if layout not in LAYOUTS:
    raise ValueError(f"layout={layout} must be one of {', '.join(LAYOUTS)}.")
  shape, is_float = images.shape, images.dtype.kind == "f"
  if images.ndim < 2:
    raise ValueError(
      "images must have shape [N, F] for feature vectors or [N, H, W, C] for"
      f" images, but have shape {shape}."
    )
  if layout == "features":
    return images
  if layout == "auto":
    if (
      images.ndim == 4
      and shape[1] in _CHANNELS
      and not _CHANNELS & {*shape[2:]}
    ):
      raise ValueError(
        f"images have shape {shape}, which may have their channels first: say"
        " layout=channels_first or layout=channels_last."
      )
    if images.ndim == 3 and not is_float:
      return images[..., None]
    if images.ndim > 4 and not is_float:
      raise ValueError(
        f"images are {images.dtype} of shape {shape}, which are no images"
        " [N, H, W, C]: say layout=features to have them taken as they are."
      )
    return images
  if layout == "grey" and images.ndim == 3:
    return images[..., None]
  axes = 3 if layout == "grey" else 4
  if images.ndim != axes and not (layout == "grey" and shape[3:] == (1,)):
    raise ValueError(
      f"layout={layout} is for images of {axes} axes, but they have shape"
      f" {shape}."
    )
  return np.moveaxis(images, 1, 3) if layout == "channels_first" else images


def _white(images: np.ndarray, say: Say) -> float | None:
  """The number that is full ink in images [N, H, W, C]; see `samples`."""
  if images.dtype == bool:
    return None
  low, high = images.min(), images.max()
  if images.dtype.kind == "f":
    is_whole = bool((images == np.rint(images)).all())
    if not (low >= 0 and 1 < high <= 255) or (not is_whole and high <= 16):
      return None
    white = 16 if high <= 16 else 255
    say(
      f"images are floats that reach {high:.6g}: divided by {white}, so that"
      " they lie in 0..1; layout=features keeps them."
    )
    return white
  if low >= 0 and high <= 255:
    if not 0 < high <= 16:
      return None
    white = 1 if high == 1 else 16
    say(
      f"images are integers that never leave 0..{white}: multiplied by"
      f" {255 / white:g}, since models see 255 as 1."
    )
    return white
  if images.dtype == np.uint16:
    say(
      f"images are uint16 and reach {high}: divided by 65535, so that they lie"
      " in 0..1; if another number is white, give floats."
    )
    return 65535
  raise ValueError(
    f"images must be uint8 in 0..255, or floats in 0..1, but are {images.dtype}"
    f" in {low}..{high}; layout=features keeps what is no image."
  )


def _pixels(images: np.ndarray, white: float | None) -> np.ndarray:
  """Images [N, H, W, C] as uint8 up to 255, or floats, by their white."""
  if white == 0:
    return images.astype(np.float32)
  if images.dtype == bool:
    return images.astype(np.uint8) * np.uint8(255)
  if images.dtype.kind == "f" or (images.dtype != np.uint8 and white == 65535):
    return images if white in (None, 1) else images / np.float32(white)
  white = 255 if white in (None, 65535) else white
  if images.min() < 0 or images.max() > white:
    raise ValueError(
      f"images are {images.dtype} and must lie in 0..{white:g}, but reach from"
      f" {images.min()} to {images.max()}."
    )
  if white == 255:
    return images.astype(np.uint8, copy=False)
  return np.rint(images * np.float32(255 / white)).astype(np.uint8)


def _squared(images: np.ndarray) -> np.ndarray:
  """Images in the middle of a square of zeros."""
  height, width = images.shape[1:3]
  side = max(height, width)
  margins = [
    ((side - length) // 2, side - length - (side - length) // 2)
    for length in (height, width)
  ]
  return np.pad(images, ((0, 0), *margins, (0, 0)))
