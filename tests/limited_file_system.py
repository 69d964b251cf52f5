"""A folder as a file system without hard links, mounted through FUSE: ``python limited_file_system.py ROOT AT REFUSE``.

REFUSE is 1 where a rename over an existing file is refused too, else 0. It needs mfusepy and libfuse.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from mfusepy import FUSE, FuseOSError, Operations

_STAT = ("st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid")
_STATVFS = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag", "f_namemax")


class Limited(Operations):  # type: ignore[misc]
    """Every call goes to the folder ``root``, except for those that this file system does not have."""

    use_ns = True

    def __init__(self, root: str, refuse: bool) -> None:
        self.root, self.refuse = root, refuse

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def link(self, target: str, source: str) -> None:
        raise FuseOSError(errno.EPERM)

    def rename(self, old: str, new: str) -> None:
        if self.refuse and os.path.exists(self._at(new)):
            raise FuseOSError(errno.EEXIST)
        os.rename(self._at(old), self._at(new))

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        try:
            status = os.lstat(self._at(path))
        except OSError as error:
            raise FuseOSError(error.errno) from error
        times = {"st_atime": status.st_atime_ns, "st_ctime": status.st_ctime_ns, "st_mtime": status.st_mtime_ns}
        return {name: getattr(status, name) for name in _STAT} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags)

    def create(self, path: str, mode: int, fi: object = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path), length)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._at(path))
        return {name: getattr(status, name) for name in _STATVFS}


if __name__ == "__main__":
    FUSE(Limited(sys.argv[1], sys.argv[3] == "1"), sys.argv[2], foreground=True, nothreads=True)
