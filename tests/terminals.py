"""What a process writes to a pseudo terminal."""

from __future__ import annotations

import os


def written_to(parent: int) -> bytes:
    """Read a terminal until all who write to it have closed it, and close it; its other end is closed here already."""
    said = b""
    while True:
        try:
            block = os.read(parent, 1 << 16)
        except OSError:  # how Linux ends a pseudo terminal
            break
        if not block:
            break
        said += block
    os.close(parent)
    return said
