"""What a table of times must say of the machine: its CPU's instructions, its cores and its load."""

from __future__ import annotations

import os
import platform
from typing import Any

# The instructions that decide how fast a network runs, oldest first.
FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
)


def facts() -> dict[str, Any]:
    """Return instructions, usable cores and the load of the last minute as JSON."""
    from zoo.system.hardware import cpu_features

    found = cpu_features()
    return {
        "machine": platform.machine(),
        "features": [name for name in FEATURES if name in found],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def line() -> str:
    """Return the facts in one line, to stand with a table."""
    said = facts()
    return (
        f"{said['machine']}, {said['cores']} cores, {' '.join(said['features']) or 'unknown CPU'}, load {said['load']}"
    )
