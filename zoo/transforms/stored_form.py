"""Where Pillow reads the stored form of a file otherwise than its format says: such a file would give other pixels.

Sources: TIFF 6.0 (Adobe, 1992), sections 4, 5 and 21; PNG specification, third edition, 5.3 and 11.3.1.1.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageFile, ImagePalette

from zoo.transforms.jpeg_holes import has_hole
from zoo.transforms.jpeg_scans import lacks_end, lengthened_jpegs
from zoo.transforms.unreadable import UnreadableImage

WHITE_IS_ZERO = "zoo.white_is_zero"
"""Key in an image's info: 0 is white in 16-bit gray, which Pillow inverts for fewer bits only."""
DRAWN = "zoo.drawn"
"""Key in an image's info: the box that the first frame of a GIF covers, where that is not the whole image."""

_SIGNED_BYTES = "zoo.signed_bytes"
_COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _COLOURS = 259, 262, 277, 284, 320
_SAMPLE_FORMAT, _TWOS_COMPLEMENT = 339, (2,)
_BITS, _STRIP_BYTES, _TILE_BYTES = 258, 279, 325
_UNCOMPRESSED, _ZERO_IS_WHITE, _YCBCR, _SEPARATE = 1, 0, 6, 2
_DEEP_PLANES = {"RGB": 3, "RGBA": 4, "CMYK": 4}  # samples of the modes that libtiff's reader takes in 16 bits
_SIGNED = {f"I;{bits}{order}S": f"I;{bits}NS" for bits in (16, 32) for order in ("", "B")}
_PNG, _GRAY, _RGB = b"\x89PNG\r\n\x1a\n", 0, 2
_MAX_CHUNKS = 1_000_000  # looked at in one file
_INFLATED_AT_ONCE = 1 << 20
_MISSING = range(127, 130)  # luminance, or ink, of blocks that libjpeg has no data for; 128 but for rounding
_UNWRITTEN = bytes(1024)  # the coders of WebP and AVIF write no such run, not even for an image of one colour


def correct_header(image: Image.Image, data: bytes) -> None:
    """Correct an opened image in place, before its pixels are decoded. UnreadableImage: it would be misread."""
    if image.format == "TIFF":
        _correct_tiff(image)
    elif image.format == "GIF":
        covered = [tuple(tile[1]) for tile in getattr(image, "tile", ())]
        if len(covered) == 1 and covered[0] != (0, 0, *image.size):
            image.info[DRAWN] = covered[0]
    elif image.format == "PNG" and "transparency" in image.info:
        _correct_transparency(image, depth=data[24], colours=data[25])


def require_whole(image: Image.Image, data: bytes) -> None:
    """Check the coded pixels of a decoded image for damage that no decoder reports.

    Pillow compares the checksums of a PNG's metadata, not those of its pixels, and takes any bytes that are long enough
    for the scan of a JPEG. WebP and AVIF have no checksum; a file whose download or disk ended early is often as long
    as it should be, and its end is zeros.

    Raises:
        UnreadableImage: the pixels are not those that were written; ``truncated`` also where a JPEG may lack its end
            marker alone, see ``zoo.transforms.jpeg_scans``.
    """
    if image.format in ("JPEG", "MPO") and lacks_end(data):
        raise UnreadableImage("truncated", "the end marker is missing")
    if image.format in ("JPEG", "MPO") and has_hole(data):
        raise UnreadableImage("corrupt", "a part of the pixels was never written")
    if image.format in ("JPEG", "MPO") and _ends_early(image, data):
        raise UnreadableImage("truncated", "the pixels end before the end marker")
    if image.format == "TIFF" and image.mode == "L" and image.info.get(_SIGNED_BYTES) and image.getextrema()[1] > 127:  # type: ignore[operator]
        raise UnreadableImage("unsupported", "integer pixels below 0")
    if image.format == "PNG" and _is_damaged_png(image, data):
        raise UnreadableImage("corrupt", "the checksum of the pixels is wrong")
    if image.format in ("WEBP", "AVIF", "HEIF") and any(
        part[-len(_UNWRITTEN) :] == _UNWRITTEN for part in _coded(data)
    ):
        raise UnreadableImage("truncated", "the end of the pixels is zeros: it was not written, or not downloaded")


def _ends_early(image: Image.Image, data: bytes) -> bool:
    """Return whether a JPEG was cut off and closed with an end marker; ``image`` may be a reduced form of it."""
    last = image.crop((image.width - 1, image.height - 1, *image.size))
    if last.mode == "CMYK":
        is_gray = all(value in _MISSING for value in last.getpixel((0, 0)))  # type: ignore[union-attr]
    else:
        is_gray = last.convert("L").getpixel((0, 0)) in _MISSING
    crc: int | None = None
    for longer in lengthened_jpegs(data) if is_gray else ():
        try:
            with loaded_jpeg(longer) as other:
                size, found = other.size, crc_of_pixels(other)
        except OSError:  # no proof
            continue
        if crc is None and image.size == size:
            crc = crc_of_pixels(image)
        elif crc is None:
            with loaded_jpeg(data) as whole:
                crc = crc_of_pixels(whole)
        if found != crc:
            return True
    return False


def loaded_jpeg(data: bytes) -> Image.Image:
    """Decode a JPEG as it stands; no check looks for damage."""
    image = Image.open(io.BytesIO(data), formats=("JPEG",))  # the first image of an MPO too
    image.load()
    return image


def crc_of_pixels(image: Image.Image) -> int:
    """Return a checksum of a loaded image's pixels."""
    crc = 0
    for top in range(0, image.height, 256):
        crc = zlib.crc32(image.crop((0, top, image.width, min(top + 256, image.height))).tobytes(), crc)
    return crc


def _correct_tiff(image: Any) -> None:
    tags: Any = image.tag_v2
    if image.mode == "I;16" and tags.get(_PHOTOMETRIC) == _ZERO_IS_WHITE:
        image.info[WHITE_IS_ZERO] = True
    # Pillow reads the byte of -1 as 255.
    if image.mode == "L" and tags.get(_SAMPLE_FORMAT) == _TWOS_COMPLEMENT:
        image.info[_SIGNED_BYTES] = True
    # Colour maps have 16 bits; some writers store 8, as libtiff also guesses.
    if image.mode in ("P", "PA") and 0 < max(tags[_COLOURS]) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_COLOURS]))
    # libtiff gives compressed numbers in the order of this machine; Pillow knows that of unsigned ones only.
    for number, tile in enumerate(image.tile):
        if tile[0] == "libtiff" and tile[3][0] in _SIGNED:
            image.tile[number] = tile._replace(args=(_SIGNED[tile[3][0]], *tile[3][1:]))
    # Pillow reads uncompressed pixels itself: planes as 8 bits, YCbCr as if each pixel had its own colour.
    if tags.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
        return
    if tags.get(_PLANAR) == _SEPARATE and image.mode in _DEEP_PLANES and max(tags[_BITS]) > 8:
        if tags.get(_SAMPLES) != _DEEP_PLANES[image.mode] or max(tags[_BITS]) != 16:
            raise UnreadableImage("unsupported", f"planes of {max(tags[_BITS])} bits with extra samples")
        _read_by_libtiff(image, image.mode, f"{image.mode};16N")
    if tags.get(_PHOTOMETRIC) == _YCBCR and image.mode == "YCbCr":
        stored = sum(tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES) or (0,))
        if 0 < stored < 3 * image.width * image.height:
            _read_by_libtiff(image, "RGB", "RGBX")


def _read_by_libtiff(image: Any, mode: str, raw_mode: str) -> None:
    """Let Pillow read an uncompressed TIFF as it reads compressed ones."""
    image._mode = mode
    image.use_load_libtiff = True
    box = (0, 0, *image._tile_size)
    image.tile = [ImageFile._Tile("libtiff", box, 0, (raw_mode, False, image.tag_v2.offset))]


def _correct_transparency(image: Image.Image, *, depth: int, colours: int) -> None:
    """Bring the transparent colour of a PNG to the 8 bits to which Pillow brings the pixels."""
    found = image.info["transparency"]
    if colours == _RGB and isinstance(found, tuple):
        image.info["transparency"] = tuple(value >> 8 if depth == 16 else value & 0xFF for value in found)
    elif colours == _GRAY and isinstance(found, int) and 1 < depth <= 8:
        most = 2**depth - 1
        image.info["transparency"] = (found & most) * 255 // most


def _is_damaged_png(image: Image.Image, data: bytes) -> bool:
    """Return whether a chunk of pixels has a wrong checksum, and their compressed stream another."""
    if all(_has_its_checksum(data, start, end) for start, end in _pixel_chunks(data)):
        return False
    # Some writers make wrong checksums: then that of the zlib stream decides.
    try:
        return not _inflates_to_its_end(data, 16 * (image.width + 8) * (image.height + 8))
    except zlib.error:
        return True


def _has_its_checksum(data: bytes, start: int, end: int) -> bool:
    stored = data[end : end + 4]  # fewer bytes at the end of a file that is cut off, which others notice
    return len(stored) < 4 or zlib.crc32(memoryview(data)[start - 4 : end]) == int.from_bytes(stored)


def _pixel_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the body of each IDAT chunk begins and ends; they follow each other."""
    at, has_begun = len(_PNG), False
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            has_begun = True
            yield at + 8, min(at + 8 + length, len(data))
        elif has_begun:
            return
        at += 12 + length


def _inflates_to_its_end(data: bytes, most: int) -> bool:
    stream, size = zlib.decompressobj(), 0
    for start, end in _pixel_chunks(data):
        rest: bytes | memoryview = memoryview(data)[start:end]
        while len(rest) and not stream.eof and size <= most:
            size += len(stream.decompress(rest, _INFLATED_AT_ONCE))
            rest = stream.unconsumed_tail
    return stream.eof


def _coded(data: bytes) -> Iterator[bytes]:
    """Yield the ends of the parts of a WebP or AVIF that hold coded pixels, as far as the file goes."""
    if data.startswith(b"RIFF"):
        at = 12
        for _ in range(_MAX_CHUNKS):
            if at + 8 > len(data):
                break
            kind, length = struct.unpack_from("<4sI", data, at)
            end = min(at + 8 + length, len(data))
            if kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF"):
                yield data[max(at + 8, end - len(_UNWRITTEN)) : end]
            at += 8 + length + length % 2
        return
    # ISO media files: the pixels lie in the box mdat.
    at = 0
    for _ in range(_MAX_CHUNKS):
        if at + 16 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = min(at + length, len(data)) if length else len(data)
        if end < at + head:
            return
        if kind == b"mdat":
            yield data[max(at + head, end - len(_UNWRITTEN)) : end]
        at = end
