"""What a saved model is: all that it takes to apply it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from personalization_jax import checks
from personalization_jax.networks import classifier, factories, interface
from personalization_jax.networks.mlp import MLP

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Description:
  """What a model is, as its model.json says."""

  num_classes: int  # classes are 0 .. num_classes - 1
  sample_shape: tuple[int, ...]  # (H, W, C) of images, or (F,)
  width: float = 1.0  # factor on the channels of Fig. 4
  precision: str = "float32"  # of activations, or "bfloat16"
  # Widths of an `MLP`'s hidden layers; None for Fig. 4's network.
  hidden: tuple[int, ...] | None = None
  momentum: float = 0.9  # of Fig. 4's running means and variances
  # Of training samples: "uint8" (seen as 0..1) or "float32"; None where a file
  # of an older version doesn't say.
  dtype: str | None = None
  label_names: tuple[str, ...] | None = None  # of the classes, if known
  # Mean and spread along the samples' last axis: the model sees
  # (x - mean) / spread, of uint8 images x / 255; None if it sees x.
  scaling: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  # As its `Population` has them: how labels and images of its data are read.
  label_values: tuple[int, ...] | None = None
  white: float | None = None
  # Of a model that isn't this package's: "module:Class", see `factories.make`.
  factory: str | None = None
  initializer: str = "lecun_normal"  # of Fig. 4's weights
  # The spec of a method that doesn't answer by the model alone, such as
  # `knn:10`; what else it needs lies beside the model (`saved_models`).
  method: str | None = None

  def __post_init__(self) -> None:
    """Rejects what no model can be; JSON's lists become tuples."""
    for name in ("sample_shape", "hidden", "label_names", "label_values"):
      if (values := getattr(self, name)) is not None:
        object.__setattr__(self, name, tuple(values))
    shape, names = self.sample_shape, self.label_names
    sizes = (self.num_classes, *shape, *(self.hidden or ()))
    if not shape or any(type(n) is not int or not 0 < n < 2**31 for n in sizes):
      raise ValueError(
        f"num_classes={self.num_classes}, sample_shape={list(shape)} and"
        f" hidden={self.hidden} must be whole numbers from 1 to 2**31 - 1."
      )
    if self.is_fig_4:
      classifier.check_samples(shape)
    checks.positive("width", self.width)
    classifier.check_width(self.width)
    classifier.check_initializer(self.initializer)
    for name, allowed in (
      ("precision", ("float32", "bfloat16")),
      ("dtype", ("uint8", "float32", None)),
    ):
      if (value := getattr(self, name)) not in allowed:
        raise ValueError(
          f"{name}={value!r} must be {allowed[0]!r} or {allowed[1]!r}."
        )
    if not 0 <= self.momentum <= 1:
      raise ValueError(f"momentum={self.momentum} must lie in 0..1.")
    if names is not None and len(names) != self.num_classes:
      raise ValueError(
        f"label_names has {len(names)} names for {self.num_classes} classes."
      )
    if self.scaling is not None:
      mean, spread = map(tuple, self.scaling)
      object.__setattr__(self, "scaling", (mean, spread))
      fits = len(mean) == len(spread) == shape[-1]
      if not (fits and np.isfinite(mean + spread).all() and min(spread) > 0):
        raise ValueError(
          f"scaling must have a finite mean and a spread above 0 for each of"
          f" {shape[-1]} features or channels."
        )

  @classmethod
  def of(
    cls,
    model: nn.Module,
    sample_shape: Sequence[int],
    *,
    dtype: Any = None,
    label_names: Sequence[str] | None = None,
    **further: Any,
  ) -> Description | None:
    """Describes a `Classifier` or an `MLP`; None for any other model.

    A subclass is another model: its fields don't tell what it computes.
    """
    about: dict[str, Any]
    if type(model) is MLP:
      about = {"hidden": model.hidden}
    elif type(model) is classifier.Classifier:
      names = ("width", "momentum", "initializer")
      about = {name: getattr(model, name) for name in names}
    else:
      return None
    return cls(
      model.num_classes,
      tuple(sample_shape),
      precision=jnp.dtype(model.dtype).name,
      dtype=None if dtype is None else np.dtype(dtype).name,
      label_names=None if label_names is None else tuple(label_names),
      **about,
      **further,
    )

  @classmethod
  def from_json(cls, text: str) -> Description:
    """What `to_json` wrote, or any kind of error."""
    content = json.loads(text)
    if content.pop("format") != _FORMAT:
      raise ValueError(f"format isn't {_FORMAT}")
    if scaling := content.get("scaling"):
      content["scaling"] = scaling["mean"], scaling["spread"]
    return cls(**content)

  def to_json(self) -> str:
    """The text of model.json."""
    content = {"format": _FORMAT, **dataclasses.asdict(self)}
    if scaling := content.pop("scaling"):
      content["scaling"] = dict(zip(("mean", "spread"), scaling))
    for name in ("label_values", "white", "factory", "method"):
      if content[name] is None:
        del content[name]  # as it was before there was any
    if self.initializer == "lecun_normal":
      del content["initializer"]  # likewise
    return json.dumps(content, indent=1) + "\n"

  @property
  def is_fig_4(self) -> bool:
    """Whether this is the paper's network."""
    return self.hidden is None and self.factory is None

  def network(self) -> nn.Module:
    """The model that the parameters are of; ValueError if it can't be made."""
    if self.factory is not None:
      return factories.make(self.factory, self.sample_shape, self.num_classes)
    dtype = jnp.dtype(self.precision)
    if self.hidden is not None:
      return MLP(self.num_classes, self.hidden, dtype)
    return classifier.Classifier(
      self.num_classes, self.width, dtype, self.momentum, self.initializer
    )

  def shapes(self) -> dict[str, Any]:
    """Shapes and dtypes of `params` and `batch_stats`."""
    model = self.network()
    images = jnp.zeros((1, *self.sample_shape))
    init = functools.partial(interface.init, model)
    return dict(jax.eval_shape(init, jax.random.key(0), images))
