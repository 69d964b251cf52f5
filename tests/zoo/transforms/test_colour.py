"""Colour profiles and 16-bit gray."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encode, picture
from PIL import Image, ImageCms

from zoo.errors import UserError
from zoo.transforms.decode import choices_json, decode
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.upright_rgb import notes_of

CONVERT = DecodeOptions(icc="convert")
D65 = np.array([0.3127, 0.3290])
PRIMARIES = {  # x, y of red, green and blue; gamma
    "srgb": ([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)], None),
    "p3": ([(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)], None),
    "adobe": ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 563 / 256),
}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(xy: tuple[float, float] | NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = xy
    return np.array([x / y, 1, (1 - x - y) / y])


def to_xyz(name: str) -> NDArray[np.float64]:
    """Linear RGB to XYZ of the standard illuminant D65, from the primaries."""
    columns = np.stack([xyz(p) for p in PRIMARIES[name][0]], axis=1)
    return columns * np.linalg.solve(columns, xyz(D65))


def linear(name: str, v: NDArray[np.float64]) -> NDArray[np.float64]:
    gamma = PRIMARIES[name][1]
    if gamma is not None:
        return v**gamma
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def profile(name: str) -> bytes:
    """An ICC profile of version 2, written by hand: three primaries adapted to D50, and one curve."""
    d50 = np.array([0.9642, 1, 0.8249])
    scale = np.diag((BRADFORD @ d50) / (BRADFORD @ xyz(D65)))
    adapted = np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ to_xyz(name)

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    table = np.round(linear(name, np.linspace(0, 1, 1024)) * 65535).astype(">u2").tobytes()
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + table
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(*d50),
        **{k: b"XYZ \0\0\0\0" + fixed(*adapted[:, i]) for i, k in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    at, directory, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        directory += key + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(*d50) + bytes(48)
    return head + directory + body


def expected(name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    rgb = linear(name, pixels / 255) @ (np.linalg.inv(to_xyz("srgb")) @ to_xyz(name)).T
    rgb = rgb.clip(0, 1)
    return 255 * np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ["p3", "adobe"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF", "JPEG"])
def test_a_profile_is_converted_to_srgb(name: str, format: str) -> None:
    image = picture(40, 30)
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format in ("AVIF", "JPEG") else {}
    data = encode(image, format, icc_profile=profile(name), **options)
    stored = np.asarray(decode(data))
    assert np.array_equal(stored, decode(encode(image, format, **options))), "ignored by default"
    converted = decode(data, options=CONVERT)
    assert notes_of(converted) == ()
    assert np.abs(np.asarray(converted) - expected(name, stored)).mean() < 1
    assert np.abs(np.asarray(converted).astype(int) - stored).max() > 10


def test_srgb_stays_srgb() -> None:
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc_profile in (standard, profile("srgb")):
        data = encode(picture(40, 30), "PNG", icc_profile=icc_profile)
        difference = np.asarray(decode(data, options=CONVERT)).astype(int) - decode(data)
        assert np.abs(difference).max() <= 2


def test_alpha_and_orientation_go_with_a_profile() -> None:
    image = picture(40, 30).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(image, "PNG", icc_profile=profile("p3"), exif=exif)
    alpha = np.asarray(image.getchannel("A"))[:, :, None] / 255
    over_white = expected("p3", np.asarray(image.convert("RGB"))) * alpha + 255 * (1 - alpha)
    turned = np.asarray(decode(data, options=CONVERT))
    assert np.abs(np.rot90(turned) - over_white).mean() < 1
    palette = encode(picture(40, 30).quantize(64), "PNG", icc_profile=profile("p3"))
    assert np.abs(np.asarray(decode(palette, options=CONVERT)) - expected("p3", np.asarray(decode(palette)))).mean() < 1


@pytest.mark.parametrize("bad", [b"no profile" * 30, b"", bytes(200), profile("p3")[:300], b"x" * 5_000_000])
def test_a_profile_that_cannot_be_read_is_ignored_and_noted(bad: bytes) -> None:
    data = encode(picture(), "JPEG" if len(bad) < 10**6 else "WEBP", icc_profile=bad)
    image = decode(data, options=CONVERT)
    assert np.array_equal(image, decode(data))
    assert [note.partition(":")[0] for note in notes_of(image)] == (["profile-ignored"] if bad else [])
    assert notes_of(decode(data)) == ()


def test_a_profile_that_pillow_cannot_read_is_noted_too() -> None:
    png = encode(picture(), "PNG", icc_profile=bytes(3_000_000))  # more than Pillow unpacks
    jpeg = encode(picture(), "JPEG", icc_profile=profile("p3"))
    at = jpeg.index(b"ICC_PROFILE\0") + 13
    for data in (png, jpeg[:at] + b"\2" + jpeg[at + 1 :]):  # the first of two parts
        assert [note.partition(":")[0] for note in notes_of(decode(data, options=CONVERT))] == ["profile-ignored"]
        assert notes_of(decode(data)) == ()


def test_a_profile_of_other_pixels_is_ignored_and_noted() -> None:
    data = encode(picture().convert("CMYK"), "JPEG", icc_profile=profile("p3"))
    image = decode(data, options=CONVERT)
    assert np.array_equal(image, decode(data))
    assert notes_of(image)[0].startswith("profile-ignored:")


def test_twelve_bits_in_sixteen_are_noted_and_scaled_on_request() -> None:
    values = np.array([[0, 100, 2048, 4095]], np.uint16)
    for format in ("PNG", "TIFF"):
        data = encode(Image.fromarray(values), format)
        dark = decode(data)
        assert np.asarray(dark)[0, :, 0].tolist() == [0, 0, 8, 16]
        assert [note.partition(":")[0] for note in notes_of(dark)] == ["dark-16-bit"]
        light = decode(data, options=DecodeOptions(white16=4095))
        assert np.asarray(light)[0, :, 0].tolist() == [0, 6, 128, 255]
        assert notes_of(light) == ()
    for sound in (np.array([[0, 4096]], np.uint16), np.zeros((2, 2), np.uint16)):
        assert notes_of(decode(encode(Image.fromarray(sound), "PNG"))) == ()


def test_choices_are_written_and_read_back() -> None:
    assert choices_json(DecodeOptions()) == {}
    for options in (CONVERT, DecodeOptions("convert", "accept", 4095), DecodeOptions(white16=1023)):
        assert DecodeOptions.from_json(choices_json(options)) == options
    for wrong in ({"icc": "x"}, {"truncated": "x"}, {"white16": 0}, {"white16": 65536}):
        with pytest.raises(UserError):
            DecodeOptions(**wrong)
