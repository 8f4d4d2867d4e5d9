"""A network with all that Fig. 4's has, but quick to compile."""

import functools

import flax.linen as nn
import jax
import optax

from personalization_jax.networks import classifier
from personalization_jax.networks.autoencoder import NUM_LATENTS
from personalization_jax.networks.kernels import pooling
from personalization_jax.networks.kernels.convolution import Convolution
from personalization_jax.training.latent_space import squared_error
from personalization_jax.training.learner import Learner


class Tiny(nn.Module):
  """Convolution, ReLU, batch normalisation, pooling, dropout, dense."""

  num_classes: int = 3
  hook = staticmethod(lambda: None)

  @nn.compact
  def __call__(self, images, mask=None, *, train=False, frozen_layers=0):
    self.hook()
    training_layer = train and frozen_layers == 0
    x, bias = Convolution(3, name="layer_0")(images)
    x = nn.BatchNorm(
      use_running_average=not training_layer, momentum=0.9, name="norm_0"
    )(
      nn.relu(x + bias),
      mask=None if mask is None else mask[:, None, None, None],
    )
    x = nn.Dropout(0.2, deterministic=not training_layer)(pooling.max_pool(x))
    if frozen_layers:
      x = jax.lax.stop_gradient(x)
    return nn.Dense(self.num_classes, name="layer_1")(x.max(axis=(1, 2)))


class TinyAutoEncoder(nn.Module):
  """For images of 16x16; Fig. 5's takes many seconds to compile."""

  def setup(self):
    self.encoder = nn.Dense(NUM_LATENTS)
    self.decoder = nn.Dense(256)

  def __call__(self, images):
    return self.decoder(self.encode(images)).reshape(images.shape)

  def encode(self, images):
    return self.encoder(images.reshape(len(images), -1))


TINY = Learner(Tiny(), optax.adam(1e-2))
TINY_AUTOENCODER = Learner(
  TinyAutoEncoder(),
  optax.adam(1e-3),
  loss=squared_error,
  empty_batches=False,
)
FIG_4 = Learner(classifier.Classifier(3, width=1 / 32), optax.adam(1e-2))


@functools.cache
def compiled(function, learner, **static):
  """One of `step`'s functions for a learner, compiled once for all tests.

  Operation by operation, as JAX runs what isn't compiled, each takes seconds.
  """
  return jax.jit(functools.partial(function, learner, **static))
