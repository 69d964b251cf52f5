"""The directories (IFD) of a TIFF, one for each of its images.

Sources: TIFF 6.0 (Adobe, 1992), sections 2, 7 and 8; for directories below another one, and pixels of a camera's
sensor, Adobe PageMaker 6.0 TIFF Technical Notes (1995), note 1, and the DNG specification 1.7.1.0, chapter 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain

TIFF_SIGNATURES = (b"II*", b"II+", b"MM\0*", b"MM\0+")
_MAX_ENTRIES = 4096
_MAX_DIRECTORIES = 100
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _LENGTH = 254, 255, 256, 257
_PHOTOMETRIC, _SUB_DIRECTORIES = 262, 330
_SHORT, _LONG = 3, 4
_PLACES = {4: "I", 13: "I", 16: "Q", 18: "Q"}  # LONG, IFD, LONG8, IFD8
_RAW = (32803, 34892)  # colour filter array, and linear raw data
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

    TIFF 6.0 demands the full image first; cameras and some scanners write their thumbnail first, and the full image
    behind or below it. Readers that take the first directory would see a few pixels. Raw data of a camera are no image.
    """
    order, is_big = _layout(data)
    for place, is_raw in _full_images(data):
        if not is_raw:
            at, number = (8, "Q") if is_big else (4, "I")
            position = struct.pack(order + number, place)
            return data[:at] + position + data[at + len(position) :]
    return data


def is_thumbnail_of_raw(data: bytes) -> bool:
    """Return whether the first image of a TIFF is a reduced form of the raw data of a camera, and of no other image."""
    full = [is_raw for _, is_raw in _full_images(data)]
    return bool(full) and all(full)


def _full_images(data: bytes) -> Iterator[tuple[int, bool]]:
    """Yield the positions of images of which the first one is a reduced form, and whether they are raw data."""
    places = _directories(data)
    start = next(places, len(data))
    first = _numbers(data, start)
    if not _is_reduced(first):
        return
    for place in chain(places, _below(data, start)):
        found = _numbers(data, place)
        is_full = not _is_reduced(found) and not found.get(_NEW_SUBFILE_TYPE, 0) & _MASK
        if is_full and all(found.get(side, 0) > first.get(side, 0) > 0 for side in (_WIDTH, _LENGTH)):
            yield place, found.get(_PHOTOMETRIC) in _RAW


def _below(data: bytes, directory: int) -> Iterator[int]:
    """Yield the positions of the directories that one names as its own (SubIFDs)."""
    order, is_big = _layout(data)
    for tag, kind, count, place in tiff_entries(data, directory):
        if tag != _SUB_DIRECTORIES or kind not in _PLACES or count > _MAX_DIRECTORIES:
            continue
        number, here = _PLACES[kind], place + (12 if is_big else 8)
        inline = 8 if is_big else 4
        try:
            if count * struct.calcsize("=" + number) > inline:
                (here,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, here)
            found = struct.unpack_from(f"{order}{count}{number}", data, here)
            yield from (each for each in found if each >= (16 if is_big else 8))  # behind the header
        except (struct.error, OverflowError):
            return


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
