"""What a process may take is what its container and its scheduler give it."""

import os

import pytest

from experiments.runtime import host_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
UNLIMITED = str(2**63 - 4096)
MIB = 2**20


def system(root, cgroup, mountinfo, **limits):
  """A folder like `/` with these files."""
  (root / "proc/self").mkdir(parents=True)
  (root / "proc/self/cgroup").write_text(cgroup)
  (root / "proc/self/mountinfo").write_text(
    "22 1 0:21 / /proc rw,relatime - proc proc rw\n" + mountinfo
  )
  for place, text in limits.items():
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder in the place of `/`, and no scheduler's variables."""
  monkeypatch.setattr(host_memory, "_ROOT", tmp_path)
  for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE"):
    monkeypatch.delenv(f"SLURM_{name}", raising=False)
  return tmp_path


V1 = (
  "35 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
  "36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
)
V2 = "41 31 0:38 {top} /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"


def v1(path):
  return f"sys/fs/cgroup/memory{path}/memory.limit_in_bytes"


def v2(path):
  return f"sys/fs/cgroup{path}/memory.max"


CASES = {
  "v2, own": (
    "0::/job/step\n", V2.format(top="/"),
    {v2("/job/step"): str(600 * MIB), v2("/job"): "max"}, 600,
  ),
  "v2, a parent's": (
    "0::/job/step\n", V2.format(top="/"),
    {v2("/job/step"): "max", v2("/job"): str(500 * MIB)}, 500,
  ),
  "v2, a container's own name space": (
    "0::/\n", V2.format(top="/"), {v2(""): str(400 * MIB)}, 400,
  ),
  "v2, a process from outside of it": (
    "0::/../other\n", V2.format(top="/"), {v2(""): str(400 * MIB)}, 400,
  ),
  "v1, own": (
    "9:name=systemd:/\n4:memory:/job\n0::/\n", V1.format(top="/"),
    {v1("/job"): str(300 * MIB), v1(""): UNLIMITED}, 300,
  ),
  "v1, controllers together": (
    "4:cpu,memory:/job\n", V1.format(top="/"),
    {v1("/job"): UNLIMITED, v1(""): str(350 * MIB)}, 350,
  ),
  "v1, a container's part mounted": (
    "4:memory:/docker/abc\n", V1.format(top="/docker/abc"),
    {v1(""): str(200 * MIB)}, 200,
  ),
  "both, v2 without the controller": (
    "4:memory:/job\n0::/job\n",
    V1.format(top="/") + V2.format(top="/").replace("cgroup rw", "cgroup/u rw"),
    {v1("/job"): str(250 * MIB)}, 250,
  ),
  "none": ("", "", {}, None),
  "no limit": ("4:memory:/\n", V1.format(top="/"), {v1(""): UNLIMITED}, None),
  "another's": (
    "0::/a\n", V2.format(top="/"), {v2("/b"): str(100 * MIB)}, None,
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_least_limit_of_the_cgroups_around_counts(case, here):
  cgroup, mounts, limits, expected = CASES[case]
  system(here, cgroup, mounts, **limits)
  wanted = MACHINE if expected is None else expected * MIB
  assert host_memory.limit() == wanted


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({"SLURM_MEM_PER_NODE": "700"}, 700 * MIB),
    ({"SLURM_MEM_PER_NODE": "0"}, MACHINE),
    ({"SLURM_MEM_PER_CPU": "300", "SLURM_CPUS_ON_NODE": "2"}, 600 * MIB),
    ({"SLURM_MEM_PER_NODE": "all"}, MACHINE),
  ],
)
def test_slurm_s_limit_counts(environment, expected, here, monkeypatch):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert host_memory.limit() == expected


def test_what_is_taken_grows_with_what_is_kept():
  before = host_memory.taken()
  kept = bytearray(os.urandom(64 * MIB))
  assert host_memory.taken() - before > 48 * MIB
  assert host_memory.taken() <= host_memory.peak()
  del kept
