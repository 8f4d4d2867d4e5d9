"""The map of the latent space: who is near whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from personalization_jax.figures import styles


def latent_map(
  latents: np.ndarray,
  is_individual: np.ndarray,
  names: Sequence[str] | None = None,
  axes: Axes | None = None,
) -> Axes:
  """Everybody on the two axes along which people differ most (PCA).

  Args:
    latents: float [P, D], each person's place: the mean of the person's class
      means, or these one after another.
    is_individual: bool [P], True for the individuals, False for the writers of
      D_G.
    names: written beside each point if given.
    axes: where to draw; by default a new figure.

  Returns:
    The axes; one unit is as long in both directions.

  Raises:
    ValueError: fewer than three people, or arrays that don't fit.
  """
  latents = np.asarray(latents, np.float64)
  is_individual = np.asarray(is_individual, bool)
  if latents.ndim != 2 or len(latents) < 3 or latents.shape[1] < 2:
    raise ValueError(
      "latents must be [P, D] of three people or more in two dimensions or"
      f" more, but have shape {list(latents.shape)}."
    )
  if not np.isfinite(latents).all():
    raise ValueError("latents must be finite, but some are not.")
  for name, values in (("is_individual", is_individual), ("names", names)):
    if values is not None and len(values) != len(latents):
      raise ValueError(
        f"{name} must be of the {len(latents)} people of latents, but is of"
        f" {len(values)}."
      )
  points, shares = _principal_components(latents)
  axes = styles.axes_or_new(axes, 6.5, 5.5)
  for chosen, label, colour, marker in (
    (~is_individual, "Writers of $D_G$", "#0072B2", "o"),
    (is_individual, "Individuals", "#D55E00", "^"),
  ):
    axes.scatter(
      points[chosen, 0],
      points[chosen, 1],
      s=36,
      marker=marker,
      color=colour,
      edgecolors="white",
      linewidths=0.6,
      alpha=0.85,
      label=f"{label} ({int(chosen.sum())})",
    )
  for point, text in zip(points, names or []):
    axes.annotate(
      text,
      (point[0], point[1]),
      xytext=(4, 4),
      textcoords="offset points",
      fontsize=7,
      color="#444444",
    )
  axes.set_xlabel(f"First principal component ({shares[0]:.0%} of variance)")
  axes.set_ylabel(f"Second principal component ({shares[1]:.0%})")
  axes.set_aspect("equal", adjustable="datalim")
  axes.margins(0.08)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(
    loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9
  )
  return axes


def _principal_components(
  latents: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Places [P, 2] and shares of variance [2]; signs don't depend on LAPACK."""
  centred = latents - latents.mean(axis=0)
  _, scales, directions = np.linalg.svd(centred, full_matrices=False)
  directions = directions[:2]
  largest = np.abs(directions).argmax(axis=1)
  directions = directions * np.sign(directions[[0, 1], largest])[:, None]
  variances = np.square(scales)
  shares = variances[:2] / max(variances.sum(), np.finfo(float).tiny)
  return centred @ directions.T, shares
