"""How much memory this process may take of its host, and has taken (host).

A container or a job scheduler may give it less than the machine has; who takes
more is killed without a word.
"""

from __future__ import annotations

import os
import pathlib
import resource
import sys
from collections.abc import Iterator

# A cgroup without a limit says "max", or a number near 2^63.
_LIMITS = {"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}
_ROOT = pathlib.Path("/")


def limit() -> int:
  """Bytes that this process may take of its host's memory.

  The least of the machine's, the limits of the process's cgroup and of those
  around it (versions 1 and 2), and SLURM's.
  """
  machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return min([machine, *_of_cgroups(), *_of_slurm()])


def taken() -> int:
  """Bytes that this process has, but for files; elsewhere than Linux `peak`."""
  return _status("RssAnon", "RssShmem") or peak()


def peak() -> int:
  """The most bytes that this process ever had."""
  # `getrusage` counts what the parent had when it started this process, on
  # Linux in KiB, on macOS in bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  return (
    _status("VmHWM")
    or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  )


def program_files() -> int:
  """Bytes of files that it has in memory: they are in `peak`, in no plan."""
  return _status("RssFile")


def _status(*names: str) -> int:
  """Bytes that Linux counts under these names together; 0 elsewhere."""
  lines = (line.partition(":") for line in _lines("proc/self/status"))
  sizes = (size for name, _, size in lines if name in names)
  return sum(1024 * int(size.removesuffix("kB")) for size in sizes)


def _of_cgroups() -> Iterator[int]:
  """The limits of this process's cgroups and of all around them."""
  own: dict[str, str] = {}  # controller -> path; "" is version 2's
  for line in _lines("proc/self/cgroup"):
    _, controllers, path = line.split(":", 2)
    own |= dict.fromkeys(controllers.split(","), path)
  for line in _lines("proc/self/mountinfo"):
    mount, _, system = line.partition(" - ")
    _, _, _, top, place, *_ = mount.split()
    kind, _, options = system.split(" ", 2)
    controller = "" if kind == "cgroup2" else "memory"
    mounts_it = not controller or controller in options.split(",")
    if kind not in _LIMITS or controller not in own or not mounts_it:
      continue
    mounted = _ROOT / place.lstrip("/")
    # Inside a container the mount may begin at the container's own cgroup.
    below = os.path.relpath(own[controller], top)
    folder = mounted if below.startswith("..") else mounted / below
    for around in (folder, *folder.parents):
      if around.is_relative_to(mounted):
        limits = _lines(around / _LIMITS[kind])
        yield from map(int, filter(str.isdecimal, limits))


def _of_slurm() -> Iterator[int]:
  """What SLURM lets a job take of this host, in MiB; 0 is all of it."""

  def number(name: str) -> int:
    text = os.environ.get(f"SLURM_{name}", "")
    return int(text) if text.isdecimal() else 0

  of_cores = number("MEM_PER_CPU") * number("CPUS_ON_NODE")
  for mebibytes in filter(None, (number("MEM_PER_NODE"), of_cores)):
    yield mebibytes * 2**20


def _lines(path: str | pathlib.Path) -> list[str]:
  """Of a file of the system; none if it can't be read."""
  try:
    return (_ROOT / path).read_text().splitlines()
  except OSError:
    return []
