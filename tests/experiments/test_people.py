"""What the scripts for new people say to mistakes, without a model."""

import numpy as np
import pytest

from experiments import personalize
from experiments.runtime import console
from personalization_jax.datasets import Population
from personalization_jax.runs import saved_models


def test_errors_name_flags_as_they_are_given():
  names = {"steps", "num_individuals"}
  for text, said in (
    ("steps=0 must be at least 1.", "--steps=0 must be at least 1."),
    ("num_individuals must be 2", "--num_individuals must be 2"),
    ("--steps=0 must be", "--steps=0 must be"),
    ("labels must be integers", "labels must be integers"),
    ("keep=2 must be", "keep=2 must be"),
    ("steps are few", "steps are few"),
    ("none by steps=3, or few", "none by --steps=3, or few"),
    ("6 people (num_individuals) of", "6 people (--num_individuals) of"),
    ("a/num_individuals/b is no file", "a/num_individuals/b is no file"),
    ("--output=/steps=3 is", "--output=/steps=3 is"),
  ):
    assert console.as_flag(ValueError(text), names) == said


def test_a_folder_of_several_people_lists_them(tmp_path):
  for person in ("7", "11"):
    (tmp_path / person).mkdir()
    (tmp_path / person / saved_models.DIGESTS).touch()
  with pytest.raises(ValueError, match=r"several models \(11, 7\): name the"):
    saved_models.load(tmp_path)


@pytest.mark.parametrize(
  ("count", "several", "sentence"),
  [
    (1, False, r"--samples=p\.npz holds one sample; two are needed"),
    (6, False, r"--samples=p\.npz holds one sample in 6 copies; two are"),
    (1, True, r"--samples=p\.npz: individual 9 has one sample"),
  ],
)
def test_one_sample_can_t_be_held_out(count, several, sentence):
  population = Population.from_arrays(
    np.zeros((count, 4)),
    np.zeros(count, int),
    np.full(count, 9 if several else 0),
    originals=np.zeros(count, int),
    num_classes=3,
    complete=False,
  )
  personalize.FLAGS.unparse_flags()
  arguments = ("--base=b", "--samples=p.npz", "--output=o")
  personalize.FLAGS(["personalize", *arguments])
  with pytest.raises(ValueError, match=sentence):
    personalize._hold_out(population, several)
