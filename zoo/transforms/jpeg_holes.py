"""Parts of a JPEG's scans that were never written: sectors of zeros, or of erased flash memory."""

from __future__ import annotations

import re
from collections.abc import Mapping

from zoo.transforms.jpeg_scans import ZEROS, jpeg_segments

_ONES = b"\xff" * 512  # a sector of a disk
_NO_FILL = re.compile(rb"[^\xff]")
_BEHIND_FILL = (0xC4, *range(0xD0, 0xDB))
_WIDE_BAND = 16  # coefficients


def has_hole(data: bytes) -> bool:
    """Return whether a part of a JPEG's scan was never written: a sector of zeros, or of erased flash memory.

    Zeros are pixels of one colour where the code of zeros ends a block; in the usual tables, and in most others, it is
    a coefficient. Coefficients of one value, over hundreds of bytes, are no picture.

    In progressive files, zeros are looked at in the scans of AC coefficients. ``zoo.transforms.scan_ends`` looks at
    others: a scan with a hole does not end where its data do. In scans of further bits of DC coefficients, each block
    has one bit, so zeros cannot be told from an image of one colour; they change it by one step of the quantisation.
    """
    if ZEROS not in data and _ONES not in data:
        return False
    coding, tables = 0, dict[int, bytes]()  # the symbols of each AC table
    for marker, start, end in jpeg_segments(data):
        if 0xC0 <= marker <= 0xC2:
            coding = marker
        elif marker == 0xC4:
            tables |= _ac_tables(data[start + 4 : end])
        elif marker == 0xDA:
            if data.find(ZEROS, start, end) >= 0 and _zeros_are_no_pixels(coding, tables, data[start + 4 : start + 16]):
                return True
            if _has_erased_part(data, start, end):
                return True
        elif marker == 0xD9:
            break
    return False


def _zeros_are_no_pixels(coding: int, tables: Mapping[int, bytes], scan: bytes) -> bool:
    """Return whether no coder fills a sector with zeros, by the header of a scan.

    Args:
        scan: the segment, from behind its length on.
    """
    if coding in (0xC0, 0xC1):
        used = scan[2 : 1 + 2 * scan[0] : 2] if scan else b""
        return any(tables.get(numbers & 15, b"")[:1] > b"\0" for numbers in used)
    if coding != 0xC2 or len(scan) < 6 or scan[0] != 1 or scan[3] == 0:
        return False
    symbols = tables.get(scan[2] & 15, b"")
    if symbols[:1] and symbols[0] & 15:  # new coefficients of one value: a repeated tile may have them in a narrow band
        return scan[4] - scan[3] >= _WIDE_BAND
    # A coder that knows runs of empty blocks joins them: many short ones never follow each other. It ends them where
    # further bits of other coefficients have to be kept.
    return scan[5] >> 4 == 0 and any(symbol & 15 == 0 < symbol < 0xF0 for symbol in symbols)


def _has_erased_part(data: bytes, start: int, end: int) -> bool:
    """Return whether a scan holds a sector of ones. Ones before a marker are fill bytes, which are allowed."""
    while (start := data.find(_ONES, start, end + 1)) >= 0:
        behind = _NO_FILL.search(data, start)
        if behind is None or behind[0][0] not in _BEHIND_FILL:
            return True
        start = behind.start()
    return False


def _ac_tables(segment: bytes) -> dict[int, bytes]:
    """Return the symbols of each table of AC coefficients in a DHT segment, by its number.

    The code of zeros alone means the first one; 0 ends a block.
    """
    found, at = dict[int, bytes](), 0
    while at + 17 < len(segment):
        end = at + 17 + sum(segment[at + 1 : at + 17])
        if segment[at] >> 4 == 1:
            found[segment[at] & 15] = segment[at + 17 : end]
        at = end
    return found
