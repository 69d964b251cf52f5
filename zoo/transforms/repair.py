"""Files whose pixels are whole and something else is not: damaged metadata, or a JPEG without its end marker.

Only a file that its decoder refuses comes here, so a sound file is decoded as it stands.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections import deque
from collections.abc import Iterator

_PNG, _END_OF_JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd9"
_MAX_TEXT_BYTES = 1 << 20  # of one chunk, unpacked: PngImagePlugin.MAX_TEXT_CHUNK
_MAX_TEXTS_BYTES = 16 << 20  # of all chunks
_MAX_CHUNKS = 1_000_000
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # behind the coded data of a scan
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_MAX_TIFF_ENTRIES = 4096
LAST_BASELINE_TAG = 532  # ReferenceBlackWhite; metadata have larger numbers
_JFIF_BYTES = 18  # marker, length and the fixed fields
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # ICC, EXIF and XMP in VP8X
_ZEROS, _ONES = bytes(512), b"\xff" * 512  # a sector of a disk
_NO_FILL = re.compile(rb"[^\xff]")
_BEHIND_FILL = (0xC4, *range(0xD0, 0xDB))
_SURPLUS = 64  # bytes behind the last pixel of a JPEG: encoders fill the last byte only
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield the file without its damaged metadata, then without any; nothing where it has none.

    Chunks that decide pixels (transparency, Adobe's colour transform) stay, and so does damage in them.
    """
    rebuild = _png if data.startswith(_PNG) else _jpeg if data.startswith(b"\xff\xd8") else None
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        rebuild = _webp
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        rebuild = _tiff
    for keep_sound in (True, False) if rebuild else ():
        cleaned = rebuild(data, keep_sound) if rebuild else None
        if cleaned is not None and cleaned != data:
            yield cleaned


def _png(data: bytes, keep_sound: bool) -> bytes | None:
    parts, at, budget = [_PNG], len(_PNG), _MAX_TEXTS_BYTES
    while at + 8 <= len(data) and len(parts) < _MAX_CHUNKS:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        is_needed = kind[0] & 0x20 == 0 or kind == b"tRNS"  # a capital letter: critical
        if end > len(data):  # the end of the file is missing
            parts += [data[at:]] if is_needed else []
            break
        if is_needed:
            parts.append(data[at:end])
        elif keep_sound and zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end]):
            budget -= (size := _unpacked_size(kind, data[at + 8 : end - 4]))
            parts += [data[at:end]] if size <= _MAX_TEXT_BYTES and budget > 0 else []
        at = end
    return b"".join(parts)


def _unpacked_size(kind: bytes, body: bytes) -> int:
    """Return the bytes of a text or profile, at most one more than Pillow takes; a damaged one has too many."""
    if kind not in (b"zTXt", b"iCCP", b"iTXt"):
        return len(body)
    _, _, rest = body.partition(b"\0")
    if kind == b"iTXt":
        is_packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        if not is_packed:
            return len(body)
    else:
        rest = rest[1:]
    try:
        return len(zlib.decompressobj().decompress(rest, _MAX_TEXT_BYTES + 1))
    except zlib.error:
        return _MAX_TEXT_BYTES + 1


def _webp(data: bytes, keep_sound: bool) -> bytes | None:
    chunks: list[bytes] = []
    at = 12
    while at + 8 <= len(data) and len(chunks) < _MAX_CHUNKS:
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        is_whole = end <= len(data)
        if kind in _WEBP_PIXELS or (keep_sound and is_whole):
            chunks.append(data[at:end])
        at = end
    if not chunks or chunks[0][:4] != b"VP8X" or len(chunks[0]) < 18:
        return None
    # The head says which metadata follow.
    found = {chunk[:4] for chunk in chunks}
    lost = sum(flag for flag, kind in ((0x20, b"ICCP"), (0x08, b"EXIF"), (0x04, b"XMP ")) if kind not in found)
    chunks[0] = chunks[0][:8] + bytes([chunks[0][8] & ~(lost & _WEBP_METADATA_FLAGS)]) + chunks[0][9:]
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_entries(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, number of values, and the position of each entry of a TIFF's first directory."""
    order, is_big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    layout, size = ("HHQ", 20) if is_big else ("HHI", 12)
    try:
        (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
        at += 8 if is_big else 2
        for place in range(at, at + size * min(entries, _MAX_TIFF_ENTRIES), size):
            yield *struct.unpack_from(order + layout, data, place), place
    except (struct.error, OverflowError):
        return  # a truncated directory: Pillow says so


def _tiff(data: bytes, keep_sound: bool) -> bytes | None:
    """Return the file with the entries of metadata emptied in place: bytes of number 0."""
    if keep_sound:
        return None
    emptied = bytearray(data)
    order, number = "<" if data[:2] == b"II" else ">", "Q" if 43 in data[2:4] else "I"
    for tag, _, _, place in tiff_entries(data):
        if tag > LAST_BASELINE_TAG:
            struct.pack_into(order + "H" + number, emptied, place + 2, 1, 0)
    return bytes(emptied)


def _jpeg(data: bytes, keep_sound: bool) -> bytes | None:
    kept = {0xE0, 0xEE, *((0xE1,) if keep_sound else ())}  # JFIF and Adobe decide colours, EXIF the orientation
    parts = [data[:2]]
    for marker, start, end in _jpeg_segments(data):
        is_short = marker == 0xE0 and end - start < _JFIF_BYTES
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (marker in kept and not is_short):
            parts.append(data[start:end])
    return b"".join(parts)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment; a scan's segment (SOS) ends at the next marker."""
    at, count = 2, 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data) and count < _MAX_CHUNKS:
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
    if data.count(b"\xff\xda") <= most:  # in the coded data of a scan these bytes do not follow each other
        return False
    scans = 0
    for marker, _, _ in _jpeg_segments(data):
        scans += marker == 0xDA
        if scans > most or marker == 0xD9:
            break
    return scans > most


def ended_jpegs(data: bytes) -> list[bytes] | None:
    """Return JPEGs that decode to equal pixels if nothing but the end marker of ``data`` is missing.

    Each ends as it should, all but the first with other bytes before the end. A decoder skips bytes behind the last
    block of a scan, so they change the pixels only where a part of the scan is missing.

    Returns:
        ``None`` where the last segment is no scan, or a progressive file lacks the last bits of a coefficient.
    """
    data = data.rstrip(b"\xff")  # the first half of the marker, and what may stand before it; or an erased flash memory
    components: set[int] = set()
    missing_bits: dict[tuple[int, int], int] = {}  # by component and coefficient
    scanned: set[int] = set()
    is_progressive, has_restarts, marker, start = False, False, 0, 0
    for marker, start, end in _jpeg_segments(data):
        body = data[start + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            is_progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            components = set(body[6 : 6 + 3 * body[5] : 3])
        elif marker == 0xDD:
            has_restarts = any(body[:2])
        elif marker == 0xDA and body and len(body) >= 4 + 2 * body[0]:
            ids = body[1 : 1 + 2 * body[0] : 2]
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            scanned |= set(ids)
            for component in ids if is_progressive else ():
                missing_bits |= {(component, n): bits & 15 for n in range(first, min(last, 63) + 1)}
        if end == len(data):
            break
    whole = components and scanned >= components and not any(missing_bits.values())
    if is_progressive:
        whole = whole and len(missing_bits) >= 64 * len(components)
    if marker != 0xDA or not whole:
        return None
    number = 0
    if has_restarts:  # such a scan goes on at the next restart only
        restarts = _RESTART.findall(data, start)
        number = restarts[-1][1] + 1 if restarts else 0
    markers = [bytes([0xFF, 0xD0 + (number + n) % 8]) for n in range(8)] if has_restarts else []
    # A run of empty blocks can hide one tail in a progressive file.
    tails = [_tail(n, markers) for n in range(3 if is_progressive or has_restarts else 1)]
    return [data + tail + _END_OF_JPEG for tail in (b"", *tails)]


def lacks_end(data: bytes) -> bool:
    """Return whether no end marker follows the last scan of a JPEG."""
    end = data.rfind(_END_OF_JPEG)
    return end < 0 or data.find(b"\xff\xda", end) >= 0  # that of a thumbnail stands before the scan


def has_hole(data: bytes) -> bool:
    """Return whether a part of a JPEG's scan was never written: a sector of zeros, or of erased flash memory.

    Zeros are pixels of one colour where the code of zeros ends a block; in the usual tables, and in most others, it is
    a coefficient. Coefficients of one value, over hundreds of bytes, are no picture. Zeros in progressive files are not
    looked at.
    """
    if _ZEROS not in data and _ONES not in data:
        return False
    is_sequential, firsts = False, set[int]()
    for marker, start, end in _jpeg_segments(data):
        if marker in (0xC0, 0xC1):
            is_sequential = True
        elif marker == 0xC4:
            firsts |= set(_first_ac_symbols(data[start + 4 : end]))
        elif marker == 0xDA:
            if is_sequential and any(firsts) and data.find(_ZEROS, start, end) >= 0:
                return True
            if _has_erased_part(data, start, end):
                return True
        elif marker == 0xD9:
            break
    return False


def _has_erased_part(data: bytes, start: int, end: int) -> bool:
    """Return whether a scan holds a sector of ones; before a marker they are fill bytes, as some encoders write."""
    while (start := data.find(_ONES, start, end + 1)) >= 0:
        behind = _NO_FILL.search(data, start)
        if behind is None or behind[0][0] not in _BEHIND_FILL:
            return True
        start = behind.start()
    return False


def _first_ac_symbols(tables: bytes) -> Iterator[int]:
    """Yield what the code of zeros alone means in each table of coefficients of a DHT segment; 0 ends a block."""
    at = 0
    while at + 17 < len(tables):
        if tables[at] >> 4 == 1:
            yield tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])


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
    marker, start, _ = deque(_jpeg_segments(data), maxlen=1).pop()
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
