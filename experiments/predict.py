r"""A saved model on new samples.

    python -m experiments.predict --model=models/anna --samples=new.npz \
      --output=predictions.csv

The npz file holds images, the samples: images, square for the paper's network
and resized to what the model takes, or feature vectors or whatever else it was
trained on, of the same shape. The CSV file has a line for
each, in their order: row (from 0), predicted class, and its probability by the
model; predicted_name, if the model's classes have names. With an array labels
in the npz file there are also label (its name, if classes have any) and correct
(1 or 0), and the accuracy is printed.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pandas as pd
from absl import flags

from experiments.flags import file_flags, people_flags
from experiments.runtime import console
from personalization_jax.methods import parse_method
from personalization_jax.settings import Settings
from personalization_jax.training import evaluation
from personalization_jax.training.learner import make_learner

FLAGS = flags.FlagValues()
# fmt: off
_MODEL = flags.DEFINE_string("model", None,
    "The folder of a saved model.", flag_values=FLAGS)
_SAMPLES = flags.DEFINE_string("samples", None,
    "An npz file with the array images, and labels if they are known.",
    flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None,
    "The CSV file to write.", flag_values=FLAGS)
flags.mark_flags_as_required([_MODEL, _SAMPLES, _OUTPUT], FLAGS)
# fmt: on
_FILE = file_flags.define(FLAGS)


def predict() -> None:
  """From the flags to the CSV file."""
  output = pathlib.Path(_OUTPUT.value or "")
  if output.is_dir():
    raise ValueError(f"--output={output} is a folder, not a file.")
  description, variables = people_flags.load_model(_MODEL)
  population, arrays = people_flags.load_people(
    _SAMPLES, description, _FILE, labelled=False
  )
  if (there := len(np.unique(population.individuals))) > 1:
    people_flags.tell(
      f"--samples={_SAMPLES.value} has samples of {there} individuals:"
      f" all are classified by the one model in --model={_MODEL.value}."
    )
  learner = make_learner(
    Settings(), description.num_classes, description.network()
  )
  if description.method is not None:
    with console.of(f"--model={_MODEL.value}"):
      learner = learner.answering(parse_method(description.method))
  classes, probabilities = evaluation.classify(
    learner, variables, population.images
  )
  table = pd.DataFrame({"predicted": classes, "probability": probabilities})
  table["probability"] = table["probability"].map("{:.6f}".format)
  if names := description.label_names:
    # A model without finite numbers predicts no class.
    table["predicted_name"] = ["" if k < 0 else names[k] for k in classes]
  truth = population.labels
  correct = classes == truth
  if "labels" in arrays:
    table["label"] = truth if not names else [names[k] for k in truth]
    table["correct"] = correct.astype(int)
  text = table.to_csv(index_label="row", lineterminator="\n")
  console.write_output(output, text)
  print(f"{len(population)} predictions: {output}")
  if "labels" in arrays:
    print(f"Accuracy: {correct.mean():.4f}")


main = functools.partial(people_flags.or_say_why, predict, FLAGS)

if __name__ == "__main__":
  people_flags.run(main, FLAGS)
