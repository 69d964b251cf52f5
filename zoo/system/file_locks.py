"""Locks on files and folders, which end with the process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.system.atomic_files import write_errors


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this context for the same folder, and keep others out.

    The lock is on the folder itself, so no file is left behind, and it ends with the process, however that ends. Where
    there are no such locks (Windows, some network file systems) nothing is waited for.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, FileNotFoundError):
        yield
        return
    try:
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock the file ``path`` for the time of the context; yield False, without a lock, if another process has it.

    The file is created and stays. The lock ends with the process, however that ends. If the operating system or the
    file system has no such locks, every process gets True.
    """
    with write_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    # Where flock is missing, the lock counts as taken.
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        # Try the lock without waiting.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return True
    return True
