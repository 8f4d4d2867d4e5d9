import jax

from personalization_jax.datasets import splits
from personalization_jax.distributed import make_mesh
from personalization_jax.study import Settings, Study

SETTINGS = Settings(
  epochs=2, batch_size=16, learning_rate=5e-3, width=1 / 32, seed=4
)


def make_study(people, num_individuals=3, devices=2, settings=SETTINGS, **kw):
  chosen = splits.choose_people(people, num_individuals, 4, seed=2)
  split = splits.split(people, *chosen, seed=2)
  mesh = make_mesh(jax.devices()[:devices])
  return Study(people, split, settings, mesh=mesh, **kw)
