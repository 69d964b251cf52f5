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
from zoo.transforms.upright_rgb import notes_of

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


def below(found: list[tuple[Image.Image, int]], *, kind: int = 4, photometric: int | None = None) -> bytes:
    """A TIFF whose pages but the first are named by its tag 330 only, as cameras write them."""
    first, *others = found
    frame, size = first[0].copy(), 4 if kind in (4, 13) else 8
    frame.encoderinfo = {"tiffinfo": {254: first[1], 330: tuple(range(1, len(others) + 1))}}
    others_at = []
    data = bytearray(pages(first, *others, big_tiff=size == 8))
    # Follow the chain of pages, cut it behind the first one, and name the others below it.
    order = "<Q" if size == 8 else "<I"
    (at,) = struct.unpack_from(order, data, size)
    ends = []
    for _ in found:
        others_at.append(at)
        (entries,) = struct.unpack_from("<Q" if size == 8 else "<H", data, at)
        ends.append(at + (8 + 20 * entries if size == 8 else 2 + 12 * entries))
        (at,) = struct.unpack_from(order, data, ends[-1])
    head, step = (8, 20) if size == 8 else (2, 12)
    start = others_at[0]
    entries = (ends[0] - start - head) // step
    listed = struct.pack(f"<{len(others)}{'Q' if size == 8 else 'I'}", *others_at[1:])
    place = len(data)
    value = listed.ljust(size, b"\0") if len(listed) <= size else struct.pack(order, place)
    entry = struct.pack("<HH" + ("Q" if size == 8 else "I"), 330, kind, len(others)) + value
    old = [bytes(data[start + head + step * n :][:step]) for n in range(entries)]
    directory = sorted([*old, entry], key=lambda each: struct.unpack_from("<H", each))
    data += listed if len(listed) > size else b""
    struct.pack_into(order, data, size, len(data))
    data += struct.pack("<Q" if size == 8 else "<H", entries + 1) + b"".join(directory) + bytes(size)
    if photometric is not None:
        for each in others_at[1:]:
            tag = data.index(struct.pack("<HH", 262, 3), each)
            struct.pack_into("<H", data, tag + (12 if size == 8 else 8), photometric)
    return bytes(data)


@pytest.mark.parametrize("kind", [4, 13, 16, 18])
def test_the_full_image_below_a_thumbnail_is_decoded(kind: int) -> None:
    for found in ([(FULL, 0)], [(THUMBNAIL.rotate(180), 1), (MASK, 4), (FULL, 0)]):
        image = decode(below([(THUMBNAIL, 1), *found], kind=kind))
        assert np.array_equal(np.asarray(image), np.asarray(FULL))
        assert notes_of(image) == ()


def test_reduced_forms_below_the_full_image_change_nothing() -> None:
    image = decode(below([(FULL, 0), (THUMBNAIL, 1), (picture(96, 64), 0)]))
    assert np.array_equal(np.asarray(image), np.asarray(FULL))
    assert decode(below([(THUMBNAIL, 1), (THUMBNAIL, 1)])).size == THUMBNAIL.size


@pytest.mark.parametrize("photometric", [32803, 34892])
def test_a_thumbnail_of_raw_data_is_noted(photometric: int) -> None:
    image = decode(below([(THUMBNAIL, 1), (FULL, 0)], photometric=photometric))
    assert np.array_equal(np.asarray(image), np.asarray(THUMBNAIL))
    assert [note.partition(":")[0] for note in notes_of(image)] == ["thumbnail"]


@pytest.mark.parametrize(("count", "place"), [(200_000, None), (3, 2**31), (1, 2**32 - 1), (1, 0)])
def test_directories_below_at_impossible_places_are_not_followed(count: int, place: int | None) -> None:
    data = bytearray(below([(THUMBNAIL, 1), (FULL, 0)]))
    at = data.rindex(struct.pack("<HH", 330, 4))
    struct.pack_into("<I", data, at + 4, count)
    if place is not None:
        struct.pack_into("<I", data, at + 8, place)
    assert decode(bytes(data)).size == THUMBNAIL.size
