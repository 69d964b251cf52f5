"""Read the header and the pixels of a file; where they are damaged, those of a repaired form of it.

A JPEG that lacks only its end marker is whole, and damaged metadata never cost an image.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress

from PIL import Image

from zoo.transforms.formats import FORMATS
from zoo.transforms.jpeg_scans import ended_jpegs, without_last_bytes, without_padding
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.repair import without_metadata
from zoo.transforms.scan_ends import load_watched
from zoo.transforms.stored_form import correct_header, crc_of_pixels, loaded_jpeg, require_whole
from zoo.transforms.tiff_directory import TIFF_SIGNATURES, is_thumbnail_of_raw, with_full_image_first
from zoo.transforms.truncated_files import accepts_truncated_files, truncated_files
from zoo.transforms.unreadable import UnreadableImage, decoder_error
from zoo.transforms.upright_rgb import DEEP, NOTES

_TRUNCATED = "truncated: the end is missing, what is there was decoded"
_THUMBNAIL = "thumbnail: the full image of the TIFF is the raw data of a camera"
_PROFILE_MARKS = (b"iCCP", b"ICC_PROFILE\0", b"ICCP")


def read_header(data: bytes) -> Image.Image:
    """Open an image; Pillow's errors go through, and UnreadableImage where its pixels would be misread."""
    if data.startswith(TIFF_SIGNATURES):
        data = with_full_image_first(data)
    with truncated_files(accept=False):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    correct_header(image, data)
    if image.format == "TIFF" and is_thumbnail_of_raw(data):
        image.info[NOTES] = (_THUMBNAIL,)
    raw_modes = str([tile[3] for tile in getattr(image, "tile", ())[:1]])
    image.info[DEEP] = "16" in raw_modes and image.mode[0] != "I"  # Pillow cuts 16-bit colours to 8 bits
    return image


def load_pixels(
    image: Image.Image, data: bytes, options: DecodeOptions, size: tuple[int, int] | None = None
) -> Image.Image:
    """Decode the pixels of an opened image; where that fails, of what ``zoo.transforms.repair`` makes of its file.

    Args:
        size: of the whole image, which a repaired one must have; ``None`` is that of ``image``.
    """
    try:
        with truncated_files(accept=False):
            load_watched(image, data)
        require_whole(image, data)
        return image
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        found = error if isinstance(error, UnreadableImage) else decoder_error(error)
        size, caught = size or image.size, error
        image.close()
    if found.reason == "too-large" and not isinstance(caught, ValueError):
        raise found from caught
    # A missing end marker, and damaged metadata behind the pixels; first what is likely, since each try decodes all.
    if found.reason == "truncated":
        repaired = _jpeg_without_end(data) or first_without_metadata(data, _loaded)
    else:
        repaired = first_without_metadata(data, _loaded) or _jpeg_without_end(data)
    if repaired is not None and repaired.size == size:
        return repaired
    # The pixels themselves are not whole.
    if options.truncated == "accept" and found.reason == "truncated":
        accepted = _partly_loaded(data)
        if accepted is not None and accepted.size == size:
            accepted.info[NOTES] = (_TRUNCATED,)
            return accepted
    raise found from caught


def _loaded(data: bytes) -> Image.Image:
    image = read_header(data)
    if accepts_truncated_files():
        image.load()
        return image
    with truncated_files(accept=False):
        load_watched(image, data)
    require_whole(image, data)
    return image


def first_without_metadata(data: bytes, read: Callable[[bytes], Image.Image]) -> Image.Image | None:
    """Return what ``read`` makes of the file without its damaged metadata, or without any; ``None``: it fails."""
    for cleaned in without_metadata(data):
        with suppress(Exception):  # a damaged file can make Pillow raise nearly anything
            image = read(cleaned)
            if not image.info.get("icc_profile") and any(mark in data for mark in _PROFILE_MARKS):
                image.info["icc_profile"] = None  # there is one, and it cannot be read
            return image
    return None


def _jpeg_without_end(data: bytes) -> Image.Image | None:
    data = without_padding(data)
    candidates = ended_jpegs(data) if data.startswith(b"\xff\xd8") else None
    if candidates is None:
        return None
    try:
        first = _loaded(candidates[0])
        pixels = crc_of_pixels(first)
        if not all(crc_of_pixels(loaded_jpeg(other)) == pixels for other in candidates[1:]):
            return None
        # Refuse a scan whose last bytes no pixel needs: without an end marker, they are not part of the image.
        shorter = without_last_bytes(data)
        return None if shorter and all(crc_of_pixels(loaded_jpeg(other)) == pixels for other in shorter) else first
    except Exception:  # as above
        return None


def _partly_loaded(data: bytes) -> Image.Image | None:
    """Decode what is there of a truncated file; ``None`` where that is nothing, or one colour."""
    try:
        with truncated_files(accept=True):
            image = _loaded(data)
            extrema = image.getextrema()
    except Exception:  # as above
        return None
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return image if any(low != high for low, high in bands) else None
