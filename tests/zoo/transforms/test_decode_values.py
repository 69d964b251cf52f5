"""Annotations as they are stored, and parts of files that did not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image

from zoo.transforms import decode, image_bytes
from zoo.transforms.decode import decode_values, decoded
from zoo.transforms.image_bytes import read_bytes, read_part
from zoo.transforms.unreadable import UnreadableImage

LABELS = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)


def test_labels_and_palette_indices_are_read_as_they_are() -> None:
    indexed = Image.frombytes("P", (30, 40), LABELS.tobytes())
    indexed.putpalette([255 - n // 3 for n in range(768)])
    for image in (Image.fromarray(LABELS), indexed):
        found = decode_values(encode(image, "PNG"))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, LABELS)
    assert decode_values(encode(Image.fromarray(LABELS > 99), "PNG")).max() == 1


@pytest.mark.parametrize("kind", ["<u2", "<i4"])
def test_depth_is_sixteen_bits(kind: str) -> None:
    values = np.array([[0, 1, 40_000, 65_535]], kind)
    found = decode_values(encode(Image.fromarray(values), "TIFF"))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("image", [picture(8, 6), Image.fromarray(np.array([[0, 65_536]], np.int32)),
                                   Image.fromarray(np.array([[-1, 5]], np.int32)),
                                   Image.fromarray(np.ones((2, 2), np.float32))])  # fmt: skip
def test_what_is_no_annotation_is_unsupported(image: Image.Image) -> None:
    with pytest.raises(UnreadableImage, match="not one channel of 8 or 16 bits") as caught:
        decode_values(encode(image, "TIFF"))
    assert caught.value.reason == "unsupported"


def test_a_damaged_annotation_has_a_reason() -> None:
    data = encode(Image.fromarray(LABELS), "PNG")
    for end in range(len(data) // 2, len(data) - 20, 50):
        with pytest.raises(UnreadableImage) as caught:
            decode_values(data[:end])
        assert caught.value.reason == "truncated"
    with pytest.raises(UnreadableImage, match="40 pixels, more than the 1199 of --max-pixels"):
        decode_values(data, max_pixels=1199)
    assert decode_values(data, max_pixels=1200).shape == (40, 30)


def test_a_part_of_a_file_is_read_if_the_file_is_the_planned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"0123456789")
    mtime_ns = path.stat().st_mtime_ns
    assert read_part(path, 3, 4, mtime_ns=mtime_ns) == b"3456"
    assert read_part(path, 0, 10, mtime_ns=mtime_ns) == b"0123456789"
    monkeypatch.setattr(image_bytes, "MAX_BYTES", 5)
    assert read_part(path, 5, 5, mtime_ns=mtime_ns) == b"56789"
    for offset, length, time, reason in (
        (0, 6, mtime_ns, "too-large"),
        (6, 5, mtime_ns, "changed"),
        (0, 5, mtime_ns + 1, "changed"),
    ):
        with pytest.raises(UnreadableImage) as caught:
            read_part(path, offset, length, mtime_ns=time)
        assert caught.value.reason == reason
    with pytest.raises(UnreadableImage, match=r"10 bytes, more than 5"):
        read_bytes(path)
    path.write_bytes(b"01234")
    assert read_bytes(path) == b"01234"


def test_a_decoded_image_is_freed_at_the_end() -> None:
    with decoded(encode(picture(8, 6), "PNG")) as image:
        assert image.getpixel((0, 0)) is not None
    with pytest.raises(ValueError, match="closed image"):
        image.load()


def test_the_highest_limit_is_pillow_s() -> None:
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == decode.PILLOW_MAX_PIXELS
