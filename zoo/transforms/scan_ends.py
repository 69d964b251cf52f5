"""Decode a JPEG of several scans in pieces, and see whether a scan ends where its data end.

Programs that repair a file, or mend a download, close what is there with an end marker. libjpeg only warns of a scan
that lacks its end, and Pillow drops the warning. But its decoder says how many bytes it took of each piece. Behind the
last block of a scan it looks for a marker, and takes every byte on the way. Within a scan it takes no byte of a block
that it cannot finish, and it fills its buffer of 57 bits first. So a few bytes behind the data of a scan, given one by
one, change no pixel of a whole scan and tell it from one that goes on. Source: jdhuff.c, jdphuff.c and jdmarker.c of
libjpeg-turbo.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageFile

from zoo.transforms.jpeg_scans import CodedScan, is_arithmetic, lacks_end, several_scans
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import NOTES

_DECODER = "zoo_jpeg"
_INCOMPLETE = "incomplete: scans of a progressive JPEG are missing, so details are too"
_UNCHECKED = "unchecked: in a JPEG with arithmetic coding, missing and damaged pixels cannot be seen"
_ONES = b"\xff\0"  # eight ones as coded data. No code is all ones (ITU-T T.81, annex C): a decoder makes an empty block
_BUFFER = 8  # bytes that a decoder takes in advance of the last block
_STEPS = 12  # single bytes; within a scan it keeps one back at the latest when its buffer is empty
_SURPLUS = 16  # bytes behind the last block; coders fill the last byte only


def load_watched(image: Image.Image, data: bytes) -> None:
    """Decode the pixels of an opened image in place; a JPEG of several scans is watched.

    What a file does not have, and what cannot be seen, becomes a note of the image.

    Raises:
        UnreadableImage: a scan of the JPEG was cut off, or a part of it was never written.
    """
    is_jpeg = image.format in ("JPEG", "MPO")
    scans = several_scans(data) if is_jpeg and not lacks_end(data) else None
    if scans is not None and not scans.has_all_components:
        raise UnreadableImage("truncated", "the pixels end before the end marker")
    tiles = getattr(image, "tile", [])
    if scans is not None and scans.doubtful and len(tiles) == 1 and tiles[0][0] == "jpeg":
        args = tiles[0][3]
        image.tile = [tiles[0]._replace(codec_name=_DECODER, args=(data, scans.doubtful, *args))]  # type: ignore[attr-defined]
    image.load()
    notes = [_INCOMPLETE] if scans is not None and not scans.is_complete else []
    notes += [_UNCHECKED] if is_jpeg and is_arithmetic(data) else []
    if notes:
        image.info[NOTES] = tuple(notes)


class _WatchedDecoder(ImageFile.PyDecoder):
    """Pillow's decoder of JPEGs, which is given the file in pieces."""

    _pulls_fd = True  # it has the file's bytes

    def init(self, args: tuple[Any, ...]) -> None:
        """Take the file's bytes, the scans to watch, and the arguments of Pillow's decoder."""
        self._data: bytes = args[0]
        self._scans: tuple[CodedScan, ...] = args[1]
        self._decoder: Any = Image._getdecoder(self.mode, "jpeg", args[2:])
        self._left = b""
        self._at = 0
        self._result = (0, 0)

    def setimage(self, im: Any, extents: tuple[int, int, int, int] | None = None) -> None:
        """Take the image to write to."""
        self._decoder.setimage(im, extents)

    def cleanup(self) -> None:
        """Free what the decoder holds."""
        self._decoder.cleanup()

    def decode(self, buffer: Any) -> tuple[int, int]:
        """Decode the whole file. UnreadableImage: a scan ends before its data, or behind them."""
        for scan in self._scans:
            if scan.has_zeros and self._ends_before(scan):
                raise UnreadableImage("corrupt", "a part of the pixels was never written")
            if self._goes_on(scan):
                if scan.has_zeros:
                    raise UnreadableImage("corrupt", "a part of the pixels was never written")
                raise UnreadableImage("truncated", "the pixels end before the end marker")
        self._feed_to(len(self._data))
        if self._result[0] >= 0:
            raise OSError(f"image file is truncated ({len(self._left)} bytes not processed)")  # in Pillow's words
        return self._result

    def _ends_before(self, scan: CodedScan) -> bool:
        """Return whether a scan ends long before its data do, as no coder writes it."""
        at = scan.end - _SURPLUS - 2 * _STEPS
        if at <= scan.start:
            return False
        at += self._data[at - 1] == 0xFF  # a stuffed byte goes with the one before it
        self._feed_to(at)
        took_all = True
        for _ in range(_STEPS):
            at += 2 if self._data[at] == 0xFF else 1
            self._feed_to(at)
            took_all = took_all and not self._left
        return took_all

    def _goes_on(self, scan: CodedScan) -> bool:
        """Return whether a scan goes on behind its data."""
        self._feed_to(scan.end)
        self._feed(_ONES * _BUFFER)
        for restart in (b"", *scan.restarts):  # behind a restart its buffer is empty
            self._feed(restart)
            for _ in range(_STEPS):
                self._feed(_ONES)
                if self._left:
                    return self._result[0] >= 0
        return False

    def _feed_to(self, end: int) -> None:
        self._feed(memoryview(self._data)[self._at : end])
        self._at = end

    def _feed(self, piece: bytes | memoryview) -> None:
        if self._result[0] < 0 or not piece:  # it has ended, or failed
            return
        piece = self._left + bytes(piece) if self._left else piece
        self._result = self._decoder.decode(piece)
        self._left = b"" if self._result[0] < 0 else bytes(piece[self._result[0] :])


Image.register_decoder(_DECODER, _WatchedDecoder)
