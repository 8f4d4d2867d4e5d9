"""What a step costs on chips that aren't here doesn't grow unnoticed."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MIB = 2**20
# A step of Fig. 4 with bfloat16, batch 128 and 32x32 pixels, as compiled by jax
# 0.10.2, libtpu 0.0.42.1 and the plug-in for CUDA 13: (target, width) ->
# individuals -> estimated Mcycles, GB moved, MiB of temporaries.
RECORDED = {
  ("v5e", 1): {1: (1.53, 0.012, 1), 8: (14.28, 2.76, 573)},
  ("v5e", 0.25): {8: (2.81, 0.075, 57)},
  ("h100", 1): {1: (0, 0.744, 98), 8: (0, 5.35, 696)},
  ("h100", 0.25): {8: (0, 1.35, 171)},
}


@pytest.mark.slow
@pytest.mark.parametrize(("target", "width"), RECORDED)
def test_a_step_costs_no_more_than_recorded(target, width, tmp_path):
  recorded = RECORDED[target, width]
  path = tmp_path / "plan.json"
  command = [
    *(sys.executable, "-m", "experiments.plan", f"--target={target}"),
    *("--num_individuals=2", "--num_global_individuals=2", "--methods=sw:2"),
    *("--synthetic_samples=20", "--epochs=1", "--precision=bfloat16"),
    *(f"--width={width}", f"--json={path}", f"--workdir={tmp_path / 'run'}"),
    f"--individuals_per_device={','.join(map(str, recorded))}",
  ]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  if "pip install" in done.stderr:
    pytest.skip(done.stderr.strip())
  assert done.returncode == 0, done.stderr
  for row in json.loads(path.read_text())["rows"]:
    if row["individuals"] not in recorded:
      continue
    found = (
      row["cycles"] / 1e6,
      row["moved"] / 1e9,
      row["temporaries"] / MIB,
    )
    for now, before in zip(found, recorded[row["individuals"]]):
      assert now <= 1.1 * before, (row["individuals"], found)
