"""Files whose stored form Pillow reads otherwise than their format says, and files whose pixels were not written."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encode, picture
from PIL import Image

from zoo.transforms.decode import decode, decode_values
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import notes_of

RGB = np.asarray(picture(24, 16))
GRAY = RGB[..., 0]
SHORT, LONG = 3, 4


def tiff(pixels: NDArray[Any], tags: dict[int, tuple[int, list[int]]], parts: list[bytes], order: str = "<") -> bytes:
    """A TIFF of one strip, or of one for each plane."""
    height, width = pixels.shape[:2]
    places = [8 + sum(map(len, parts[:n])) for n in range(len(parts))]
    every = {256: (LONG, [width]), 257: (LONG, [height]), 278: (LONG, [height]), 259: (SHORT, [1])} | tags
    every |= {273: (LONG, places), 279: (LONG, [len(part) for part in parts])}
    body = b"".join(parts)
    at = 8 + len(body)
    behind, entries = b"", b""
    for tag, (kind, values) in sorted(every.items()):
        raw = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        if len(raw) > 4:
            place, behind = at + 2 + 12 * len(every) + 4 + len(behind), behind + raw
            raw = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + body + struct.pack(order + "H", len(every)) + entries + bytes(4) + behind


def sixteen(values: NDArray[Any], order: str = "<") -> bytes:
    return (values.astype(np.uint16) * 257).astype(order + "u2").tobytes()


def assert_pixels(data: bytes, expected: NDArray[Any], within: int = 0) -> None:
    assert np.abs(np.asarray(decode(data)).astype(int) - expected).max() <= within


@pytest.mark.parametrize("turned", [None, 6])
@pytest.mark.parametrize("compression", [1, 8])
def test_sixteen_bits_of_which_zero_is_white(turned: int | None, compression: int) -> None:
    stored = sixteen(GRAY)
    tags = {258: (SHORT, [16]), 262: (SHORT, [0]), 259: (SHORT, [compression])}
    expected = np.repeat(255 - GRAY[..., None].astype(int), 3, 2)
    if turned:
        tags[274], expected = (SHORT, [turned]), np.rot90(expected, -1)
    assert_pixels(tiff(GRAY, tags, [zlib.compress(stored) if compression == 8 else stored]), expected)


def test_twelve_bits_of_which_zero_is_white() -> None:
    twelve = (GRAY.astype(np.uint16) * 16).astype("<u2").tobytes()
    data = tiff(GRAY, {258: (SHORT, [16]), 262: (SHORT, [0])}, [twelve])
    assert [note.endswith("so it is nearly white") for note in notes_of(decode(data))] == [True]
    seen = np.asarray(decode(data, options=DecodeOptions(white16=4095)))[..., 0]
    assert np.abs(seen.astype(int) - (255 - GRAY.astype(int))).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_planes_of_sixteen_bits(mode: str, order: str) -> None:
    image = picture(24, 16).convert(mode)
    values = np.asarray(image)
    count = values.shape[2]
    tags = {
        258: (SHORT, [16] * count), 262: (SHORT, [5 if mode == "CMYK" else 2]),
        277: (SHORT, [count]), 284: (SHORT, [2]), 338: (SHORT, [2]),
    }  # fmt: skip
    if mode != "RGBA":
        del tags[338]
    data = tiff(values, tags, [sixteen(values[..., n], order) for n in range(count)], order)
    assert_pixels(data, np.asarray(image.convert("RGB")).astype(int))


@pytest.mark.parametrize("cells", [(2, 2), (2, 1), (1, 1)])
def test_colours_of_several_pixels_that_are_not_compressed(cells: tuple[int, int]) -> None:
    # One colour a block of 8 x 8, so that every sampling stores the same picture.
    values = np.asarray(picture(24, 16).resize((3, 2)).convert("YCbCr")).repeat(8, 0).repeat(8, 1)
    across, down = cells
    units = values.reshape(16 // down, down, 24 // across, across, 3).swapaxes(1, 2)
    stored = b"".join(
        unit[..., 0].tobytes() + bytes(unit[0, 0, 1:]) for row in units for unit in row
    )  # the lights of a cell, then its colour
    tags = {258: (SHORT, [8] * 3), 262: (SHORT, [6]), 277: (SHORT, [3]), 530: (SHORT, list(cells))}
    assert_pixels(tiff(values, tags, [stored]), np.asarray(Image.fromarray(values, "YCbCr").convert("RGB")), within=3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("bits", [16, 32])
def test_signed_numbers(bits: int, compression: int, order: str) -> None:
    values = GRAY.astype(int) * 100  # with two different bytes
    stored = values.astype(f"{order}i{bits // 8}").tobytes()
    tags = {258: (SHORT, [bits]), 262: (SHORT, [1]), 259: (SHORT, [compression]), 339: (SHORT, [2])}
    data = tiff(GRAY, tags, [zlib.compress(stored) if compression == 8 else stored], order)
    assert_pixels(data, np.repeat((values[..., None] * 255 + 32767) // 65535, 3, 2))


@pytest.mark.parametrize("compression", [1, 8])
def test_signed_bytes(compression: int) -> None:
    tags = {258: (SHORT, [8]), 262: (SHORT, [1]), 259: (SHORT, [compression]), 339: (SHORT, [2])}

    def data(values: NDArray[Any]) -> bytes:
        stored = values.astype(np.int8).tobytes()
        return tiff(GRAY, tags, [zlib.compress(stored) if compression == 8 else stored])

    assert_pixels(data(GRAY // 2), np.repeat(GRAY[..., None] // 2, 3, 2))
    below = (GRAY // 2).astype(int)
    below[3, 4] = -1
    for read in (decode, decode_values):
        with pytest.raises(UnreadableImage, match="below 0") as caught:
            read(data(below))
        assert caught.value.reason == "unsupported"


def test_a_colour_map_of_eight_bits() -> None:
    colours = np.random.default_rng(0).integers(1, 256, (3, 256))
    tags = {258: (SHORT, [8]), 262: (SHORT, [3])}
    for scale in (1, 257):
        data = tiff(GRAY, {**tags, 320: (SHORT, (colours * scale).ravel().tolist())}, [GRAY.tobytes()])
        assert_pixels(data, colours.T[GRAY])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colours: int, row: bytes, width: int, transparent: list[int]) -> bytes:
    head = struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0)
    key = struct.pack(f">{len(transparent)}H", *transparent)
    body = chunk(b"tRNS", key) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_a_transparent_gray_of_few_bits(depth: int) -> None:
    most, width = 2**depth - 1, 8 // depth
    grays = [0, 1, most - 1, most][:width]
    row = bytes([sum(g << (8 - depth * (n + 1)) for n, g in enumerate(grays))]) if width > 1 else bytes([0])
    grays = grays if width > 1 else [0]
    for gray in grays:
        expected = [255 if g == gray else g * 255 // most for g in grays]
        assert np.asarray(decode(png(depth, 0, row, width, [gray])))[0, :, 0].tolist() == expected
        assert (
            np.asarray(decode(png(depth, 0, row, width, [gray + 256])))[0, :, 0].tolist() == expected
        )  # low bits count


def test_a_transparent_colour_of_sixteen_bits() -> None:
    colours = [[0x1234, 0x5678, 0x9ABC], [0x4321, 0x5678, 0x9ABC], [0, 0, 0]]
    row = b"".join(struct.pack(">3H", *colour) for colour in colours)
    for n, colour in enumerate(colours):
        expected = [[255] * 3 if m == n else [value >> 8 for value in other] for m, other in enumerate(colours)]
        assert np.asarray(decode(png(16, 2, row, 3, colour)))[0].tolist() == expected


@pytest.mark.parametrize("header", [108, 124])
def test_a_bitmap_whose_alpha_is_zero_everywhere(header: int) -> None:
    def bitmap(alpha: int) -> bytes:
        stored = np.dstack([RGB[::-1, :, ::-1], np.full(GRAY.shape, alpha, np.uint8)]).tobytes()
        head = struct.pack("<IiiHHIIiiII", header, 24, 16, 1, 32, 3, len(stored), 0, 0, 0, 0)
        head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000).ljust(header - 40, b"\0")
        return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(stored), 0, 0, 14 + len(head)) + head + stored

    assert_pixels(bitmap(0), RGB)
    assert_pixels(bitmap(255), RGB)
    assert_pixels(bitmap(128), (RGB.astype(int) + 255) / 2, within=1)


@pytest.mark.parametrize("transparent", [None, 3])
def test_a_gif_whose_first_frame_is_smaller_than_the_image(transparent: int | None) -> None:
    indices = np.random.default_rng(0).integers(0, 4, (5, 6)).astype(np.uint8)
    frame = Image.fromarray(indices, "P")
    frame.putpalette(colours := [200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    data = bytearray(encode(frame, "GIF", optimize=False, **({"transparency": 3} if transparent else {})))
    at = data.index(b"\x2c\0\0\0\0\x06\0\x05\0")
    data[6:10] = struct.pack("<HH", 9, 8)  # the whole image
    data[at + 1 : at + 5] = struct.pack("<HH", 2, 1)  # where the frame lies in it
    expected = np.full((8, 9, 3), 255)
    drawn = np.array(colours).reshape(4, 3)[indices]
    if transparent:
        drawn[indices == 3] = 255
    expected[1:6, 2:8] = drawn
    assert_pixels(bytes(data), expected)


PHOTO = Image.fromarray(
    np.asarray(picture(200, 160)) ^ np.random.default_rng(1).integers(0, 64, (160, 200, 3), dtype=np.uint8)
)
CODED = {
    "PNG": encode(PHOTO, "PNG"),
    "JPEG": encode(PHOTO, "JPEG", quality=90),
    "JPEG optimised": encode(PHOTO, "JPEG", quality=90, optimize=True),
    "JPEG progressive": encode(PHOTO, "JPEG", quality=90, progressive=True),
    "WEBP": encode(PHOTO, "WEBP", quality=90),
    "WEBP lossless": encode(PHOTO, "WEBP", lossless=True),
    "AVIF": encode(PHOTO, "AVIF", quality=90),
}


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("share", [0.4, 0.8])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"<html>no such page</html>\n"])
def test_a_file_that_was_filled_up_to_its_size_is_refused(name: str, share: float, fill: bytes) -> None:
    data = CODED[name]
    if fill != b"\0" and name in ("WEBP", "WEBP lossless", "AVIF"):
        pytest.skip("these formats have no checksum: any bytes are pixels")
    there = int(len(data) * share)
    filled = data[:there] + (fill * len(data))[: len(data) - there]
    with pytest.raises(UnreadableImage):
        decode(filled)


@pytest.mark.parametrize("name", ["JPEG", "JPEG optimised", "PNG"])
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_sector_that_was_never_written_is_seen(name: str, fill: bytes, share: float) -> None:
    data = CODED[name]
    first = int(len(data) * share) // 512 * 512
    with pytest.raises(UnreadableImage):
        decode(data[:first] + fill * 1024 + data[first + 1024 :])


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("colour", ["white", (12, 200, 99)])
def test_one_colour_is_no_hole(colour: Any, options: dict[str, Any]) -> None:
    image = Image.new("RGB", (1600, 1200), colour)
    data = encode(image, "JPEG", **options)
    assert np.ptp(np.asarray(decode(data)), (0, 1)).tolist() == [0, 0, 0]
    half = encode(
        Image.composite(image, PHOTO.resize(image.size), Image.linear_gradient("L").resize(image.size)), "JPEG"
    )
    assert_pixels(half[:-2] + b"\xff" * 600 + half[-2:], np.asarray(decode(half)))


@pytest.mark.parametrize("name", ["JPEG", "JPEG optimised", "JPEG progressive"])
def test_zeros_behind_a_whole_scan_cost_nothing(name: str) -> None:
    whole = CODED[name]
    for data in (whole[:-2] + bytes(1000), whole + bytes(1000), whole + b"a film" * 100):
        assert_pixels(data, np.asarray(decode(whole)))


def test_no_bit_of_a_png_changes_a_pixel_without_a_word() -> None:
    data = encode(picture(40, 30), "PNG")
    expected = np.asarray(decode(data))
    at = data.index(b"IDAT")
    for place in range(at + 4, len(data) - 16):
        changed = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        try:
            assert np.array_equal(decode(changed), expected)
        except UnreadableImage:
            continue


def test_a_png_with_a_wrong_checksum_and_whole_pixels_is_read() -> None:
    data = encode(picture(40, 30), "PNG")
    end = data.index(b"IEND") - 8
    assert_pixels(data[:end] + b"\1\2\3\4" + data[end + 4 :], np.asarray(picture(40, 30)))


def test_pixels_in_any_number_of_chunks() -> None:
    image = picture(40, 30)
    data = encode(image, "PNG")
    at, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    body = data[at + 8 : end - 4]
    pieces = b"".join(chunk(b"IDAT", body[n : n + 1]) + chunk(b"IDAT", b"") * 50 for n in range(len(body)))
    assert_pixels(data[:at] + pieces + data[end:], np.asarray(image))
    broken = pieces.replace(chunk(b"IDAT", body[7:8]), chunk(b"IDAT", body[7:8])[:-1] + b"?", 1)
    assert_pixels(data[:at] + broken + data[end:], np.asarray(image))  # the stream is whole
