from __future__ import annotations

import os
import socket
import struct
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import encode, picture
from PIL import Image

from zoo.transforms.decode import decode, decoded, to_rgb
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.unreadable import Reason, UnreadableImage

RIGHT = picture(16, 12)
CORPUS = {
    "jpeg": encode(RIGHT, "JPEG"),
    "progressive": encode(RIGHT, "JPEG", progressive=True),
    "cmyk": encode(RIGHT.convert("CMYK"), "JPEG"),
    "mpo": encode(RIGHT, "MPO", save_all=True, append_images=[RIGHT]),
    "png": encode(RIGHT, "PNG"),
    "palette": encode(RIGHT.quantize(256), "PNG"),
    "gif": encode(RIGHT, "GIF"),
    "webp": encode(RIGHT, "WEBP"),
    "lossless": encode(RIGHT, "WEBP", lossless=True),
    "bmp": encode(RIGHT, "BMP"),
    "avif": encode(RIGHT, "AVIF"),
    "tiff": encode(RIGHT, "TIFF"),
    "deflate": encode(RIGHT, "TIFF", compression="tiff_adobe_deflate"),
    "lzw": encode(RIGHT, "TIFF", compression="tiff_lzw"),
}


def pixels(data: bytes) -> NDArray[np.uint8]:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def refused(data: bytes, **options: Any) -> UnreadableImage:
    with pytest.raises(UnreadableImage) as caught:
        decode(data, **options)
    error = caught.value
    assert error.reason in get_args(Reason)
    assert error.detail
    assert error.detail.isprintable()
    return error


@pytest.mark.parametrize("name", ["png", "lossless", "bmp", "tiff", "deflate", "lzw"])
def test_lossless_formats_give_the_pixels(name: str) -> None:
    assert np.array_equal(pixels(CORPUS[name]), np.asarray(RIGHT))


@pytest.mark.parametrize("name", ["jpeg", "progressive", "mpo", "webp", "cmyk", "gif", "palette"])
def test_other_formats_give_nearly_the_pixels(name: str) -> None:
    assert np.abs(pixels(CORPUS[name]).astype(int) - np.asarray(RIGHT)).mean() < 12


def stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """How a camera stores an upright scene, from the definition of the EXIF tag: where row 0, column 0 lie."""
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.transpose(1, 0, 2),  # left, top
        6: upright.transpose(1, 0, 2)[::-1],  # right, top
        7: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: upright.transpose(1, 0, 2)[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_every_orientation_comes_out_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    image = Image.fromarray(np.ascontiguousarray(stored(np.asarray(RIGHT), orientation)))
    data = encode(image, format, exif=exif, **options)
    result = pixels(data)
    assert result.shape == (12, 16, 3)
    assert np.array_equal(np.asarray(to_rgb(decode(data))), result), "turned twice"
    assert np.abs(result.astype(int) - np.asarray(RIGHT)).max() <= (40 if format == "JPEG" else 0)


@given(st.binary(min_size=0, max_size=60), st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_broken_exif_block_does_not_fail_a_good_picture(block: bytes, tiff_like: bool) -> None:
    payload = b"Exif\0\0" + (b"II*\0\x08\0\0\0" if tiff_like else b"") + block
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    result = pixels(CORPUS["jpeg"][:2] + segment + CORPUS["jpeg"][2:])
    assert sorted(result.shape) == [3, 12, 16]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 129, 255, 1000, 40000, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 4, 156, 255]  # the nearest: 128 / 257 is .498
    for format in ("PNG", "TIFF"):
        result = pixels(encode(Image.fromarray(values), format))
        assert result[0].tolist() == [[v] * 3 for v in expected]
    big_endian = Image.frombytes("I;16B", (7, 1), values.astype(">u2").tobytes())
    assert pixels(encode(big_endian, "TIFF"))[0, :, 0].tolist() == expected


def test_integers_are_read_as_sixteen_bits_where_they_fit() -> None:
    def tiff(values: list[int]) -> bytes:
        return encode(Image.fromarray(np.array([values], np.int32)), "TIFF")

    assert pixels(tiff([0, 40000, 65535]))[0, :, 0].tolist() == [0, 156, 255]
    assert refused(tiff([0, 65536])).reason == "unsupported"
    assert refused(tiff([-1, 5])).reason == "unsupported"
    assert refused(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")).reason == "unsupported"


def over_white(colour: int, alpha: int) -> float:
    return colour * alpha / 255 + 255 * (1 - alpha / 255)


def test_transparency_lies_over_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 100, 0, 255), (200, 100, 0, 128), (200, 100, 0, 0)])
    expected = [[over_white(c, a) for c in (200, 100, 0)] for a in (255, 128, 0)]
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert np.abs(pixels(encode(rgba, format, **options))[0] - expected).max() <= 1
    gray = Image.new("LA", (2, 1))
    gray.putdata([(60, 255), (60, 128)])
    assert np.abs(pixels(encode(gray, "PNG"))[0, :, 0] - [60, over_white(60, 128)]).max() <= 1


def test_a_palette_with_alpha_lies_over_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([0, 1, 2])
    data = encode(palette, "PNG", transparency=bytes([255, 128, 0]))
    expected = [[10, 20, 30], [over_white(c, 128) for c in (40, 50, 60)], [255] * 3]
    assert np.abs(pixels(data)[0] - expected).max() <= 1
    assert pixels(encode(palette, "GIF", transparency=2))[0].tolist() == [[10, 20, 30], [40, 50, 60], [255] * 3]


def test_a_transparent_colour_lies_over_white() -> None:
    gray = Image.fromarray(np.array([[7, 9]], np.uint8))
    assert pixels(encode(gray, "PNG", transparency=9))[0, :, 0].tolist() == [7, 255]
    deep = Image.fromarray(np.array([[7000, 9000]], np.uint16))
    assert pixels(encode(deep, "PNG", transparency=9000))[0, :, 0].tolist() == [27, 255]


def test_one_bit_and_gray_become_equal_channels() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    for format in ("PNG", "TIFF", "BMP"):
        assert pixels(encode(bits, format))[0].tolist() == [[0] * 3, [255] * 3]
    assert pixels(encode(Image.fromarray(np.array([[3, 250]], np.uint8)), "PNG"))[0].tolist() == [[3] * 3, [250] * 3]


def test_cmyk_is_not_inverted() -> None:
    for colour in ((255, 255, 255), (200, 30, 60), (0, 0, 0)):
        data = encode(Image.new("RGB", (8, 8), colour).convert("CMYK"), "JPEG", quality=100)
        assert np.abs(pixels(data).astype(int) - colour).max() <= 4


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_a_bad_colour_profile_is_ignored() -> None:
    for format in ("JPEG", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        plain, profiled = (encode(RIGHT, format, **options, **k) for k in ({}, {"icc_profile": b"no profile" * 30}))
        assert np.array_equal(pixels(plain), pixels(profiled))


@pytest.mark.parametrize("name", CORPUS)
def test_cut_off_at_any_byte_a_file_is_whole_or_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = CORPUS[name]
    expected = pixels(whole)
    reasons = set()
    for end in range(len(whole)):
        try:
            assert np.array_equal(pixels(whole[:end]), expected), f"half a picture from {end} bytes"
        except UnreadableImage as error:
            reasons.add(error.reason)
    assert {"empty", "not-an-image"} <= reasons <= {"empty", "not-an-image", "truncated", "corrupt"}
    assert capfd.readouterr() == ("", "")


@given(
    name=st.sampled_from(sorted(CORPUS)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    near_the_start=st.booleans(),
)
@settings(max_examples=2000, deadline=None, derandomize=True)
def test_a_mutated_file_gives_pixels_or_a_named_reason(
    name: str, changes: list[tuple[float, int]], near_the_start: bool
) -> None:
    data = bytearray(CORPUS[name])
    for place, value in changes:
        data[int(place * (min(64, len(data)) if near_the_start else len(data)))] = value
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        try:
            pixels(bytes(data))
        except UnreadableImage:
            assert str(refused(bytes(data))) == str(refused(bytes(data)))
    assert not leaked


def test_damaged_files_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for name in ("lzw", "deflate", "tiff", "mpo"):
        for _ in range(200):
            data = bytearray(CORPUS[name])
            for place in random.integers(0, len(data), 6):
                data[place] = random.integers(0, 256)
            with suppress(UnreadableImage):
                decode(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not-an-image"),
        (b"<html><body>404</body></html>", "not-an-image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not-an-image"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 100, "not-an-image"),
        (b"P6 2 2 255 " + b"\0" * 12, "not-an-image"),
        (CORPUS["jpeg"][:60], "truncated"),
        (CORPUS["png"][:60], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "corrupt"),
    ],
)
def test_reasons(data: bytes, reason: str) -> None:
    assert refused(data).reason == reason


@pytest.mark.parametrize(
    ("frame", "kind"), [(b"\xff\xc1\x00\x11\x0c", "a JPEG of 12 bits"), (b"\xff\xf7\x00\x11\x08", "a JPEG-LS image")]
)
def test_a_jpeg_of_a_kind_that_is_not_read_is_named(frame: bytes, kind: str) -> None:
    error = refused(CORPUS["jpeg"].replace(b"\xff\xc0\x00\x11\x08", frame))
    assert (error.reason, error.detail.startswith(kind)) == ("unsupported", True)


@pytest.mark.parametrize("options", [{}, {"exif": 1}])
def test_the_orientation_in_xmp_counts_where_exif_has_none(options: dict[str, int]) -> None:
    exif = Image.Exif()
    if options:
        exif[0x0112] = options["exif"]
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for format in ("JPEG", "WEBP"):
        data = encode(RIGHT, format, xmp=xmp, exif=exif)
        assert decode(data).size == (RIGHT.size if options else RIGHT.size[::-1]), format


def test_too_many_pixels_are_refused_by_the_header() -> None:
    assert refused(CORPUS["png"], max_pixels=16 * 12 - 1).reason == "too-large"
    assert decode(CORPUS["png"], max_pixels=16 * 12).size == (16, 12)


def test_large_images_pass_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.transforms.decode._LARGE_PIXELS", 100)
    inside, together, most = 0, [], threading.Lock()

    def use() -> None:
        nonlocal inside
        with decoded(CORPUS["png"]):
            with most:
                inside += 1
                together.append(inside)
            threading.Event().wait(0.01)
            with most:
                inside -= 1

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1] * 6


def unreadable(path: Path | bytes, **expected: int) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(path, **expected)
    assert str(path) not in caught.value.detail
    return caught.value.reason


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("file")
    names = ("fifo", "loop", "broken", "folder", "socket", "absent", "file/below")
    assert [unreadable(tmp_path / name) for name in names] == [
        "not-a-file", "io-error", "missing", "not-a-file", "not-a-file", "missing", "missing",
    ]  # fmt: skip
    assert unreadable(Path("/dev/zero")) == "not-a-file"
    assert read_bytes(tmp_path / "link") == b"bytes"


def test_what_may_not_be_read_is_named(without_privileges: Path) -> None:
    (without_privileges / "file").touch(mode=0)
    (without_privileges / "folder").mkdir(mode=0)
    assert unreadable(without_privileges / "file") == "no-permission"
    assert unreadable(without_privileges / "folder") == "no-permission"


def test_another_file_than_planned_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    status = path.stat()
    assert read_bytes(path, size=5, mtime_ns=status.st_mtime_ns) == b"bytes"
    assert unreadable(path, size=6, mtime_ns=status.st_mtime_ns) == "changed"
    assert unreadable(path, size=5, mtime_ns=status.st_mtime_ns + 1) == "changed"


def test_a_file_beyond_the_ceiling_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**12)
    assert unreadable(tmp_path / "sparse") == "too-large"
