"""That they are written is in test_seeds and test_guide."""

import importlib.util

import pytest

from personalization_jax import event_files


def test_what_is_missing_is_said_to_python_and_the_command_line(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  sentence = r"^event files \(--tensorboard\) need the extra `tensorboard`: pip"
  with pytest.raises(ValueError, match=sentence):
    event_files.check()
