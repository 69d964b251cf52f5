"""Which page of a TIFF is decoded: the first one, unless it is a reduced form of a later one."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from zoo.transforms.decode import decode
from zoo.transforms.unreadable import UnreadableImage

FULL = picture(48, 32)
THUMBNAIL = Image.new("RGB", (12, 8), "red")
MASK = Image.new("L", (60, 40), 7)


def pages(*found: tuple[Image.Image, int | None], **options: object) -> bytes:
    """A TIFF of pages, each with the bits of its NewSubfileType."""
    buffer = io.BytesIO()
    frames = []
    for image, kind in found:
        frame = image.copy()
        frame.encoderinfo = {"tiffinfo": {} if kind is None else {254: kind}}
        frames.append(frame)
    frames[0].save(
        buffer, "TIFF", save_all=True, append_images=frames[1:], tiffinfo=frames[0].encoderinfo["tiffinfo"], **options
    )
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_deflate"}, {"big_tiff": True}])
def test_the_full_page_behind_a_thumbnail_is_decoded(options: dict[str, object]) -> None:
    data = pages((THUMBNAIL, 1), (MASK, 4), (FULL, 0), (FULL.rotate(180), 0), **options)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(FULL))


@pytest.mark.parametrize(
    "found",
    [
        ((FULL, None), (THUMBNAIL, 1)),  # as TIFF 6.0 wants it
        ((FULL, 2), (picture(60, 40), 2)),  # two pages
        ((FULL, 1), (THUMBNAIL, 0)),  # smaller, so that it is no full form of the first one
        ((FULL, 1), (MASK, 4)),
        ((FULL, 1), (picture(60, 40), 1)),
        ((FULL, 1),),
    ],
)
def test_the_first_page_is_decoded_otherwise(found: tuple[tuple[Image.Image, int | None], ...]) -> None:
    assert np.array_equal(np.asarray(decode(pages(*found))), np.asarray(FULL))


def test_directories_in_a_circle_end() -> None:
    data = bytearray(pages((THUMBNAIL, 1)))
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * entries, at)
    assert decode(bytes(data)).size == THUMBNAIL.size
    struct.pack_into("<I", data, at + 2 + 12 * entries, len(data) - 1)
    assert decode(bytes(data)).size == THUMBNAIL.size


def test_the_lists_of_the_full_page_are_bounded() -> None:
    data = bytearray(pages((THUMBNAIL, 1), (FULL, 0)))
    at = data.rindex(struct.pack("<HH", 273, 4))
    struct.pack_into("<I", data, at + 4, 1_000_000)
    with pytest.raises(UnreadableImage, match="lists 1000000 values"):
        decode(bytes(data))
