"""Why a file is no image: a reason from a closed set, and one line of text."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from zoo.errors import reason_of
from zoo.system.shortage import raise_if_short

Reason = Literal[
    "missing",  # no such file (any more), or a broken link
    "no-permission",  # the file or its folder may not be read
    "not-a-file",  # a folder, FIFO, socket or device
    "io-error",  # the operating system failed to read it
    "changed",  # size or modification time differ from the plan's
    "empty",  # no bytes
    "too-large",  # more bytes or pixels than the limit
    "not-an-image",  # none of the supported formats
    "unsupported",  # a supported format, in a variant that has no RGB form
    "truncated",  # the end is missing
    "corrupt",  # a supported format that its decoder refuses
]


class UnreadableImage(Exception):
    """A file that cannot be decoded to pixels.

    Attributes:
        reason: one of ``Reason``.
        detail: one line of text, the same for the same bytes: it holds no memory addresses and no absolute paths.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decoder_error(error: Exception) -> UnreadableImage:
    """Return what a decoder's error says of the file; raise a UserError if this machine is short of something."""
    raise_if_short(error)
    detail = reason_of(error)
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return UnreadableImage("too-large", detail)
    return UnreadableImage("truncated" if "truncated" in detail.lower() else "corrupt", detail)
