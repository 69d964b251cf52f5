"""Damaged metadata never cost an image."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image

from zoo.transforms.decode import decode
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import notes_of

RIGHT = picture(48, 36)
PNG = encode(RIGHT, "PNG")
LARGE = zlib.compress(bytes(3_000_000), 9)


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()[6:]


CHUNKS = {
    "iCCP too large": chunk(b"iCCP", b"profile\0\0" + LARGE),
    "zTXt too large": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "iTXt too large": chunk(b"iTXt", b"Comment\0\1\0en\0\0" + LARGE),
    "iTXt plain and too large": chunk(b"iTXt", b"Comment\0\0\0en\0\0" + bytes(3_000_000)),
    "many texts": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9)) * 80,
    "tEXt with a bad CRC": chunk(b"tEXt", b"Comment\0hello", crc=1),
    "iCCP with a bad CRC": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x"), crc=1),
    "eXIf with a bad CRC": chunk(b"eXIf", turned(1), crc=1),
    "zTXt no zlib": chunk(b"zTXt", b"Comment\0\0no zlib at all"),
    "iCCP no zlib": chunk(b"iCCP", b"profile\0\0no zlib"),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "short gAMA": chunk(b"gAMA", b"\0"),
    "short cHRM": chunk(b"cHRM", b"\0\1"),
    "short acTL": chunk(b"acTL", b"\0"),
    "broken eXIf": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "empty tEXt": chunk(b"tEXt", b""),
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("behind", [False, True])
def test_a_chunk_of_metadata_costs_no_png(name: str, behind: bool) -> None:
    at = PNG.index(b"IEND") - 4 if behind else 33
    image = decode(PNG[:at] + CHUNKS[name] + PNG[at:])
    assert np.array_equal(image, RIGHT)
    assert notes_of(image) == ()


def test_sound_metadata_beside_a_damaged_one_still_turn_the_image() -> None:
    damaged = CHUNKS["tEXt with a bad CRC"] + chunk(b"eXIf", turned(6))
    assert decode(PNG[:33] + damaged + PNG[33:]).size == (36, 48)


def test_damage_in_pixels_stays_damage() -> None:
    palette = encode(RIGHT.quantize(16), "PNG", transparency=3)
    for kind in (b"tRNS", b"PLTE", b"IDAT"):
        at = palette.index(kind)
        broken = bytearray(palette)
        broken[at + 5] ^= 0xFF
        with pytest.raises(UnreadableImage):
            decode(bytes(broken))


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "damaged",
    [
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta" + b"<" * 900),
        segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(300)),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\xff\xff"),
        segment(0xE0, b"JFIF\0\1"),
        segment(0xFE, bytes(60000)),
        b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 250]) + bytes(65000)) for n in range(1, 251)),
    ],
    ids=["exif", "xmp", "icc of two", "icc", "mpf", "photoshop", "jfif", "comment", "icc of 16 MB"],
)
def test_a_segment_of_metadata_costs_no_jpeg(damaged: bytes) -> None:
    data = encode(RIGHT, "JPEG")
    for icc in ("ignore", "convert"):
        image = decode(data[:2] + damaged + data[2:], options=DecodeOptions(icc=icc))
        assert np.array_equal(image, decode(data))


@pytest.mark.parametrize("kind", ["exif", "xmp", "icc_profile"])
def test_a_chunk_of_metadata_costs_no_webp(kind: str) -> None:
    data = encode(RIGHT, "WEBP", lossless=True, **{kind: b"Exif\0\0broken" * 30})
    assert np.array_equal(decode(data), RIGHT)
    if kind != "icc_profile":  # it stands behind the pixels: only a part of it is missing
        assert np.array_equal(decode(data[:-20]), RIGHT)


def test_a_tag_of_metadata_costs_no_tiff() -> None:
    tagged = encode(RIGHT, "TIFF", tiffinfo={700: b"<xmp/>" * 9, 34675: b"profile" * 30, 315: "me"})
    for tag in (700, 34675):
        for type, count in ((3, 20), (12, 5), (4, 10**6), (2, 10**9), (99, 3)):
            data = bytearray(tagged)
            at = data.index(struct.pack("<H", tag), int.from_bytes(data[4:8], "little"))
            struct.pack_into("<HI", data, at + 2, type, count)
            assert np.array_equal(decode(bytes(data)), RIGHT)


def test_a_directory_at_an_impossible_place_is_damage() -> None:
    for data in (b"II+\0\x08\0\0\0" + b"\xff" * 40, b"MM\0+" + b"\xff" * 40, b"II*\0" + b"\xff" * 40, b"II*\0"):
        with pytest.raises(UnreadableImage, match="corrupt"):
            decode(data)
