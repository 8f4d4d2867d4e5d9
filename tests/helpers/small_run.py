"""The script on a few small people, in this process."""

import csv

from absl import flags
from absl.testing import flagsaver

from experiments import table1

SMALL = {
  "num_individuals": 3,
  "num_global_individuals": 3,
  "synthetic_samples": 30,
  "image_size": 16,
  "model": "mlp",  # Fig. 4's network takes seconds to compile
  "epochs": 1,
  "batch_size": 32,
  "methods": "baseline,sw:2,tl:2",
}


def run(workdir, **changes):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["table1"])
  settings = {**SMALL, **changes}
  if "dataset" in changes and "synthetic_samples" not in changes:
    del settings["synthetic_samples"]  # which can't act on other people
  with flagsaver.flagsaver(workdir=str(workdir), **settings):
    table1.main(["table1"])


def read(path):
  with path.open() as file:
    return list(csv.DictReader(file))
