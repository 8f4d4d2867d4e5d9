import dataclasses

import jax
from helpers.tiny import TINY

from personalization_jax.datasets import splits
from personalization_jax.distributed import make_mesh
from personalization_jax.settings import Settings
from personalization_jax.study import Study, make_trainer

SETTINGS = Settings(
  epochs=2, batch_size=16, learning_rate=5e-3, width=1 / 32, seed=4
)
_trainers = {}


def trainer_of(people, devices=2, settings=SETTINGS, tiny=False, **how):
  """A trainer whose programs all tests share that ask for the same one."""
  key = (id(people), devices, settings, tiny, *sorted(how.items()))
  if key not in _trainers:
    mesh = make_mesh(jax.devices()[:devices])
    trainer = make_trainer(people, settings, mesh=mesh, **how)
    if tiny:
      learner = TINY
      if people.num_classes != learner.model.num_classes:
        model = learner.model.clone(num_classes=people.num_classes)
        learner = dataclasses.replace(learner, model=model)
      trainer = dataclasses.replace(trainer, learner=learner, block_steps=4)
    _trainers[key] = people, trainer  # kept, or another might get its id
  return _trainers[key][1]


def make_study(
  people,
  num_individuals=3,
  devices=2,
  settings=SETTINGS,
  how=None,
  validation_fraction=0.0,
  **kw,
):
  """`how` has what `trainer_of` takes beside the devices and the settings."""
  chosen = splits.choose_people(people, num_individuals, 4, seed=2)
  split = splits.split(
    people, *chosen, validation_fraction=validation_fraction, seed=2
  )
  trainer = trainer_of(people, devices, settings, **(how or {}))
  return Study(people, split, settings, trainer=trainer, **kw)
