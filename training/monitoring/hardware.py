"""What a run runs on, in words, for logs and cards."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def hardware(device: torch.device, ranks: int = 1) -> str:
    """``NVIDIA H200``, or ``2 CPU cores (AMD EPYC)``; of several ranks with ``8 x`` before it."""
    cores = torch.get_num_threads()
    one = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{cores} CPU core{'s' * (cores > 1)} ({_cpu()})"
    )
    return one if ranks == 1 else f"{ranks} x {one}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
