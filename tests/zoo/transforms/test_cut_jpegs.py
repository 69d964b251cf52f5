"""JPEGs that were cut off and closed with an end marker, and progressive ones with sectors that were never written."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image

from zoo.transforms import stored_form
from zoo.transforms.decode import decode, decoded
from zoo.transforms.jpeg_holes import has_hole
from zoo.transforms.jpeg_scans import jpeg_segments
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import notes_of

ARITHMETIC = base64.b64decode(  # `jpegtran -arithmetic` of pictures.picture(16, 16) in gray, quality 40
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7"
    "gYKBTmCNl4x9lnN+gXz/yQALCAAQABABAREA/8wABgAQEAX/2gAIAQEAAD8A0LJlXPIBEyYb7r+9T4p7IZT20hHD9P/Z"
)
END = b"\xff\xd9"
PHOTO = Image.fromarray(
    np.asarray(picture(203, 157)) ^ np.random.default_rng(1).integers(0, 64, (157, 203, 3), dtype=np.uint8)
)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "optimised": {"optimize": True},
    "no subsampling": {"subsampling": 0},
    "half subsampling": {"subsampling": 1},
    "restarts": {"restart_marker_blocks": 5},
    "a restart a row": {"restart_marker_rows": 1},
    "stored as RGB": {"keep_rgb": True},
    "progressive": {"progressive": True},
    "progressive, no subsampling": {"progressive": True, "subsampling": 0, "quality": 95},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 2},
}
MODES = ["RGB", "L", "CMYK"]


CASES = [(name, mode) for name in SETTINGS for mode in MODES if mode == "RGB" or "RGB" not in name]


def scans(data: bytes) -> list[tuple[int, int]]:
    return [(start, end) for marker, start, end in jpeg_segments(data) if marker == 0xDA]


def cut(data: bytes, at: int) -> bytes:
    return data[:at].rstrip(b"\xff") + END


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_jpeg_that_was_cut_off_and_closed_is_refused(name: str, mode: str) -> None:
    data = encode(PHOTO.convert(mode), "JPEG", **SETTINGS[name])
    start, end = scans(data)[0][0], scans(data)[-1][1]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        with pytest.raises(UnreadableImage) as caught:
            decode(cut(data, int(start + 30 + share * (end - start - 30))))
        assert caught.value.reason in ("truncated", "corrupt")


@pytest.mark.parametrize("name", [name for name in SETTINGS if "progressive" in name])
def test_the_cut_in_any_scan_of_a_progressive_jpeg_shows(name: str) -> None:
    data = encode(PHOTO, "JPEG", **SETTINGS[name])
    for start, end in scans(data):
        for at in range(start + 15, end - 24, max(1, (end - start) // 7)):  # the last bytes hold a block or two
            with pytest.raises(UnreadableImage, match="before the end marker"):
                decode(cut(data, at))


def test_a_progressive_jpeg_without_its_last_scans_is_noted() -> None:
    data = encode(PHOTO, "JPEG", progressive=True)
    assert notes_of(decode(data)) == ()
    for _, end in scans(data)[:-1]:
        image = decode(data[:end] + END)
        assert [note.partition(":")[0] for note in notes_of(image)] == ["incomplete"]


@pytest.mark.parametrize(("name", "mode"), CASES)
@pytest.mark.parametrize("content", ["photo", "gray below", "gray", "white", "one pixel"])
def test_whole_jpegs_are_read(name: str, mode: str, content: str) -> None:
    image = PHOTO.copy()
    if content == "gray below":
        image.paste((128, 128, 128), (0, 80, *image.size))
    elif content != "photo":
        image = Image.new(
            "RGB", (1, 1) if content == "one pixel" else (640, 480), (255 if content == "white" else 128,) * 3
        )
    data = encode(image.convert(mode), "JPEG", **SETTINGS[name])
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB")).astype(int)
    for behind in (b"", bytes(1000), b"a film" * 100, data):
        assert np.array_equal(np.asarray(decode(data + behind)), expected)
    assert np.array_equal(np.asarray(decode(data[:-2] + b"\xff" + END)), expected)


def test_what_is_there_of_a_cut_jpeg_is_decoded_on_request() -> None:
    data = encode(PHOTO, "JPEG")
    image = decode(cut(data, len(data) * 3 // 4), options=DecodeOptions(truncated="accept"))
    assert [note.startswith("truncated") for note in notes_of(image)] == [True]
    whole = np.asarray(decode(data))
    assert np.array_equal(np.asarray(image)[:80], whole[:80])


def test_a_cut_jpeg_is_refused_where_fewer_pixels_are_decoded() -> None:
    data = encode(PHOTO.resize((1600, 1200)), "JPEG")
    options = DecodeOptions(decode="scaled")
    with decoded(data, options=options, reduction=lambda width, height: 8) as image:
        assert image.size == (200, 150)
    with (
        pytest.raises(UnreadableImage, match="before the end marker"),
        decoded(cut(data, len(data) // 2), options=options, reduction=lambda width, height: 8),
    ):
        pass


def test_a_whole_jpeg_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def decodes_again(data: bytes) -> Image.Image:
        raise AssertionError("decoded a second time")

    monkeypatch.setattr(stored_form, "loaded_jpeg", decodes_again)
    for settings in SETTINGS.values():
        decode(encode(PHOTO, "JPEG", **settings))


def parts_of(data: bytes, wanted: int) -> list[bytes]:
    return [data[start:end] for marker, start, end in jpeg_segments(data) if marker == wanted]


def separate_scans() -> tuple[bytes, list[bytes]]:
    """The head and the three scans of a sequential JPEG in which each component has a scan of its own."""
    planes = [encode(plane, "JPEG") for plane in PHOTO.convert("YCbCr").split()]
    first = planes[0]
    (frame,) = parts_of(first, 0xC0)
    frame = frame[:2] + (17).to_bytes(2, "big") + frame[4:9] + b"\3" + bytes([1, 17, 0, 2, 17, 0, 3, 17, 0])
    head = first[:2] + b"".join(parts_of(first, 0xE0) + parts_of(first, 0xDB)) + frame + b"".join(parts_of(first, 0xC4))
    found = [parts_of(plane, 0xDA)[0] for plane in planes]
    return head, [scan[:5] + bytes([n]) + scan[6:] for n, scan in enumerate(found, 1)]


def test_a_component_without_a_scan() -> None:
    head, found = separate_scans()
    whole = head + b"".join(found)
    assert np.abs(np.asarray(decode(whole + END)).astype(int) - np.asarray(PHOTO)).mean() < 16  # the noise, quantised
    for left in (head + found[0], head + found[0] + found[1], whole[:-40], head + found[0] + found[1][:400]):
        with pytest.raises(UnreadableImage, match="before the end marker"):
            decode(left + END)


def test_a_sector_of_zeros_in_a_progressive_jpeg() -> None:
    data = encode(PHOTO.resize((800, 600)), "JPEG", progressive=True, quality=90)
    seen = set()
    for start, end in scans(data):
        first, _, bits = data[start + 5 + 2 * data[start + 4] :][:3]
        place = -(-start // 512) * 512
        if first == 0 and bits >> 4:
            continue  # further bits of DC coefficients: one bit a block, whatever it is
        for at in range(place, end - 1124, 8192):
            seen.add((first == 0, bits >> 4 > 0))
            with pytest.raises(UnreadableImage, match=r"never written|before the end marker"):
                decode(data[:at] + bytes(1024) + data[at + 1024 :])
    assert len(seen) == 3


def test_gray_content_in_scans_of_its_own_is_no_hole() -> None:
    """The chroma of a gray photograph is zeros; the table of chroma says what they mean, not that of luma."""
    luma = encode(PHOTO.convert("L").resize((640, 480)), "JPEG")
    colour = encode(PHOTO, "JPEG", subsampling=0)
    (frame,), (scan,) = parts_of(luma, 0xC0), parts_of(luma, 0xDA)
    frame = frame[:2] + (17).to_bytes(2, "big") + frame[4:9] + b"\3" + bytes([1, 17, 0, 2, 17, 1, 3, 17, 1])
    head = luma[:2] + b"".join([*parts_of(luma, 0xE0), *parts_of(colour, 0xDB), frame, *parts_of(colour, 0xC4)])
    # In the usual tables of chroma, two zeros are no difference of DC, and two more are the end of a block.
    chroma = [scan[:5] + bytes([n, 0x11]) + scan[7:10] + bytes(80 * 60 * 4 // 8) for n in (2, 3)]
    image = decode(head + scan + b"".join(chroma) + END)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(decode(luma))).max() <= 2


def test_a_narrow_band_of_equal_coefficients_is_no_hole() -> None:
    """Coders that choose their scans send two coefficients alone: in a repeated tile both can be -1 everywhere."""

    def progressive(last: int) -> bytes:
        frame = b"\xff\xc2\0\x0b\x08\0\x40\0\x40\1\1\x11\0"
        table = b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\1"  # one code: a coefficient of one bit
        return b"\xff\xd8" + frame + table + b"\xff\xda\0\x08\1\1\0\1" + bytes([last, 0]) + bytes(1024) + END

    assert not has_hole(progressive(2))
    assert has_hole(progressive(63))


def test_damage_that_arithmetic_coding_hides_is_noted() -> None:
    for data in (ARITHMETIC, ARITHMETIC[:-20] + END):
        image = decode(data)
        assert [note.partition(":")[0] for note in notes_of(image)] == ["unchecked"]


@pytest.mark.parametrize(("mode", "quality"), [("RGB", 10), ("RGB", 75), ("RGB", 95), ("L", 75), ("CMYK", 75)])
@pytest.mark.parametrize("pattern", ["one colour", "noise tile", "wide tile", "checkerboard", "stripes", "gradient"])
def test_patterns_in_progressive_jpegs_are_no_holes(pattern: str, mode: str, quality: int) -> None:
    rng = np.random.default_rng(3)
    tiles = {
        "one colour": np.full((8, 8), 77),
        "noise tile": rng.integers(0, 256, (8, 8)),
        "wide tile": rng.integers(0, 256, (16, 16)),
        "checkerboard": np.array([[0, 255], [255, 0]]),
        "stripes": np.array([[0, 0, 0, 0, 255, 255, 255, 255]]),
        "gradient": np.arange(1024).reshape(1, -1) // 4,
    }
    tile = tiles[pattern].astype(np.uint8)
    image = Image.fromarray(np.tile(tile, (1024 // tile.shape[0], 1024 // tile.shape[1])))
    decode(encode(image.convert("RGB").convert(mode), "JPEG", progressive=True, quality=quality))
