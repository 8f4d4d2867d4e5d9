"""Accelerators that XLA compiles for though they aren't here."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

# What libtpu asks a TPU host's metadata for; any TPU's does.
_TPU_HOST = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used: plans don't collide
}
# Seconds between one kernel and the next, however small: an assumption.
_LAUNCH = 2e-6
# JAX takes so much of a GPU's memory unless it is told otherwise.
_OF_GPU = 0.75
# GPUs' dense peaks in TFLOP/s by the maker's data sheets, of products of
# bfloat16. The first name that is in a device's name counts.
_PEAKS = {
  "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H200": 989.4,
  "A100": 312.0,
}  # fmt: skip


class Chip(NamedTuple):
  """A chip by its maker's data sheet."""

  memory: int  # bytes that a program may take
  bandwidth: float  # bytes a second
  peak: dict[str, float]  # precision -> floating-point operations a second
  topology: str = ""  # the smallest, of a TPU
  clock: float = 0.0  # cycles a second of a TPU, as its peak implies
  config: str = ""  # a GPU as XLA describes one
  launch: float = 0.0  # seconds that a GPU's kernel takes at least


def peaks(device_kind: str) -> dict[str, float]:
  """Precision -> TFLOP/s of a GPU, as JAX names it; empty if it isn't known."""
  for name, most in _PEAKS.items():
    if name in device_kind:
      # TensorFloat-32, as XLA multiplies, and PyTorch's fast setting.
      return {"bfloat16": most, "float32": most / 2}
  return {}


def _tpu(
  gib: float, gb_a_second: float, tflops: float, clock: float, topology: str
) -> Chip:
  # float32 products are of bfloat16 factors, by JAX's default.
  peak = dict.fromkeys(("bfloat16", "float32"), tflops * 1e12)
  return Chip(int(gib * 2**30), gb_a_second * 1e9, peak, topology, clock * 1e9)


def _gpu(
  name: str,
  memory: int,
  gb_a_second: float,
  capability: int,
  cores: int,
  units: int,
  ghz: float,
  cache: int,
  shared: int,
) -> Chip:
  config = f"""
    gpu_device_info {{
      cuda_compute_capability {{ major: {capability} }}
      core_count: {cores} fpus_per_core: {units} clock_rate_ghz: {ghz}
      device_memory_size: {memory}
      memory_bandwidth: {int(gb_a_second * 1e9)}
      l2_cache_size: {cache}
      shared_memory_per_core: {shared * 1024}
      shared_memory_per_block_optin: {(shared - 1) * 1024}
      shared_memory_per_block: 49152
      threads_per_warp: 32
      threads_per_block_limit: 1024 threads_per_core_limit: 2048
      registers_per_block_limit: 65536 registers_per_core_limit: 65536
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535 block_dim_limit_z: 65535
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: 9 minor: 10 }}
    device_description_str: "{name}"
  """
  return Chip(
    int(_OF_GPU * memory),
    gb_a_second * 1e9,
    {precision: 1e12 * most for precision, most in peaks(name).items()},
    config=config,
    launch=_LAUNCH,
  )


CHIPS = {
  "v5e": _tpu(16, 819, 197, 1.5, "v5e:2x2"),
  "v6e": _tpu(32, 1638, 918, 1.75, "v6e:2x2"),
  "v5p": _tpu(95, 2765, 459, 1.75, "v5p:2x2x1"),
  # Bytes of memory, GB/s, capability, cores, units a core, GHz, bytes of cache,
  # KiB that a core's threads share.
  "h100": _gpu(
    "NVIDIA H100 80GB HBM3", 84942979072, 3352, 9, 132, 128, 1.98, 52428800, 228
  ),
  "a100": _gpu(
    "NVIDIA A100-SXM4-80GB", 85100068864, 2039, 8, 108, 64, 1.41, 41943040, 164
  ),
}


def devices(target: str) -> Sequence[Any]:
  """Devices to compile for; rejects a target whose compiler isn't installed.

  To be called before JAX looks for devices, which then are the CPU's alone: a
  plug-in without its chip would fail.
  """
  jax.config.update("jax_platforms", "cpu")
  chip = CHIPS[target]
  if not chip.topology:
    try:
      importlib.import_module("jax_plugins.xla_cuda13")
    except ImportError as error:
      raise ValueError(_missing(target, "cuda")) from error
    return topologies.get_topology_desc(
      "", platform="cuda", target_config=chip.config, topology="1x1x1"
    ).devices
  try:
    importlib.import_module("libtpu")
  except ImportError as error:
    raise ValueError(_missing(target, "plan-tpu")) from error
  for name, value in _TPU_HOST.items():
    os.environ.setdefault(name, value)
  # What was compiled for a TPU that isn't here can't be read again: each
  # program would be warned about, and compiled anyway.
  jax.config.update("jax_enable_compilation_cache", False)
  return topologies.get_topology_desc(chip.topology, "tpu").devices


def _missing(target: str, extra: str) -> str:
  return (
    f"--target={target} needs its compiler, which isn't installed: pip install"
    f" -e '.[{extra}]'."
  )
