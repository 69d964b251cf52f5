"""Files without their end: a JPEG that lacks only its end marker is whole; others are accepted on request."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image, ImageFile

from zoo.transforms.decode import decode
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import notes_of

RIGHT = picture(48, 36)
PNG = encode(RIGHT, "PNG")
JPEGS = {
    "baseline": encode(RIGHT, "JPEG"),
    "gray": encode(RIGHT.convert("L"), "JPEG"),
    "cmyk": encode(RIGHT.convert("CMYK"), "JPEG"),
    "progressive": encode(RIGHT, "JPEG", progressive=True),
    "optimised": encode(picture(200, 150), "JPEG", optimize=True, quality=95, subsampling=0),
    "restarts": encode(picture(64, 64), "JPEG", restart_marker_blocks=2),
    "restarts and scans": encode(picture(64, 64, seed=100), "JPEG", progressive=True, restart_marker_blocks=1),
    "restarts by row": encode(picture(64, 64), "JPEG", restart_marker_rows=1),
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(name: str) -> None:
    data = JPEGS[name]
    for cut in (1, 2):
        image = decode(data[:-cut])
        assert np.array_equal(image, decode(data))
        assert notes_of(image) == ()
    for cut in range(3, len(data) // 2):
        with suppress(UnreadableImage):
            assert np.array_equal(decode(data[:-cut]), decode(data)), "a part of the scan is missing"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_truncated_files_are_accepted_where_a_user_says_so(format: str) -> None:
    image = picture(300, 200, seed=4)
    image = image.quantize(64) if format == "GIF" else image
    data = encode(image, format, **({"interlace": False} if format == "GIF" else {}))
    half = data[: len(data) * 6 // 10]
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(half)
    whole, seen = np.asarray(decode(data)), decode(half, options=DecodeOptions(truncated="accept"))
    there = slice(-60, None) if format == "BMP" else slice(60)  # a BMP begins with its last row
    assert np.array_equal(np.asarray(seen)[there], whole[there])
    assert [note.partition(":")[0] for note in notes_of(seen)] == ["truncated"]
    with pytest.raises(UnreadableImage, match="truncated"):  # the switch is off again
        decode(half)
    accepted = decode(data, options=DecodeOptions(truncated="accept"))
    assert np.array_equal(accepted, whole)
    assert notes_of(accepted) == ()


def test_a_file_of_which_nothing_is_there_is_no_image() -> None:
    for data in (PNG[: PNG.index(b"IDAT") + 6], encode(RIGHT, "JPEG")[:-700], encode(RIGHT, "BMP")[:60]):
        with pytest.raises(UnreadableImage):
            decode(data, options=DecodeOptions(truncated="accept"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("program", [True, False])
def test_what_a_program_accepts_for_its_own_files_does_not_count_here(
    format: str, program: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many programs set ``ImageFile.LOAD_TRUNCATED_IMAGES``. It must not make half an image an embedding."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", program)
    data = encode(picture(300, 200, seed=4), format)
    half = data[: len(data) * 6 // 10]

    def opened_by_the_program() -> bool:
        try:
            Image.open(io.BytesIO(half)).load()
        except (OSError, SyntaxError, ValueError):
            return False
        return True

    before = opened_by_the_program()
    for options in (DecodeOptions(), DecodeOptions(truncated="accept"), DecodeOptions()):
        if options.truncated == "refuse":
            with pytest.raises(UnreadableImage):
                decode(half, options=options)
        else:
            with suppress(UnreadableImage):
                decode(half, options=options)
        # The program's own files are read as before.
        assert opened_by_the_program() == before
        assert bool(ImageFile.LOAD_TRUNCATED_IMAGES) == program
    if format in ("JPEG", "PNG"):
        assert before == program
