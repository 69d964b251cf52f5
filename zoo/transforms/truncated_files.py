"""Whether Pillow accepts truncated files, for one thread while it decodes a file here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile


class _Switch(threading.local):
    """In place of ``ImageFile.LOAD_TRUNCATED_IMAGES``: a switch for each thread, while that thread decodes a file here.

    Otherwise it is what the program has set, whose value for its own files is none of ours, and ours none of its.
    """

    program: object = False  # of all threads
    accept: bool | None = None  # of this thread; ``None``: it decodes nothing here

    def __bool__(self) -> bool:
        return bool(type(self).program) if self.accept is None else self.accept


_switch = _Switch()


@contextmanager
def truncated_files(*, accept: bool) -> Iterator[None]:
    """Accept or refuse truncated files in this thread; inside of another such context nothing changes."""
    if _switch.accept is not None:
        yield
        return
    program: object = ImageFile.LOAD_TRUNCATED_IMAGES
    if program is not _switch and (accept or program):
        _Switch.program = program
        ImageFile.LOAD_TRUNCATED_IMAGES = _switch  # type: ignore[assignment]
    _switch.accept = accept
    try:
        yield
    finally:
        _switch.accept = None


def accepts_truncated_files() -> bool:
    """Return whether this thread is within ``truncated_files(accept=True)``."""
    return bool(_switch.accept)
