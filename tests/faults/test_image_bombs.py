"""Files made to exhaust a decoder: refused by a ceiling or by the list of formats, in bounded memory and time."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from pictures import encode
from PIL import Image

from zoo.transforms import decode
from zoo.transforms.unreadable import UnreadableImage

MEASURE = """
import json, re, sys, time
from concurrent.futures import ThreadPoolExecutor
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.decode import decoded
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.preprocess import Preprocessing

preprocessing = Preprocessing(224, 256)

def one(path):
    start = time.monotonic()
    try:
        with decoded(read_bytes(path), check_size=preprocessing.check_size) as image:
            preprocessing.pixels(image)
            reason = "ok"
    except UnreadableImage as error:
        reason = error.reason
    return reason, time.monotonic() - start

with ThreadPoolExecutor(4) as pool:
    answers = list(pool.map(one, sys.argv[1:]))
with open("/proc/self/status") as status:  # resource.getrusage counts the parent before exec, too
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) / 1024
print(json.dumps([answers, peak]))
"""


def measure(*paths: Path) -> tuple[list[tuple[str, float]], float]:
    """(reason, seconds) of each file, decoded four at a time in a process of their own, and its peak MiB."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answers, peak = json.loads(done.stdout)
    return [tuple(answer) for answer in answers], peak


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def plain_png(width: int, height: int, pixel: bytes = b"") -> bytes:
    """An image of one colour: RGBA where ``pixel`` has four bytes, else 1-bit black. Pillow takes seconds for it."""
    row = b"\0" + (pixel * width if pixel else bytes((width + 7) // 8))
    kind = b"\x08\x06" if pixel else b"\x01\x00"
    head = png_chunk(b"IHDR", struct.pack(">II", width, height) + kind + b"\0\0\0")
    data = png_chunk(b"IDAT", zlib.compress(row * height, 1))
    return b"\x89PNG\r\n\x1a\n" + head + data + png_chunk(b"IEND", b"")


def gif(frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x08\x84\x8f\xa9\xcb\xed\x0f\xa3\x2b\x00"
    return head + frame * frames + b"\x3b"


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory with /proc")


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bombs")
    small = encode(Image.new("RGB", (8, 8)), "PNG")
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))
    files = {
        **{f"{side}.png": plain_png(side, side) for side in (9000, 13000, 16000)},
        "line.png": plain_png(1, 100_000_000),
        "text.png": small[:33] + text + small[33:],
        "frames.gif": gif(100_000),
        "drawing.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\nshowpage\n",
        "canvas.webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff\xff\xff" * 2,
        "screen.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + b"\0" * 40,
        "strip.png": plain_png(200_000, 2),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


def test_bombs_are_refused_in_bounded_memory_and_time(bombs: dict[str, Path]) -> None:
    answers, peak = measure(*bombs.values())
    reasons = dict(zip(bombs, (reason for reason, _ in answers), strict=True))
    assert reasons.pop("frames.gif") == "ok", "its first frame is an image like any other"
    assert reasons.pop("drawing.jpg") == "not-an-image"
    assert reasons.pop("text.png") == "ok", "a text costs no picture"
    assert reasons.pop("canvas.webp") in ("too-large", "corrupt")
    assert reasons.pop("screen.gif") in ("too-large", "truncated", "corrupt")
    assert set(reasons.values()) == {"too-large"}
    assert peak < 1024


MANY = 64_000_000  # pixels: as many as the default limit allows


def tiff(width: int, height: int, compression: int, tags: dict[int, tuple[int, int, bytes]]) -> bytes:
    """A TIFF of one bit a pixel whose further tags have a type, a count and the bytes of their values."""
    found = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 1), 259: (3, 1, compression), 262: (3, 1, 1)}
    entries = {tag: (kind, count, struct.pack("<I", value)) for tag, (kind, count, value) in found.items()} | tags
    at, head, values = 8 + 2 + 12 * len(entries) + 4, struct.pack("<H", len(entries)), b""
    for tag, (kind, count, value) in sorted(entries.items()):
        place = value if len(value) <= 4 else struct.pack("<I", at + len(values))
        values += value if len(value) > 4 else b""
        head += struct.pack("<HHI", tag, kind, count) + place
    return b"II*\0\x08\0\0\0" + head + b"\0\0\0\0" + values


def bmp(width: int, height: int, bits: int, compression: int = 0) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 62) + head + bytes(100)


def long(value: int) -> tuple[int, int, bytes]:
    return 4, 1, struct.pack("<I", value)


def shorts(count: int) -> tuple[int, int, bytes]:
    return 3, count, b"\x08\0" * count


ONE_STRIP = {273: long(8), 278: long(MANY), 279: long(MANY)}
STRIPS = {273: shorts(10**6), 278: long(1), 279: shorts(10**6)}
TILES = {322: long(16), 323: long(16), 324: shorts(10**6), 325: shorts(10**6)}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tall.png", plain_png(1, MANY)),
        ("wide.png", plain_png(MANY, 1)),
        ("colour.png", plain_png(16, 4_000_000, b"abcd")),
        ("tall.bmp", bmp(1, MANY, 1)),
        ("runs.bmp", bmp(1, MANY, 8, 1)),
        ("wide.bmp", bmp(MANY, 1, 1)),
        ("strip.tif", tiff(1, MANY, 1, ONE_STRIP)),
        ("fax.tif", tiff(1, MANY, 4, ONE_STRIP)),
        ("strips.tif", tiff(8, 10**6, 1, STRIPS)),
        ("packed.tif", tiff(8, 10**6, 8, STRIPS)),
        ("tile.tif", tiff(8_000, 8_000, 8, {322: long(16_384), 323: long(16_384), 324: long(8), 325: long(99)})),
        ("tiles.tif", tiff(16_000, 4_000, 8, TILES)),
        ("screen.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 900, 0x80, 0, 0) + bytes(6) + b"\x2c" + bytes(40)),
        ("canvas.webp", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0\xff\x0f\0"),
    ],
)
def test_what_a_header_claims_is_refused_before_it_is_decoded(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    answers, peak = measure(tmp_path / name)
    assert answers[0][0] in ("too-large", "corrupt", "truncated")
    assert peak < 256


def scans(image: Image.Image, more: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again; that of a black image has a few bytes."""
    file = io.BytesIO()
    image.save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * more + b"\xff\xd9"


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded() -> None:
    large, small = Image.new("L", (4000, 4000)), Image.new("L", (80, 80))
    with pytest.raises(UnreadableImage, match="4000 x 4000 pixels in more than 100 scans"):
        decode.decode(scans(large, 1000))
    assert decode.decode(scans(small, 1000)).size == (80, 80), "it costs nothing"
    assert decode.decode(scans(large, 20)).size == (4000, 4000)
    film = bytes(1000) + b"\xff\xda" * 1000
    assert decode.decode(scans(large, 0) + film).size == (4000, 4000), "nobody decodes what follows the image"


def test_the_largest_images_allowed_at_once_stay_within_a_gigabyte(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    paths[0].write_bytes(plain_png(7900, 7900, bytes((200, 100, 50, 128))))
    for path in paths[1:]:
        path.write_bytes(paths[0].read_bytes())
    answers, peak = measure(*paths)
    assert [reason for reason, _ in answers] == ["ok"] * 4
    assert peak < 1024
