"""Set how the C library keeps the memory of this process."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = -1


def keep_freed_memory() -> bool:
    """Make freed memory stay with the process, for the next block of its size; return whether that could be set.

    glibc maps a block of 32 MiB or more when it is allocated and unmaps it when it is freed. In every training step on
    a CPU the kernel would therefore zero new pages for the same activations. The price: the process never shrinks.
    Only glibc has this setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))
