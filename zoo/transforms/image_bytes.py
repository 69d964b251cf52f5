"""Read the bytes of image files, whole or in part; what is no regular file is refused unopened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from zoo.system.shortage import raise_if_short
from zoo.transforms.limits import MAX_BYTES
from zoo.transforms.unreadable import UnreadableImage


def read_bytes(path: bytes | str | os.PathLike[str], *, size: int | None = None, mtime_ns: int | None = None) -> bytes:
    """Return all bytes of a regular file of at most ``MAX_BYTES``; FIFOs and devices are refused unopened.

    Args:
        size, mtime_ns: expected size in bytes and modification time in nanoseconds; ``None`` accepts any file.

    Raises:
        UnreadableImage: the file cannot be read, or it is not the expected one.
    """
    with _opened(path) as (file, before):
        if (size, mtime_ns) != (None, None) and (before.st_size, before.st_mtime_ns) != (size, mtime_ns):
            raise UnreadableImage("changed", "another size or modification time than when the run began")
        if before.st_size > MAX_BYTES:
            raise UnreadableImage("too-large", f"{before.st_size} bytes, more than {MAX_BYTES}")
        data = file.read(before.st_size + 1)
        after = os.fstat(file.fileno())
    if (len(data), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UnreadableImage("changed", "written to while it was read")
    return data


def read_part(path: bytes | str | os.PathLike[str], offset: int, length: int, *, mtime_ns: int) -> bytes:
    """Return ``length`` bytes (at most ``MAX_BYTES``) of a regular file, beginning at byte ``offset``.

    Args:
        mtime_ns: expected modification time in nanoseconds.

    Raises:
        UnreadableImage: the bytes cannot be read, or the file has another modification time.
    """
    if length > MAX_BYTES:
        raise UnreadableImage("too-large", f"{length} bytes, more than {MAX_BYTES}")
    with _opened(path) as (file, before):
        file.seek(offset)
        data = file.read(length)
        if {before.st_mtime_ns, os.fstat(file.fileno()).st_mtime_ns} != {mtime_ns} or len(data) != length:
            raise UnreadableImage("changed", "another size or modification time than when the run began")
    return data


@contextmanager
def _opened(path: bytes | str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    if b"\0" in os.fsencode(path):  # the system would not even be asked
        raise UnreadableImage("missing", "no such file")
    try:
        # Opening a device can already have an effect: check the kind of file first.
        _require_file(os.stat(path), path)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            _require_file(before, path)
            yield file, before
    except OSError as error:
        raise _read_error(error, path) from error


def _require_file(status: os.stat_result, path: bytes | str | os.PathLike[str]) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # a folder in a list of images may be there because it could not be listed
    kind = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    raise UnreadableImage("not-a-file", f"a {kind.get(stat.S_IFMT(status.st_mode), 'device')}")


def _read_error(error: OSError, path: bytes | str | os.PathLike[str]) -> UnreadableImage:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableImage("missing", "a broken link" if os.path.islink(path) else "no such file")
    if isinstance(error, PermissionError):
        return UnreadableImage("no-permission", "reading it is not allowed")
    raise_if_short(error)
    return UnreadableImage("io-error", os.strerror(error.errno) if error.errno else "read failed")
