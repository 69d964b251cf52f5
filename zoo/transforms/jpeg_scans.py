"""The scans of a JPEG: whether each was written to its end, and files that lack nothing but their end marker."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

_END_OF_JPEG = b"\xff\xd9"
_MAX_SEGMENTS = 1_000_000
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # behind the coded data of a scan
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
ZEROS = bytes(512)  # a sector of a disk
_SURPLUS = 64  # bytes behind the last pixel of a JPEG: encoders fill the last byte only
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SCAN = b"\xff\xda"
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))  # the markers SOFn
_LOSSLESS_FRAME = 0xF7  # ITU-T T.87, annex C
_OTHER_BITS = (*range(2, 8), *range(9, 17))  # of lossless and of extended JPEGs: ITU-T T.81, table B.2
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_SEGMENT_HEAD = 1024  # bytes that hold all that is read of a frame, a restart interval and a scan's header


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment; a scan's segment (SOS) ends at the next marker."""
    at, count = 2, 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data) and count < _MAX_SEGMENTS:
        marker, count = data[at + 1], count + 1
        if marker in (0x00, 0xFF):
            at += 1
            continue
        if marker in _NO_LENGTH or marker == 0xD9:
            yield marker, at, at + 2
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:
            found = _NEXT_MARKER.search(data, end)
            end = found.start() if found else len(data)
        yield marker, at, min(end, len(data))
        at = end


def has_more_scans(data: bytes, most: int) -> bool:
    """Return whether a JPEG has more scans than ``most``.

    What follows its end marker (a film, another image) is not counted.
    """
    if data.count(_SCAN) <= most:  # in the coded data of a scan these bytes do not follow each other
        return False
    scans = 0
    for marker, _, _ in jpeg_segments(data):
        scans += marker == 0xDA
        if scans > most or marker == 0xD9:
            break
    return scans > most


class _Frame:
    """What the segments of a JPEG say of its frame and scans, as far as they were ``read``."""

    def __init__(self) -> None:
        self.coding = 0  # the marker SOFn
        self.has_restarts = False
        self.scans = 0
        self._components: set[int] = set()
        self._scanned: set[int] = set()
        self._missing_bits: dict[tuple[int, int], int] = {}  # by component and coefficient

    @property
    def is_progressive(self) -> bool:
        return self.coding in _PROGRESSIVE

    @property
    def has_all_components(self) -> bool:
        return bool(self._components) and self._scanned >= self._components

    @property
    def is_complete(self) -> bool:
        """Whether the scans have all components; of a progressive file, each coefficient to its last bit."""
        whole = self.has_all_components and not any(self._missing_bits.values())
        return whole and (not self.is_progressive or len(self._missing_bits) >= 64 * len(self._components))

    def read(self, marker: int, body: bytes) -> None:
        """Read a segment, from behind its length on."""
        if marker in _FRAMES and len(body) >= 6:
            self.coding = marker
            self._components = set(body[6 : 6 + 3 * body[5] : 3])
        elif marker == 0xDD:
            self.has_restarts = any(body[:2])
        elif marker == 0xDA and body and len(body) >= 4 + 2 * body[0]:
            self.scans += 1
            ids = body[1 : 1 + 2 * body[0] : 2]
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            self._scanned |= set(ids)
            for component in ids if self.is_progressive else ():
                self._missing_bits |= {(component, n): bits & 15 for n in range(first, min(last, 63) + 1)}

    def next_restarts(self, data: bytes, start: int, end: int) -> list[bytes]:
        """Return the markers that can follow the scan at ``start .. end``; it goes on at the next one only."""
        if not self.has_restarts:
            return []
        restarts = _RESTART.findall(data, start, end)
        number = restarts[-1][1] + 1 if restarts else 0
        return [bytes([0xFF, 0xD0 + (number + n) % 8]) for n in range(8)]

    def tails(self, data: bytes, start: int, end: int) -> list[bytes]:
        """Return bytes that change pixels where they follow the scan at ``start .. end`` and a part of it is missing.

        A decoder skips bytes behind the last block of a scan.
        """
        markers = self.next_restarts(data, start, end)
        # A run of empty blocks can hide one tail in a progressive file.
        return [_tail(n, markers) for n in range(3 if self.is_progressive or self.has_restarts else 1)]


def ended_jpegs(data: bytes) -> list[bytes] | None:
    """Return JPEGs that decode to equal pixels if nothing but the end marker of ``data`` is missing.

    Each ends as it should, all but the first with other bytes before the end; see ``_Frame.tails``.

    Returns:
        ``None`` where the last segment is no scan, or a progressive file lacks the last bits of a coefficient.
    """
    data = data.rstrip(b"\xff")  # the first half of the marker, and what may stand before it; or an erased flash memory
    frame, marker, start, end = _Frame(), 0, 0, 0
    for marker, start, end in jpeg_segments(data):
        frame.read(marker, data[start + 4 : end])
        if end == len(data):
            break
    if marker != 0xDA or not frame.is_complete:
        return None
    return [data + tail + _END_OF_JPEG for tail in (b"", *frame.tails(data, start, end))]


def lengthened_jpegs(data: bytes) -> list[bytes]:
    """Return JPEGs that decode to other pixels if the only scan of ``data`` was cut off before its end marker.

    Programs that repair a file, or mend a download, close what is there with an end marker. No decoder notices it
    through Pillow: libjpeg only warns, and makes the missing blocks gray.

    Returns:
        Nothing where there are several scans: ``zoo.transforms.scan_ends`` sees their ends. Arithmetic coding is not
        looked at: its coders leave out zeros at the end of a scan, so a whole scan can look cut.
    """
    frame, scan = _Frame(), (0, 0)
    for marker, start, end in _segments_of_one(data):
        frame.read(marker, data[start + 4 : min(end, start + _SEGMENT_HEAD)])
        if marker == 0xDA:
            scan = (start, end)
    if frame.coding not in (0xC0, 0xC1) or frame.scans > 1:
        return []
    start, end = scan[0], len(data[: scan[1]].rstrip(b"\xff"))  # half a stuffed byte, or what may stand before a marker
    return [data[:end] + tail + data[end:] for tail in frame.tails(data, start, end)]


@dataclass(frozen=True)
class CodedScan:
    """Where the coded data of a scan lie in a file.

    Attributes:
        end: without the fill bytes that may stand before a marker.
        restarts: markers of which the next one could begin a new part of the scan; none where it has one part.
        has_zeros: whether a sector of zeros lies between other data.
    """

    start: int
    end: int
    restarts: tuple[bytes, ...]
    has_zeros: bool


@dataclass(frozen=True)
class SeveralScans:
    """The scans of a JPEG that has more than one, or should have.

    Attributes:
        has_all_components: whether each component has a scan.
        is_complete: likewise, and in a progressive file each coefficient is there to its last bit. The standard lets a
            coder leave the last scans out.
        doubtful: the last scan, and those with zeros among their data, in the file's order. None where the coding is
            arithmetic.
    """

    has_all_components: bool
    is_complete: bool
    doubtful: tuple[CodedScan, ...]


def several_scans(data: bytes) -> SeveralScans | None:
    """Return the scans of a JPEG; ``None`` where it has one of several components."""
    at = data.find(_SCAN)
    coding = next((marker for marker, _, _ in jpeg_segments(data) if marker in _FRAMES or marker == 0xDA), 0)
    if coding not in _PROGRESSIVE and data[at + 4 : at + 5] > b"\1" and data.find(_SCAN, at + 2) < 0:
        return None  # one scan has all components: no need to go through it
    frame, places = _Frame(), list[tuple[int, int]]()
    for marker, start, end in _segments_of_one(data):
        frame.read(marker, data[start + 4 : min(end, start + _SEGMENT_HEAD)])
        if marker == 0xDA:
            begin = start + 2 + int.from_bytes(data[start + 2 : start + 4])
            places.append((begin, begin + len(data[begin:end].rstrip(b"\xff"))))
    if not frame.is_progressive and frame.scans == 1 and frame.has_all_components:
        return None
    doubtful = list[CodedScan]()
    for n, (start, end) in enumerate(places, 1):
        zeros = data.find(ZEROS, start, end)
        has_zeros = zeros >= 0 and data[zeros:end].lstrip(b"\0") != b""
        if has_zeros or n == len(places):
            doubtful.append(CodedScan(start, end, tuple(frame.next_restarts(data, start, end)), has_zeros))
    is_watched = frame.coding in (0xC0, 0xC1, 0xC2)
    return SeveralScans(frame.has_all_components, frame.is_complete, tuple(doubtful) if is_watched else ())


def _segments_of_one(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments of the first image: another one, or a film, may follow its end marker."""
    return takewhile(lambda segment: segment[0] != 0xD9, jpeg_segments(data))


def is_arithmetic(data: bytes) -> bool:
    """Return whether a JPEG has arithmetic coding: its decoder takes any bytes, and reads zeros behind the last one."""
    coding = next((marker for marker, _, _ in jpeg_segments(data) if marker in _FRAMES or marker == 0xDA), 0)
    return coding in _ARITHMETIC


def unread_kind(data: bytes) -> str | None:
    """Name the kind of a JPEG whose header Pillow does not read; ``None``: it reads such, or the header is damaged."""
    for marker, start, end in jpeg_segments(data) if data.startswith(b"\xff\xd8") else ():
        if marker == _LOSSLESS_FRAME:
            return "a JPEG-LS image"
        if marker in _FRAMES:
            bits = data[start + 4] if end >= start + 5 else 8
            return f"a JPEG of {bits} bits a colour" if bits in _OTHER_BITS else None
        if marker == 0xDA:
            return None
    return None


def lacks_end(data: bytes) -> bool:
    """Return whether no end marker follows the last scan of a JPEG."""
    end = data.rfind(_END_OF_JPEG)
    return end < 0 or data.find(_SCAN, end) >= 0  # that of a thumbnail stands before the scan


def without_padding(data: bytes) -> bytes:
    """Return a file without the zeros at its end, if they are many."""
    there = data.rstrip(b"\0")
    return there + b"\0\0" if len(data) - len(there) > _SURPLUS else data  # a scan can end in two


def without_last_bytes(data: bytes) -> list[bytes] | None:
    """Return JPEGs that lack the last bytes of a scan: all decode to equal pixels only if no pixel needs those.

    Returns:
        ``None`` where the scan is so short that it would be lost.
    """
    data = data.rstrip(b"\xff")
    shorter = data[:-_SURPLUS]
    marker, start, _ = deque(jpeg_segments(data), maxlen=1).pop()
    header = start + 2 + int.from_bytes(data[start + 2 : start + 4])
    if marker != 0xDA or len(shorter) <= header:
        return None
    candidates = ended_jpegs(shorter)
    return None if candidates is None else candidates[1:]


def _tail(number: int, markers: list[bytes]) -> bytes:
    """Return bits that no scan goes on with, and again behind each restart marker.

    The bytes are arbitrary, without a marker among them. The first tail begins with a one: behind the end of a file a
    decoder reads zeros.
    """
    first = (b"\xfe", b"\x55", b"\xaa")[number]
    parts = [
        b"".join(hashlib.sha512(bytes([number, n, k])).digest() for k in range(8)) for n in range(len(markers) + 1)
    ]
    filled = [first + part.replace(b"\xff", b"\xfe") for part in parts]
    return filled[0] + b"".join(marker + part for marker, part in zip(markers, filled[1:], strict=True))
