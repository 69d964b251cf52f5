"""What a run runs on, in words, for logs and cards."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def hardware(device: torch.device) -> str:
    """``NVIDIA H200``, or ``2 CPU cores (AMD EPYC)``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = torch.get_num_threads()
    return f"{cores} CPU core{'' if cores == 1 else 's'} ({_cpu()})"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
