"""Files whose pixels are whole and whose metadata are damaged.

Only a file that its decoder refuses comes here, so a sound file is decoded as it stands.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from zoo.transforms.jpeg_scans import jpeg_segments
from zoo.transforms.tiff_directory import tiff_entries

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT_BYTES = 1 << 20  # of one chunk, unpacked: PngImagePlugin.MAX_TEXT_CHUNK
_MAX_TEXTS_BYTES = 16 << 20  # of all chunks
_MAX_CHUNKS = 1_000_000
LAST_BASELINE_TAG = 532  # ReferenceBlackWhite; metadata have larger numbers
_JFIF_BYTES = 18  # marker, length and the fixed fields
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # ICC, EXIF and XMP in VP8X


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
    for marker, start, end in jpeg_segments(data):
        is_short = marker == 0xE0 and end - start < _JFIF_BYTES
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (marker in kept and not is_short):
            parts.append(data[start:end])
    return b"".join(parts)
