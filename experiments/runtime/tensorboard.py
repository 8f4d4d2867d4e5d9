"""Losses and curves for TensorBoard, without TensorFlow (host)."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
from collections.abc import Iterable

import numpy as np

from personalization_jax.analysis.result import Result
from personalization_jax.checkpoints import files

# Bytes at most: of a file, of a step's loss, of a point of the curves with its
# histograms.
_OVERHEAD, _SCALAR, _POINT = 4096, 128, 8192


def check() -> None:
  """Rejects --tensorboard without the package that writes event files."""
  if importlib.util.find_spec("tensorboardX") is None:
    raise ValueError(
      "event files (--tensorboard) need the extra `tensorboard`: pip install"
      " 'personalization_jax[tensorboard]'."
    )


def write(folder: pathlib.Path, results: Iterable[Result]) -> None:
  """Writes event files, a folder for each method and seed, over older ones."""
  import tensorboardX  # the extra `tensorboard`

  for result in results:
    path = folder / f"{files.safe_name(result.method)}_seed_{result.seed}"
    shutil.rmtree(path, ignore_errors=True)
    # Its writer is a thread, whose errors nobody hears of.
    of_losses = _SCALAR * result.losses.shape[1]
    of_curves = _POINT * len(result.curve_steps)
    files.check_space(path, _OVERHEAD + of_losses + of_curves)
    with tensorboardX.SummaryWriter(str(path)) as writer:
      for step, losses in enumerate(result.losses.T):
        trained = losses[np.isfinite(losses)]
        if trained.size:
          writer.add_scalar("loss/mean", trained.mean(), step + 1)
      for name in ("individual", "global"):
        title = f"{name}_validation_accuracy"
        curves = getattr(result, f"{name}_curve").T
        for step, curve in zip(result.curve_steps.tolist(), curves):
          known = curve[~np.isnan(curve)]
          if known.size:
            writer.add_scalar(f"{title}/mean", known.mean(), step)
            writer.add_scalar(f"{title}/min", known.min(), step)
            writer.add_histogram(title, known, step)
