"""The description of a run's hardware, for logs and cards."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def hardware(device: torch.device, ranks: int = 1) -> str:
    """Return for example ``NVIDIA H200``, ``2 CPU cores (AMD EPYC)``, or with ranks ``8 x NVIDIA H200``."""
    cores = torch.get_num_threads()
    one = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{cores} CPU core{'s' * (cores > 1)} ({_cpu_model()})"
    )
    return one if ranks == 1 else f"{ranks} x {one}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
