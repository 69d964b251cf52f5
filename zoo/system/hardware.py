"""Cores and GPUs of this machine, as far as they can be seen without importing torch."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from zoo.errors import UserError
from zoo.system.environment import whole_number

CORES = "SIAMESE_ZOO_CORES"
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu|npu|mtia)(:\d{1,4})?")
_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and Windows' GPU seen from WSL


def usable_cores() -> int:
    """Return the number of cores for this process: ``SIAMESE_ZOO_CORES``, or those it may run on.

    The ranks of torchrun on this machine divide them among themselves.

    Raises:
        UserError: ``SIAMESE_ZOO_CORES`` or torchrun's number of ranks is no whole number from 1.
    """
    if given := whole_number(CORES, 0, least=1):
        return given
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // whole_number("LOCAL_WORLD_SIZE", 1, least=1))


def cpu_features() -> frozenset[str]:
    """Return the instruction sets of this CPU by the names of Linux, such as ``avx512_bf16``; empty elsewhere."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    # All cores of a machine have the same: the first line says it.
    flags = next((line for line in lines if line.partition(":")[0].strip() in ("flags", "Features")), "")
    return frozenset(flags.partition(":")[2].split())


def emulates_bf16() -> bool:
    """Return whether this CPU is known to have no instructions for bf16, so that torch computes it slowly.

    With AVX2 alone, training in bf16 took 12 times as long as in fp32, and extraction 6 times.
    """
    features = cpu_features()
    return bool(features) and features.isdisjoint({"amx_bf16", "avx512_bf16", "avx512f", "avx_ne_convert", "bf16"})


def adds_int8_in_16_bits() -> bool:
    """Return whether this CPU is known to be an x86 without VNNI: int8 products with weights of 8 bits overflow."""
    features = cpu_features()
    return "avx2" in features and features.isdisjoint({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


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


def require_device_name(device: str | None) -> None:
    """Check the name of a device, without asking the device. Raises UserError, which lists those of this machine."""
    if device is not None and not _DEVICE.fullmatch(device):
        raise UserError(f"device {device!r} is not usable here: this machine has {devices_here()}")


def devices_here() -> str:
    """Return the devices of this machine for messages, as far as they can be seen without importing torch."""
    found = ["cpu"]
    if gpu_in_sight() and platform.system() == "Darwin":
        found.append("mps")
    elif gpu_in_sight():
        found += [f"cuda:{number} ({name})" for number, name in enumerate(_nvidia_names())] or ["cuda"]
    return ", ".join(found)


def _nvidia_names() -> list[str]:
    """Names of the GPUs that NVIDIA's driver lists, of those that CUDA_VISIBLE_DEVICES leaves."""
    try:
        texts = [(folder / "information").read_text() for folder in sorted(_NVIDIA.iterdir())]
    except OSError:
        return []
    names = [found[1].strip() if (found := re.search(r"Model:(.*)", text)) else "NVIDIA" for text in texts]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    numbers = [int(number) for number in visible.split(",") if number.strip().isdigit()]
    return [names[number] for number in numbers if number < len(names)]
