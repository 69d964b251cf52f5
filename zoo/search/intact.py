"""Whether a large file still has its sha256, without reading all of it at every start.

A file of gigabytes takes seconds to hash. After the first time, ``FILE.hashed`` beside it records the hash, size,
modification time and inode. While the last three are the same, the bytes are taken to be the same. A smaller file is
hashed at every start.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from zoo.errors import UserError
from zoo.system.atomic_files import atomic_write_text, sha256_file
from zoo.system.json_reader import BadJson, read_json

SUFFIX = ".hashed"
HASHED_EACH_TIME = 64 << 20  # bytes: some 50 ms
_SETTLED_NS = 2 * 10**9  # a file system with coarse times would not show a second write within them


def is_intact(path: Path, sha256: str) -> bool:
    """Return whether a file has this sha256. Raises OSError if it cannot be read."""
    before = os.stat(path)
    if before.st_size <= HASHED_EACH_TIME:
        return sha256_file(path) == sha256
    record = path.with_name(path.name + SUFFIX)
    told = {"sha256": sha256, "size": before.st_size, "mtime_ns": before.st_mtime_ns, "inode": before.st_ino}
    with suppress(OSError, BadJson):
        if read_json(record) == told:
            return True
    intact = sha256_file(path) == sha256
    if intact and time.time_ns() - before.st_mtime_ns > _SETTLED_NS:
        with suppress(OSError, UserError):  # a folder that is only read is hashed each time
            atomic_write_text(record, json.dumps(told) + "\n")
    return intact
