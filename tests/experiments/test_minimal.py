import pytest

from experiments import minimal


@pytest.mark.slow
def test_a_person_s_own_model_is_better_than_everybody_s(capsys):
  before, after = minimal.main()
  assert 0.2 < before < after
  assert f"{before:.3f} -> {after:.3f}" in capsys.readouterr().out
