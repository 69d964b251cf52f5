"""Cores and GPUs of this machine, as far as they can be seen without importing torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CORES = "SIAMESE_ZOO_CORES"
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and Windows' GPU seen from WSL


def usable_cores() -> int:
    """Return the number of cores for this process: ``SIAMESE_ZOO_CORES``, or those it may run on.

    The ranks of torchrun on this machine divide them among themselves.
    """
    if given := os.environ.get(CORES):
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def gpu_in_sight() -> bool:
    """Return whether torch may find a GPU: a driver's file, an Apple chip, or NVIDIA's driver on Windows is there.

    False if ``CUDA_VISIBLE_DEVICES`` is empty or -1.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    if platform.system() == "Windows":
        return (Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32" / "nvcuda.dll").exists()
    return any(Path(file).exists() for file in _GPU_FILES)
