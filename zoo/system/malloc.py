"""How the C library keeps the memory of this process."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = -1


def keep_freed_memory() -> bool:
    """From now on freed memory stays with the process, for the next block of its size; whether that could be set.

    glibc maps a block of 32 MiB or more when it is asked for and unmaps it when it is freed, so the kernel hands out
    zeroed pages for the same activations in every training step on a CPU anew. The price is that the process stays as
    large as it ever was. Only glibc has this to be set.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))
