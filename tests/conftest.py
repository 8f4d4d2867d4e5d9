"""Four virtual CPU devices for every test, and small people to test on."""

import contextlib
import os
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest

# Their assertions, too, say what differs.
pytest.register_assert_rewrite("helpers")

jax.config.update("jax_num_cpu_devices", 4)
jax.devices()  # from here on scripts that tests call don't change their number

# Tests compile more than they compute. With 0 in the environment they compile
# as users do, as processes that they start do in any case.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
  jax.config.update("jax_disable_most_optimizations", True)

# It defines flags when it is first imported, and flagsaver would forget those
# that come within its context.
with contextlib.suppress(ModuleNotFoundError):  # not made for all Pythons
  import array_record.python.array_record_data_source  # noqa: F401

from personalization_jax.datasets import Population  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
  """Compiles a program once for all workers, and leaves nothing behind."""
  if hasattr(config, "workerinput"):
    return  # pytest-xdist's workers inherit the environment
  folder = tempfile.mkdtemp(prefix="compiled-")
  config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
  for name, value in (
    ("jax_compilation_cache_dir", folder),
    ("jax_persistent_cache_min_compile_time_secs", 0.1),
  ):
    os.environ[name.upper()] = str(value)  # for processes that tests start
    jax.config.update(name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """The longest first: at the end, the other workers would wait for them."""
  longest = ("test_survival.py", "test_people.py", "test_guide.py")
  items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The folder of real digits; tests that need it skip where it's missing."""
  default = pathlib.Path(__file__).parents[2] / "shared" / "data"
  path = pathlib.Path(os.environ.get("PERSONALIZATION_DATA", default))
  if not (path / "mnist").is_dir():
    pytest.skip(f"real digits are missing at {path}; set PERSONALIZATION_DATA")
  return path


@pytest.fixture(scope="session")
def people() -> Population:
  """Nine people with 7 to 15 noisy 16x16 squares of three classes each."""
  rng = np.random.default_rng(0)
  individuals = np.repeat(np.arange(9) * 3 + 1, np.arange(7, 16))
  labels = rng.integers(0, 3, len(individuals))
  images = rng.integers(0, 60, (len(individuals), 16, 16, 1))
  for image, label in zip(images, labels):
    image[4 * label : 4 * label + 6, 3:12] += 150
  return Population.from_arrays(images.astype(np.uint8), labels, individuals)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> pathlib.Path:
  """The directory of a small run of the script, to be left as it is."""
  # Other tests need not know the script's flags.
  from helpers.small_run import run

  workdir = tmp_path_factory.mktemp("runs") / "small"
  run(workdir)
  return workdir
