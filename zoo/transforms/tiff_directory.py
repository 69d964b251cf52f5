"""The directories (IFD) of a TIFF, one for each of its images. Source: TIFF 6.0 (Adobe, 1992), sections 2, 7 and 8."""

from __future__ import annotations

import struct
from collections.abc import Iterator

TIFF_SIGNATURES = (b"II*", b"II+", b"MM\0*", b"MM\0+")
_MAX_ENTRIES = 4096
_MAX_DIRECTORIES = 100
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _LENGTH = 254, 255, 256, 257
_SHORT, _LONG = 3, 4
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2  # two bits of NewSubfileType, and a value of SubfileType


def tiff_entries(data: bytes, directory: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, number of values, and the position of each entry of a TIFF's directory.

    Args:
        directory: its position; ``None`` is the first one.
    """
    order, is_big = _layout(data)
    layout, size = ("HHQ", 20) if is_big else ("HHI", 12)
    try:
        at = _first(data) if directory is None else directory
        (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
        at += 8 if is_big else 2
        for place in range(at, at + size * min(entries, _MAX_ENTRIES), size):
            yield *struct.unpack_from(order + layout, data, place), place
    except (struct.error, OverflowError):
        return  # a truncated directory: Pillow says so


def with_full_image_first(data: bytes) -> bytes:
    """Return a TIFF whose header leads to the full image, where the first directory is a reduced form of it.

    TIFF 6.0 demands the full image first; cameras and some scanners write their thumbnail first. Readers that take the
    first directory would see a few pixels.
    """
    places = _directories(data)
    first = _numbers(data, next(places, len(data)))
    if not _is_reduced(first):
        return data
    order, is_big = _layout(data)
    for place in places:
        found = _numbers(data, place)
        is_full = not _is_reduced(found) and not found.get(_NEW_SUBFILE_TYPE, 0) & _MASK
        if is_full and all(found.get(side, 0) > first.get(side, 0) > 0 for side in (_WIDTH, _LENGTH)):
            at, number = (8, "Q") if is_big else (4, "I")
            position = struct.pack(order + number, place)
            return data[:at] + position + data[at + len(position) :]
    return data


def _layout(data: bytes) -> tuple[str, bool]:
    """Return the order of bytes, and whether it is a BigTIFF."""
    return "<" if data[:2] == b"II" else ">", 43 in data[2:4]


def _first(data: bytes) -> int:
    order, is_big = _layout(data)
    (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    return int(at)


def _directories(data: bytes) -> Iterator[int]:
    """Yield the positions of the directories, as each names the next one."""
    order, is_big = _layout(data)
    try:
        at = _first(data)
        for _ in range(_MAX_DIRECTORIES):
            yield at
            (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
            behind = at + (8 + 20 * entries if is_big else 2 + 12 * entries)
            (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, behind)
            if at == 0:
                return
    except (struct.error, OverflowError):
        return


def _numbers(data: bytes, directory: int) -> dict[int, int]:
    """Return the values of a directory's entries that are one whole number, by tag."""
    order, is_big = _layout(data)
    codes = {_SHORT: "H", _LONG: "I"}
    found: dict[int, int] = {}
    for tag, kind, count, place in tiff_entries(data, directory):
        if count == 1 and kind in codes and place + (20 if is_big else 12) <= len(data):
            (found[tag],) = struct.unpack_from(order + codes[kind], data, place + (12 if is_big else 8))
    return found


def _is_reduced(numbers: dict[int, int]) -> bool:
    return bool(numbers.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED) or numbers.get(_SUBFILE_TYPE) == _OLD_REDUCED
