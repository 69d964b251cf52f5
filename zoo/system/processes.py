"""Whether other processes of this machine still run."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(process: int) -> bool:
    """Return whether a process of this machine still runs; True where that cannot be known.

    One that has ended and that its parent has not waited for still has its number: in a container whose first process
    waits for nobody, for ever.
    """
    if os.name == "nt":  # os.kill would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2][:1]
    except OSError:  # no Linux
        return True
    return state not in (b"Z", b"X")
