"""Transfer learning for one person, from top to bottom: start reading here.

    python -m experiments.minimal

It takes 12 seconds on two CPU cores. Everything else in this package does what
these lines do: for whole populations at once, by other methods, resumable.
"""

import jax
import jax.numpy as jnp
import numpy as np

import personalization_jax as pj
from personalization_jax import schedules
from personalization_jax.training import step
from personalization_jax.training.learner import make_learner

BATCH = 16
EPOCHS_ON_ALL = 4  # on D_G, what other people wrote
STEPS_ON_OWN = 60  # the n of TL(n): batches of D_I, what one person wrote


def main() -> tuple[float, float]:
  """Gives the person's accuracy before and after adaptation."""
  # Synthetic handwriting: one person's D_I, and ten others who make up D_G.
  people, _ = pj.make_population(11, samples_per_writer=100, image_size=16)
  split = pj.split(people, num_individuals=1, num_global_individuals=10)
  person = int(split.individuals[0])
  own_train, _, own_test = split.parts(0)

  # A schedule is an array: where each batch comes from, D_G (0) or D_I (1).
  steps_on_all = EPOCHS_ON_ALL * schedules.steps_per_epoch(
    len(split.global_train), BATCH
  )
  sources = schedules.transfer_learning(steps_on_all, STEPS_ON_OWN)

  # Another array says which samples: rows [steps, BATCH] of the store.
  rows = schedules.sample_rows(
    sources, split.global_train, own_train, BATCH, seed=0, individual=person
  )

  # The paper's network and its optimiser, Adam; the store is on the device.
  learner = make_learner(pj.Settings(width=1 / 8), people.num_classes)
  images, labels = jnp.asarray(people.images), jnp.asarray(people.labels)
  create = jax.jit(step.create_state, static_argnums=(0, 2))
  train = jax.jit(step.train_on_rows, static_argnums=0)
  predict = jax.jit(step.predict_rows, static_argnums=0)

  def accuracy(state: step.TrainState) -> float:
    answers = predict(learner, state, own_test[None], images, labels)
    return float(np.mean(answers.predictions[0] == people.labels[own_test]))

  # Everybody's model, trained on D_G.
  state = create(learner, jax.random.key(0), people.sample_shape)
  state, _ = train(learner, state, rows, steps_on_all, images, labels)
  before = accuracy(state)

  # Training goes on with D_I, and the model becomes this person's own. The last
  # rows move to the front: in one shape, `train` is compiled once.
  own_first = np.roll(rows, STEPS_ON_OWN, axis=0)
  state, losses = train(learner, state, own_first, STEPS_ON_OWN, images, labels)
  after = accuracy(state)

  print(f"Person {person}: {len(own_train)} samples to train on.")
  first, last = losses[0], losses[STEPS_ON_OWN - 1]
  print(f"Training loss on them: {first:.2f} nats, then {last:.2f}.")
  print(f"Accuracy on {len(own_test)} others: {before:.3f} -> {after:.3f}.")
  return before, after


if __name__ == "__main__":
  main()
