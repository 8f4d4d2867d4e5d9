"""Each script's --help shows the flags that it reads, and no other's."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Where each script's flags are defined.
SCRIPTS = {
  "table1": ("table1.py", "flags/study_flags.py", "flags/file_flags.py"),
  "plan": (
    "plan.py",
    "table1.py",
    "flags/study_flags.py",
    "flags/file_flags.py",
  ),
  "personalize": ("personalize.py", "flags/file_flags.py"),
  "predict": ("predict.py", "flags/file_flags.py"),
  "report": ("report.py",),
  "benchmark": ("benchmark.py",),
}
# Two scripts that have a flag of one name can't both be imported: each has a
# process, which begins when all other modules are there.
HELP = """
import os, runpy, sys
import jax, matplotlib.figure, orbax.checkpoint, pandas, scipy.stats, tqdm
import personalization_jax
for script in sys.argv[1:]:
  if not os.fork():
    print("SCRIPT", script, flush=True)
    sys.argv = [script, "--help"]
    runpy.run_module(f"experiments.{script}", None, "__main__", True)
  os.wait()
"""


@pytest.fixture(scope="module")
def shown():
  """Script -> the flags that its help names."""
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", HELP, *SCRIPTS],
    cwd=ROOT, capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  texts = dict(text.split("\n", 1) for text in done.stdout.split("SCRIPT ")[1:])
  return {
    script: set(re.findall(r"^ +(?:-\w,)?--(?:\[no\])?(\w+):", text, re.M))
    for script, text in texts.items()
  }


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_a_script_s_own_flags(script, shown):
  defined = set()
  for path in SCRIPTS[script]:
    source = (ROOT / "experiments" / path).read_text()
    defined |= set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
  assert defined
  assert shown[script] == defined
