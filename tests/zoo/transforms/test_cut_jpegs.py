"""JPEGs that were cut off and closed with an end marker, and progressive ones with sectors that were never written."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image

from zoo.transforms import stored_form
from zoo.transforms.decode import decode, decoded
from zoo.transforms.jpeg_scans import jpeg_segments
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import notes_of

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
    # The cut in the last scan of a progressive file shows in half the files only.
    start, end = scans(data)[0][0], scans(data)[-1][1] if "progressive" not in name else scans(data)[-2][1]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        with pytest.raises(UnreadableImage) as caught:
            decode(cut(data, int(start + 30 + share * (end - start - 30))))
        assert caught.value.reason in ("truncated", "corrupt")


def test_the_cut_in_the_last_scan_shows_where_its_last_byte_is_not_filled_up() -> None:
    data = encode(PHOTO, "JPEG", progressive=True)
    start, end = scans(data)[-1]
    places = [at for at in range(start + 40, end - 40, 97) if data[at - 1] and data[at - 1] & 1 == 0]
    assert len(places) > 10
    for at in places:
        with pytest.raises(UnreadableImage, match="end"):
            decode(cut(data, at))


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
        if "progressive" not in settings:
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
    seen = 0
    for start, end in scans(data):
        spectrum = data[start + 5 + 2 * data[start + 4] :][:3]
        place = -(-start // 512) * 512
        if spectrum[0] == 0 or spectrum[2] >> 4 or place + 1024 > end:
            continue  # of DC coefficients, or of further bits
        for at in range(place, end - 1024, 8192):
            seen += 1
            with pytest.raises(UnreadableImage, match="never written"):
                decode(data[:at] + bytes(1024) + data[at + 1024 :])
    assert seen > 5


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
